package docker

import (
	"context"
	"fmt"
	"time"
)

// asking is a list call that Sample has made by itself.
type asking struct {
	api    *api // kept for the next one; touched by the call while busy
	busy   bool
	answer chan listed
	ctx    context.Context // of all its calls, until close
	cancel context.CancelFunc
}

// ask lists the containers when Run does not. A call that is late goes on
// while Sample returns, and its answer is taken the next time.
func (s *Source) ask(ctx context.Context) error {
	if s.asking == nil {
		s.asking = &asking{answer: make(chan listed, 1)}
		s.asking.ctx, s.asking.cancel = context.WithCancel(context.Background())
	}
	a := s.asking
	wait := time.Duration(0)
	if !a.busy {
		a.busy = true
		s.health.begin(callAsk)
		go func() { a.answer <- a.list(s.socket) }()
		wait = s.health.patience
		if len(s.containers) > 0 {
			wait = s.Interval / 2
		}
		if end, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(end)/2)
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case l := <-a.answer:
		a.busy = false
		if l.err != nil {
			return s.settle(callAsk, l.err)
		}
		s.opened(l.began, l.entries, nil)
		s.health.end(callAsk, nil)
		return nil
	case <-ctx.Done():
	case <-timer.C:
	}
	if len(s.containers) == 0 {
		return fmt.Errorf("docker at %s: %w", s.Host, errSilent)
	}
	return nil
}

// stopAsking ends what ask has begun: Run is at work, or nobody is any more.
func (s *Source) stopAsking() {
	if s.asking == nil {
		return
	}
	s.asking.close()
	s.asking = nil
	s.health.end(callAsk, nil)
}

func (a *asking) list(socket string) listed {
	// Not Sample's context: the call outlives it.
	ctx, cancel := context.WithTimeout(a.ctx, callTimeout)
	defer cancel()
	began := time.Now()
	if a.api == nil {
		var err error
		if a.api, err = connect(ctx, socket); err != nil {
			return listed{err: err}
		}
	}
	entries, err := a.api.list(ctx)
	if err != nil {
		a.api.close()
		a.api = nil
	}
	return listed{entries, err, began}
}

// close ends the call under way.
func (a *asking) close() {
	a.cancel()
	if a.busy {
		<-a.answer
	}
	if a.api != nil {
		a.api.close()
	}
}
