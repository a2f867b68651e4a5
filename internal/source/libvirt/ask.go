//go:build cgo

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
)

const (
	maxAsking = 4 // at once, of those that are in their time
	// Each call that hangs keeps a connection, one of this process's threads
	// and one of the daemon's 20 workers (max_workers).
	maxHanging = 8
)

// asker asks for the slow numbers of the domains, each call on a connection
// that has no other at that time. A call that passes its deadline keeps its
// connection, and the others use new ones.
type asker struct {
	s       *Source
	changed chan struct{} // a call has returned

	mu      sync.Mutex
	idle    []*link
	asking  map[string]time.Time // UUID -> since when, calls in their time
	hanging map[string]time.Time // and those beyond it
	full    bool                 // said that too many hang
	stopped bool
}

func newAsker(s *Source) *asker {
	return &asker{s: s, changed: make(chan struct{}, 1), asking: map[string]time.Time{}, hanging: map[string]time.Time{}}
}

func (a *asker) run(ctx context.Context) {
	// Calls that are due at about the same time are made at the same time: each
	// wake-up costs more than a call.
	every := min(time.Second, a.s.SlowInterval/4)
	tick := time.NewTimer(guest.UntilTick(every, time.Now()))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.mu.Lock()
			defer a.mu.Unlock()
			a.stopped = true
			for _, l := range a.idle {
				go l.close()
			}
			a.idle = nil
			return
		case <-tick.C:
			tick.Reset(guest.UntilTick(every, time.Now()))
		case <-a.changed:
		}
		a.giveUp()
		a.askDue(every / 2)
	}
}

// giveUp looks for calls beyond their deadline.
func (a *asker) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for uuid, since := range a.asking {
		if time.Since(since) < a.s.SlowDeadline {
			continue
		}
		delete(a.asking, uuid)
		a.hanging[uuid] = since
		a.s.skip(skipLate)
		// When it is the daemon that hangs, that is said already.
		level := slog.LevelWarn
		if a.s.health.silent() {
			level = slog.LevelDebug
		}
		a.s.Log.Log(context.Background(), level, "a domain does not answer; its slow numbers are missing", "domain", a.s.nameOf(uuid), "since", since)
	}
}

// askDue starts the calls that are due by now, or within so much.
func (a *asker) askDue(within time.Duration) {
	if a.s.health.silent() || !a.s.health.there() {
		return
	}
	now := time.Now()
	due := a.s.due(now.Add(within))
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, uuid := range due {
		if len(a.asking) >= maxAsking {
			return
		}
		if len(a.hanging) >= maxHanging {
			a.s.skip(skipHanging)
			if !a.full {
				a.full = true
				a.s.Log.Warn("too many domains do not answer; none is asked for its slow numbers", "hanging", len(a.hanging))
			}
			return
		}
		// A domain that was removed and made again has the same UUID.
		_, asking := a.asking[uuid]
		_, hanging := a.hanging[uuid]
		if asking || hanging {
			continue
		}
		c, ok := a.s.claim(uuid, now)
		if !ok {
			continue
		}
		a.asking[uuid] = now
		var l *link
		if n := len(a.idle); n > 0 {
			l, a.idle = a.idle[n-1], a.idle[:n-1]
		}
		go a.ask(l, c)
	}
}

