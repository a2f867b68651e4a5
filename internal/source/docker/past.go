package docker

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/events"

	"fanin/internal/cgroup"
)

// After a container has ended, the events do not say whether its restart policy
// starts it again or somebody does. The list does, for as long as the policy
// waits (0.1 s the first time, and then twice as long each time), but only some
// milliseconds after the event.
const (
	askAfter = 40 * time.Millisecond
	askEvery = 200 * time.Millisecond // at the most, however many end
	maxEnded = 50                     // containers of one call
)

// past is what the events have told of a container since it is known.
type past struct {
	loops    bool   // its restart policy was at work when it was listed
	killed   bool   // somebody has sent it a signal since its start
	unclear  bool   // it has ended, and why it starts again is not known
	again    bool   // and it has been started since
	restarts uint32 // by its restart policy
	ooms     uint32 // how often the engine has told that it is out of memory
}

// happened takes an event into the past of a container that was in the state
// before. What the container is now is roster.apply's.
func (p *past) happened(action events.Action, before state) {
	switch action {
	case events.ActionKill:
		p.killed = true
	case events.ActionOOM:
		p.ooms++
	case events.ActionDie:
		p.unclear, p.again = true, false
		if p.killed { // as docker stop, restart and kill do; no policy is at work then
			p.loops = false
		}
	case events.ActionStart:
		switch {
		case before == restarting:
			p.restarts++
			p.unclear = false
		case p.unclear:
			p.again = true
		}
		p.killed = false
	case events.ActionStop:
		p.unclear = false
	}
}

// looked takes what a look has found some time after the container ended.
func (p *past) looked(found state) {
	switch found {
	case restarting:
		p.loops = true
		if p.unclear && p.again {
			p.restarts++
		}
	case running: // started again before anybody looked
	default:
		p.loops = false
	}
	p.unclear = false
}

// connected notes that what happened until now may have been missed.
func (r *roster) connected() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, e := range r.entries {
		if e.unclear {
			e.unclear = false
			r.entries[id] = e
		}
	}
}

// ended lists the containers whose end is unclear among those named.
func (r *roster) ended(ids map[string]bool) (unclear []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range ids {
		if r.entries[id].unclear && len(unclear) < maxEnded {
			unclear = append(unclear, id)
		}
	}
	return unclear
}

// settle takes the answer to a look at containers that had ended.
func (r *roster) settle(list []entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, found := range list {
		before, known := r.entries[found.id]
		if !known || !before.unclear {
			continue
		}
		e := before
		e.looked(found.state)
		if !before.again && found.state != running {
			e.state = found.state
		}
		if e != before {
			r.entries[found.id] = e
			r.version++
		}
	}
}

// ends looks after the containers that have ended. Owned by Run.
type ends struct {
	due   *time.Timer // when to look
	ids   map[string]bool
	busy  bool
	last  time.Time    // when the last look began
	found chan []entry // what it has found
}

func newEnds() *ends {
	return &ends{due: time.NewTimer(time.Hour), ids: map[string]bool{}, found: make(chan []entry, 1)}
}

func (e *ends) note(id string) {
	if len(e.ids) == 0 {
		e.due.Reset(max(askAfter, askEvery-time.Since(e.last)))
	}
	e.ids[id] = true
}

func (e *ends) look(ctx context.Context, a *api, r *roster) {
	if e.busy {
		e.due.Reset(askEvery)
		return
	}
	ids := r.ended(e.ids)
	if clear(e.ids); len(ids) == 0 {
		return
	}
	e.busy, e.last = true, time.Now()
	go func() {
		found, _ := a.list(ctx, ids...) // that it fails shows elsewhere
		e.found <- found
	}()
}

// kills counts the processes of a container that were killed for want of
// memory, over all its runs. The kernel counts those of one run, and when the
// first process is one of them the count goes away with the group before
// anybody has read it; the engine's event is what is left then.
type kills struct {
	before  float64 // in earlier runs
	run     float64 // in this one, as the kernel said last
	counted uint32  // events that are in before
	over    bool    // the run is, and another may have begun
}

// end closes a run, of which the engine has told so many times that it is out
// of memory.
func (k *kills) end(ooms uint32) {
	k.before += max(k.run, float64(ooms-k.counted))
	k.run, k.counted, k.over = 0, ooms, false
}

// total is the count now. It is absent when neither the kernel nor the engine
// tells.
func (k *kills) total(st *cgroup.Stats, ooms uint32, following bool) cgroup.Value {
	if st.OOMKills.OK {
		k.run = st.OOMKills.V
	}
	return cgroup.Value{V: k.before + max(k.run, float64(ooms-k.counted)), OK: st.OOMKills.OK || following}
}
