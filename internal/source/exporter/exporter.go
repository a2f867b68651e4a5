// Package exporter scrapes the pages of metrics that programs inside guests
// serve over HTTP, in containers and unikernels alike. What stands on a page,
// and where somebody says that it is, is a guest's word and trusted in
// nothing: every scrape is bounded in time and bytes, every series is checked,
// and one guest's page can not keep another's waiting.
//
// It knows no guests: who has a page comes from functions ([Source.Targets])
// and, from the gateway, by a [List]. A target is gone when they no longer
// name it.
//
// Every series of a page gets the labels guest (the runtime name) and port;
// a page's own labels of these names become exported_guest and exported_port.
// port is always there: a series must not change its name when a second page
// of its guest is found. The time of a point is when the answer began; what a
// page says of times is passed over.
package exporter

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"fanin/internal/sample"
)

const (
	defaultInterval   = time.Second
	shortestInterval  = time.Second
	defaultTimeout    = 2 * time.Second
	defaultPage       = 1 << 20
	defaultSeries     = 2_000
	defaultNodeSeries = 10_000
	defaultTargets    = 1_000
	// Every target may be scraped at the same time, so that none keeps another
	// waiting, but only so many may have a page of more than smallPage under
	// way: that bounds the memory. Those that took their time lately have
	// slots of their own.
	smallPage  = 32 << 10
	quickSlots = 16
	slowSlots  = 16
)

// LongestInterval is the longest time between two scrapes that a target may
// ask for: the gateway ends a series that is silent for 15 s.
const LongestInterval = 10 * time.Second

// Source is the sampler's source "exporter". The fields must not change after
// the first call.
type Source struct {
	// Targets tell who has a page. They are called in each Sample and after each
	// [Source.Look], must be quick, and call nothing of the source's. Where two name
	// the same port of a guest the first function, and in it the first target,
	// counts.
	Targets []func() []Target

	Interval   time.Duration // of the sampler, 0 for 1 s: no target is scraped more often, nor more often than once a second
	Timeout    time.Duration // of one scrape, 0 for 2 s
	MaxBytes   int           // of a page, 0 for 1 MiB
	MaxSeries  int           // of a page, and of a target within two minutes, 0 for 2,000
	NodeSeries int           // of all targets, 0 for 10,000; see [room]
	Limit      int           // targets at the most, 0 for 1,000
	ProcRoot   string        // where the host's procfs is mounted, "" for /proc
	UserAgent  string
	Log        *slog.Logger // nil: silent

	setUp   sync.Once
	due     chan struct{} // Run is to look who is there
	quick   chan struct{}
	slow    chan struct{}
	scratch sync.Pool // of *scratch
	room    room
	counts  counts

	driving sync.Mutex // held by who starts scrapes: Run, or Sample without it

	mu      sync.Mutex
	run     context.Context    // of the workers' goroutines, nil while Run is not at work
	workers map[key]*worker    // guarded by mu
	order   []*worker          // guarded by mu; workers by guest and port
	leaving map[key]*worker    // guarded by mu; stopped, and not ended yet
	ended   []sample.Point     // guarded by mu; stale markers of targets that are gone
	ignored map[ignoredKey]int // guarded by mu; targets that can not be taken, as of the last look
}

// key is what tells targets apart. Port is "" when it can not be one.
type key struct{ guest, port string }

type ignoredKey struct {
	key
	reason omission
}

// Name is "exporter".
func (s *Source) Name() string { return "exporter" }

func (s *Source) setup() {
	s.setUp.Do(func() {
		s.Interval = max(cmp.Or(s.Interval, defaultInterval), shortestInterval)
		s.Timeout = cmp.Or(s.Timeout, defaultTimeout)
		s.MaxBytes = cmp.Or(s.MaxBytes, defaultPage)
		s.MaxSeries = cmp.Or(s.MaxSeries, defaultSeries)
		s.NodeSeries = cmp.Or(s.NodeSeries, defaultNodeSeries)
		s.Limit = cmp.Or(s.Limit, defaultTargets)
		s.ProcRoot = cmp.Or(s.ProcRoot, "/proc")
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		s.due = make(chan struct{}, 1)
		s.quick, s.slow = make(chan struct{}, quickSlots), make(chan struct{}, slowSlots)
		s.room.limit = usage{series: s.NodeSeries, bytes: s.NodeSeries * bytesOfSeries}
		s.workers, s.leaving = map[key]*worker{}, map[key]*worker{}
	})
}

// Run scrapes until ctx ends, each target at its own times; it returns nil.
func (s *Source) Run(ctx context.Context) error {
	s.setup()
	s.driving.Lock()
	defer s.driving.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer s.halt()
	defer cancel()
	s.drive(ctx)
	for {
		s.look()
		select {
		case <-ctx.Done():
			return nil
		case <-s.due:
		}
	}
}

