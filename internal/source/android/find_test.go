package android

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// The launcher becomes the engine, or starts it as a child, or runs alone: one
// guest, and the engine is what is measured.
func TestLaunchers(t *testing.T) {
	programs := emulators(t)
	emulator := filepath.Join(programs, "emulator")
	s := source(t, &Source{})
	// As many are counted as are measured, each once.
	count := func() {
		t.Helper()
		k, n := take(t, s), 0.0
		for _, p := range k {
			if p.Series.Name() == "testbed_guest_up" {
				n += p.V
			}
		}
		if got := k[`testbed_host_guests{guest_type="android",state="running"}`]; got.V != n || n == 0 {
			t.Errorf("%v emulators are counted, want %v", got.V, n)
		}
	}
	pidOf := func(k tick) (pid int) {
		for text := range k {
			_, _ = fmt.Sscanf(text, `testbed_guest_info{backend_id="%d"}`, &pid)
		}
		return pid
	}
	for _, how := range []string{"exec", "none", "child"} {
		t.Run(how, func(t *testing.T) {
			avd, program := avdName(), "qemu-system-x86_64"
			if how != "exec" {
				program = "emulator"
			}
			p := start(t, exec.Command(emulator, "-no-window", "@"+avd), program, "FANIN_LAUNCH="+how)
			want := p.Cmd.Process.Pid
			if how == "child" {
				want = child(t, want)
			}
			if got := pidOf(appears(t, s, avd)); got != want {
				t.Errorf("process %d is measured, want %d", got, want)
			}
			count()
			if n := s.skips[skipSameName].Load(); n > 0 {
				t.Errorf("%d processes count as another emulator of the name", n)
			}
			// One more, that has nothing to do with the first.
			if how == "child" {
				start(t, exec.Command(emulator, "-avd", avd), "qemu-system-x86_64")
				look(s)
				if got := pidOf(take(t, s).of(avd)); got != want {
					t.Errorf("process %d is measured, want the older %d", got, want)
				}
				if n := s.skips[skipSameName].Load(); n == 0 {
					t.Error("another emulator of the name is not counted as left out")
				}
			}
		})
	}
}

func child(t *testing.T, pid int) (found int) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		children := rig.Children(t, pid)
		if len(children) == 0 {
			return fmt.Errorf("process %d has no children", pid)
		}
		found = children[0]
		return nil
	})
	waitFor(t, found, "qemu-system-x86_64")
	return found
}

