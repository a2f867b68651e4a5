//go:build cgo

package libvirt

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// pretender is a process that looks like the QEMU of a domain.
func pretender(t testing.TB, uuid string) *rig.Process {
	t.Helper()
	p := rig.Start(t, program(t), argumentsOf(uuid)...)
	ready(t, p.Cmd.Process.Pid, uuid)
	return p
}

// program has a name like QEMU's and waits.
func program(t testing.TB) string {
	t.Helper()
	rig.Need(t, "busybox")
	busybox, _ := exec.LookPath("busybox")
	b, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "busybox-qemu")
	if err := os.WriteFile(file, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func argumentsOf(uuid string) []string {
	return []string{"sh", "-c", "while :; do read x </dev/zero; done", "x", "-name", "guest=a", "-uuid", uuid}
}

// ready waits until a process is its own program.
func ready(t testing.TB, pid int, uuid string) {
	t.Helper()
	rig.Eventually(t, 5*time.Second, func() error {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && (!strings.Contains(string(line), uuid) || strings.HasPrefix(string(line), "unshare")) {
			err = errors.New("it is not yet its own program")
		}
		return err
	})
}

func noneHangs(t testing.TB) func(int) {
	return func(pid int) { t.Errorf("the arguments of process %d take too long to read", pid) }
}

const (
	uuidA = "0dd300f7-a448-4de2-b4f0-728a8f24ce4a"
	uuidB = "6ec1bb12-ab47-402e-88e2-aa4aad9863cd"
)

// A process is found by its UUID alone, and whoever has it open never reads
// another one.
func TestProcess(t *testing.T) {
	a := pretender(t, uuidA)
	pid := a.Cmd.Process.Pid
	ps := &processes{proc: "/proc"}
	found, err := ps.find(t.Context(), map[string]bool{uuidA: true, uuidB: true}, noneHangs(t))
	if err != nil || len(found) != 1 || found[uuidA] != pid {
		t.Fatalf("found %v, %v, want only process %d", found, err, pid)
	}
	if _, err := ps.attach(t.Context(), pid, uuidB, nil); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("a process of another domain: %v, want ErrGone", err)
	}
	if _, err := ps.attach(t.Context(), os.Getpid(), uuidA, nil); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("a process that is no QEMU: %v, want ErrGone", err)
	}
	layout, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	p, err := ps.attach(t.Context(), pid, uuidA, layout)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if p.group != nil {
		t.Errorf("group %s, want none: it is not one of libvirt's", p.group.Path())
	}
	if got := float64(time.Now().UnixNano())/1e9 - p.started; math.Abs(got) > 5 {
		t.Errorf("started %.1f s ago, want a moment", got)
	}
	// Right after its start a process may have no pages yet.
	rig.Eventually(t, 5*time.Second, func() error {
		s, err := p.read()
		if err == nil && s.rssPages == 0 {
			return fmt.Errorf("no resident pages in %+v", s)
		}
		return err
	})
	a.Stop(time.Second)
	if s, err := p.read(); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("after its end: %+v, %v, want ErrGone", s, err)
	}
	if _, err := ps.attach(t.Context(), pid, uuidA, nil); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("attach after its end: %v, want ErrGone", err)
	}
}

// A process of a container that has a domain's UUID among its arguments is not
// the domain's, even when there is no other.
func TestProcessOfAContainer(t *testing.T) {
	rig.NeedRoot(t)
	rig.Need(t, "unshare")
	p := rig.Start(t, "unshare", append([]string{"--pid", "--fork", "--kill-child", program(t)}, argumentsOf(uuidA)...)...)
	t.Cleanup(func() { _ = p.Signal(syscall.SIGKILL) }) // the first of a namespace takes no other
	inside := 0
	rig.Eventually(t, 5*time.Second, func() error {
		children := rig.Children(t, p.Cmd.Process.Pid)
		if len(children) == 0 {
			return errors.New("it has not started yet")
		}
		inside = children[0]
		return nil
	})
	ready(t, inside, uuidA)
	ps := &processes{proc: "/proc"}
	want := func(pid int) {
		t.Helper()
		found, err := ps.find(t.Context(), map[string]bool{uuidA: true}, noneHangs(t))
		if err != nil || found[uuidA] != pid {
			t.Errorf("found %v, %v, want process %d and not %d", found, err, pid, inside)
		}
	}
	want(0)
	want(pretender(t, uuidA).Cmd.Process.Pid)
}

