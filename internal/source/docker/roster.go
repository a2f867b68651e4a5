package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	listing "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

// state is what the engine says of a container, in the words of the reason
// label of testbed_guest_up.
type state string

const (
	running    state = "running"
	paused     state = "paused"     // exists, and does nothing until it is unpaused
	restarting state = "restarting" // waits to be started again by its restart policy
	created    state = "created"    // has never been started
	stopped    state = "stopped"
	removing   state = "removing"
	dead       state = "dead" // could not be removed wholly
)

// stateOf turns the State of a list entry (API: ContainerSummary) into one of
// ours. What no engine of today says counts as stopped.
func stateOf(s listing.ContainerState) state {
	switch s {
	case listing.StateRunning:
		return running
	case listing.StatePaused:
		return paused
	case listing.StateRestarting:
		return restarting
	case listing.StateCreated:
		return created
	case listing.StateRemoving:
		return removing
	case listing.StateDead:
		return dead
	}
	return stopped
}

// sharing says whose network a container uses.
type sharing uint8

const (
	networkUnknown sharing = iota // not listed yet
	networkOwn
	networkHost
)

// entry is what is known of one container without measuring it.
type entry struct {
	id, name, image string
	state           state
	network         sharing
	created         int64 // seconds since 1970, 0 when unknown
	past

	page      page
	addresses [maxAddresses]netip.Addr // valid ones first
	located   bool                     // listed since it was started: network and addresses are of this run
	starts    uint32                   // how often it was seen to start
}

// engine says what there is to talk to.
type engine uint8

const (
	engineUnknown engine = iota // not asked yet
	engineMissing               // no socket: Docker is not installed
	engineDenied                // a socket, and no permission
	engineOpen                  // listed at least once
)

// roster holds who is there. Run or Sample's own list call writes it, Sample
// and nobody else reads it.
type roster struct {
	limit int // immutable
	skips *skipCounters

	mu      sync.Mutex
	version uint64 // rises with every change
	engine  engine
	entries map[string]entry
	listed  time.Time // when the last list was asked for
	full    bool      // there were more than limit at the last list
	pages   pages     // of the version that it tells
}

// replace takes a whole list, asked for at the moment at, and the events that
// have come since.
// It reports whether there are more containers than the limit since just now.
func (r *roster) replace(at time.Time, list []entry, since []events.Message) bool {
	full := len(list) > r.limit
	if full {
		r.skips[skipLimit].Add(uint64(len(list) - r.limit))
		// Running ones first, then the newest.
		slices.SortStableFunc(list, func(a, b entry) int {
			if (a.state == running) != (b.state == running) {
				if a.state == running {
					return -1
				}
				return 1
			}
			return cmp.Compare(b.created, a.created)
		})
		list = list[:r.limit]
	}
	entries := make(map[string]entry, len(list))
	for _, e := range list {
		entries[e.id] = e
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range entries {
		e.past = r.entries[id].past
		e.loops = e.state == restarting || e.state == running && e.loops
		e.starts = r.entries[id].starts
		entries[id] = e
	}
	r.listed = at
	changed := r.engine != engineOpen || !maps.Equal(entries, r.entries)
	r.engine, r.entries = engineOpen, entries
	if changed {
		r.version++
	}
	for i := range since {
		r.apply(&since[i], true)
	}
	news := full && !r.full
	r.full = full
	return news
}

// lost notes that there is no engine to ask; e is engineMissing or
// engineDenied. It reports false, and changes nothing, when there was one
// before: then its containers may still run.
func (r *roster) lost(e engine) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.engine == engineOpen {
		return false
	}
	if r.engine != e {
		r.engine = e
		r.version++
	}
	return true
}

// update applies one event of a container.
func (r *roster) update(m *events.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apply(m, false)
}

