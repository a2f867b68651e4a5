package android

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/kernfile"
)

// stops waits until a guest is said to have stopped, and nothing else of it.
func stops(t *testing.T, s *Source, avd string) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		k, err := try(s)
		got := k.of(avd)
		if err == nil && (len(got) != 1 || got[`testbed_guest_up{reason="stopped"}`].T == 0 || got[`testbed_guest_up{reason="stopped"}`].V != 0) {
			err = fmt.Errorf("of %s is said\n%s\nwant that it has stopped, and nothing else", avd, got)
		}
		return err
	})
}

// When the process ends the guest has no value any more; that it has stopped is
// said for a while, and then nothing.
func TestEnd(t *testing.T) {
	programs := emulators(t)
	avd := avdName()
	command := func() *exec.Cmd { return exec.Command(filepath.Join(programs, "emulator"), "-avd", avd) }
	p := start(t, command(), "qemu-system-x86_64")
	s := source(t, &Source{})
	appears(t, s, avd)
	p.Stop(time.Second)
	// The look that tells whether another process runs the AVD comes after.
	s.following.Store(true)
	for range 2 {
		if k := take(t, s).of(avd); len(k) > 0 {
			t.Errorf("right after its end is said\n%s\nwant nothing", k)
		}
	}
	s.following.Store(false)
	stops(t, s, avd)
	again := start(t, command(), "qemu-system-x86_64")
	if k := appears(t, s, avd); k["testbed_guest_cpu_usage_seconds_total"].V > 5 {
		t.Errorf("the counters of the next run are\n%s", k)
	}
	again.Stop(time.Second)
	stops(t, s, avd)
	s.mu.Lock()
	s.emulators[avd].ended = time.Now().Add(-stoppedFor - time.Second)
	s.mu.Unlock()
	absent(t, s, avd)
	if len(s.emulators) > 0 && s.emulators[avd] != nil {
		t.Error("the emulator is not forgotten")
	}
}

// A process that nobody has waited for is no emulator any more.
func TestZombie(t *testing.T) {
	programs := emulators(t)
	avd := avdName()
	cmd := exec.Command(filepath.Join(programs, "qemu-system-x86_64"), "-avd", avd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	waitFor(t, cmd.Process.Pid, "qemu-system-x86_64")
	s := source(t, &Source{})
	appears(t, s, avd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err == nil && !strings.Contains(string(b), ") Z ") {
			err = fmt.Errorf("it is no zombie: %s", b)
		}
		return err
	})
	if k := take(t, s).of(avd); len(k) > 0 {
		t.Errorf("of a zombie is said\n%s", k)
	}
	stops(t, s, avd)
	absent(t, source(t, &Source{}), avd)
}

// A process that becomes another program: an engine goes on, whatever else is
// none, and another AVD is another guest.
func TestExec(t *testing.T) {
	programs := emulators(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	s := source(t, &Source{})
	become := func(to string) (avd string, p *rig.Process) {
		avd = avdName()
		p = start(t, exec.Command(filepath.Join(programs, "emulator"), "-avd", avd), "emulator",
			"FANIN_LAUNCH=none", "FANIN_ENGINE=busy=0.2", "FANIN_EXEC="+strings.ReplaceAll(to, "AVD", avd))
		appears(t, s, avd)
		if err := p.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		return avd, p
	}
	t.Run("the engine", func(t *testing.T) {
		avd, p := become(qemu + " -avd AVD")
		before := take(t, s).of(avd)
		waitFor(t, p.Cmd.Process.Pid, "qemu-system-x86_64")
		after := appears(t, s, avd)
		if before[usage].V > after[usage].V || before["testbed_guest_start_time_seconds"].V != after["testbed_guest_start_time_seconds"].V {
			t.Errorf("it does not go on:\n%s\nthen\n%s", before, after)
		}
	})
	t.Run("no emulator", func(t *testing.T) {
		avd, p := become("/bin/sleep 1000")
		waitFor(t, p.Cmd.Process.Pid, "sleep")
		look(s)
		stops(t, s, avd)
	})
	t.Run("another AVD", func(t *testing.T) {
		other := avdName()
		avd, p := become(qemu + " -avd " + other)
		waitFor(t, p.Cmd.Process.Pid, "qemu-system-x86_64")
		appears(t, s, other)
		stops(t, s, avd)
	})
	t.Run("another AVD by the same program", func(t *testing.T) {
		avd, other := avdName(), avdName()
		p := start(t, exec.Command(qemu, "-avd", avd), "qemu-system-x86_64", "FANIN_EXEC="+qemu+" -avd "+other)
		appears(t, s, avd)
		if err := p.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		appears(t, s, other)
		stops(t, s, avd)
	})
}

// A process that is looked at in the middle of its execve(2), with no arguments
// yet, is judged again when it has them.
func TestLookWhileExec(t *testing.T) {
	programs := emulators(t)
	avd := avdName()
	p := start(t, exec.Command(filepath.Join(programs, "qemu-system-x86_64"), "-avd", avd), "qemu-system-x86_64", "FANIN_ENGINE=early")
	rig.Eventually(t, 5*time.Second, func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Cmd.Process.Pid))
		if err == nil && len(b) > 0 {
			err = fmt.Errorf("it has the arguments %q", b)
		}
		return err
	})
	s := source(t, &Source{})
	absent(t, s, avd)
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	appears(t, s, avd)
}

