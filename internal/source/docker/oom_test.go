package docker_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/source/docker"
)

// inspected is what the engine itself has counted, which the source never asks.
func inspected(t testing.TB, d *rig.Docker, name string) (restarts int, oom bool) {
	t.Helper()
	var c struct {
		RestartCount int
		State        struct{ OOMKilled bool }
	}
	d.API(t, "GET", "/containers/"+name+"/json", nil, &c)
	return c.RestartCount, c.State.OOMKilled
}

// Processes that are killed for want of memory: a child, which the kernel
// counts, and the first one, with which the kernel's count goes away, mostly
// between two samples.
func TestOOMKills(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	const held = 64 << 20
	child := d.Run(t, "child", rig.Container{Memory: 48 << 20}, "child", "wait", "2", "memory", strconv.Itoa(held))
	d.Run(t, "first", rig.Container{Memory: 32 << 20, Restart: "always"}, "wait", "2", "memory", strconv.Itoa(held))
	s := &docker.Source{Host: d.Host(), Interval: 30 * time.Second}
	follow(t, s)
	alone := &docker.Source{Host: d.Host()} // knows what the kernel says, and no more
	defer alone.Close()
	// soon samples about once a second, as it is done in earnest.
	soon := func(s *docker.Source, want func(page) error) page {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(900 * time.Millisecond) {
			p, err := take(s)
			if err == nil {
				err = want(p)
			}
			if err == nil {
				return p
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	ooms := func(p page, name string) float64 {
		v, ok := p[series("testbed_guest_oom_kills_total", name)]
		if !ok {
			return -1
		}
		return v
	}
	killed := func(n float64) func(page) error {
		return func(p page) error {
			if got := ooms(p, "child"); got != n {
				return fmt.Errorf("child: %v OOM kills, want %v", got, n)
			}
			return nil
		}
	}
	soon(s, killed(1))
	soon(alone, killed(1))
	if got := kernel(t, "docker/"+child, "oom_kill ", "memory/ID/memory.oom_control", "ID/memory.events"); got != 1 {
		t.Errorf("the kernel counts %v OOM kills, want 1", got)
	}
	// Each run of the other ends with one; the counter goes on through them.
	// The engine's count of restarts goes by, as ours lacks those that came faster
	// than its list.
	for n := 1.0; n <= 3; n++ {
		soon(s, func(p page) error {
			if got := p[series("testbed_guest_restarts_total", "first")]; got < n {
				return fmt.Errorf("first: %v restarts, want %v", got, n)
			}
			return nil
		})
		least, _ := inspected(t, d, "first")
		soon(s, func(p page) error {
			most, _ := inspected(t, d, "first")
			// Of the run that goes on there may be one more.
			if got := ooms(p, "first"); got < float64(least) || got > float64(most+1) {
				return fmt.Errorf("first: %v OOM kills, want %d to %d, as many as restarts or one more", got, least, most+1)
			}
			return nil
		})
	}
	if restarts, _ := inspected(t, d, "first"); restarts < 3 {
		t.Errorf("the engine counts %d restarts, want 3 or more", restarts)
	}
	if p := soon(s, up("child")); ooms(p, "child") != 1 || p[series("testbed_guest_restarts_total", "child")] != 0 {
		t.Errorf("child: %v", p.of("child"))
	}
	// In each further run it has another one killed.
	d.Do(t, "child", "restart")
	soon(s, killed(2))
	soon(alone, killed(2))
	d.Do(t, "child", "stop")
	soon(s, down("child", "stopped"))
	soon(alone, down("child", "stopped"))
	d.Do(t, "child", "start")
	soon(s, killed(3))
	soon(alone, killed(3))
}

// Restarts are those of the restart policy, as the engine counts them, and
// nobody else's.
func TestRestarts(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	d.Run(t, "policy", rig.Container{Restart: "always"}, "wait", "1", "exit", "1")
	d.Run(t, "none", rig.Container{}, "wait", "1", "exit", "1")
	d.Run(t, "steady", rig.Container{Restart: "always"}, "idle")
	s := &docker.Source{Host: d.Host(), Interval: 30 * time.Second}
	follow(t, s)
	w := watching(t, s)
	restarts := func(p page, name string) float64 {
		v, ok := p[series("testbed_guest_restarts_total", name)]
		if !ok {
			return -1
		}
		return v
	}
	w.soon(up("steady"))
	before, _ := inspected(t, d, "policy") // before the source knew it
	first := -1.0
	w.soon(func(p page) error {
		got := restarts(p, "policy")
		engine, _ := inspected(t, d, "policy")
		switch {
		case got < 0:
			return fmt.Errorf("policy has no count: %v", p.of("policy"))
		case first < 0:
			first = got
		}
		if missed := float64(engine) - got; missed < 0 || missed > float64(before+1) {
			return fmt.Errorf("%v restarts, the engine counts %d, %d of them before the source did", got, engine, before)
		}
		if got < first+3 {
			return fmt.Errorf("%v restarts so far, want three more than %v", got, first)
		}
		return nil
	})
	d.Do(t, "none", "start")
	w.soon(func(p page) error {
		if got := restarts(p, "none"); got != 0 {
			return fmt.Errorf("none: %v restarts, want 0", got)
		}
		return nil
	})
	for _, what := range []string{"restart", "stop", "start", "kill", "start"} {
		d.Do(t, "steady", what)
	}
	p := w.soon(up("steady"))
	if got := restarts(p, "steady"); got != 0 {
		t.Errorf("steady was started again by somebody, and %v are its policy's", got)
	}
	// Without the events nobody knows.
	alone := &docker.Source{Host: d.Host()}
	defer alone.Close()
	rig.Eventually(t, patience, func() error {
		p, err := take(alone)
		if err == nil {
			err = up("steady")(p)
		}
		if got := restarts(p, "steady"); err == nil && got != -1 {
			err = fmt.Errorf("without Run: %v restarts", got)
		}
		return err
	})
}