// apply changes the roster by an event (API: SystemEvents). An event says
// what is now, so one that the list has already seen does no harm: those that
// follow it are applied too. What is counted of it was counted the first time.
// The lock is held.
func (r *roster) apply(m *events.Message, again bool) {
	id := m.Actor.ID
	before, known := r.entries[id]
	e := before
	if !again {
		e.happened(m.Action, before.state)
	}
	switch m.Action {
	case events.ActionCreate, events.ActionStart:
		if !known {
			if len(r.entries) >= r.limit {
				r.skips[skipLimit].Add(1)
				return
			}
			e = entry{id: id, name: m.Actor.Attributes["name"], image: m.Actor.Attributes["image"], created: m.Time, page: pageOf(m.Actor.Attributes)}
		}
		e.state = created
		if m.Action == events.ActionStart {
			if before.state != running { // else it is of the run that the list has told
				e.addresses, e.located = [maxAddresses]netip.Addr{}, false
				e.starts++
			}
			e.state = running
		}
	case events.ActionUnPause:
		e.state = running
	case events.ActionPause:
		e.state = paused
	case events.ActionDie:
		e.state = stopped
		if e.loops {
			e.state = restarting
		}
	case events.ActionStop: // follows die when someone wanted it
		e.state, e.loops = stopped, false
	case events.ActionKill, events.ActionOOM:
	case events.ActionRename:
		e.name = m.Actor.Attributes["name"]
	case events.ActionDestroy:
		if known {
			delete(r.entries, id)
			r.version++
		}
		return
	default:
		return
	}
	if e.id == "" || e == before {
		return
	}
	if r.entries == nil {
		r.entries = map[string]entry{}
	}
	r.entries[id] = e
	r.version++
}

// unique lists the containers that have a name of their own, sorted by it.
// The engine gives a name once; should events have told otherwise, the
// running and newest container has it. The lock is held.
func (r *roster) unique() []entry {
	list := slices.Collect(maps.Values(r.entries))
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(rank(b), rank(a)),
			cmp.Compare(b.created, a.created), strings.Compare(a.id, b.id))
	})
	last := ""
	return slices.DeleteFunc(list, func(e entry) bool {
		switch e.name {
		case "":
			r.skips[skipNameless].Add(1)
			return true
		case last:
			r.skips[skipSameName].Add(1)
			return true
		}
		last = e.name
		return false
	})
}

func rank(e entry) int {
	if e.state == running {
		return 1
	}
	return 0
}

// count counts the containers: running, paused, and the others as stopped.
// The lock is held.
func (r *roster) count() map[state]int {
	counts := make(map[state]int, 3)
	for _, e := range r.entries {
		switch e.state {
		case running, paused:
			counts[e.state]++
		default:
			counts[stopped]++
		}
	}
	return counts
}

// entriesOf turns the answer of the list call into entries.
func entriesOf(list []listing.Summary) []entry {
	byID := make(map[string]*listing.Summary, len(list))
	for i := range list {
		byID[list[i].ID] = &list[i]
	}
	entries := make([]entry, 0, len(list))
	for i := range list {
		c := &list[i]
		e := entry{
			id: c.ID, name: nameOf(c.Names), image: c.Image, state: stateOf(c.State),
			created: c.Created, page: pageOf(c.Labels),
		}
		var owner *listing.Summary
		e.network, owner = sharingOf(c, byID)
		e.located = (e.state == running || e.state == paused) && e.network != networkUnknown
		if e.network == networkOwn {
			e.addresses = addressesOf(owner)
		}
		entries = append(entries, e)
	}
	return entries
}

// addressesOf are the container's addresses, IPv4 first, in the order of the
// networks' names.
func addressesOf(c *listing.Summary) (found [maxAddresses]netip.Addr) {
	if c.NetworkSettings == nil {
		return found
	}
	at := 0
	add := func(a netip.Addr) {
		if a.IsValid() && at < len(found) {
			found[at] = a
			at++
		}
	}
	networks := c.NetworkSettings.Networks
	names := slices.Sorted(maps.Keys(networks))
	for _, name := range names {
		if n := networks[name]; n != nil {
			add(n.IPAddress)
		}
	}
	for _, name := range names {
		if n := networks[name]; n != nil {
			add(n.GlobalIPv6Address)
		}
	}
	return found
}

// nameOf picks the container's own name, /NAME; the others, /OTHER/ALIAS, are
// what containers linked to it call it.
func nameOf(names []string) string {
	for _, n := range names {
		if n = strings.TrimPrefix(n, "/"); n != "" && !strings.Contains(n, "/") {
			return n
		}
	}
	return ""
}

// sharingOf says whose network a container uses and, if that is not the
// host's, which container's: container:ID shares another one's, which may
// share in turn.
func sharingOf(c *listing.Summary, byID map[string]*listing.Summary) (sharing, *listing.Summary) {
	for range 16 {
		mode := c.HostConfig.NetworkMode
		other, shared := strings.CutPrefix(mode, "container:")
		switch {
		case mode == "host":
			return networkHost, nil
		case mode == "":
			return networkUnknown, nil
		case !shared:
			return networkOwn, c
		}
		if c = byID[other]; c == nil {
			return networkUnknown, nil
		}
	}
	return networkUnknown, nil
}