// Look is to be called when what Targets tell has changed: two intervals are all
// the time a guest has to be found, and Sample looks once in each. It waits for
// nothing, and may be called from any goroutine.
func (s *Source) Look() {
	s.setup()
	select {
	case s.due <- struct{}{}:
	default: // it is about to look anyway
	}
}

// drive makes whoever is found from now on a goroutine's under ctx.
func (s *Source) drive(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = ctx
	clear(s.workers) // found while Run was not at work: they have no goroutine
	s.order = nil
	s.room.forget()
}

// halt waits for all goroutines.
func (s *Source) halt() {
	s.mu.Lock()
	all := make([]*worker, 0, len(s.workers)+len(s.leaving))
	for _, of := range []map[key]*worker{s.workers, s.leaving} {
		for _, w := range of {
			all = append(all, w)
		}
		clear(of)
	}
	s.run, s.order = nil, nil
	s.mu.Unlock()
	for _, w := range all {
		w.cancel()
		<-w.done
	}
	s.room.forget()
}

// Sample appends what was scraped since the call before, as
// [fanin/internal/sampler.Source] has it, and waits for nothing. What came
// from a target that is gone by now is left out: another guest may have had
// its address. Without Run it scrapes all targets itself and waits for them.
func (s *Source) Sample(ctx context.Context, b *sample.Batch) error {
	s.setup()
	if s.driving.TryLock() {
		defer s.driving.Unlock()
		s.look()
		s.scrapeAll(ctx)
	}
	s.look()
	s.mu.Lock()
	defer s.mu.Unlock()
	b.Points = append(b.Points, s.ended...)
	clear(s.ended)
	s.ended = s.ended[:0]
	for _, w := range s.order {
		w.hand(b)
	}
	return nil
}

// scrapeAll scrapes every target once, and waits for them.
func (s *Source) scrapeAll(ctx context.Context) {
	s.mu.Lock()
	all := slices.Clone(s.order)
	s.mu.Unlock()
	var running sync.WaitGroup
	for _, w := range all {
		running.Go(func() { w.once(ctx) })
	}
	running.Wait()
}

// look brings the workers up to the targets there are.
func (s *Source) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Target
	for _, f := range s.Targets {
		found = append(found, f()...)
	}
	wanted := s.choose(found)
	changed := false
	for k, w := range s.workers {
		if t, still := wanted[k]; !still || !w.target.same(&t) {
			delete(s.workers, k)
			s.leaving[k] = w
			changed = true
			w.cancel()
		}
	}
	for k, w := range s.leaving {
		if w.hasEnded() {
			delete(s.leaving, k)
			s.ended = append(s.ended, w.last()...)
		}
	}
	for k, t := range wanted {
		if s.workers[k] != nil || s.leaving[k] != nil {
			continue // the next one begins when the one before has ended
		}
		w := newWorker(s, k, t)
		s.workers[k] = w
		changed = true
		if s.run != nil {
			w.start(s.run)
		}
	}
	if !changed {
		return
	}
	s.room.shareOut(len(s.workers))
	s.order = slices.AppendSeq(s.order[:0], maps.Values(s.workers))
	slices.SortFunc(s.order, func(a, b *worker) int {
		return cmp.Or(strings.Compare(a.key.guest, b.key.guest), strings.Compare(a.key.port, b.key.port))
	})
}

// choose takes one target for each port of a guest and counts, once for as
// long as they are named, those that can not be taken. The lock is held.
func (s *Source) choose(found []Target) map[key]Target {
	wanted := make(map[key]Target, len(found))
	ignored := map[ignoredKey]int{}
	for _, t := range found {
		k := key{guest: t.Guest}
		if validPort(t.Port) {
			k.port = t.Port
		}
		other, taken := wanted[k]
		switch {
		case !validGuest(t.Guest):
			k.guest = ""
			ignored[ignoredKey{k, badGuest}]++
		case taken && other.page() == t.page():
		case taken:
			ignored[ignoredKey{k, duplicate}]++
		case len(wanted) >= s.Limit:
			ignored[ignoredKey{key{}, overLimit}]++
		default:
			wanted[k] = t
		}
	}
	for k, n := range ignored {
		if more := n - s.ignored[k]; more > 0 {
			s.counts.omitted[k.reason].Add(uint64(more))
			if s.ignored[k] == 0 {
				s.Log.Warn("page is not scraped", "guest", k.guest, "port", k.port, "reason", k.reason.String())
			}
		}
	}
	s.ignored = ignored
	return wanted
}

// Close gives back what Sample holds. Nothing else may be under way; a later
// Sample begins anew.
func (s *Source) Close() error {
	s.setup()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.workers)
	clear(s.leaving)
	s.order, s.ended = nil, nil
	s.room.forget()
	return nil
}
