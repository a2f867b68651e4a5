// Package presence owns the comparison of who should be there with who is:
// the roster on one side, what hosts were heard to say on the other. It keeps
// no measurements.
package presence

import (
	"slices"
	"strings"
	"sync"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/sample"
)

// Why a guest of an active deployment is not up, beside what its host says.
const (
	NotPlaced  = "not_placed"  // state.json names no host for it
	HostSilent = "host_silent" // its host has not been heard of lately
	NotSeen    = "not_seen"    // its host is heard, and says nothing of it
	Stopped    = "stopped"     // its host says that it does not run, and no more
	Refused    = "refused"     // another host than its own says to have it
)

// Silence is how long nothing is heard of a host before it counts as silent,
// unless three of its intervals are longer.
const Silence = 15 * time.Second

// Book keeps what was heard. The zero value is ready; its methods may be
// called from any goroutine.
type Book struct {
	mu       sync.Mutex
	hosts    map[string]*host
	guests   map[sample.Owner]*heard
	lately   map[*sample.Owner]*heard // of guests, by whoever asked for them
	expected expected
}

type host struct {
	seen        time.Time
	interval    time.Duration
	offset      time.Duration
	offsetKnown bool
	strangers   map[string]Stranger // by runtime name
}

type heard struct {
	points  time.Time // when some point of it was admitted
	word    time.Time // when its host last said whether it is up
	up      bool
	why     string
	refused time.Time // when another host last claimed it
}

// Stranger is a guest that a host reports and no active deployment owns.
type Stranger struct {
	Host   string
	Name   string // runtime name, as the host says it: from outside, not validated
	Reason string // why it was refused
	Seen   time.Time
}

// maxStrangers bounds what is remembered of one host's guests that nobody
// owns.
const maxStrangers = 1_000

func (b *Book) host(name string) *host {
	if b.hosts == nil {
		b.hosts, b.guests = map[string]*host{}, map[sample.Owner]*heard{}
	}
	h := b.hosts[name]
	if h == nil {
		h = &host{}
		b.hosts[name] = h
	}
	return h
}

func (b *Book) guest(owner sample.Owner) *heard {
	b.host(owner.Host)
	g := b.guests[owner]
	if g == nil {
		g = &heard{}
		b.guests[owner] = g
	}
	return g
}

// HostHeard notes that a host of the cluster has sent something. interval is
// the host's own between two samples, 0 when it does not say.
func (b *Book) HostHeard(name string, now time.Time, interval time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.host(name)
	h.seen, h.interval = now, interval
}

// ClockRead notes by how much a host's clock was ahead of the gateway's when
// it sent.
func (b *Book) ClockRead(name string, offset time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.host(name)
	h.offset, h.offsetKnown = offset, true
}

// GuestsHeard notes that points of these guests were admitted.
func (b *Book) GuestsHeard(owners []*sample.Owner, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lately == nil || len(b.lately) > 2*len(b.guests)+1000 {
		b.lately = map[*sample.Owner]*heard{}
	}
	for _, owner := range owners {
		g := b.lately[owner]
		if g == nil {
			g = b.guest(*owner)
			b.lately[owner] = g
		}
		g.points = now
	}
}

// GuestSaid notes its host's word on whether a guest is up, and why not.
func (b *Book) GuestSaid(owner sample.Owner, up bool, why string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.guest(owner)
	g.word, g.up, g.why = now, up, why
}

// GuestRefused notes that what was said of a guest was not admitted; owner is
// the guest as it should be, its own host included.
func (b *Book) GuestRefused(owner sample.Owner, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.guest(owner).refused = now
}

// StrangerHeard notes a guest that no active deployment owns.
func (b *Book) StrangerHeard(s Stranger) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.host(s.Host)
	if h.strangers == nil {
		h.strangers = map[string]Stranger{}
	}
	if _, known := h.strangers[s.Name]; known || len(h.strangers) < maxStrangers {
		h.strangers[s.Name] = s
	}
}

// HostStatus is one host of the roster.
type HostStatus struct {
	Host        deployment.Host
	Up          bool
	LastSeen    time.Time     // zero: never
	Interval    time.Duration // between its samples; 0 when it does not say
	ClockOffset time.Duration // its clock minus the gateway's
	ClockKnown  bool
	Strangers   []Stranger // sorted by name

	up, clockOffset *sample.Series
}

// GuestStatus is one guest of an active deployment.
type GuestStatus struct {
	Guest    *deployment.Guest
	Up       bool
	Reason   string    // why it is not up: a constant of this package or its host's word; "" when up
	LastSeen time.Time // zero: never

	series *sample.Series
}

// Report is the state of everything expected at one moment.
type Report struct {
	At     time.Time
	Hosts  []HostStatus  // sorted by name
	Guests []GuestStatus // sorted by project and name
}

// Host finds a host's status by name.
func (r *Report) Host(name string) (HostStatus, bool) {
	i, ok := slices.BinarySearchFunc(r.Hosts, name, func(h HostStatus, n string) int { return strings.Compare(h.Host.Name, n) })
	if !ok {
		return HostStatus{}, false
	}
	return r.Hosts[i], true
}