// Of several processes with a domain's UUID the one that libvirt has put into a
// group is the domain's, however high its number is.
func TestProcessesOfOneUUID(t *testing.T) {
	proc := t.TempDir()
	add := func(pid int, group string) {
		for name, content := range map[string]string{
			"comm": "qemu-system-x86\n", "cmdline": "qemu\x00-uuid\x00" + uuidA + "\x00",
			"status": fmt.Sprintf("Groups:\t0\nNSpid:\t%d\n", pid), "cgroup": "0::" + group + "\n",
		} {
			name = filepath.Join(proc, fmt.Sprint(pid), name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	ps := &processes{proc: proc}
	for _, c := range []struct {
		pid   int
		group string
		want  int
	}{
		{300, "/user.slice/user-1000.slice", 300},
		{2000, "/user.slice/qemu.service", 300}, // a name of somebody's own
		{400, "/machine.slice/machine-qemu\\x2d1\\x2da.scope/libvirt/emulator", 400},
		{500, "/machine.slice/machine-qemu\\x2d1\\x2da.scope/libvirt/emulator", 400}, // its child
		{100, "/docker/" + strings.Repeat("a", 64), 400},
	} {
		add(c.pid, c.group)
		found, err := ps.find(t.Context(), map[string]bool{uuidA: true}, noneHangs(t))
		if err != nil || found[uuidA] != c.want {
			t.Errorf("with process %d in %s: found %v, %v, want process %d", c.pid, c.group, found, err, c.want)
		}
	}
}

func source(t testing.TB, domains int) *Source {
	t.Helper()
	a := pretender(t, uuidA)
	s := &Source{}
	s.setup()
	t.Cleanup(func() { _ = s.Close() })
	var got listing
	for i := range domains {
		got.all = append(got.all, &description{
			uuid: fmt.Sprintf("%s%d", uuidA, i), name: fmt.Sprintf("d%d", i), id: i, state: running, persistent: true,
			definition: definition{vcpus: 1, memory: 1 << 30, nics: []nic{{device: "lo"}}},
		})
	}
	s.replace(got)
	for _, d := range s.order {
		p, err := s.processes.attach(t.Context(), a.Cmd.Process.Pid, uuidA, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.process = p
	}
	s.arrangeLocked()
	return s
}

// A steady tick allocates nothing.
func TestSteadyTickAllocatesNothing(t *testing.T) {
	s := source(t, 20)
	var b sample.Batch
	do := func() {
		b.Points = b.Points[:0]
		if err := s.sampleAll(&b, true); err != nil {
			t.Fatal(err)
		}
	}
	do()
	if n := len(of([]tick{{points: b.Points}}, "testbed_guest_network_receive_bytes_total")); n != 20 {
		t.Fatalf("%d points of network, want 20", n)
	}
	if n := testing.AllocsPerRun(100, do); n > 0 {
		t.Errorf("%.1f allocations in a tick of 20 domains, want 0", n)
	}
}

func BenchmarkSteadyTick(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := source(b, n)
			var batch sample.Batch
			b.ReportAllocs()
			for b.Loop() {
				batch.Points = batch.Points[:0]
				_ = s.sampleAll(&batch, true)
			}
		})
	}
}

// What a balloon driver said some time ago is not the present, unless it is
// asked as seldom.
func TestStaleBalloon(t *testing.T) {
	s := source(t, 1)
	d := s.order[0]
	some := func(v float64) cgroup.Value { return cgroup.Value{V: v, OK: true} }
	now := time.Now()
	for _, c := range []struct {
		age, period time.Duration
		want        int
	}{{10 * time.Second, 0, 1}, {20 * time.Second, 0, 0}, {20 * time.Second, 10 * time.Second, 1}, {time.Hour, 10 * time.Second, 0}} {
		now = now.Add(time.Second)
		d.period = c.period
		s.answered(claim{uuid: d.desc.uuid}, &reading{at: now, updated: now.Add(-c.age), current: some(1 << 29), available: some(900 << 20), usable: some(644 << 20)}, nil)
		var b sample.Batch
		if err := s.sampleAll(&b, true); err != nil {
			t.Fatal(err)
		}
		ticks := []tick{{points: b.Points}}
		p := of(ticks, "testbed_guest_memory")
		if len(p) != c.want || c.want == 1 && p[0].V != 50 {
			t.Errorf("%s old, asked every %s: memory %v, want %d points of 50 percent", c.age, c.period, p, c.want)
		}
		if p := of(ticks, "testbed_guest_memory_working_set_bytes"); len(p) != c.want {
			t.Errorf("%s old: working set %v, want %d points", c.age, p, c.want)
		}
		if p := of(ticks, "testbed_guest_memory_stats_age_seconds"); len(p) != 1 || p[0].V != c.age.Seconds() {
			t.Errorf("age %v, want %s", p, c.age)
		}
		if p := of(ticks, "testbed_guest_memory_limit_bytes"); len(p) != 1 || len(of(ticks, "testbed_guest_up")) != 1 {
			t.Errorf("limit %v, want one point", p)
		}
	}
}

// A guest that says anything of its memory has no more than all of it in use.
func TestMemoryOfALiar(t *testing.T) {
	s := source(t, 1)
	d := s.order[0]
	some := func(v float64) cgroup.Value { return cgroup.Value{V: v, OK: true} }
	now := time.Now()
	for i, c := range []struct {
		available, usable float64
		want              []float64
	}{
		{1 << 29, 1 << 28, []float64{25}},
		{1 << 50, 0, []float64{100}},
		{math.MaxUint64, 1, []float64{100}},
		{1, 2, nil},
	} {
		now = now.Add(time.Second)
		s.answered(claim{uuid: d.desc.uuid}, &reading{at: now, updated: now, current: some(1 << 30), available: some(c.available), usable: some(c.usable)}, nil)
		var b sample.Batch
		if err := s.sampleAll(&b, true); err != nil {
			t.Fatal(err)
		}
		var got []float64
		for _, p := range of([]tick{{points: b.Points}}, "testbed_guest_memory") {
			got = append(got, p.V)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d: got %v percent, want %v", i, got, c.want)
		}
	}
}
