package docker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/source/docker"
)

// Containers are found by their labels, with the addresses they really have,
// and forgotten when they end, by a real engine's events and lists.
func TestPagesOfContainers(t *testing.T) {
	engine := rig.Dockerd(t)
	engine.Network(t, "lab")
	s := &docker.Source{Host: engine.Host()}
	follow(t, s)

	told := func(name string) (docker.Page, bool) {
		for _, p := range s.Pages() {
			if p.Name == name {
				return p, true
			}
		}
		return docker.Page{}, false
	}
	soon := func(name string, want func(docker.Page) error) docker.Page {
		t.Helper()
		var p docker.Page
		rig.Eventually(t, patience, func() error {
			var ok bool
			if p, ok = told(name); !ok {
				return fmt.Errorf("%s is not told of: %+v", name, s.Pages())
			}
			return want(p)
		})
		return p
	}
	labels := map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8000", "prometheus.io/path": "/m"}
	at := func(name string) func(docker.Page) error {
		want := engine.Address(t, name, "lab")
		return func(p docker.Page) error {
			if len(p.Addresses) != 1 || p.Addresses[0].String() != want || p.Port != "8000" || p.Path != "/m" || p.Namespace == nil {
				return fmt.Errorf("got %+v, want the address %s, 8000 and /m", p, want)
			}
			return nil
		}
	}

	// The first comes with the first list, which is asked for at the start.
	engine.Run(t, "web", rig.Container{Labels: labels, Network: "lab"})
	soon("web", at("web"))

	t.Run("how soon", func(t *testing.T) {
		for i := range 5 {
			name := fmt.Sprint("replica-", i)
			engine.Run(t, name, rig.Container{Labels: labels, Network: "lab"})
			began := time.Now()
			soon(name, at(name))
			found := time.Since(began)
			engine.Do(t, name, "kill")
			began = time.Now()
			rig.Eventually(t, patience, func() error {
				if p, ok := told(name); ok {
					return fmt.Errorf("still told of: %+v", p)
				}
				return nil
			})
			t.Logf("%s: found %s after its start, forgotten %s after its end", name, found.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			// A list every 5 s at the most would take longer in most runs.
			if i > 0 && found > 2*time.Second {
				t.Errorf("%s: found after %s, want at most 2s", name, found)
			}
		}
	})

	t.Run("started again", func(t *testing.T) {
		engine.Do(t, "web", "restart")
		soon("web", at("web"))
	})

	t.Run("another one's network", func(t *testing.T) {
		engine.Run(t, "beside", rig.Container{Labels: labels, Network: "container:web"})
		soon("beside", at("web"))
	})

	t.Run("the host's network", func(t *testing.T) {
		engine.Run(t, "hosted", rig.Container{Labels: labels, Network: "host"})
		soon("hosted", func(p docker.Page) error {
			if len(p.Addresses) > 0 || p.Namespace != nil {
				return fmt.Errorf("got %+v, want no way to reach it", p)
			}
			return nil
		})
	})

	t.Run("no network", func(t *testing.T) {
		engine.Run(t, "alone", rig.Container{Labels: labels})
		p := soon("alone", func(p docker.Page) error {
			if len(p.Addresses) > 0 || p.Namespace == nil {
				return fmt.Errorf("got %+v, want only a namespace", p)
			}
			return nil
		})
		namespace, err := p.Namespace()
		if err != nil {
			t.Fatal(err)
		}
		defer namespace.Close()
		got, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", namespace.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", engine.PID(t, "alone")))
		if err != nil {
			t.Fatal(err)
		}
		if got != want || !strings.HasPrefix(got, "net:[") {
			t.Errorf("its namespace: got %s, want %s", got, want)
		}
		for name, want := range map[string]bool{"alone": true, "web": false, "nobody": false} {
			if in, ok := s.Inside(name); ok != want || ok && (in.ID != p.ID || in.Namespace == nil) {
				t.Errorf("%s: got %+v, %v, want %v", name, in, ok, want)
			}
		}
		engine.Do(t, "alone", "kill")
		rig.Eventually(t, patience, func() error {
			if f, err := p.Namespace(); err == nil {
				f.Close()
				return fmt.Errorf("a container that has ended still has a namespace")
			}
			return nil
		})
	})
}

// A container that ends while its engine is away is not told of any more: the
// engine gives its address to another one before it answers again.
func TestPagesWithoutTheEngine(t *testing.T) {
	engine := rig.Dockerd(t, "--live-restore")
	engine.Network(t, "lab")
	var changed atomic.Int32
	s := &docker.Source{Host: engine.Host(), Changed: func() { changed.Add(1) }}
	follow(t, s)
	labels := map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
	ids := map[string]string{}
	for _, name := range []string{"web", "db"} {
		ids[name] = engine.Run(t, name, rig.Container{Labels: labels, Network: "lab"}, "idle")
	}
	told := func(want ...string) error {
		p, _ := take(s)
		var got []string
		for _, page := range s.Pages() {
			if len(page.Addresses) != 1 || page.Addresses[0].String() != engine.Address(t, page.Name, "lab") {
				return fmt.Errorf("%s: got the addresses %v", page.Name, page.Addresses)
			}
			got = append(got, page.Name)
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("told of %v, want %v", got, want)
		}
		for _, name := range want {
			if err := up(name)(p); err != nil {
				return err
			}
		}
		return nil
	}
	rig.Eventually(t, patience, func() error { return told("db", "web") })
	pid := engine.PID(t, "web")
	engine.StopDaemon(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// What the engine has done for it when it is started again.
	groups := func() []string {
		v1, _ := filepath.Glob("/sys/fs/cgroup/*/docker/" + ids["web"])
		v2, _ := filepath.Glob("/sys/fs/cgroup/docker/" + ids["web"])
		return append(v1, v2...)
	}
	rig.Eventually(t, patience, func() error {
		for _, group := range groups() {
			if err := os.Remove(group); err != nil {
				return err
			}
		}
		return nil
	})
	before := changed.Load()
	_, _ = take(s)
	var left []string
	for _, p := range s.Pages() {
		left = append(left, p.Name)
	}
	if !slices.Equal(left, []string{"db"}) {
		t.Errorf("after its end told of %v, want only db", left)
	}
	if changed.Load() == before {
		t.Error("that it is told of no more was not said")
	}
	engine.StartDaemon(t)
	rig.Eventually(t, patience, func() error { return told("db") })
	engine.Do(t, "web", "start")
	rig.Eventually(t, patience, func() error { return told("db", "web") })
}

// Without Run, as in `pusher once`, a sample is enough.
func TestPagesWithoutRun(t *testing.T) {
	engine := rig.Dockerd(t)
	engine.Run(t, "alone", rig.Container{Labels: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "1"}})
	s := &docker.Source{Host: engine.Host()}
	defer s.Close()
	if _, err := take(s); err != nil {
		t.Fatal(err)
	}
	if got := s.Pages(); len(got) != 1 || got[0].Name != "alone" || got[0].Namespace == nil {
		t.Errorf("got %+v, want the one container", got)
	}
}
