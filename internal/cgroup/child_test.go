package cgroup_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"fanin/internal/cgroup"
)

// TestMain lets the test binary be its own workload: see child.
func TestMain(m *testing.M) {
	if os.Getenv("FANIN_CGROUP_CHILD") != "" {
		childMain()
		return
	}
	os.Exit(m.Run())
}

// childMain obeys one command a line and answers each with one line, the
// processor time it took in microseconds.
func childMain() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		before := cpuTime()
		word, arg, _ := strings.Cut(in.Text(), " ")
		n, _ := strconv.Atoi(strings.TrimSpace(arg))
		failed := ""
		switch word {
		case "busy": // milliseconds of wall time
			for end := time.Now().Add(time.Duration(n) * time.Millisecond); time.Now().Before(end); {
			}
		case "hold": // bytes of anonymous memory
			// Not from Go's heap, which takes more in its own interest.
			b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				failed = " " + err.Error()
			}
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
		case "write": // file: 4 MiB past the page cache, then read through it
			if err := useDisk(strings.TrimSpace(arg)); err != nil {
				failed = " " + err.Error()
			}
		}
		fmt.Printf("%d%s\n", cpuTime()-before, failed)
	}
}

const diskBytes = 4 << 20

func useDisk(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	raw := make([]byte, 1<<20+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&raw[0]))%4096)
	page := raw[skip : skip+1<<20]
	for at := int64(0); at < diskBytes; at += int64(len(page)) {
		if _, err := f.WriteAt(page, at); err != nil {
			return err
		}
		if _, err := f.ReadAt(page, at); err != nil {
			return err
		}
	}
	return f.Sync()
}

func cpuTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano()/1000 + u.Stime.Nano()/1000
}

// child is a process in a group, which waits for commands.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startChild(t testing.TB) *child {
	t.Helper()
	c := &child{cmd: exec.Command("/proc/self/exe")}
	c.cmd.Env = append(os.Environ(), "FANIN_CGROUP_CHILD=1", "GOMAXPROCS=1", "GOGC=off")
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.end)
	// What a program does for the first time takes long and is not in its own
	// measure.
	c.do(t, "busy 10")
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) end() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// do gives a command and returns the processor seconds it took.
func (c *child) do(t testing.TB, format string, args ...any) float64 {
	t.Helper()
	command := fmt.Sprintf(format, args...)
	if _, err := io.WriteString(c.in, command+"\n"); err != nil {
		t.Fatalf("child: %s: %v", command, err)
	}
	line, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("child: %s: %v", command, err)
	}
	us, failed, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, err := strconv.ParseInt(us, 10, 64)
	if err != nil || failed != "" {
		t.Fatalf("child: %s: answered %q", command, line)
	}
	return float64(n) / 1e6
}

// clock is the processor time, in seconds, that all threads of the child have
// taken (clock_getcpuclockid(3)).
func (c *child) clock(t testing.TB) float64 {
	t.Helper()
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^c.pid()<<3|2), &at); err != nil {
		t.Fatal(err)
	}
	return float64(at.Nano()) / 1e9
}

// measured lets the child compute for some milliseconds between two looks at
// its group, which it must be alone in: the group's usage grows by no less
// than what the child's getrusage says of the computing itself, and by no more
// than what the child's clock says of all around it.
func (c *child) measured(t testing.TB, ms int, first, second func() cgroup.Stats) (before, after cgroup.Stats, used float64) {
	t.Helper()
	const slack = 0.001 // getrusage has microseconds, for user and system each
	began := c.clock(t)
	before = first()
	used = c.do(t, "busy %d", ms)
	after = second()
	all := c.clock(t) - began
	got := after.CPUUsage.V - before.CPUUsage.V
	if after.CPUUsage.OK && (got < used-slack || got > all+slack) {
		t.Errorf("usage of the group grew by %.6f s, want it between getrusage's %.6f s and the process clock's %.6f s", got, used, all)
	}
	return before, after, used
}

// looker reads a group.
func looker(t testing.TB, g *cgroup.Group) func() cgroup.Stats {
	return func() (s cgroup.Stats) {
		t.Helper()
		if err := g.Read(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
}