const usage = "testbed_guest_cpu_usage_seconds_total"

// procfs is a PID namespace of a test's own: its numbers can be given again.
type procfs struct {
	t    *testing.T
	root string // its procfs, as seen from here
	in   io.Writer
	out  *bufio.Reader
	pids map[string]int
}

// private makes one, with a shell that does what it is told.
func private(t *testing.T) *procfs {
	t.Helper()
	rig.Need(t, "unshare", "busybox")
	rig.NeedRoot(t)
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation=private",
		"busybox", "sh", "-c", `mount -t proc proc "$0"; echo $(cat "$0/self/stat" | cut -d' ' -f1); while read line; do eval "$line"; done`, dir)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &procfs{t: t, in: in, out: bufio.NewReader(out), pids: map[string]int{}}
	if _, err := p.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	shell := rig.Children(t, cmd.Process.Pid)
	if len(shell) != 1 {
		t.Fatalf("unshare has the children %v, want one", shell)
	}
	p.root = fmt.Sprintf("/proc/%d/root%s", shell[0], dir)
	if _, err := os.Stat(filepath.Join(p.root, "1/stat")); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *procfs) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// run starts a program, the last argument of which is a name for it, and
// returns its number inside once its arguments are there to be read, which is a
// little after the program is.
func (p *procfs) run(args ...string) (pid int) {
	p.t.Helper()
	p.say(strings.Join(args, " ") + " </dev/null >/dev/null & echo $!")
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Sscan(line, &pid); err != nil {
		p.t.Fatal(err)
	}
	p.pids[args[len(args)-1]] = pid
	rig.Eventually(p.t, 5*time.Second, func() error {
		exe, err := os.Readlink(fmt.Sprintf("%s/%d/exe", p.root, pid))
		if err == nil && filepath.Base(exe) != filepath.Base(args[0]) {
			err = fmt.Errorf("process %d runs %s, want %s", pid, exe, args[0])
		}
		if err != nil {
			return err
		}
		line, err := os.ReadFile(fmt.Sprintf("%s/%d/cmdline", p.root, pid))
		if err == nil && len(line) == 0 {
			err = fmt.Errorf("process %d has no arguments yet", pid)
		}
		return err
	})
	return pid
}

// kill ends it, and waits until its number is free.
func (p *procfs) kill(name string) {
	p.t.Helper()
	p.say(fmt.Sprintf("kill -9 %d; wait %[1]d; echo done", p.pids[name]))
	if _, err := p.out.ReadString('\n'); err != nil {
		p.t.Fatal(err)
	}
}

// Another process that gets the number of one that has ended is never taken
// for it: not when it runs the same AVD, nor another one, nor none.
func TestNumberUsedAgain(t *testing.T) {
	programs := emulators(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	proc := private(t)
	s := source(t, &Source{ProcRoot: proc.root})
	avd, other := avdName(), avdName()
	pid := proc.run(qemu, "-avd", avd)
	first := appears(t, s, avd)
	again := func(args ...string) {
		t.Helper()
		for range 50 {
			proc.say(fmt.Sprintf("echo %d >%s/sys/kernel/ns_last_pid", pid-1, strings.SplitN(proc.root, "root", 2)[1]))
			if proc.run(args...) == pid {
				return
			}
			proc.kill(args[len(args)-1])
		}
		t.Fatalf("the number %d was not given again", pid)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"the same AVD", []string{qemu, "-avd", avd}, avd},
		{"another AVD", []string{qemu, "-avd", other}, other},
		{"the first AVD", []string{qemu, "-avd", avd}, avd},
		{"no emulator", []string{"/bin/sleep", "1000"}, ""},
	} {
		for name := range proc.pids {
			proc.kill(name)
			delete(proc.pids, name)
		}
		time.Sleep(20 * time.Millisecond) // a start time has 10
		again(c.args...)
		// The very next tick, without a look, says nothing of a guest.
		s.mu.Lock()
		s.looked = time.Now().Add(time.Hour)
		s.mu.Unlock()
		for text, p := range take(t, s) {
			if p.Series.Label("guest") != "" && p.Series.Label("reason") != "stopped" {
				t.Errorf("%s: %s is %v", c.name, text, p.V)
			}
		}
		if c.want == "" {
			look(s)
			stops(t, s, avd)
			continue
		}
		k := appears(t, s, c.want)
		if k[fmt.Sprintf(`testbed_guest_info{backend_id="%d"}`, pid)].V != 1 || k["testbed_guest_start_time_seconds"].V <= first["testbed_guest_start_time_seconds"].V {
			t.Errorf("%s: process %d, started at %v, is measured as\n%s", c.name, pid, first["testbed_guest_start_time_seconds"].V, k)
		}
	}
}

