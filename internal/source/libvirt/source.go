//go:build cgo

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
	"fanin/internal/sample"
)

// What is skipped, the reasons on fanin_libvirt_skipped_total.
const (
	skipNoProcess  = "no_process"    // running, and its QEMU was not found
	skipUnreadable = "unreadable"    // the process or its group could not be read
	skipLate       = "late"          // a call for slow numbers passed its deadline
	skipFailed     = "failed"        // a call for slow numbers failed
	skipHanging    = "hanging"       // not asked, as too many calls hang
	skipLimit      = "limit"         // more domains than the limit
	skipUndescribe = "undescribable" // libvirt could not describe it
)

type inner struct {
	setUp     sync.Once
	following atomic.Bool // Run is at work
	health    health
	skipped   *prometheus.CounterVec
	wake      chan struct{} // something is dirty
	onceBusy  chan struct{} // holds a token while Sample lists by itself
	opening   chan struct{} // holds a token for each connection that Run is opening
	processes processes

	mu      sync.Mutex // guards what follows, never held during a call of libvirt
	domains map[string]*domain
	order   []*domain       // sorted by name
	dirty   map[string]bool // UUIDs to describe anew
	tables  map[string]*netTable
	layout  *cgroup.Layout
	noGroup error // why there is no layout
	there   bool  // a daemon has been listed, so its count is known
	counts  [5]*sample.Series
	stats   cgroup.Stats
}

func (s *Source) setup() {
	s.setUp.Do(func() {
		if s.URI == "" {
			s.URI = DefaultURI
		}
		if s.ProcRoot == "" {
			s.ProcRoot = "/proc"
		}
		def := func(d *time.Duration, v time.Duration) {
			if *d <= 0 {
				*d = v
			}
		}
		def(&s.Interval, time.Second)
		def(&s.Rescan, 30*time.Second)
		def(&s.SlowInterval, 5*time.Second)
		def(&s.SlowDeadline, 10*time.Second)
		if s.Limit <= 0 {
			s.Limit = 5000
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		s.health = health{log: s.Log, uri: s.URI, patience: max(2*s.Interval, time.Second)}
		s.skipped = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fanin_libvirt_skipped_total", Help: "What could not be measured of libvirt domains, by reason.",
		}, []string{"reason"})
		for _, reason := range []string{skipNoProcess, skipUnreadable, skipLate, skipFailed, skipHanging, skipLimit, skipUndescribe} {
			s.skipped.WithLabelValues(reason)
		}
		s.wake, s.onceBusy = make(chan struct{}, 1), make(chan struct{}, 1)
		s.opening = make(chan struct{}, maxOpening)
		s.processes.proc = s.ProcRoot
		s.domains, s.dirty, s.tables = map[string]*domain{}, map[string]bool{}, map[string]*netTable{}
		s.layout = s.Layout
		for i, state := range states() {
			s.counts[i] = sample.New(guest.HostGuests,
				sample.Label{Name: "guest_type", Value: guest.Libvirt}, sample.Label{Name: "state", Value: string(state)})
		}
	})
}

// Register adds the source's own metrics to r.
func (s *Source) Register(r prometheus.Registerer) error {
	s.setup()
	return r.Register(s.skipped)
}

func (s *Source) skip(reason string) { s.skipped.WithLabelValues(reason).Inc() }

// Sample appends the points of all domains that are known, as
// [fanin/internal/sampler.Source] has it. While Run is at work it never waits
// for libvirt or QEMU; otherwise it asks both by itself, and gives them a part
// of the time until ctx's deadline (10 s without one).
//
// A daemon that does not answer is an error after two intervals; the domains
// known by then are measured all the same. That there is none is no error.
func (s *Source) Sample(ctx context.Context, b *sample.Batch) error {
	s.setup()
	var unwell error
	if s.following.Load() {
		unwell = s.health.check(time.Now())
	} else {
		unwell = s.askOnce(ctx)
	}
	return errors.Join(s.sampleAll(b, unwell == nil), unwell)
}

func (s *Source) sampleAll(b *sample.Batch, well bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	for _, t := range s.tables {
		if err := t.read(); err != nil {
			failed = append(failed, err)
		}
	}
	tableAt := time.Now().UnixMilli()
	for _, d := range s.order {
		if err := s.sampleOne(d, b, tableAt); err != nil {
			s.skip(skipUnreadable)
			if len(failed) < 4 {
				failed = append(failed, fmt.Errorf("domain %s: %w", d.desc.name, err))
			}
		}
	}
	if s.there && well {
		now := time.Now().UnixMilli()
		for i, state := range states() {
			n := 0
			for _, d := range s.order {
				if d.desc.state == state {
					n++
				}
			}
			b.Add(s.counts[i], now, float64(n))
		}
	}
	return errors.Join(failed...)
}

func (s *Source) sampleOne(d *domain, b *sample.Batch, tableAt int64) error {
	var err error
	switch {
	case d.desc.state != running:
		b.Add(d.down, time.Now().UnixMilli(), 0)
		return nil
	case d.process != nil:
		err = d.sampleFast(b, &s.stats)
		if errors.Is(err, cgroup.ErrGone) {
			// Its event comes; should the daemon hang, this is all we know.
			d.release()
			d.ended = true
			s.markLocked(d.desc.uuid)
			err = nil
			break
		}
		d.sampleNetwork(b, tableAt)
	case !d.ended:
		d.sampleKnown(b, time.Now().UnixMilli())
	}
	if d.ended {
		// A domain that libvirt forgets when it ends is not reported any more.
		if d.desc.persistent {
			b.Add(d.down, time.Now().UnixMilli(), 0)
		}
		return err
	}
	d.sampleSlow(b)
	return err
}