// ask makes one call, on a new connection when there is no idle one.
func (a *asker) ask(l *link, c claim) {
	uuid := c.uuid
	if c.period > 0 {
		a.s.periodSet(c, setPeriod(a.s.URI, uuid, c.period))
	}
	var r *reading
	var err error
	if l == nil {
		l, err = open(a.s.URI, nil, nil)
	}
	if err == nil {
		r, err = l.statistics(uuid, c.fast)
	}
	a.s.answered(c, r, err)

	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.asking, uuid)
	if since, ok := a.hanging[uuid]; ok {
		delete(a.hanging, uuid)
		a.full = false
		a.s.Log.Info("the call to a domain has returned", "domain", a.s.nameOf(uuid), "after", time.Since(since).Round(time.Millisecond), "err", err)
	}
	switch {
	case l == nil:
	case a.stopped || len(a.idle) >= maxAsking || !l.alive():
		go l.close()
	default:
		a.idle = append(a.idle, l)
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// due are the running domains whose slow numbers are old.
func (s *Source) due(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uuids []string
	for _, d := range s.order {
		if d.desc.state == running && !d.asking && !d.ended && !d.due.After(now) {
			uuids = append(uuids, d.desc.uuid)
		}
	}
	return uuids
}

// claim is the right to ask a domain for its slow numbers.
type claim struct {
	uuid string
	id   int  // of the run that is asked about
	fast bool // its process can not be read

	period time.Duration // to set before that; 0: none
}

func (s *Source) claim(uuid string, now time.Time) (c claim, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[uuid]
	if d == nil || d.asking {
		return claim{}, false
	}
	d.asking = true
	if d.due.IsZero() {
		// The first time at once, then at a place of its own in the interval,
		// so that not all are asked in the same moment.
		h := fnv.New32a()
		_, _ = h.Write([]byte(uuid))
		half := s.SlowInterval / 2
		d.due = now.Add(half + time.Duration(float64(half)*float64(h.Sum32())/(1<<32)))
	} else {
		d.due = now.Add(s.SlowInterval)
	}
	c = claim{uuid: uuid, id: d.desc.id, fast: d.process == nil}
	if s.following.Load() && d.desc.balloon && d.period == 0 && !d.periodDue.After(now) {
		c.period = s.MemoryStatsPeriod
	}
	return c, true
}

// periodSet notes how it went. A period that somebody has set stays.
func (s *Source) periodSet(c claim, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[c.uuid]
	if d == nil || d.desc.id != c.id {
		return
	}
	first := d.periodDue.IsZero()
	d.periodDue = time.Now().Add(time.Minute)
	switch {
	case err == nil:
		d.period = c.period
		s.Log.Info("the balloon driver is asked for its memory from now on", "domain", d.desc.name, "period", c.period)
	case !errors.Is(err, errGone):
		s.skip(skipFailed)
		if first {
			s.Log.Warn("the balloon driver's period can not be set, so memory in use is unknown", "domain", d.desc.name, "err", err)
		}
	}
}

// answered takes over a reading; nil when there is none, and err why.
func (s *Source) answered(c claim, r *reading, err error) {
	if err != nil && !errors.Is(err, errGone) {
		s.skip(skipFailed)
		s.Log.Debug("slow numbers", "domain", c.uuid, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[c.uuid]
	if d == nil {
		return
	}
	d.asking = false
	if r == nil || d.desc.state != running || d.desc.id != c.id {
		return
	}
	if !s.schedulerCounts() {
		// libvirt says 0 then.
		for i := range r.vcpus {
			r.vcpus[i].wait = cgroup.Value{}
		}
	}
	d.slow = r
	if r.current.OK && r.current.V > 0 {
		d.limit = r.current.V
	}
	if stale := d.outdated(r); stale != d.stale {
		d.stale = stale
		switch {
		case stale && d.period == 0:
			s.Log.Info("the balloon driver is not asked by libvirt, so memory in use is unknown; <memballoon><stats period='5'/> in the domain's XML or --libvirt.memory-stats-period changes that",
				"domain", d.desc.name, "last_update", r.updated)
		case stale:
			s.Log.Info("the balloon driver does not answer, so memory in use is unknown", "domain", d.desc.name, "last_update", r.updated)
		}
	}
}

// schedulerCounts reports whether the kernel counts how long threads wait for a
// processor (/proc/PID/sched). It does not unless it is told to.
func (s *Source) schedulerCounts() bool {
	b, err := readFile(filepath.Join(s.ProcRoot, "sys/kernel/sched_schedstats"))
	return err == nil && bytes.HasPrefix(b, []byte("1"))
}

func (s *Source) nameOf(uuid string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.domains[uuid]; d != nil {
		return d.desc.name
	}
	return uuid
}
