package docker

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	listing "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"fanin/internal/cgroup"
)

func addresses(s string) (found [maxAddresses]netip.Addr) {
	for i, a := range strings.Fields(s) {
		found[i] = netip.MustParseAddr(a)
	}
	return found
}

func TestAddresses(t *testing.T) {
	settings := func(four, six string) *network.EndpointSettings {
		s := &network.EndpointSettings{}
		if four != "" {
			s.IPAddress = netip.MustParseAddr(four)
		}
		if six != "" {
			s.GlobalIPv6Address = netip.MustParseAddr(six)
		}
		return s
	}
	list := []listing.Summary{
		{ID: "a", State: "running", NetworkSettings: &listing.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{
			"z": settings("10.0.2.2", ""), "b": settings("10.0.1.2", "fd00::2"), "none": nil,
		}}},
		{ID: "b", State: "running"}, // its network is a's
		{ID: "c", State: "running", NetworkSettings: &listing.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"none": {}}}},
		{ID: "d", State: "running", NetworkSettings: &listing.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{"host": settings("10.9.9.9", "")}}},
	}
	for i, mode := range []string{"b", "container:a", "none", "host"} {
		list[i].HostConfig.NetworkMode = mode
	}
	for i, want := range []string{"10.0.1.2 10.0.2.2 fd00::2", "10.0.1.2 10.0.2.2 fd00::2", "", ""} {
		if got := entriesOf(list)[i].addresses; got != addresses(want) {
			t.Errorf("container %s: got %v, want %v", list[i].ID, got, want)
		}
	}
}

func TestPageOfLabels(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		labels map[string]string
		want   page
	}{
		{nil, page{}},
		{map[string]string{portLabel: "80"}, page{}},
		{map[string]string{scrapeLabel: "True", portLabel: "80"}, page{}},
		{map[string]string{scrapeLabel: "true"}, page{wanted: true}},
		{map[string]string{scrapeLabel: "true", portLabel: "80", pathLabel: "/m"}, page{true, "80", "/m"}},
		{map[string]string{scrapeLabel: "true", portLabel: long, pathLabel: long}, page{true, long[:maxPageText], long[:maxPageText]}},
	} {
		if got := pageOf(c.labels); got != c.want {
			t.Errorf("%.40v: got %.40v, want %.40v", c.labels, got, c.want)
		}
	}
}

