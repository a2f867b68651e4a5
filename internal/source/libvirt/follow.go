//go:build cgo

package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"fanin/internal/guest"
)

const (
	openDeadline = 10 * time.Second
	callDeadline = 25 * time.Second // keep-alive ends a call on a frozen daemon after 20 s
	describing   = 10 * time.Second // a domain's lock is held while it is being started
	maxOpening   = 3                // at once, when the earlier ones hang
	retryFirst   = 200 * time.Millisecond
	retryLast    = 5 * time.Second
)

// Run keeps the domains up to date and asks for their slow numbers until ctx
// ends; then it returns nil, at once even when a call hangs. The same Source
// must not be run twice at once.
func (s *Source) Run(ctx context.Context) error {
	s.setup()
	s.following.Store(true)
	defer s.following.Store(false)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.follow(ctx); return nil })
	g.Go(func() error { newAsker(s).run(ctx); return nil })
	return g.Wait()
}

// follow holds a connection, and makes a new one when it breaks.
func (s *Source) follow(ctx context.Context) {
	wait := retryFirst
	for {
		began := time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryLast {
			wait = retryFirst
		}
		pause := wait
		if s.health.absent() {
			pause = s.Rescan
		}
		s.Log.Debug("libvirt connection ended", "err", err, "retry", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		wait = min(2*wait, retryLast)
	}
}

// session is the life of one connection: open, register for events, list, and
// then describe whatever changes.
func (s *Source) session(ctx context.Context) error {
	lost := make(chan struct{}, 1)
	l, err := s.connect(ctx, func() {
		select {
		case lost <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	// Closing asks the daemon, too.
	defer func() { go l.close() }()

	if err := s.list(ctx, l); err != nil {
		return err
	}
	every := max(s.Interval, time.Second)
	rescan, ping := time.NewTicker(s.Rescan), time.NewTimer(guest.UntilTick(every, time.Now()))
	defer rescan.Stop()
	defer ping.Stop()
	look := looker{s: s}
	look.now(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			err = errors.New("the connection was closed by libvirt")
			s.health.begin(0)
			s.health.end(err)
			return err
		case <-s.wake:
			if err = s.ping(ctx, l); err == nil {
				err = s.refresh(ctx, l)
			}
			look.now(ctx)
		case <-rescan.C:
			if err = s.ping(ctx, l); err == nil {
				err = s.list(ctx, l)
			}
			look.now(ctx)
		case <-ping.C:
			ping.Reset(guest.UntilTick(every, time.Now()))
			err = s.ping(ctx, l)
			look.again(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// looker looks for the processes of domains, and again for those it did not
// find, at first soon and later less often: they may never be visible.
type looker struct {
	s    *Source
	next time.Time // zero: none is missing
	wait time.Duration
}

func (l *looker) now(ctx context.Context) {
	l.wait = time.Second / 2
	l.look(ctx)
}

func (l *looker) again(ctx context.Context) {
	if !l.next.IsZero() && time.Now().After(l.next) {
		l.look(ctx)
	}
}

func (l *looker) look(ctx context.Context) {
	l.next = time.Time{}
	if l.s.attachAll(ctx) > 0 {
		l.wait = min(2*l.wait, l.s.Rescan)
		l.next = time.Now().Add(l.wait)
	}
}

func (s *Source) connect(ctx context.Context, closed func()) (*link, error) {
	// Opening has no keep-alive yet: on a frozen daemon it takes forever.
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return call(ctx, s, 0, openDeadline, func(l *link) { l.close() }, func() (*link, error) {
		defer func() { <-s.opening }()
		return open(s.URI, s.mark, closed)
	})
}

// ping sees whether the daemon is well, before it is asked something that may
// take its time.
func (s *Source) ping(ctx context.Context, l *link) error {
	_, err := call(ctx, s, 0, callDeadline, nil, func() (struct{}, error) { return struct{}{}, l.ping() })
	return err
}

func (s *Source) list(ctx context.Context, l *link) error {
	s.takeDirty() // the listing is newer
	got, err := call(ctx, s, describing, callDeadline, nil, l.list)
	if err != nil {
		return err
	}
	s.unclear(got.errs)
	s.replace(got)
	return nil
}

func (s *Source) unclear(errs []error) {
	for _, err := range errs {
		s.skip(skipUndescribe)
		s.Log.Warn("a domain can not be described; what was known of it stays", "err", err)
	}
}

// refresh describes what events have named.
func (s *Source) refresh(ctx context.Context, l *link) error {
	uuids := s.takeDirty()
	var errs []error
	changed, err := call(ctx, s, describing, callDeadline, nil, func() (map[string]*description, error) {
		changed := map[string]*description{}
		for _, uuid := range uuids {
			d, err := l.describe(uuid)
			switch {
			case err == nil || errors.Is(err, errGone):
				changed[uuid] = d
			case l.alive():
				errs = append(errs, err)
			default:
				return nil, err
			}
		}
		return changed, nil
	})
	if err != nil {
		return err
	}
	s.unclear(errs)
	s.update(changed)
	return nil
}

// call makes a call of libvirt for Run, and notes for the Source's health how it
// went; longer is what it may take beyond a mere answer.
func call[T any](ctx context.Context, s *Source, longer, deadline time.Duration, discard func(T), f func() (T, error)) (T, error) {
	s.health.begin(longer)
	v, err := bounded(ctx, deadline, discard, f)
	s.health.end(err)
	return v, err
}

// bounded makes one call of libvirt in a goroutine of its own, as any may take
// forever. A call that is given up goes on by itself; discard gets what it returns
// in the end.
func bounded[T any](ctx context.Context, deadline time.Duration, discard func(T), f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	var err error
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("libvirt has not answered within %s", deadline)
	}
	go func() {
		if r := <-done; r.err == nil && discard != nil {
			discard(r.v)
		}
	}()
	var none T
	return none, err
}
