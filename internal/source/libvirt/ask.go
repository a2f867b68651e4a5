//go:build cgo

package libvirt

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
	"time"
)

const (
	// A connection takes 5 calls at a time (max_client_requests); one is left.
	maxAsking = 4
	// Each call that hangs keeps one of the daemon's 20 workers (max_workers).
	maxHanging = 8
)

// asker asks for the slow numbers of one domain after the other, on a
// connection that nobody else uses. When a call passes its deadline its domain
// and this connection are left to each other, and the others get a new one.
type asker struct {
	s       *Source
	changed chan struct{} // a call has returned

	mu      sync.Mutex
	line    *line // nil: none yet
	opening bool
	retry   time.Time
	asking  map[string]time.Time // UUID -> since when, calls in their time
	hanging map[string]time.Time // and those beyond it
	full    bool                 // said that too many hang
}

// line is a connection and how many calls are on it. Guarded by the asker's
// lock.
type line struct {
	link    *link
	calls   int
	retired bool
}

func newAsker(s *Source) *asker {
	return &asker{s: s, changed: make(chan struct{}, 1), asking: map[string]time.Time{}, hanging: map[string]time.Time{}}
}

func (a *asker) run(ctx context.Context) {
	tick := time.NewTicker(min(100*time.Millisecond, a.s.SlowInterval/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.mu.Lock()
			a.retireLocked()
			a.mu.Unlock()
			return
		case <-tick.C:
		case <-a.changed:
		}
		a.giveUp()
		a.askDue()
	}
}

// giveUp looks for calls beyond their deadline.
func (a *asker) giveUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	late := false
	for uuid, since := range a.asking {
		if time.Since(since) > a.s.SlowDeadline {
			late = true
			delete(a.asking, uuid)
			a.hanging[uuid] = since
			a.s.skip(skipLate)
			a.s.Log.Warn("a domain does not answer; its slow numbers are missing", "domain", a.s.nameOf(uuid), "since", since)
		}
	}
	if late {
		a.retireLocked()
	}
}

// askDue starts the calls that are due.
func (a *asker) askDue() {
	now := time.Now()
	due := a.s.due(now)
	if len(due) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.line == nil {
		a.openLocked(now)
		return
	}
	for _, uuid := range due {
		if len(a.hanging) >= maxHanging {
			a.s.skip(skipHanging)
			if !a.full {
				a.full = true
				a.s.Log.Warn("too many domains do not answer; none is asked for its slow numbers", "hanging", len(a.hanging))
			}
			return
		}
		if len(a.asking) >= maxAsking {
			return
		}
		// A domain that was removed and made again has the same UUID.
		_, asking := a.asking[uuid]
		_, hanging := a.hanging[uuid]
		if asking || hanging {
			continue
		}
		fast, ok := a.s.claim(uuid, now)
		if !ok {
			continue
		}
		a.asking[uuid] = now
		a.line.calls++
		go a.ask(a.line, uuid, fast)
	}
}

func (a *asker) ask(l *line, uuid string, fast bool) {
	r, err := l.link.statistics(uuid, fast)
	a.s.answered(uuid, r)
	if err != nil && !errors.Is(err, errGone) {
		a.s.skip(skipFailed)
		a.s.Log.Debug("slow numbers", "domain", uuid, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.asking, uuid)
	if since, ok := a.hanging[uuid]; ok {
		delete(a.hanging, uuid)
		a.full = false
		a.s.Log.Info("a domain answers again", "domain", a.s.nameOf(uuid), "after", time.Since(since).Round(time.Millisecond), "err", err)
	}
	l.calls--
	if a.line == l && !l.link.alive() {
		a.retireLocked()
	} else if l.retired && l.calls == 0 {
		go l.link.close()
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// retireLocked leaves the connection to the calls that are on it; the last one
// closes it.
func (a *asker) retireLocked() {
	l := a.line
	if l == nil {
		return
	}
	a.line, l.retired = nil, true
	if l.calls == 0 {
		go l.link.close()
	}
}

// openLocked opens a connection, one at a time, as this may hang as well.
func (a *asker) openLocked(now time.Time) {
	if a.opening || now.Before(a.retry) {
		return
	}
	a.opening, a.retry = true, now.Add(time.Second)
	go func() {
		l, err := open(a.s.URI, nil, nil)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.opening = false
		switch {
		case err != nil:
			a.s.Log.Debug("connection for slow numbers", "err", err)
		case !a.s.following.Load():
			go l.close()
		default:
			a.line = &line{link: l}
		}
	}()
}

// due are the running domains whose slow numbers are old, the oldest first.
func (s *Source) due(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var uuids []string
	for _, d := range s.order {
		if d.desc.state != running || d.asking || d.ended {
			continue
		}
		if d.due.IsZero() {
			// The first time soon, later spread over the interval.
			d.due = now
		}
		if !d.due.After(now) {
			uuids = append(uuids, d.desc.uuid)
		}
	}
	return uuids
}

// claim marks a domain as being asked. fast says that its process can not be
// read.
func (s *Source) claim(uuid string, now time.Time) (fast, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[uuid]
	if d == nil || d.asking {
		return false, false
	}
	first := d.due.IsZero() || d.slow == nil
	d.asking = true
	d.due = now.Add(s.SlowInterval)
	if first {
		// A place of its own in the interval, so that not all are asked at once.
		h := fnv.New32a()
		_, _ = h.Write([]byte(uuid))
		d.due = now.Add(s.SlowInterval/2 + time.Duration(uint64(s.SlowInterval/2)*uint64(h.Sum32())>>32))
	}
	return d.process == nil, true
}

// answered takes over a reading; nil when there is none.
func (s *Source) answered(uuid string, r *reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[uuid]
	if d == nil {
		return
	}
	d.asking = false
	if r == nil || d.desc.state != running {
		return
	}
	d.slow = r
	if r.current.OK && r.current.V > 0 {
		d.limit = r.current.V
	}
	if stale := r.stale(); stale != d.stale {
		d.stale = stale
		if stale {
			s.Log.Info("the balloon driver is not asked by libvirt, so memory in use is unknown; <memballoon><stats period='5'/> in the domain's XML changes that",
				"domain", d.desc.name, "last_update", r.updated)
		}
	}
}

func (s *Source) nameOf(uuid string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.domains[uuid]; d != nil {
		return d.desc.name
	}
	return uuid
}
