package docker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/moby/moby/api/types/events"

	"fanin/internal/guest"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
	maxReplay  = 10000 // events kept while a list is asked for
)

// Run keeps the containers' list up to date until ctx ends: it subscribes to
// events, lists, applies the events, and lists again every Rescan. After an
// error it connects anew, 0.1 to 5 s later; a socket that has never been there
// or may not be used is looked for every Rescan. It returns nil when ctx ends,
// and an error only when Host can not be one.
func (s *Source) Run(ctx context.Context) error {
	s.setup()
	if s.badHost != nil {
		return s.badHost
	}
	s.following.Store(true)
	defer s.following.Store(false)
	wait := firstRetry
	for {
		began := time.Now()
		err := s.follow(ctx)
		if ctx.Err() != nil {
			s.health.forget()
			return nil
		}
		s.retries.Add(1)
		if s.settle(callFollow, err) == nil { // nobody there: no hurry
			wait = s.Rescan
		} else if wait = min(2*wait, lastRetry); time.Since(began) > lastRetry {
			wait = firstRetry
		}
		if !s.pause(ctx, wait/2+rand.N(wait/2)) {
			return nil
		}
	}
}

// pause waits, and reports whether ctx still lives then. Trouble is told from
// here too, as it may last longer than the wait.
func (s *Source) pause(ctx context.Context, wait time.Duration) bool {
	end := time.NewTimer(wait)
	defer end.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case now := <-tick.C:
			_ = s.health.check(now) // it logs; Sample returns the error
		}
	}
}

// settle takes note of how a call of the engine's API has failed. It returns nil
// when that means that there is no engine for us here, which is said once and is no
// error. An engine that was there once and has gone is one.
func (s *Source) settle(c call, err error) error {
	gone := engineUnknown
	switch {
	case errors.Is(err, errMissing):
		gone = engineMissing
	case errors.Is(err, errDenied):
		gone = engineDenied
	}
	if gone == engineUnknown || !s.roster.lost(gone) {
		s.health.end(c, err)
		return err
	}
	s.health.forget()
	if !s.said(gone) {
		return nil
	}
	if gone == engineMissing {
		s.Log.Info("docker is not installed on this node, or its socket is elsewhere (--docker.host)", "host", s.Host)
	} else {
		s.Log.Warn("docker's socket may not be used, so containers are only counted; run as root or as a member of the socket's group to have their names", "host", s.Host, "err", err)
	}
	return nil
}

// said reports whether this is news since the last time.
func (s *Source) said(e engine) bool { return engine(s.lastSaid.Swap(uint32(e))) != e }

// opened takes a list that the engine has just given.
func (s *Source) opened(at time.Time, list []entry, since []events.Message) {
	if s.roster.replace(at, list, since) {
		s.Log.Warn("more containers than are measured; the oldest of those that do not run are left out first", "containers", len(list), "limit", s.Limit)
	}
	if s.said(engineOpen) {
		s.Log.Info("docker found", "host", s.Host, "containers", len(list))
	}
}

type listed struct {
	entries []entry
	err     error
	began   time.Time
}

// follow connects and keeps the roster up to date until something fails.
func (s *Source) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.health.begin(callFollow)
	a, err := connect(ctx, s.socket)
	if err != nil {
		return err
	}
	defer a.close()
	stream, err := a.events(ctx)
	if err != nil {
		return err
	}
	s.roster.connected()

	var (
		lists  = make(chan listed, 1)
		pings  = make(chan error, 1)
		replay []events.Message // since the list was asked for
		look   = newLook(a, &s.roster)

		first             = true
		listing, pinging  bool
		again             bool // something happened while the list was made that it may lack
		overrun           bool
		nextList, noneTil time.Time
		nextPing          time.Time
	)
	ends := newEnds()
	defer ends.due.Stop()
	defer s.health.abandon(callList)
	defer s.health.abandon(callPing)
	list := func() {
		listing, again, overrun, replay = true, false, false, replay[:0]
		s.health.begin(callList)
		began := time.Now()
		go func() {
			entries, err := a.list(ctx)
			lists <- listed{entries, err, began}
		}()
	}
	tick := time.NewTimer(0)
	defer tick.Stop()
	list()
	for {
		s.tell()
		select {
		case <-ctx.Done():
			return nil
		case m := <-stream.Messages:
			s.roster.update(&m)
			look.note(&m)
			if listing {
				if overrun = overrun || len(replay) >= maxReplay; !overrun {
					replay = append(replay, m)
				}
			}
			if m.Action == events.ActionDie {
				ends.note(m.Actor.ID)
			}
			// None of these tells everything: whose network it is and with which
			// addresses, whether it will be started again.
			switch m.Action {
			case events.ActionCreate, events.ActionStart, events.ActionDie:
				again = again || listing
				soon := time.Now().Add(2 * time.Second)
				if soon.Before(noneTil) {
					soon = noneTil
				}
				if soon.Before(nextList) {
					nextList = soon
				}
			}
		case <-ends.due.C:
			ends.look(ctx, a, &s.roster)
		case found := <-ends.found:
			ends.busy = false
			s.roster.settle(found)
		case err := <-stream.Err:
			return fmt.Errorf("follow events: %w", err)
		case l := <-lists:
			listing = false
			s.health.end(callList, l.err)
			if l.err != nil {
				return l.err
			}
			if overrun {
				list()
				continue
			}
			s.opened(l.began, l.entries, replay)
			if first {
				first = false
				s.health.end(callFollow, nil)
			}
			now := time.Now()
			nextList, noneTil = now.Add(s.Rescan), now.Add(max(5*time.Second, 20*now.Sub(l.began)))
			if again && noneTil.Before(nextList) {
				nextList = noneTil
			}
		case <-look.due:
			look.begin(ctx)
		case l := <-look.answers:
			look.end(l)
		case err := <-pings:
			pinging = false
			s.health.end(callPing, err)
			if err != nil {
				return err
			}
		case now := <-tick.C:
			tick.Reset(guest.UntilTick(time.Second, now))
			_ = s.health.check(now) // it logs; Sample returns the error
			if !pinging && !now.Before(nextPing) {
				pinging, nextPing = true, now.Add(s.Interval-time.Second/2)
				s.health.begin(callPing)
				go func() { pings <- a.pinger.ping(ctx) }()
			}
			if !listing && !first && now.After(nextList) {
				list()
			}
		}
	}
}

// tell calls Changed when the roster is another one.
func (s *Source) tell() {
	s.roster.mu.Lock()
	version := s.roster.version
	s.roster.mu.Unlock()
	if s.told.Swap(version) != version && s.Changed != nil {
		s.Changed()
	}
}