// Report compares the roster with what was heard until now.
func (b *Book) Report(roster *deployment.Roster, now time.Time) *Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expect(roster)
	r := &Report{At: now, Hosts: make([]HostStatus, 0, len(b.expected.hosts)), Guests: make([]GuestStatus, 0, len(b.expected.guests))}
	for i := range b.expected.hosts {
		e := &b.expected.hosts[i]
		if e.heard == nil {
			e.heard = b.hosts[e.host.Name]
		}
		r.Hosts = append(r.Hosts, HostStatus{Host: e.host, up: e.up, clockOffset: e.clockOffset})
		if e.heard != nil {
			e.heard.tell(&r.Hosts[len(r.Hosts)-1], now)
		}
	}
	for i := range b.expected.guests {
		e := &b.expected.guests[i]
		if e.heard == nil {
			e.heard = b.guests[e.owner]
		}
		if e.host == nil {
			e.host = b.hosts[e.owner.Host]
		}
		status := e.status(now)
		status.series = e.series(status.Reason)
		r.Guests = append(r.Guests, status)
	}
	return r
}

// tell completes a host's status by what was heard of it.
func (h *host) tell(status *HostStatus, now time.Time) {
	status.Up, status.LastSeen, status.Interval = h.fresh(h.seen, now), h.seen, h.interval
	status.ClockOffset, status.ClockKnown = h.offset, h.offsetKnown && status.Up
	for _, s := range h.strangers {
		if h.fresh(s.Seen, now) {
			status.Strangers = append(status.Strangers, s)
		}
	}
	if len(status.Strangers) > 1 {
		slices.SortFunc(status.Strangers, func(a, b Stranger) int { return strings.Compare(a.Name, b.Name) })
	}
}

func (e *expectedGuest) status(now time.Time) GuestStatus {
	s, heard, h := GuestStatus{Guest: e.guest}, e.heard, e.host
	if e.owner.Host == "" {
		s.Reason = NotPlaced
		return s
	}
	if heard != nil {
		s.LastSeen = heard.points
		if heard.up && heard.word.After(s.LastSeen) {
			s.LastSeen = heard.word
		}
	}
	switch {
	case h == nil || !h.fresh(h.seen, now):
		s.Reason = HostSilent
	case heard != nil && h.fresh(heard.word, now):
		s.Up, s.Reason = heard.up, heard.why
		if !s.Up && s.Reason == "" {
			s.Reason = Stopped
		}
		if s.Up {
			s.Reason = ""
		}
	case heard != nil && h.fresh(heard.points, now):
		s.Up = true
	case heard != nil && h.fresh(heard.refused, now):
		s.Reason = Refused
	default:
		s.Reason = NotSeen
	}
	return s
}

// OwnerOf is the identity of a guest where it belongs.
func OwnerOf(g *deployment.Guest) sample.Owner {
	return sample.Owner{Host: g.Host, Project: g.Project, Guest: g.Name, Kind: g.Kind}
}

// Allowed returns the judgement by which the window is swept: whether points
// of an owner may still stand on a page. A guest must belong to an active
// deployment, be placed on that host and not be said to have stopped.
func (b *Book) Allowed(roster *deployment.Roster, now time.Time) func(sample.Owner) bool {
	return func(o sample.Owner) bool {
		if !roster.HasHost(o.Host) {
			return false
		}
		if o.IsHost() {
			return true
		}
		p := roster.Project(o.Project)
		if p == nil || !p.Active {
			return false
		}
		g := p.Guest(o.Guest)
		if g == nil || OwnerOf(g) != o {
			return false
		}
		if found, match := roster.Lookup(g.RuntimeName); match != deployment.Found || found != g {
			return false
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		heard := b.guests[o]
		h := b.hosts[o.Host]
		return heard == nil || heard.up || h == nil || !h.fresh(heard.word, now)
	}
}

// Forget drops what was heard of guests and hosts so long ago that it does
// not matter any more.
func (b *Book) Forget(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const old = time.Hour
	clear(b.lately)
	b.expected.roster = nil // it points to what may be dropped now
	for owner, g := range b.guests {
		if now.Sub(g.points) > old && now.Sub(g.word) > old && now.Sub(g.refused) > old {
			delete(b.guests, owner)
		}
	}
	for name, h := range b.hosts {
		for runtimeName, s := range h.strangers {
			if !h.fresh(s.Seen, now) {
				delete(h.strangers, runtimeName)
			}
		}
		if now.Sub(h.seen) > 24*time.Hour {
			delete(b.hosts, name)
		}
	}
}

// Keep is how long a series of this host stays without a new point.
func Keep(interval time.Duration) time.Duration { return max(3*interval, Silence) }

func (h *host) fresh(at, now time.Time) bool {
	return !at.IsZero() && now.Sub(at) <= Keep(h.interval)
}
