// Package docker measures the containers of the Docker engine on this node.
// Who they are comes from the engine's API, by its list and its events only;
// what they use comes from their control groups and from /proc, which never
// wait for the engine. It asks the API for nothing else: not for inspect,
// whose answer carries environments and so secrets, and not for stats, which
// takes a second or two for each container.
//
// The restart count of a container stands in the answer to inspect only. So
// restarts are counted from the events that Run follows, beginning with 0 when a
// container is first seen: those between which the list says that the restart
// policy is at work.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
	"fanin/internal/sample"
)

// DefaultHost is where the engine's socket is unless [Source.Host] says so.
const DefaultHost = "unix:///var/run/docker.sock"

const (
	defaultInterval   = time.Second
	defaultRescan     = 30 * time.Second
	defaultContainers = 5000
	callTimeout       = 10 * time.Second // of one call of the API
	unnamedAge        = 5 * time.Second  // counting them takes a walk through all groups
)

// Source is the sampler's source "docker". Its zero value measures the engine
// at [DefaultHost]; the fields must not change after the first call.
type Source struct {
	Host     string        // unix:///path/of/socket; "" for DefaultHost
	ProcRoot string        // where the host's procfs is mounted; "" for /proc
	SysRoot  string        // where the host's sysfs is mounted; "" for /sys
	Interval time.Duration // of the sampler; 0 for 1 s. An engine silent for two of them (and 1 s) is an error
	Rescan   time.Duration // how often the containers are listed anew and a missing engine is looked for; 0 for 30 s
	Limit    int           // containers at the most; 0 for 5,000. Running ones go first
	Changed  func()        // called by Run and Sample when what Pages and Inside say may have changed; may be nil
	Log      *slog.Logger  // nil: silent

	setUp   sync.Once
	socket  string // the path in Host
	badHost error

	following atomic.Bool // Run is at work
	roster    roster
	health    health
	skips     skipCounters
	retries   atomic.Uint64
	lastSaid  atomic.Uint32 // an engine, the last that was logged
	told      atomic.Uint64 // version of the roster, the last that was told

	asking *asking // owned by Sample; its own list call, when Run is not at work

	// Owned by Sample.
	seen       uint64 // version of the roster that containers shows
	containers map[string]*container
	order      []*container   // sorted by name
	groups     *cgroup.Layout // nil until there is a container to look at
	node       node
	stats      cgroup.Stats
	buf        []byte
	counts     map[string]*sample.Series // testbed_host_guests by state
	counted    time.Time                 // when the unnamed ones were
}

// Name is "docker".
func (s *Source) Name() string { return guest.Docker }

