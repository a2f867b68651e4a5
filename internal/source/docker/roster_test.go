package docker

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	listing "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
)

func event(action events.Action, id string, attributes ...string) events.Message {
	m := events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: id, Attributes: map[string]string{}}}
	for i := 0; i+1 < len(attributes); i += 2 {
		m.Actor.Attributes[attributes[i]] = attributes[i+1]
	}
	return m
}

func newRoster(limit int) *roster { return &roster{limit: limit, skips: &skipCounters{}} }

func names(r *roster) []string {
	var got []string
	for _, e := range r.unique() {
		got = append(got, fmt.Sprintf("%s=%s:%s", e.name, e.id, e.state))
	}
	return got
}

func TestRosterEvents(t *testing.T) {
	web := entry{id: "a", name: "web", image: "i", state: running, network: networkOwn}
	for _, c := range []struct {
		what   string
		list   []entry
		events []events.Message
		want   []string
	}{
		{"stop", []entry{web}, []events.Message{event("kill", "a"), event("die", "a"), event("stop", "a")}, []string{"web=a:stopped"}},
		{"restart", []entry{web}, []events.Message{event("die", "a"), event("start", "a"), event("restart", "a")}, []string{"web=a:running"}},
		{"pause", []entry{web}, []events.Message{event("pause", "a")}, []string{"web=a:paused"}},
		{"pause and back", []entry{web}, []events.Message{event("pause", "a"), event("unpause", "a")}, []string{"web=a:running"}},
		{"rename", []entry{web}, []events.Message{event("rename", "a", "name", "new", "oldName", "/web")}, []string{"new=a:running"}},
		{"remove", []entry{web}, []events.Message{event("die", "a"), event("destroy", "a")}, nil},
		{"new", nil, []events.Message{event("create", "b", "name", "db", "image", "i"), event("start", "b", "name", "db")}, []string{"db=b:running"}},
		{"made and gone before the list was applied", nil, []events.Message{event("create", "b", "name", "db"), event("destroy", "b")}, nil},
		{"seen by the list already", []entry{{id: "a", name: "web", state: stopped}}, []events.Message{event("start", "a"), event("die", "a")}, []string{"web=a:stopped"}},
		{"recreated under the same name", []entry{web}, []events.Message{
			event("rename", "a", "name", "old"), event("create", "b", "name", "web"), event("die", "a"), event("start", "b", "name", "web"), event("destroy", "a"),
		}, []string{"web=b:running"}},
		{"two of a name: the running one has it", []entry{{id: "a", name: "web", state: stopped, created: 9}, {id: "b", name: "web", state: running}}, nil, []string{"web=b:running"}},
		{"ends again and again", []entry{{id: "a", name: "web", state: restarting}}, []events.Message{event("start", "a"), event("die", "a")}, []string{"web=a:restarting"}},
		{"ends again and again until someone stops it", []entry{{id: "a", name: "web", state: restarting}}, []events.Message{event("start", "a"), event("die", "a"), event("stop", "a")}, []string{"web=a:stopped"}},
		{"of something unknown", nil, []events.Message{event("die", "x"), event("pause", "x"), event("destroy", "x"), event("exec_start", "x")}, nil},
		{"without an id or name", []entry{{id: "n", state: dead}}, []events.Message{event("create", ""), event("start", "")}, nil},
	} {
		r := newRoster(10)
		r.replace(time.Time{}, c.list, c.events)
		if got := names(r); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, got, c.want)
		}
		// One by one after the list, the outcome is the same.
		r = newRoster(10)
		r.replace(time.Time{}, c.list, nil)
		for _, m := range c.events {
			r.update(&m)
		}
		if got := names(r); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s, one by one: got %v, want %v", c.what, got, c.want)
		}
	}
}

func TestRosterVersionStandsStillWithoutChange(t *testing.T) {
	r := newRoster(10)
	list := []entry{{id: "a", name: "web", state: running}}
	r.replace(time.Time{}, list, nil)
	before := r.version
	r.replace(time.Time{}, list, nil)
	for _, m := range []events.Message{event("start", "a"), event("rename", "a", "name", "web"), event("health_status: healthy", "a")} {
		r.update(&m)
	}
	if r.version != before {
		t.Errorf("version after the same list and no news: got %d, want %d", r.version, before)
	}
}

func TestRosterLimit(t *testing.T) {
	r := newRoster(2)
	list := []entry{{id: "a", name: "a", state: stopped, created: 5}, {id: "b", name: "b", state: running, created: 1}, {id: "c", name: "c", state: stopped, created: 3}}
	if !r.replace(time.Time{}, list, nil) {
		t.Error("more than the limit for the first time: got false, want true")
	}
	if r.replace(time.Time{}, list, nil) {
		t.Error("still more than the limit: got true, want false")
	}
	if got, want := names(r), []string{"a=a:stopped", "b=b:running"}; !reflect.DeepEqual(got, want) {
		t.Errorf("running first, then the newest: got %v, want %v", got, want)
	}
	m := event("create", "d", "name", "d")
	r.update(&m)
	if got := len(r.entries); got != 2 {
		t.Errorf("entries after a creation over the limit: got %d, want 2", got)
	}
	if got := r.skips[skipLimit].Load(); got != 3 {
		t.Errorf("skipped for the limit: got %d, want 3", got)
	}
}

func TestEntriesOf(t *testing.T) {
	summary := func(id, mode string, state listing.ContainerState, names ...string) listing.Summary {
		s := listing.Summary{ID: id, Names: names, State: state, Image: "i", Created: 7}
		s.HostConfig.NetworkMode = mode
		return s
	}
	got := entriesOf([]listing.Summary{
		summary("a", "host", "running", "/web"),
		summary("b", "container:a", "paused", "/other/alias", "/db"),
		summary("c", "container:b", "exited", "/c"),
		summary("d", "default", "restarting", "/d"),
		summary("e", "container:gone", "created", "/e"),
		summary("f", "container:f", "removing"),
		summary("g", "", "configured", "/g"),
	})
	of := func(id, name string, s state, n sharing, located bool) entry {
		return entry{id: id, name: name, image: "i", state: s, network: n, created: 7, located: located}
	}
	want := []entry{
		of("a", "web", running, networkHost, true),
		of("b", "db", paused, networkHost, true),
		of("c", "c", stopped, networkHost, false),
		of("d", "d", restarting, networkOwn, false),
		of("e", "e", created, networkUnknown, false),
		of("f", "", removing, networkUnknown, false),
		of("g", "g", stopped, networkUnknown, false),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