// mark notes that a domain may have become another. It is called on libvirt's
// event loop, too.
func (s *Source) mark(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.markLocked(uuid)
}

func (s *Source) markLocked(uuid string) {
	s.dirty[uuid] = true
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// takeDirty returns what mark has noted since the last call.
func (s *Source) takeDirty() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	uuids := make([]string, 0, len(s.dirty))
	for uuid := range s.dirty {
		uuids = append(uuids, uuid)
	}
	clear(s.dirty)
	return uuids
}

// replace takes over a listing of all domains. Those that it could not
// describe stay as they were.
func (s *Source) replace(got listing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there = true
	left := map[string]bool{}
	for uuid := range s.domains {
		left[uuid] = true
	}
	for _, uuid := range got.unclear {
		delete(left, uuid)
	}
	for _, desc := range got.all {
		delete(left, desc.uuid)
		s.putLocked(desc)
	}
	for uuid := range left {
		s.dropLocked(uuid)
	}
	s.arrangeLocked()
}

// update takes over what became of some domains; nil stands for none.
func (s *Source) update(changed map[string]*description) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uuid, desc := range changed {
		if desc == nil {
			s.dropLocked(uuid)
		} else {
			s.putLocked(desc)
		}
	}
	s.arrangeLocked()
}

func (s *Source) putLocked(desc *description) {
	d := s.domains[desc.uuid]
	switch {
	case d == nil && len(s.domains) >= s.Limit:
		s.skip(skipLimit)
		return
	case d == nil, d.desc.name != desc.name, d.desc.id != desc.id:
		// Another run is another process, and its counters begin anew.
		n := newDomain(desc)
		if d != nil {
			n.asking, n.due = d.asking, d.due
			d.release()
		}
		s.domains[desc.uuid] = n
	case !d.desc.equal(desc):
		d.describe(desc)
	}
	if d = s.domains[desc.uuid]; desc.state != running {
		d.release()
		d.ended, d.slow = false, nil
	}
}

func (s *Source) dropLocked(uuid string) {
	if d := s.domains[uuid]; d != nil {
		d.release()
		delete(s.domains, uuid)
	}
}

func (s *Source) arrangeLocked() {
	s.order = s.order[:0]
	for _, d := range s.domains {
		s.order = append(s.order, d)
	}
	slices.SortFunc(s.order, func(a, b *domain) int { return strings.Compare(a.desc.name, b.desc.name) })
	s.wireLocked()
}

// wireLocked gives every interface its line in the table of its network
// namespace, opens the tables that are wanted and closes the others.
//
// The namespace of another user's process may not be asked for. All such
// processes share one table then: libvirt starts its domains in its own
// namespace.
func (s *Source) wireLocked() {
	used := map[string]bool{}
	for _, t := range s.tables {
		clear(t.rows)
	}
	for _, d := range s.order {
		for i := range d.nics {
			n := &d.nics[i]
			n.table, n.row = nil, nil
			if d.process == nil {
				continue
			}
			t := s.tables[d.process.netns]
			if t == nil {
				var err error
				if t, err = openNetTable(s.ProcRoot, d.process.pid); err != nil {
					continue
				}
				s.tables[d.process.netns] = t
			}
			used[d.process.netns] = true
			if t.rows[n.device] == nil {
				t.rows[n.device] = &netCounters{}
			}
			n.table, n.row = t, t.rows[n.device]
		}
	}
	for key, t := range s.tables {
		if !used[key] {
			t.close()
			delete(s.tables, key)
		}
	}
}

// attachAll looks for the processes of running domains that have none yet, and
// returns how many stay without.
func (s *Source) attachAll(ctx context.Context) (missing int) {
	s.mu.Lock()
	want := map[string]bool{}
	for uuid, d := range s.domains {
		if d.desc.state == running && d.process == nil {
			want[uuid] = true
		}
	}
	s.mu.Unlock()
	if len(want) == 0 {
		return 0
	}
	found, err := s.processes.find(ctx, want, func(pid int) {
		s.skip(skipUnreadable)
		s.Log.Debug("the arguments of a process that is called like QEMU take too long to read", "pid", pid)
	})
	if err != nil {
		s.Log.Debug("look for QEMU processes", "err", err)
	}
	layout := s.cgroups()
	attached := map[string]*process{}
	for uuid, pid := range found {
		p, err := s.processes.attach(ctx, pid, uuid, layout)
		switch {
		case err == nil:
			attached[uuid] = p
		case !errors.Is(err, cgroup.ErrGone):
			s.skip(skipUnreadable)
			s.Log.Debug("read a QEMU process", "pid", pid, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for uuid := range want {
		d, p := s.domains[uuid], attached[uuid]
		switch {
		case d == nil || d.desc.state != running || d.process != nil:
			p.close()
		case p != nil:
			d.process, d.ended = p, false
		default:
			s.skip(skipNoProcess)
			missing++
		}
	}
	s.wireLocked()
	return missing
}

// cgroups finds the hierarchies when the first domain is to be measured.
func (s *Source) cgroups() *cgroup.Layout {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.layout == nil && s.noGroup == nil {
		s.layout, s.noGroup = cgroup.DetectIn(s.ProcRoot)
		if s.noGroup != nil {
			s.Log.Warn("domains are measured by their processes alone", "err", s.noGroup)
		}
	}
	return s.layout
}

// Close gives back the descriptors. Nothing else may be under way; a later
// Sample begins anew.
func (s *Source) Close() error {
	s.setup()
	s.replace(listing{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.there = false
	return nil
}