// logBook keeps what a Source says.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// What calls itself an emulator and is none, and what is one under a name that
// no guest can have.
func TestHostileArguments(t *testing.T) {
	rig.Need(t, "busybox")
	programs := emulators(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	s := source(t, &Source{})
	s.setup()

	for _, name := range []string{"../../fanin-x", "a\nfanin-b", `fanin-"}x`, "fanin-" + strings.Repeat("x", 200), "fanin \xff"} {
		before := s.skips[skipBadName].Load()
		p := start(t, exec.Command(qemu, "-avd", name), "qemu-system-x86_64")
		absent(t, s, "fanin-")
		if n := s.skips[skipBadName].Load(); n != before+1 {
			t.Errorf("%q: %d names are refused, want one more than %d", name, n, before)
		}
		absent(t, s, "fanin-")
		if n := s.skips[skipBadName].Load(); n != before+1 {
			t.Errorf("%q: the process is judged again, its name refused %d times", name, n-before)
		}
		p.Stop(time.Second)
	}

	avd := avdName()
	busybox, _ := exec.LookPath("busybox")
	pretender := exec.Command(busybox, "sleep", "1000", "-avd", avd)
	pretender.Args[0] = "qemu-system-x86_64" // the arguments are anybody's to choose
	pretender.Args = []string{"sleep", "1000", "-avd", avd}
	renamed := exec.Command(busybox, "sh", "-c", `echo emulator >/proc/$$/comm; sleep 1000; :`, "-avd", avd)
	for _, cmd := range []*exec.Cmd{
		pretender, renamed,
		exec.Command(qemu, "-name", "guest="+avd), // a plain QEMU
		exec.Command(qemu, "-qemu", "-avd", avd),
		exec.Command(qemu, "-avd="+avd),
		exec.Command("sh", "-c", "sleep 1000; :", "emulator", "-avd", avd),
	} {
		rig.StartCmd(t, cmd)
	}
	time.Sleep(300 * time.Millisecond)
	absent(t, s, avd)

	// A megabyte of arguments: found when the name stands where people write
	// it, and nothing is read beyond what a command line may have.
	long := strings.Fields(strings.Repeat(strings.Repeat("x", 64<<10)+" ", 16))
	first, last := avdName(), avdName()
	start(t, exec.Command(qemu, append([]string{"-avd", first}, long...)...), "qemu-system-x86_64")
	start(t, exec.Command(qemu, append(slices.Clone(long), "-avd", last)...), "qemu-system-x86_64")
	appears(t, s, first)
	absent(t, s, last)
}

// Whose processes are believed.
func TestTrust(t *testing.T) {
	programs := emulators(t)
	rig.NeedRoot(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	const nobody = 65534
	as := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return cmd
	}
	var log logBook
	s := source(t, &Source{Log: slog.New(slog.NewTextHandler(&log, nil))})
	s.setup()

	t.Run("another user", func(t *testing.T) {
		avd := avdName()
		start(t, as(exec.Command(qemu, "-avd", avd)), "qemu-system-x86_64")
		absent(t, s, avd+"x") // one look
		absent(t, s, avd)
		if n := s.skips[skipUntrusted].Load(); n != 1 {
			t.Errorf("%d processes count as not believed, want 1", n)
		}
		if said := log.String(); strings.Count(said, "not believed") != 1 || !strings.Contains(said, "avd="+avd) || !strings.Contains(said, "user=65534") {
			t.Errorf("the log says\n%s", said)
		}
		appears(t, source(t, &Source{Users: []uint32{nobody}}), avd)
	})
	// Its directory in /proc belongs to root then.
	t.Run("one that may not be traced", func(t *testing.T) {
		unreadable := filepath.Join(t.TempDir(), "qemu-system-x86_64")
		b, err := os.ReadFile(qemu)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(unreadable, b, 0o711); err != nil {
			t.Fatal(err)
		}
		for dir := filepath.Dir(unreadable); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		avd := avdName()
		p := start(t, as(exec.Command(unreadable, "-avd", avd)), "qemu-system-x86_64")
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid), &st); err != nil || st.Uid != 0 {
			t.Fatalf("the files of the process are of user %d, %v: want root's", st.Uid, err)
		}
		absent(t, s, avd)
	})
	t.Run("in a network namespace", func(t *testing.T) {
		avd := avdName()
		ns := rig.NetworkNamespace(t, avd+"-nmspc")
		setpriv := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
		start(t, ns.Command(append(setpriv, qemu, "-avd", avd)...), "qemu-system-x86_64")
		stolen := avdName()
		start(t, ns.Command(append(setpriv, qemu, "-avd", stolen)...), "qemu-system-x86_64")
		appears(t, s, avd)
		absent(t, s, stolen)
	})
	t.Run("in a container", func(t *testing.T) {
		avd := avdName()
		before := s.skips[skipContainer].Load()
		p := rig.Start(t, "unshare", "--pid", "--fork", "--kill-child", qemu, "-avd", avd)
		child(t, p.Cmd.Process.Pid)
		absent(t, s, avd)
		if n := s.skips[skipContainer].Load(); n != before+1 {
			t.Errorf("%d processes count as containers', want one more than %d", n, before)
		}
	})
	t.Run("in a container, with more groups than a page holds", func(t *testing.T) {
		avd := avdName()
		before := s.skips[skipContainer].Load()
		var groups []string
		for i := range 1500 {
			groups = append(groups, fmt.Sprint(2_000_000_000+i))
		}
		p := rig.Start(t, "unshare", "--pid", "--fork", "--kill-child", "setpriv", "--groups="+strings.Join(groups, ","), qemu, "-avd", avd)
		child(t, p.Cmd.Process.Pid)
		rig.Eventually(t, 5*time.Second, func() error {
			if !strings.Contains(p.Tail(100), "ready") {
				return fmt.Errorf("it is not ready")
			}
			return nil
		})
		absent(t, s, avd)
		if n := s.skips[skipContainer].Load(); n != before+1 {
			t.Errorf("%d processes count as containers', want one more than %d", n, before)
		}
	})
	// The one that root has put into the namespace has the name, however old
	// the other is.
	t.Run("before others of the name", func(t *testing.T) {
		avd := avdName()
		ns := rig.NetworkNamespace(t, avd+"-nmspc")
		start(t, exec.Command(qemu, "-avd", avd), "qemu-system-x86_64")
		appears(t, s, avd)
		time.Sleep(20 * time.Millisecond) // a start time has 10
		p := start(t, ns.Command(qemu, "-avd", avd), "qemu-system-x86_64")
		look(s)
		if k := take(t, s).of(avd); k[fmt.Sprintf(`testbed_guest_info{backend_id="%d"}`, p.Cmd.Process.Pid)].V != 1 {
			t.Errorf("the process in the namespace, %d, is not the one that is measured:\n%s", p.Cmd.Process.Pid, k)
		}
	})
}