// What is handed out is of this run of a container, never of one before: its
// old address may be another container's by now.
func TestReachable(t *testing.T) {
	at := func(e entry, where string) entry {
		e.addresses, e.located = addresses(where), true
		return e
	}
	web := entry{id: "a", name: "web", state: running, network: networkOwn, page: page{true, "80", ""}}
	start, die := event("start", "a"), event("die", "a")
	type step func(r *roster)
	list := func(entries ...entry) step { return func(r *roster) { r.replace(time.Time{}, entries, nil) } }
	update := func(m events.Message) step { return func(r *roster) { r.update(&m) } }
	locate := func(starts uint32, entries ...entry) step {
		return func(r *roster) { r.locate(entries, map[string]uint32{"a": starts}) }
	}
	gone := func(starts uint32) step { return func(r *roster) { r.unlocate("a", starts) } }
	hidden, hosted, quiet := at(web, ""), at(web, ""), at(web, "10.0.0.2")
	hosted.network = networkHost
	quiet.page = page{}
	for _, c := range []struct {
		what  string
		steps []step
		want  string
	}{
		{"listed", []step{list(at(web, "10.0.0.2"))}, "web:[10.0.0.2]or inside"},
		{"not located", []step{list(web)}, ""},
		{"without an address", []step{list(hidden)}, "web:[]or inside"},
		{"on the host's network", []step{list(hosted)}, "web:[]"},
		{"says nothing", []step{list(quiet)}, ""},
		{"ended", []step{list(at(web, "10.0.0.2")), update(die)}, ""},
		{"started again", []step{list(at(web, "10.0.0.2")), update(die), update(start)}, ""},
		{"started again and looked at", []step{list(at(web, "10.0.0.2")), update(die), update(start), locate(1, at(web, "10.0.0.3"))}, "web:[10.0.0.3]or inside"},
		{"looked at too early", []step{list(at(web, "10.0.0.2")), update(die), update(start), update(die), update(start), locate(1, at(web, "10.0.0.3"))}, ""},
		{"ended meanwhile", []step{list(at(web, "10.0.0.2")), update(die), update(start), update(die), locate(1, at(web, "10.0.0.3"))}, ""},
		{"the list has seen its start", []step{list(at(web, "10.0.0.2")), update(start)}, "web:[10.0.0.2]or inside"},
		{"its group has gone", []step{list(at(web, "10.0.0.2")), gone(0)}, ""},
		{"its group has gone, and it is listed again", []step{list(at(web, "10.0.0.2")), gone(0), list(at(web, "10.0.0.3"))}, "web:[10.0.0.3]or inside"},
		{"its group has gone, and it is looked at", []step{list(at(web, "10.0.0.2")), gone(0), locate(0, at(web, "10.0.0.3"))}, "web:[10.0.0.3]or inside"},
		{"the group of the run before has gone", []step{list(at(web, "10.0.0.2")), update(die), update(start), locate(1, at(web, "10.0.0.3")), gone(0)}, "web:[10.0.0.3]or inside"},
		{"paused and not", []step{list(at(web, "10.0.0.2")), update(event("pause", "a")), update(event("unpause", "a"))}, "web:[10.0.0.2]or inside"},
	} {
		r := newRoster(10)
		for _, s := range c.steps {
			s(r)
		}
		got := ""
		p := r.reachable(func(string) (*os.File, error) { return nil, nil })
		for _, l := range p.listed {
			got += fmt.Sprintf("%s:%v", l.Name, l.Addresses)
			if l.Namespace != nil {
				got += "or inside"
			}
			if _, only := p.inside[l.Name]; only != (l.Namespace != nil && len(l.Addresses) == 0) {
				t.Errorf("%s: only to be reached inside: got %v", c.what, only)
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
		if again := r.reachable(nil); !reflect.DeepEqual(again.listed, p.listed) {
			t.Errorf("%s: asked again got %v, want %v", c.what, again.listed, p.listed)
		}
	}
}

// A number that has become another process's is not followed.
func TestNumberOfAnotherProcess(t *testing.T) {
	root, id := t.TempDir(), strings.Repeat("a", 64)
	file := func(name, content string) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file("proc/self/mountinfo", "30 20 0:26 / "+root+"/cgroup rw - cgroup2 cgroup2 rw\n")
	file("cgroup/docker/"+id+"/cgroup.procs", "77\n")
	file("cgroup/docker/"+id+"/cpu.stat", "usage_usec 1\n")
	file("proc/77/status", "Name:\tx\nPPid:\t1\nNSpid:\t77\n")
	file("proc/77/stat", "77 (x) S 1 77 77 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 4200 1 1 1\n")
	file("proc/77/ns/net", "")
	s := &Source{ProcRoot: filepath.Join(root, "proc")}
	s.setup()
	s.node.boot = 1000
	layout, err := s.layout()
	if err != nil {
		t.Fatal(err)
	}
	for own, want := range map[bool]string{true: "", false: "no process of the container any more"} {
		file("proc/77/cgroup", "0::/system.slice/cron.service\n")
		if own {
			file("proc/77/cgroup", "0::/docker/"+id+"\n")
		}
		f, err := s.openNamespace(id)
		if err == nil {
			f.Close()
		}
		if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) {
			t.Errorf("its own process %v: got %v, want %q", own, err, want)
		}

		c := &container{entry: entry{id: id}}
		if c.group, err = layout.Container(id); err != nil {
			t.Fatal(err)
		}
		err = s.attach(c)
		if own && (err != nil || c.process.dir == 0 || c.process.started != 1042) || !own && (!errors.Is(err, cgroup.ErrGone) || c.process.dir != 0) {
			t.Errorf("its own process %v: attached %+v, %v", own, c.process, err)
		}
		c.release()
	}
}
