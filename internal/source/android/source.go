package android

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanin/internal/guest"
	"fanin/internal/kernfile"
	"fanin/internal/sample"
)

const (
	// soonest is how soon after a look the next one may be.
	soonest = 200 * time.Millisecond
	// young is how long an emulator's files are read again: it writes them
	// itself at its start.
	young = 2 * time.Minute
	// stoppedFor is how long it is said of an emulator that it has ended.
	// After that its AVD is one of many that nobody runs.
	stoppedFor = time.Minute
)

type inner struct {
	setUp     sync.Once
	following atomic.Bool // Run is at work
	skips     skipCounters
	wake      chan struct{} // an emulator has ended

	looking sync.Mutex // held while scanner is used
	scanner scanner
	asker   *asker

	mu        sync.Mutex // guards what follows; held for nothing that may wait
	looked    time.Time  // when the last look began; zero: another is due
	emulators map[string]*emulator
	order     []*emulator // sorted by name
	seen      bool        // there has been an emulator
	running   *sample.Series
	buf       []byte
}

func (s *Source) setup() {
	s.setUp.Do(func() {
		if s.ProcRoot == "" {
			s.ProcRoot = "/proc"
		}
		def := func(d *time.Duration, v time.Duration) {
			if *d <= 0 {
				*d = v
			}
		}
		def(&s.Rescan, 5*time.Second)
		def(&s.ADBInterval, 10*time.Second)
		def(&s.ADBDeadline, 3*time.Second)
		if s.Limit <= 0 {
			s.Limit = 500
		}
		if s.ADBAddress == "" {
			s.ADBAddress = DefaultADBAddress
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		names := "/run/netns"
		if filepath.Clean(s.ProcRoot) != "/proc" { // a container, where the host's is elsewhere
			names = filepath.Join(s.ProcRoot, "1/root/run/netns")
		}
		s.scanner = scanner{
			node: node{proc: s.ProcRoot}, users: append([]uint32{0, uint32(os.Geteuid())}, s.Users...),
			names: names, most: maxKnown, skip: s.skip, log: s.Log,
		}
		s.asker = newAsker(s)
		s.wake = make(chan struct{}, 1)
		s.emulators = map[string]*emulator{}
		s.running = sample.New(guest.HostGuests,
			sample.Label{Name: "guest_type", Value: guest.Android}, sample.Label{Name: "state", Value: "running"})
		s.buf = make([]byte, 64<<10)
	})
}

func (s *Source) skip(r reason) { s.skips[r].Add(1) }

// Sample appends the points of all emulators that are known, as
// [fanin/internal/sampler.Source] has it. It waits for nobody while Run is at
// work; otherwise it looks for emulators by itself, every Rescan.
//
// Nothing is appended on a node that has had no emulator.
func (s *Source) Sample(ctx context.Context, b *sample.Batch) error {
	s.setup()
	var failed error
	if !s.following.Load() {
		if failed = s.look(ctx, s.Rescan); s.ADB {
			s.asker.askSoon()
		}
	}
	return errors.Join(s.sampleAll(b), failed)
}

func (s *Source) sampleAll(b *sample.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	running := 0
	for _, e := range s.order {
		if e.process == nil {
			// An engine may have taken the place of its launcher.
			if e.sought {
				b.Add(e.down, time.Now().UnixMilli(), 0)
			}
			continue
		}
		err := e.sample(b, s.buf)
		if errors.Is(err, errGone) {
			e.release(time.Now())
			s.wakeUp()
			continue
		}
		running++
		if e.over {
			s.skip(skipDevices)
		}
		if err != nil {
			s.skip(skipUnreadable)
			if len(failed) < 4 {
				failed = append(failed, fmt.Errorf("emulator %s: %w", e.name, err))
			}
		}
	}
	if s.seen {
		b.Add(s.running, time.Now().UnixMilli(), float64(running))
	}
	return errors.Join(failed...)
}

// wakeUp asks for a look, with the lock held.
func (s *Source) wakeUp() {
	s.looked = time.Time{}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run looks for emulators until ctx ends, and asks their guests if that is
// wanted; then it returns nil. The same Source must not be run twice at once.
func (s *Source) Run(ctx context.Context) error {
	s.setup()
	s.following.Store(true)
	defer s.following.Store(false)
	var wg sync.WaitGroup
	if s.ADB {
		wg.Go(func() { s.asker.run(ctx) })
	}
	defer wg.Wait()
	tick := time.NewTicker(s.Rescan)
	defer tick.Stop()
	var failing bool
	for {
		err := s.look(ctx, 0)
		if bad := err != nil; bad != failing {
			failing = bad
			if bad {
				s.Log.Warn("processes can not be listed; emulators known so far are still measured", "err", err)
			} else {
				s.Log.Info("processes can be listed again")
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.wake:
			select { // at a time when they come and go
			case <-ctx.Done():
				return nil
			case <-time.After(soonest):
			}
		}
	}
}

// look brings the emulators up to what runs now, unless that was done within
// the last while.
func (s *Source) look(ctx context.Context, age time.Duration) error {
	s.looking.Lock()
	defer s.looking.Unlock()
	s.mu.Lock()
	fresh := age > 0 && time.Since(s.looked) < age
	s.mu.Unlock()
	if fresh {
		return nil
	}
	began := time.Now()
	chosen, err := s.scanner.look(ctx)
	if err != nil {
		return fmt.Errorf("look for emulators: %w", err)
	}
	s.take(ctx, chosen, began)
	return nil
}

// take opens what is new among the chosen processes, outside of the lock, and
// lets go of what is none any more.
func (s *Source) take(ctx context.Context, chosen map[string]*found, began time.Time) {
	s.mu.Lock()
	s.looked = began
	has := make(map[string]*process, len(s.emulators))
	running := 0
	for name, e := range s.emulators {
		if has[name] = e.process; e.process != nil {
			running++
		}
	}
	s.mu.Unlock()

	fresh := map[string]*process{}
	hw := map[string]hardware{}
	count := running
	for name, f := range chosen {
		p := has[name]
		switch {
		case p != nil && p.pid == f.pid && p.born == f.born:
			if began.Sub(fromSeconds(p.started)) > young {
				continue
			}
		case p == nil && count >= s.Limit:
			s.skip(skipLimit)
			delete(chosen, name)
			continue
		default:
			var err error
			if p, err = s.scanner.attach(f.pid, f.born); err != nil {
				if !errors.Is(err, errGone) {
					s.skip(skipUnreadable)
					s.Log.Debug("read an emulator", "avd", name, "err", err)
				}
				delete(chosen, name)
				continue
			}
			if fresh[name] = p; has[name] == nil {
				count++
			}
		}
		// Of a process that Sample may close meanwhile, only what never changes
		// is read.
		if found, err := kernfile.Patiently(ctx, &s.scanner.folders, p.pid, func() (hardware, error) {
			return s.scanner.hardwareOf(p, &f.line, s.AVDHome), nil
		}); err == nil {
			hw[name] = found
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range fresh {
		e := s.emulators[name]
		if e == nil {
			e = newEmulator(name)
			s.emulators[name] = e
		}
		e.become(p)
		e.hardware = hardware{}
		s.seen = true
		s.Log.Info("emulator found", "avd", name, "pid", p.pid)
	}
	for name, e := range s.emulators {
		if found, ok := hw[name]; ok {
			e.hardware = found
		}
		switch {
		case chosen[name] != nil:
			continue
		case e.process != nil:
			e.release(began)
			e.sought = true
		case began.After(e.ended):
			e.sought = true
		}
		if began.Sub(e.ended) > stoppedFor || len(s.emulators) > 4*s.Limit {
			delete(s.emulators, name)
		}
	}
	s.order = s.order[:0]
	for _, e := range s.emulators {
		s.order = append(s.order, e)
	}
	slices.SortFunc(s.order, func(a, b *emulator) int { return strings.Compare(a.name, b.name) })
}

// Guests lists the emulators that run. It takes nothing from Sample or Run and
// may be called while they are at work.
func (s *Source) Guests(ctx context.Context) ([]guest.Description, error) {
	s.setup()
	if err := s.look(ctx, 0); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var guests []guest.Description
	for _, e := range s.order {
		if e.process != nil {
			guests = append(guests, guest.Description{
				Name: e.name, Kind: guest.Android, Running: true,
				CPUs: e.hardware.cores, MemoryMB: int64(e.hardware.memory) >> 20,
			})
		}
	}
	return guests, nil
}

// Close gives back the descriptors. Nothing else may be under way; a later
// Sample begins anew.
func (s *Source) Close() error {
	s.setup()
	s.scanner.close()
	s.asker.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.order {
		e.process.close()
	}
	clear(s.emulators)
	s.order, s.seen, s.looked = nil, false, time.Time{}
	return nil
}