func (s *Source) setup() {
	s.setUp.Do(func() {
		if s.Host == "" {
			s.Host = DefaultHost
		}
		if s.ProcRoot == "" {
			s.ProcRoot = "/proc"
		}
		if s.SysRoot == "" {
			s.SysRoot = "/sys"
		}
		if s.Interval <= 0 {
			s.Interval = defaultInterval
		}
		if s.Rescan <= 0 {
			s.Rescan = defaultRescan
		}
		if s.Limit <= 0 {
			s.Limit = defaultContainers
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		path, ok := strings.CutPrefix(s.Host, "unix://")
		if !ok || !filepath.IsAbs(path) {
			s.badHost = fmt.Errorf("docker host %q: want unix:///path/of/socket, for only the containers of this machine can be measured", s.Host)
		}
		s.socket = path
		s.roster.limit = s.Limit
		s.roster.skips = &s.skips
		s.health = health{log: s.Log, host: s.Host, patience: max(2*s.Interval, time.Second)}
		s.containers = map[string]*container{}
		s.counts = map[string]*sample.Series{}
		s.buf = make([]byte, 0, 8192)
	})
}

// layout finds the hierarchies once there is an engine to look at; a machine
// without one is not told about missing mounts.
func (s *Source) layout() (*cgroup.Layout, error) {
	if s.groups == nil {
		l, err := cgroup.DetectIn(s.ProcRoot)
		if err != nil {
			return nil, err
		}
		s.groups = l
	}
	return s.groups, nil
}

// Sample appends the points of all containers that are known, as
// [fanin/internal/sampler.Source] has it. While Run is at work it never waits
// for the engine; otherwise it lists the containers itself, and waits for the
// answer half of the interval at the most once it knows some.
//
// An engine that does not answer is an error after two intervals; the
// containers known by then are measured all the same. A running container is
// up only when its group could be read.
func (s *Source) Sample(ctx context.Context, b *sample.Batch) error {
	s.setup()
	if s.badHost != nil {
		return s.badHost
	}
	var trouble error
	if s.following.Load() {
		s.stopAsking()
	} else {
		trouble = s.ask(ctx)
	}
	var failed failures
	switch s.reconcile() {
	case engineMissing, engineUnknown:
	case engineDenied:
		s.countUnnamed(b, &failed)
	case engineOpen:
		if len(s.order) > 0 {
			failed.add(s.node.refresh(s.ProcRoot, time.Now()))
			if _, err := s.layout(); err != nil {
				return err
			}
		}
		for _, c := range s.order {
			if err := ctx.Err(); err != nil {
				failed.add(fmt.Errorf("containers from %s on were not reached: %w", c.name, err))
				break
			}
			if err := s.measure(c, b); err != nil {
				s.skips[skipBroken].Add(1)
				failed.add(fmt.Errorf("container %s: %w", c.name, err))
			}
		}
	}
	if err := s.health.check(time.Now()); err != nil {
		trouble = err
	}
	if trouble == nil {
		s.countStates(b)
	}
	failed.add(trouble)
	return failed.join()
}

// reconcile brings containers up to the roster.
func (s *Source) reconcile() engine {
	r := &s.roster
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.version == s.seen {
		return r.engine
	}
	s.seen = r.version
	s.order = s.order[:0]
	for _, e := range r.unique() {
		c := s.containers[e.id]
		if c == nil {
			c = &container{}
			s.containers[e.id] = c
		}
		c.become(e, s.seen)
		s.order = append(s.order, c)
	}
	for id, c := range s.containers {
		if c.version != s.seen {
			c.release()
			delete(s.containers, id)
		}
	}
	return r.engine
}

// countStates says how many containers there are, as long as the engine tells.
func (s *Source) countStates(b *sample.Batch) {
	s.roster.mu.Lock()
	open, counts := s.roster.engine == engineOpen, s.roster.count()
	s.roster.mu.Unlock()
	if !open {
		return
	}
	now := time.Now().UnixMilli()
	for _, state := range [...]state{running, paused, stopped} {
		b.Add(s.countOf(string(state)), now, float64(counts[state]))
	}
}

// countUnnamed is all that can be said when the socket may not be read: the
// groups carry ids, and only the engine knows the names that belong to them.
func (s *Source) countUnnamed(b *sample.Batch, failed *failures) {
	now := time.Now()
	if now.Sub(s.counted) < unnamedAge {
		return
	}
	l, err := s.layout()
	if err != nil {
		failed.add(err)
		return
	}
	s.counted = now
	ids, err := l.Containers()
	if err != nil {
		failed.add(fmt.Errorf("count containers by their control groups: %w", err))
		return
	}
	b.Add(s.countOf("unnamed"), time.Now().UnixMilli(), float64(len(ids)))
}

func (s *Source) countOf(state string) *sample.Series {
	if s.counts[state] == nil {
		s.counts[state] = sample.New(guest.HostGuests,
			sample.Label{Name: "guest_type", Value: guest.Docker}, sample.Label{Name: "state", Value: state})
	}
	return s.counts[state]
}

// Close gives back what Sample holds: descriptors and an idle connection.
// Nothing else may be under way; a later Sample begins anew.
func (s *Source) Close() error {
	s.setup()
	for id, c := range s.containers {
		c.release()
		delete(s.containers, id)
	}
	s.order, s.seen = nil, 0
	s.stopAsking()
	return nil
}

// failures keeps the first few errors of a tick and counts the others.
type failures struct {
	errs []error
	more int
}

func (f *failures) add(err error) {
	switch {
	case err == nil:
	case len(f.errs) < 3:
		f.errs = append(f.errs, err)
	default:
		f.more++
	}
}

func (f *failures) join() error {
	if f.more > 0 {
		return fmt.Errorf("%w (and %d more)", errors.Join(f.errs...), f.more)
	}
	return errors.Join(f.errs...)
}