// A process that has the number and another start is not the one that was
// looked at.
func TestAttach(t *testing.T) {
	s := source(t, &Source{})
	take(t, s)
	before := descriptors(t)
	if p, err := s.scanner.attach(os.Getpid(), 1); !errors.Is(err, errGone) {
		t.Errorf("got %+v, %v, want errGone", p, err)
	}
	if p, err := s.scanner.attach(1<<22+1, 1); !errors.Is(err, errGone) {
		t.Errorf("got %+v, %v, want errGone", p, err)
	}
	if after := descriptors(t); after > before { // others' may have been closed meanwhile
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// Emulators that end while they are read: no error, no wrong number, no
// descriptor left behind.
func TestEndWhileRead(t *testing.T) {
	programs := emulators(t)
	s := source(t, &Source{})
	avds := []string{avdName(), avdName(), avdName()}
	take(t, s)
	before := descriptors(t)
	var ended atomic.Bool
	lives := make([]atomic.Int64, len(avds))
	done := make(chan error, len(avds))
	for i, avd := range avds {
		go func() {
			for !ended.Load() {
				cmd := exec.Command(filepath.Join(programs, "qemu-system-x86_64"), "-avd", avd)
				if err := cmd.Start(); err != nil {
					done <- err
					return
				}
				time.Sleep(time.Duration(5+10*i) * time.Millisecond)
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				lives[i].Add(1)
			}
			done <- nil
		}()
	}
	began, ticks, up := time.Now(), 0, 0
	for time.Since(began) < 5*time.Second {
		look(s)
		k, err := try(s)
		if err != nil {
			t.Fatalf("tick %d: %v", ticks, err)
		}
		for _, avd := range avds {
			got := k.of(avd)
			switch {
			case got["testbed_guest_up"].V == 1:
				up++
				if got[usage].V > 1 || got["testbed_guest_start_time_seconds"].V < float64(began.Unix()-2) {
					t.Fatalf("tick %d: wrong numbers of %s:\n%s", ticks, avd, got)
				}
				if m, ok := got["testbed_guest_memory_usage_bytes"]; ok && m.V <= 0 {
					t.Fatalf("tick %d: %v bytes resident", ticks, m.V)
				}
			case len(got) > 1:
				t.Fatalf("tick %d: %s is not up and has\n%s", ticks, avd, got)
			}
		}
		ticks++
	}
	ended.Store(true)
	for range avds {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if up < 20 {
		t.Errorf("an emulator was up in %d of %d ticks, want more to tell anything", up, ticks)
	}
	for _, avd := range avds {
		look(s)
		stops(t, s, avd)
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	t.Logf("%d ticks, %d times up, %d, %d and %d lives", ticks, up, lives[0].Load(), lives[1].Load(), lives[2].Load())
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// exhaust has so many readings hang that no other is begun, until what it
// returns is called.
func exhaust(t *testing.T, p *kernfile.Patience) (release func()) {
	t.Helper()
	held := make(chan struct{})
	for pid := -1; ; pid-- {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := kernfile.Patiently(ctx, p, pid, func() (int, error) { <-held; return 0, nil })
		cancel()
		if errors.Is(err, kernfile.ErrHanging) {
			break
		}
	}
	release = sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	return release
}

// An emulator whose arguments could not be read once is found when they can,
// and folders that hang keep nobody from being found, nor arguments an AVD's
// hardware from being read.
func TestReadLater(t *testing.T) {
	qemu := filepath.Join(emulators(t), "qemu-system-x86_64")
	s := source(t, &Source{})
	s.setup()
	exhaust(t, &s.scanner.folders)
	avd := avdName()
	start(t, exec.Command(qemu, "-avd", avd), "qemu-system-x86_64")
	appears(t, s, avd)

	s = source(t, &Source{})
	s.setup()
	dir, known := t.TempDir(), avdName()
	start(t, exec.Command(filepath.Join(filepath.Dir(qemu), "emulator"), "-avd", known), "qemu-system-x86_64", "HOME="+dir)
	appears(t, s, known)
	release := exhaust(t, &s.scanner.arguments)
	config(t, filepath.Join(dir, ".android/avd", known+".avd"), "hw.cpu.ncore=4\n")
	later := avdName()
	start(t, exec.Command(qemu, "-avd", later), "qemu-system-x86_64")
	for range 2 {
		absent(t, s, later)
		if k := take(t, s).of(known); k["testbed_guest_cpu_limit_cores"].V != 4 {
			t.Errorf("the hardware is not known:\n%s", k)
		}
	}
	if n := s.skips[skipUnreadable].Load(); n == 0 {
		t.Error("what could not be read is not counted")
	}
	release()
	appears(t, s, later)
}
