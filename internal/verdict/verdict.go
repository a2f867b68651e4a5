// Package verdict owns the answer to "guest or testbed?": for which share of
// the last 10 s a guest was kept from running, and by what. It makes it of what
// pushers say anyway, and says it of now or not at all. docs/verdict.md has the
// definitions.
package verdict

import (
	"hash/maphash"
	"sync"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/sample"
)

const (
	// freshFor is how old the newest point may be that still stands for now,
	// unless two and a half intervals of its host are longer. Some things are
	// read every 5 s only.
	freshFor = 8 * time.Second
	// forgetAfter is when a series is given up of which nothing comes.
	forgetAfter = time.Minute
	// remakeAfter is how long verdicts stand before new ones are made.
	remakeAfter = 500 * time.Millisecond
)

// Judge makes verdicts. Its methods may be called from any goroutine.
type Judge struct {
	// Arrived returns points that have come since the last call, of the series
	// that [Wanted] wants, in order, and none when there are no more; spare is
	// what it returned before. Needed; immutable.
	Arrived func(spare []sample.Point) []sample.Point

	mu     sync.Mutex // guards what follows
	spare  []sample.Point
	last   *track // of the point before
	seed   maphash.Seed
	known  map[uint64]*track // by the hash of their series' keys
	guests map[sample.Owner]*guest
	hosts  map[string]*host
	made   *Verdicts
	names  names

	expected []*deployment.Guest // of the last report
	found    []*guest            // the same ones, nil where nothing is known
}

type guest struct {
	tracks
	owner  *sample.Owner
	series [causes]*sample.Series // those that have been told
}

type host struct {
	tracks
	series [hostCauses]*sample.Series
}

// Collect takes what has arrived.
func (j *Judge) Collect(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.collect(now)
}

func (j *Judge) collect(now time.Time) {
	for {
		j.spare = j.Arrived(j.spare)
		if len(j.spare) == 0 {
			return
		}
		j.take(j.spare, uint32(now.Unix()))
		clear(j.spare) // no pointers for the garbage collector to follow until the next time
	}
}

func (j *Judge) take(points []sample.Point, at uint32) {
	for i := range points {
		p := &points[i]
		// Most come in the order of the last time.
		var t *track
		if j.last != nil && j.last.after != nil && j.last.after.series == p.Series {
			t = j.last.after
		} else {
			t = j.track(p.Series)
			if j.last != nil {
				j.last.after = t
			}
		}
		t.add(p.T, p.V)
		t.seen = at
		j.last = t
	}
}

func (j *Judge) track(s *sample.Series) *track {
	if j.known == nil {
		j.known, j.guests, j.hosts = map[uint64]*track{}, map[sample.Owner]*guest{}, map[string]*host{}
		j.seed = maphash.MakeSeed()
	}
	hash := maphash.Comparable(j.seed, s.Key())
	for t := j.known[hash]; t != nil; t = j.known[hash] {
		if t.series.Key() == s.Key() {
			t.series = s // another one of the same name, by another roster
			return t
		}
		hash++
	}
	t := &track{series: s}
	j.known[hash] = t
	owner := s.Owner()
	if k, ok := hostKind(s); ok && owner.IsHost() {
		h := j.hosts[owner.Host]
		if h == nil {
			h = &host{}
			j.hosts[owner.Host] = h
		}
		h.add(k, t)
	} else if k, ok := ofGuests[s.Name()]; ok && !owner.IsHost() {
		g := j.guests[*owner]
		if g == nil {
			g = &guest{owner: owner}
			j.guests[*owner] = g
		}
		g.add(k, t)
	}
	return t
}

// Forget gives up what nothing comes of any more.
func (j *Judge) Forget(now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	old := uint32(now.Add(-forgetAfter).Unix())
	for key, t := range j.known {
		if t.seen < old {
			delete(j.known, key)
			t.series, t.after = nil, nil
		}
	}
	for owner, g := range j.guests {
		if !g.prune() {
			delete(j.guests, owner)
		}
	}
	for name, h := range j.hosts {
		if !h.prune() {
			delete(j.hosts, name)
		}
	}
	j.expected, j.found = nil, nil
	j.names.forget()
}

// find is what is known of the guest at place i of a report. Mostly it was
// there the last time too.
func (j *Judge) find(i int, of *deployment.Guest) *guest {
	if i >= len(j.expected) {
		j.expected, j.found = append(j.expected, nil), append(j.found, nil)
	}
	if j.expected[i] != of || j.found[i] == nil {
		j.expected[i], j.found[i] = of, j.guests[presence.OwnerOf(of)]
	}
	return j.found[i]
}

// clockOf is what time it was on a host at the moment of the report.
func clockOf(h *presence.HostStatus, at time.Time) clock {
	if h.ClockKnown {
		at = at.Add(h.ClockOffset)
	}
	return clock{at.UnixMilli(), max(freshFor, 5*h.Interval/2).Milliseconds()}
}

// Verdicts are those on the hosts and guests of a report that are up. Who
// shortly before has asked too gets the same.
func (j *Judge) Verdicts(r *presence.Report) *Verdicts {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made != nil {
		if age := r.At.Sub(j.made.at); age >= 0 && age < remakeAfter {
			return j.made
		}
	}
	j.collect(r.At)
	v := &Verdicts{at: r.At}
	type there struct {
		now    clock
		shares [hostCauses]number
	}
	hosts := make(map[string]*there, len(r.Hosts))
	for i := range r.Hosts {
		status := &r.Hosts[i]
		if !status.Up {
			continue
		}
		name := status.Host.Name
		of := &there{now: clockOf(status, r.At)}
		hosts[name] = of
		if h := j.hosts[name]; h != nil {
			of.shares = hostShares(&h.tracks, of.now)
			v.hosts = append(v.hosts, ofHost{of.shares, j.names.host(name, h)})
		}
	}
	v.guests = make([]ofGuest, 0, len(r.Guests))
	for i := range r.Guests {
		status := &r.Guests[i]
		g, on := j.find(i, status.Guest), hosts[status.Guest.Host]
		if g == nil || on == nil || !status.Up {
			continue
		}
		v.guests = append(v.guests, ofGuest{project: status.Guest.Project, name: status.Guest.Name, series: &g.series})
		of := &v.guests[len(v.guests)-1].shares
		if !of.take(&g.tracks, on.now, &on.shares) {
			v.guests = v.guests[:len(v.guests)-1]
			continue
		}
		j.names.guest(g, of)
		n := of[AnyOfTestbed]
		if !n.ok {
			continue
		}
		project := status.Guest.Project
		if last := len(v.projects) - 1; last >= 0 && v.projects[last].name == project {
			v.projects[last].share = max(v.projects[last].share, n.v)
		} else {
			v.projects = append(v.projects, ofProject{project, n.v, j.names.project(project)})
		}
	}
	j.made = v
	return v
}
