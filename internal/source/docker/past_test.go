package docker

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/events"

	"fanin/internal/cgroup"
)

// What counts as started again by the restart policy. A word that begins with
// "=" is what a look at the list has found.
func TestRestartsByEvents(t *testing.T) {
	for _, c := range []struct {
		what, events string
		restarts     uint32
		state        state
	}{
		{"the policy, looked at while it waits", "start die =restarting start", 1, running},
		{"the policy, looked at after it was quick", "start die start =restarting", 1, running},
		{"the policy, thrice", "start die =restarting start die =restarting start die start =restarting", 3, running},
		{"the policy, known by then, and quicker than the look", "start die =restarting start die start =running", 2, running},
		{"the policy, quicker than the first look", "start die start =running", 0, running}, // or somebody: not counted
		{"somebody, some time later", "start die =stopped start", 0, running},
		{"somebody, at once", "start die start =stopped", 0, running},
		{"docker restart", "start kill die stop start restart =running", 0, running},
		{"docker stop and start", "start kill die stop =stopped start", 0, running},
		{"docker kill and start", "start kill die =stopped start", 0, running},
		{"docker kill and start at once", "start die =restarting start kill die start =running", 1, running},
		{"docker restart of one with a policy", "start die =restarting start kill die stop start restart", 1, running},
		{"docker stop while the policy waits", "start die =restarting stop start", 0, running},
		{"the policy gives up", "start die =restarting start die =stopped", 1, stopped},
		{"the policy gives up and somebody starts it", "start die =restarting start die =stopped start die =stopped start", 1, running},
		{"a signal that does not end it, and later the policy", "start kill die =restarting start", 1, running},
		{"waits still", "start die =restarting", 0, restarting},
	} {
		r := newRoster(10)
		r.replace(r.listed, []entry{{id: "a", name: "web", state: created}}, nil)
		for word := range strings.FieldsSeq(c.events) {
			if found, ok := strings.CutPrefix(word, "="); ok {
				r.settle([]entry{{id: "a", state: state(found)}, {id: "unknown", state: restarting}})
				continue
			}
			m := event(events.Action(word), "a")
			r.update(&m)
		}
		if e := r.entries["a"]; e.restarts != c.restarts || e.state != c.state {
			t.Errorf("%s (%s): got %d restarts and %s, want %d and %s", c.what, c.events, e.restarts, e.state, c.restarts, c.state)
		}
	}
}

// An event that is applied once more after a list is not counted once more,
// and what was counted survives the list.
func TestPastSurvivesTheList(t *testing.T) {
	r := newRoster(10)
	r.replace(r.listed, []entry{{id: "a", name: "web", state: restarting}}, nil)
	since := []events.Message{event("start", "a"), event("oom", "a"), event("die", "a"), event("start", "a")}
	for i := range since {
		r.update(&since[i])
	}
	want := r.entries["a"].past
	if want.restarts != 2 || want.ooms != 1 {
		t.Fatalf("got %+v, want 2 restarts and 1 OOM", want)
	}
	r.replace(r.listed, []entry{{id: "a", name: "web", state: restarting}}, since)
	if got := r.entries["a"].past; got.restarts != want.restarts || got.ooms != want.ooms {
		t.Errorf("after a list: got %+v, want %+v", got, want)
	}
	// A connection that was lost may have missed why it runs again.
	m := event("die", "a")
	r.update(&m)
	r.connected()
	if ids := r.ended(map[string]bool{"a": true}); len(ids) > 0 {
		t.Errorf("still asked about: %q", ids)
	}
}

func TestKills(t *testing.T) {
	kernel := func(v float64) *cgroup.Stats { return &cgroup.Stats{OOMKills: cgroup.Value{V: v, OK: true}} }
	unknown := &cgroup.Stats{}
	var k kills
	want := func(st *cgroup.Stats, ooms uint32, v float64) {
		t.Helper()
		if got := k.total(st, ooms, true); !got.OK || got.V != v {
			t.Errorf("got %+v, want %v", got, v)
		}
	}
	want(kernel(0), 0, 0)
	want(kernel(1), 0, 1) // the kernel is quicker
	want(kernel(1), 1, 1) // and they speak of the same
	want(kernel(3), 2, 3) // two at once are one event
	k.end(2)
	want(kernel(0), 2, 3) // the next run
	want(kernel(0), 3, 4) // the engine is quicker
	k.end(3)              // it was the first process: nobody has read its 1
	want(kernel(0), 3, 4)
	k.end(4) // a run that nobody has read
	want(kernel(1), 4, 6)
	k.end(5)
	want(unknown, 5, 6) // a kernel that does not tell
	if got := (&kills{}).total(unknown, 0, false); got.OK {
		t.Errorf("nobody tells, and it is %v", got.V)
	}
}