// Hundreds of processes that run one AVD are one guest, and looking at them
// again costs little.
func TestManyOfOneName(t *testing.T) {
	programs := emulators(t)
	avd := avdName()
	first := start(t, exec.Command(filepath.Join(programs, "qemu-system-x86_64"), "-avd", avd), "qemu-system-x86_64")
	time.Sleep(20 * time.Millisecond)
	const many = 300
	for range many {
		rig.Start(t, filepath.Join(programs, "qemu-system-x86_64"), "-avd", avd)
	}
	s := source(t, &Source{})
	k := appears(t, s, avd)
	if k[fmt.Sprintf(`testbed_guest_info{backend_id="%d"}`, first.Cmd.Process.Pid)].V != 1 {
		t.Errorf("the oldest process, %d, is not the one that is measured:\n%s", first.Cmd.Process.Pid, k)
	}
	rig.Eventually(t, 10*time.Second, func() error {
		before := s.skips[skipSameName].Load()
		began := time.Now()
		look(s)
		take(t, s)
		took := time.Since(began)
		if n := s.skips[skipSameName].Load() - before; n != many {
			return fmt.Errorf("%d processes are left out, want %d", n, many)
		}
		t.Logf("a look at %d processes of one name took %s", many, took)
		if took > 100*time.Millisecond {
			return fmt.Errorf("a look took %s", took)
		}
		return nil
	})
}

// However many processes a container has that are called like an emulator, the
// host's emulators are found, and no more of the container's are remembered.
func TestCrowdedContainer(t *testing.T) {
	qemu := filepath.Join(emulators(t), "qemu-system-x86_64")
	const most, many = 4, 10
	proc := private(t)
	s := source(t, &Source{ProcRoot: proc.root})
	s.setup()
	s.scanner.most = most
	take(t, s)
	unshare, err := exec.LookPath("unshare") // busybox has another one
	if err != nil {
		t.Fatal(err)
	}
	proc.run(unshare, "--pid", "--fork", "--kill-child", "sh", "-c", fmt.Sprintf("'for i in $(seq %d); do %s -avd x & done; wait'", many, qemu), "crowd")
	there := func() (n int) {
		all, _ := filepath.Glob(proc.root + "/[0-9]*/exe")
		for _, exe := range all {
			if program, err := os.Readlink(exe); err == nil && program == qemu {
				n++
			}
		}
		return n
	}
	rig.Eventually(t, 10*time.Second, func() error {
		if n := there(); n < many {
			return fmt.Errorf("there are %d, want %d", n, many)
		}
		return nil
	})
	avd := avdName()
	proc.run(qemu, "-avd", avd)
	appears(t, s, avd)
	if n := s.skips[skipContainer].Load(); n < many {
		t.Errorf("%d processes count as containers', want %d or more", n, many)
	}
	if n := len(s.scanner.inside); n != most {
		t.Errorf("%d of the container's processes are remembered, want %d", n, most)
	}
	proc.kill("crowd")
	rig.Eventually(t, 10*time.Second, func() error {
		look(s)
		take(t, s)
		if n := len(s.scanner.inside); n > 0 {
			return fmt.Errorf("%d processes that have ended are remembered", n)
		}
		return nil
	})
}

// More emulators than the limit: those that are measured stay, and come back
// to mind when there is room.
func TestLimit(t *testing.T) {
	programs := emulators(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	s := source(t, &Source{Limit: 1})
	avd, other := avdName(), avdName()
	// Of this test alone: other emulators on this machine would fill the limit.
	proc := private(t)
	s.ProcRoot = proc.root
	proc.run(qemu, "-avd", avd)
	appears(t, s, avd)
	proc.run(qemu, "-avd", other)
	absent(t, s, other)
	if n := s.skips[skipLimit].Load(); n == 0 {
		t.Error("what is over the limit is not counted")
	}
	appears(t, s, avd)
	proc.kill(avd)
	appears(t, s, other)
}
