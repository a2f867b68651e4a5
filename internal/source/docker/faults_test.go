package docker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/source/docker"
)

// descriptors lists those of this process that are on control groups and
// processes.
func descriptors(t testing.TB) (open []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.HasPrefix(target, "/sys/fs/cgroup/") && strings.Contains(target, "/docker") || strings.HasPrefix(target, "/proc/") {
			open = append(open, target)
		}
	}
	return open
}

// A hundred containers start and end as fast as the engine can, under ten
// names, while samples are taken: every value belongs to the container that
// has the name, and no descriptor stays.
func TestChurn(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	s := &docker.Source{Host: d.Host(), Interval: 30 * time.Second} // a late engine is TestHang's matter
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	rig.Eventually(t, patience, func() error {
		p, err := take(s)
		if _, ok := p[`testbed_host_guests{guest_type="docker",state="running"}`]; !ok {
			return errors.Join(err, errors.New("not listed yet"))
		}
		return err
	})
	var mu sync.Mutex
	born := map[string]string{} // id to name, of all that were ever made
	var work sync.WaitGroup
	for worker := range 4 {
		work.Go(func() {
			for i := range 25 {
				name := fmt.Sprintf("guest-%d-%d", worker, i%3)
				// Ids are known before the start, and so before any value.
				id := d.Create(t, name, rig.Container{AutoRemove: i%2 == 0}, "idle")
				mu.Lock()
				born[id] = name
				mu.Unlock()
				d.Do(t, name, "start")
				if i%2 == 0 {
					d.Do(t, name, "kill")
					rig.Eventually(t, patience, func() error {
						if _, err := os.Stat("/sys/fs/cgroup/cpu/docker/" + id); err == nil {
							return errors.New("killed container is still there")
						}
						var all []struct{ ID string }
						d.API(t, "GET", "/containers/json?all=1", nil, &all)
						for _, c := range all {
							if c.ID == id {
								return errors.New("killed container is still listed")
							}
						}
						return nil
					})
				} else {
					d.Remove(t, name)
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { work.Wait(); close(finished) }()
	samples, seen := 0, map[string]bool{}
	for busy := true; busy; samples++ {
		select {
		case <-finished:
			busy = false
		case <-time.After(10 * time.Millisecond):
		}
		p, err := take(s)
		if err != nil {
			t.Errorf("sample %d: %v", samples, err)
		}
		mu.Lock()
		for _, name := range born {
			if id := p.id(name); id != "" {
				if born[id] != name {
					t.Errorf("%s is shown as container %s, which is %q", name, id, born[id])
				}
				seen[id] = true
			}
		}
		mu.Unlock()
	}
	t.Logf("%d samples saw %d of %d containers", samples, len(seen), len(born))
	if len(seen) < 50 {
		t.Errorf("containers seen running: got %d of %d, want at least half", len(seen), len(born))
	}
	rig.Eventually(t, patience, func() error {
		p, err := take(s)
		for _, name := range born {
			err = errors.Join(err, absent(name)(p))
		}
		return err
	})
	// Other tests have containers too, but none of them keeps what is dead.
	rig.Eventually(t, patience, func() error {
		for _, target := range descriptors(t) {
			if _, err := os.Stat(strings.TrimSuffix(target, " (deleted)")); err != nil || strings.HasSuffix(target, " (deleted)") {
				return fmt.Errorf("descriptor left on %s", target)
			}
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = s.Close()
}

// An engine that is stopped in mid-flight: values go on, nothing waits, the
// error comes after two intervals and goes when the engine does on.
func TestHang(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"Run", "Sample"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			d := rig.Dockerd(t)
			d.Run(t, "busy", rig.Container{CPUs: 0.2}, "busy")
			d.Create(t, "unborn", rig.Container{}, "idle")
			log := &syncLog{}
			s := &docker.Source{Host: d.Host(), Log: log.logger()}
			if mode == "Run" {
				follow(t, s)
			} else {
				t.Cleanup(func() { _ = s.Close() })
			}
			rig.Eventually(t, patience, func() error {
				p, err := take(s)
				return errors.Join(err, up("busy")(p), down("unborn", "created")(p))
			})
			if err := d.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			stopped := time.Now()
			var firstError time.Duration
			var first, usage float64
			var slowest time.Duration
			for time.Since(stopped) < 6*time.Second {
				began := time.Now()
				p, err := take(s)
				slowest = max(slowest, time.Since(began))
				if err != nil && firstError == 0 {
					firstError = time.Since(stopped)
				}
				if e := up("busy")(p); e != nil {
					t.Fatal(e)
				}
				got := p[series("testbed_guest_cpu_usage_seconds_total", "busy")]
				if got < usage {
					t.Errorf("counter while the engine hangs: got %v after %v", got, usage)
				}
				if usage = got; first == 0 {
					first = got
				}
				time.Sleep(200 * time.Millisecond)
			}
			if usage <= first {
				t.Errorf("counter of a busy container while the engine hangs for 6 s: got %v at the beginning and %v at the end", first, usage)
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Process.Cmd.Process.Pid))
			if err != nil || !strings.Contains(string(status), "T (stopped)") {
				t.Errorf("the engine was not stopped all the time: %v\n%s", err, status)
			}
			if firstError < 1500*time.Millisecond || firstError > 4500*time.Millisecond {
				t.Errorf("first error after %s, want it after two intervals of a second", firstError)
			}
			if slowest > 700*time.Millisecond {
				t.Errorf("slowest sample took %s, want at most half an interval and a little", slowest)
			}
			if err := d.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			resumed := time.Now()
			rig.Eventually(t, patience, func() error { _, err := take(s); return err })
			t.Logf("error after %s, well %s after the engine went on, slowest sample %s", firstError, time.Since(resumed), slowest)
			for _, want := range []string{"docker does not answer", "docker answers again", "failed_calls="} {
				if strings.Count(log.String(), want) != 1 {
					t.Errorf("log: want %q once, got:\n%s", want, log)
				}
			}
			// It is not only well, it is up to date.
			d.Do(t, "unborn", "start")
			rig.Eventually(t, patience, func() error {
				p, err := take(s)
				return errors.Join(err, up("unborn")(p))
			})
		})
	}
}

// The engine restarts: with --live-restore its containers run on, without it
// they end with it.
func TestEngineRestarts(t *testing.T) {
	t.Parallel()
	for _, live := range []bool{true, false} {
		t.Run(fmt.Sprintf("live-restore=%v", live), func(t *testing.T) {
			t.Parallel()
			d := rig.Dockerd(t, fmt.Sprintf("--live-restore=%v", live))
			d.Run(t, "web", rig.Container{}, "idle")
			d.Run(t, "always", rig.Container{Restart: "always"}, "idle")
			log := &syncLog{}
			s := &docker.Source{Host: d.Host(), Log: log.logger()}
			follow(t, s)
			ready := func() error {
				p, err := take(s)
				return errors.Join(err, up("web")(p), up("always")(p))
			}
			rig.Eventually(t, patience, ready)

			d.StopDaemon(t)
			rig.Eventually(t, patience, func() error {
				p, err := take(s)
				if err == nil {
					return errors.New("no error although the engine is away")
				}
				if live {
					return up("web")(p)
				}
				if p[series("testbed_guest_up", "web")] == 1 {
					return errors.New("web is up without an engine to run it")
				}
				return nil
			})
			d.StartDaemon(t)
			began := time.Now()
			rig.Eventually(t, patience, func() error {
				p, err := take(s)
				if live {
					return errors.Join(err, up("web")(p), up("always")(p))
				}
				return errors.Join(err, down("web", "stopped")(p), up("always")(p))
			})
			t.Logf("up to date %s after the engine was back", time.Since(began))
			if !strings.Contains(log.String(), "docker answers again") {
				t.Errorf("log: want the recovery, got:\n%s", log)
			}
		})
	}
}

// No socket is no Docker: no error, no point, one line in the log. When an
// engine comes it is found.
func TestNodeWithoutDocker(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"Run", "Sample"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			log := &syncLog{}
			s := &docker.Source{Host: "unix://" + filepath.Join(dir, "d.sock"), Log: log.logger(), Rescan: 100 * time.Millisecond}
			if mode == "Run" {
				follow(t, s)
			} else {
				t.Cleanup(func() { _ = s.Close() })
			}
			for range 10 {
				if p, err := take(s); err != nil || len(p) > 0 {
					t.Fatalf("got %v, %v; want nothing", p, err)
				}
				time.Sleep(50 * time.Millisecond)
			}
			if got := strings.Count(log.String(), "not installed"); got != 1 {
				t.Errorf("said %d times that it is not installed, want once:\n%s", got, log)
			}
			if guests, err := s.Guests(context.Background()); err != nil || len(guests) > 0 {
				t.Errorf("Guests: got %v, %v; want none", guests, err)
			}
			d := rig.Dockerd(t)
			d.Run(t, "web", rig.Container{CPUs: 0.5, Memory: 64 << 20}, "idle")
			if err := os.Symlink(d.Socket, filepath.Join(dir, "d.sock")); err != nil {
				t.Fatal(err)
			}
			rig.Eventually(t, patience, func() error {
				p, err := take(s)
				return errors.Join(err, up("web")(p))
			})
			guests, err := s.Guests(context.Background())
			if err != nil || len(guests) != 1 || guests[0].Name != "web" || !guests[0].Running || guests[0].CPUs != 0.5 ||
				guests[0].MemoryMB != 64 || guests[0].Image != rig.WorkloadImage {
				t.Errorf("Guests: got %+v, %v", guests, err)
			}
		})
	}
}

// An address that can not be one is said at once.
func TestHostMustBeASocket(t *testing.T) {
	for _, host := range []string{"tcp://127.0.0.1:2375", "/var/run/docker.sock", "unix://docker.sock", "unix://"} {
		s := &docker.Source{Host: host}
		_, err := take(s)
		if run := s.Run(context.Background()); err == nil || run == nil || !strings.Contains(err.Error(), "unix:///") {
			t.Errorf("%s: got %v and %v, want both to tell the form", host, err, run)
		}
	}
}

// A socket that nobody listens on is an error at once for a single sample.
func TestOnceWithADeadEngine(t *testing.T) {
	d := rig.Dockerd(t)
	if err := d.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = d.Process.Wait(5 * time.Second)
	s := &docker.Source{Host: d.Host()}
	defer s.Close()
	if p, err := take(s); err == nil || len(p) > 0 {
		t.Errorf("got %v, %v; want an error", p, err)
	}
}

const deniedHost = "FANIN_TEST_DENIED_HOST"

// As a user who may not use the socket: containers are counted, the log says
// once what to do. The test program runs itself as nobody for it.
func TestDenied(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	d.Run(t, "one", rig.Container{}, "idle")
	d.Run(t, "two", rig.Container{}, "idle")
	dir, err := os.MkdirTemp("/tmp", "fanin-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "nobody.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, self, 0o755), os.Chmod(d.Socket, 0o660)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = []string{deniedHost + "=" + d.Host()}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := string(out)
	var unnamed int
	for line := range strings.Lines(got) {
		if v, ok := strings.CutPrefix(line, `testbed_host_guests{guest_type="docker",state="unnamed"} `); ok {
			unnamed, _ = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	// Other engines' containers on this machine count too.
	if unnamed < 2 || strings.Contains(got, `guest="`) {
		t.Errorf("got %d unnamed containers, want at least 2, and no guest:\n%s", unnamed, got)
	}
	if n := strings.Count(got, "socket's group"); n != 1 {
		t.Errorf("said %d times what to do, want once:\n%s", n, got)
	}
}

func sampleDenied() int {
	s := &docker.Source{Host: os.Getenv(deniedHost), Log: slog.New(slog.NewTextHandler(os.Stdout, nil))}
	for range 3 {
		p, err := take(s)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		for text, v := range p {
			fmt.Println(text, v)
		}
	}
	return 0
}
