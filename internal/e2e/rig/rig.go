// Package rig starts the real programs that tests run against (dockerd,
// libvirtd, QEMU, Prometheus, Nginx) and ends them again. It imports nothing
// of the project's: it is the other side.
package rig

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Need ends the test with a clear message when a program is not installed.
// With SKIP_E2E=1 in the environment every test that calls Need is skipped,
// and says so.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	if os.Getenv("SKIP_E2E") == "1" {
		t.Skip("SKIP_E2E=1: not run against the real " + fmt.Sprint(programs))
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Fatalf("%s is needed by this test and is not installed: `make deps` as root installs it; SKIP_E2E=1 leaves such tests out", p)
		}
	}
}

// NeedRoot ends the test unless it runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test starts system daemons and must run as root; SKIP_E2E=1 leaves such tests out")
	}
}

// CacheDir is a folder that outlives the test run, for what is slow to make
// (an unpacked kernel, a built Prometheus). FANIN_CACHE sets it.
func CacheDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("FANIN_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(base, "fanin")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// FreePort returns a TCP port on loopback that nothing listened on just now. It
// is below those that Linux gives to connections, so that it is still free
// when a server that was killed listens on it again.
func FreePort(t testing.TB) int {
	t.Helper()
	const lowest, below, tries = 15_000, 32_000, 100
	for range tries {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(below-lowest)))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port
	}
	t.Fatalf("%d ports of loopback were tried and none is free", tries)
	return 0
}

// Eventually calls f until it returns nil, at most for d, and ends the test
// with f's last error otherwise.
func Eventually(t testing.TB, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", d, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Process is a program that a test started, in a process group of its own.
type Process struct {
	Cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // guarded by done
}

// Start runs a program until the test ends; then its process group gets
// SIGTERM and, 10 s later, SIGKILL. Its output goes to a file whose end is
// shown when the test fails.
func Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	return StartCmd(t, exec.Command(name, args...))
}

// StartCmd is [Start] for a prepared command.
func StartCmd(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), filepath.Base(cmd.Path)+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	p := &Process{Cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop(10 * time.Second)
		if t.Failed() {
			t.Logf("%s said last:\n%s", cmd.Path, p.Tail(4096))
		}
	})
	return p
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(s syscall.Signal) error { return p.Cmd.Process.Signal(s) }

// ErrStillRunning is what [Process.Wait] returns when its time is up.
var ErrStillRunning = errors.New("still running")

// Wait waits for the end of the process, at most for d.
func (p *Process) Wait(d time.Duration) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(d):
		return ErrStillRunning
	}
}

// Stop ends the process group: SIGTERM (and SIGCONT, should it be stopped),
// then SIGKILL after grace.
func (p *Process) Stop(grace time.Duration) {
	select {
	case <-p.done:
		return // its number may be another group's by now
	default:
	}
	group := -p.Cmd.Process.Pid
	_ = syscall.Kill(group, syscall.SIGTERM)
	_ = syscall.Kill(group, syscall.SIGCONT)
	if err := p.Wait(grace); errors.Is(err, ErrStillRunning) {
		_ = syscall.Kill(group, syscall.SIGKILL)
		<-p.done
	}
}

// Tail is the end of what the process has written, at most n bytes.
func (p *Process) Tail(n int) string {
	b, _ := os.ReadFile(p.log)
	if len(b) > n {
		b = b[len(b)-n:]
	}
	return string(bytes.ToValidUTF8(b, []byte("?")))
}

// Children are the processes that a process has started and that are still there.
// Each thread has a list of its own.
func Children(t testing.TB, pid int) (ids []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		content, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, child := range strings.Fields(string(content)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
	}
	return ids
}
