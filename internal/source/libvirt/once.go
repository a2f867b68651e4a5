//go:build cgo

package libvirt

import (
	"context"
	"errors"
	"sync"
	"time"

	"fanin/internal/guest"
)

// askOnce lists the domains and asks for their slow numbers on a connection of
// its own, for Sample without Run. It takes up to four fifths of the time that
// ctx leaves; what has not answered by then is not waited for.
func (s *Source) askOnce(ctx context.Context) error {
	left := 10 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	ctx, cancel := context.WithTimeout(ctx, left*4/5)
	defer cancel()
	l, err := s.listOnce(ctx)
	switch {
	case errors.Is(err, errAbsent) && s.health.absent():
		return nil
	case err != nil:
		return err
	}
	s.attachAll(ctx)
	uuids := s.due(time.Now().Add(s.SlowInterval))
	queue := make(chan string, len(uuids))
	for _, uuid := range uuids {
		queue <- uuid
	}
	close(queue)
	var wg sync.WaitGroup
	for range min(maxAsking, max(1, len(uuids))) {
		own := l // the first takes the one that there is
		l = nil
		wg.Go(func() { s.askEach(ctx, own, queue) })
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.skip(skipLate)
	}
	return nil
}

// askEach asks for the slow numbers of the domains in the queue, one after the
// other.
func (s *Source) askEach(ctx context.Context, l *link, queue <-chan string) {
	if l == nil {
		var err error
		if l, err = open(s.URI, nil, nil); err != nil {
			return
		}
	}
	defer l.close()
	for uuid := range queue {
		if ctx.Err() != nil {
			return
		}
		if c, ok := s.claim(uuid, time.Now()); ok {
			r, err := l.statistics(uuid, c.fast)
			s.answered(c, r, err)
		}
	}
}

// listOnce returns the connection on which it has listed the domains, nil when
// that failed. While an earlier one hangs there is no other.
func (s *Source) listOnce(ctx context.Context) (*link, error) {
	select {
	case s.onceBusy <- struct{}{}:
	default:
		return nil, errors.New("libvirt at " + s.URI + " has not answered yet")
	}
	type result struct {
		link *link
		got  listing
	}
	got, err := bounded(ctx, callDeadline, func(r result) { r.link.close() }, func() (result, error) {
		defer func() { <-s.onceBusy }()
		l, err := open(s.URI, nil, nil)
		if err != nil {
			return result{}, err
		}
		all, err := l.list()
		if err != nil {
			l.close()
			return result{}, err
		}
		return result{l, all}, nil
	})
	s.health.met(err)
	if err != nil {
		return nil, err
	}
	s.unclear(got.got.errs)
	s.replace(got.got)
	return got.link, nil
}

// Guests lists the domains, running or not, on a connection of its own. None
// without a daemon; otherwise an error when it does not answer before ctx
// ends.
func (s *Source) Guests(ctx context.Context) ([]guest.Description, error) {
	s.setup()
	type answer struct {
		listing
		err error
	}
	done := make(chan answer, 1)
	go func() {
		l, err := open(s.URI, nil, nil)
		if err != nil {
			done <- answer{err: err}
			return
		}
		defer l.close()
		got, err := l.list()
		done <- answer{got, errors.Join(append(got.errs, err)...)}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		a.err = errors.New("libvirt at " + s.URI + " does not answer")
	}
	if errors.Is(a.err, errAbsent) {
		return nil, nil
	}
	var guests []guest.Description
	for _, d := range a.all {
		guests = append(guests, guest.Description{
			Name: d.name, Kind: guest.Libvirt, Running: d.state == running,
			CPUs: float64(d.vcpus), MemoryMB: int64(d.memory) >> 20,
		})
	}
	return guests, a.err
}
