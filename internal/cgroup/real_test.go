package cgroup_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fanin/internal/cgroup"
)

// containerShapes are the groups of a container as their runtimes name them.
func containerShapes(id string) map[string]string {
	return map[string]string{
		"docker, cgroupfs": "docker/" + id,
		"docker, systemd":  "system.slice/docker-" + id + ".scope",
		"podman, systemd":  "machine.slice/libpod-" + id + ".scope",
		"docker, rootless": "user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + id + ".scope",
		"kubernetes":       "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b.slice/cri-containerd-" + id + ".scope",
	}
}

func TestRealVersion(t *testing.T) {
	skipReal(t)
	want := os.Getenv("FANIN_CGROUP_VERSION")
	if want == "" {
		tr := findTree(t)
		switch {
		case tr.two == "":
			want = "1"
		case len(tr.one) == 0:
			want = "2"
		default:
			want = "hybrid"
		}
	}
	if got := detect(t).Version(); got != want {
		t.Errorf("version of this machine: got %q, want %q", got, want)
	}
}

// A busy process in a container's group, wherever runtimes put it, is found
// by id and by process, and its quota, usage and throttling are the kernel's
// own and the process's own.
func TestRealContainer(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	for name, path := range containerShapes("") {
		t.Run(name, func(t *testing.T) {
			id := newID(t)
			path = parent(t) + containerShapes(id)[name]
			tr.make(t, path)
			c := startChild(t)
			tr.join(t, path, c.pid())
			tr.setCPU(t, path, 50000, 100000)

			g, err := l.Container(id)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if pid, err := g.PID(); err != nil || pid != c.pid() {
				t.Errorf("process of the group: got %d, %v, want %d", pid, err, c.pid())
			}
			own, err := l.OfPID(c.pid())
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			if own.Path() != "/"+path {
				t.Errorf("path of the process: got %q, want %q", own.Path(), "/"+path)
			}
			ids, err := l.Containers()
			if err != nil || !slices.Contains(ids, id) {
				t.Errorf("containers: got %q, %v, want %s among them", ids, err, id)
			}

			before, after, used := c.measured(t, 1000,
				func() cgroup.Stats { return tr.between(t, path, g) },
				func() cgroup.Stats { return tr.between(t, path, own) })
			took := after.At.Sub(before.At).Seconds()
			got := after.CPUUsage.V - before.CPUUsage.V
			t.Logf("%.2f s: used %.3f s by the group, %.3f s by getrusage, %.3f s throttled, %.3f s waiting",
				took, got, used, after.ThrottledSeconds.V-before.ThrottledSeconds.V, after.Pressure.CPUWaiting.V-before.Pressure.CPUWaiting.V)
			if d := after.CPUUser.V + after.CPUSystem.V - after.CPUUsage.V; d < -0.02 || d > 0.02 {
				t.Errorf("user %.4f + system %.4f: want the usage, %.4f", after.CPUUser.V, after.CPUSystem.V, after.CPUUsage.V)
			}
			if want := (cgroup.Value{V: 0.5, OK: true}); after.CPUQuota != want {
				t.Errorf("quota: got %v, want %v", after.CPUQuota, want)
			}
			// One period's quota may be left over from before.
			if got > 0.5*took+0.1 {
				t.Errorf("usage: got %.3f s in %.3f s, want at most half of it", got, took)
			}
			if after.ThrottledPeriods.V <= before.ThrottledPeriods.V || after.ThrottledSeconds.V <= before.ThrottledSeconds.V {
				t.Errorf("a busy process under a quota was never throttled: %v, %v", before, after)
			}
		})
	}
}

// A quota that comes and goes is seen by the next reading, and so is what it
// has done meanwhile, before and behind it too.
func TestRealQuotaChanges(t *testing.T) {
	skipReal(t)
	tr := findTree(t)
	path := parent(t) + "docker/" + newID(t)
	tr.make(t, path)
	c := startChild(t)
	tr.join(t, path, c.pid())
	g, err := detect(t).OfPID(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	throttled := 0.0
	for range 2 {
		if s := tr.between(t, path, g); s.CPUQuota.OK || s.ThrottledPeriods != some(throttled) {
			t.Errorf("without a quota: got %v cores and %v throttled periods, want none and %v", s.CPUQuota, s.ThrottledPeriods, throttled)
		}
		tr.setCPU(t, path, 20000, 100000)
		tr.between(t, path, g)
		c.do(t, "busy 500")
		s := tr.between(t, path, g)
		if s.CPUQuota != some(0.2) || s.ThrottledPeriods.V <= throttled {
			t.Errorf("half a second under a quota of 0.2: got %v cores, %v throttled periods, want that and more than %v", s.CPUQuota, s.ThrottledPeriods, throttled)
		}
		c.do(t, "busy 500")
		tr.setCPU(t, path, -1, 100000)
		throttled = tr.kernel(t, path)["throttled periods"]
	}
	if s := tr.between(t, path, g); s.ThrottledPeriods != some(throttled) {
		t.Errorf("afterwards: got %v throttled periods, want %v", s.ThrottledPeriods, throttled)
	}
}

// The group of a machine is that around the ones that libvirt makes in it.
func TestRealMachine(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	for _, path := range []string{
		"machine/qemu-1-fanin.libvirt-qemu",
		`machine.slice/machine-qemu\x2d1\x2dfanin.scope`,
		`machine.slice/machine-qemu\x2d1\x2dfanin.scope/libvirt`,
	} {
		t.Run(path, func(t *testing.T) {
			path := parent(t) + path
			machine := strings.TrimSuffix(path, "/libvirt")
			tr.make(t, path)
			inner := []string{path + "/emulator", path + "/vcpu0"}
			limited := machine
			if len(tr.one) > 0 {
				tr.make(t, inner[0])
				tr.make(t, inner[1])
			} else {
				for _, dir := range inner {
					tr.makeThreaded(t, dir)
				}
				limited = path
			}
			tr.setCPU(t, limited, 50000, 100000)
			c := startChild(t)
			if len(tr.one) > 0 {
				tr.join(t, inner[0], c.pid())
			} else {
				// As libvirt does on version 2: the process first, then its threads.
				tr.join(t, path, c.pid())
				tids, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.pid()))
				if err != nil {
					t.Fatal(err)
				}
				for i, tid := range tids {
					tr.write(t, "", inner[i%2], "cgroup.threads", tid.Name())
				}
			}
			g, err := l.OfMachine(c.pid())
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if g.Path() != "/"+machine {
				t.Errorf("path: got %q, want %q", g.Path(), "/"+machine)
			}
			if pid, err := g.PID(); err != nil || pid != c.pid() {
				t.Errorf("process: got %d, %v, want %d", pid, err, c.pid())
			}
			look := func() cgroup.Stats { return tr.between(t, machine, g) }
			_, after, _ := c.measured(t, 600, look, look)
			if want := (cgroup.Value{V: 0.5, OK: true}); after.CPUQuota != want {
				t.Errorf("quota: got %v, want %v", after.CPUQuota, want)
			}
		})
	}
}

// A process that is in the root of some hierarchies is read where it has a
// group of its own, and nowhere else: the root is the whole host.
func TestRealRootIsRefused(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	path := parent(t) + "machine/qemu-1-fanin.libvirt-qemu"
	tr.make(t, path)
	c := startChild(t)
	for key := range tr.roots() {
		tr.join(t, "", c.pid(), key)
	}
	if g, err := l.OfPID(c.pid()); !errors.Is(err, cgroup.ErrNoGroup) {
		t.Errorf("group of a process in all roots: got %v, %v, want %v", g, err, cgroup.ErrNoGroup)
	}
	if len(tr.one) == 0 {
		return
	}
	tr.join(t, path, c.pid(), "", "memory")
	g, err := l.OfMachine(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	look := looker(t, g)
	_, s, _ := c.measured(t, 300, look, look)
	if !s.MemoryUsage.OK || s.Processes.OK || s.CPUQuota.OK || s.Periods.OK {
		t.Errorf("a group in memory and unified only: got %+v, want memory and no processes, quota, periods", s)
	}
	if want := tr.two != ""; s.CPUUsage.OK != want {
		t.Errorf("usage of a process in the root of cpuacct: got %v, want one from the unified tree: %v", s.CPUUsage, want)
	}
}

// A runtime that leaves its containers' processes in its own service in the
// unified tree does not make them read as that service.
func TestRealSharedGroupIsRefused(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	if tr.two == "" || len(tr.one) == 0 {
		t.Skip("only a hybrid machine has two trees to differ")
	}
	top, id := parent(t), newID(t)
	path, service := top+"docker/"+id, top+"system.slice/docker.service"
	tr.make(t, path)
	tr.make(t, service)
	c := startChild(t)
	tr.join(t, path, c.pid())
	tr.join(t, service, c.pid(), "")
	for name, openIt := range map[string]func() (*cgroup.Group, error){
		"by process": func() (*cgroup.Group, error) { return l.OfPID(c.pid()) },
		"by id":      func() (*cgroup.Group, error) { return l.Container(id) },
	} {
		g, err := openIt()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer g.Close()
		look := looker(t, g)
		_, after, _ := c.measured(t, 200, look, look)
		if !after.CPUUsage.OK || after.Pressure.CPUWaiting.OK {
			t.Errorf("%s: usage and pressure: got %v and %v, want cpuacct's and none", name, after.CPUUsage, after.Pressure.CPUWaiting)
		}
	}
}

// Memory in use, what limits it and what is killed when the limit is reached.
func TestRealMemory(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	id := newID(t)
	outer := parent(t) + "fanin-outer"
	path := outer + "/" + id
	tr.make(t, path)
	c := startChild(t)
	tr.join(t, path, c.pid())
	g, err := l.OfPID(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()

	before := tr.between(t, path, g)
	if before.MemoryLimit.OK || before.CPUQuota.OK {
		t.Errorf("limits of a group without: got %v of memory and %v of the processor, want none", before.MemoryLimit, before.CPUQuota)
	}
	c.do(t, "hold %d", 64<<20)
	after := tr.between(t, path, g)
	if got := after.MemoryUsage.V - before.MemoryUsage.V; got < 64<<20 || got > 72<<20 {
		t.Errorf("memory of a process that took 64 MiB: grew by %.1f MiB", got/(1<<20))
	}

	// The limit around the group counts; a new one is seen at once by whoever
	// opens the group anew.
	tr.setMemory(t, outer, 128<<20)
	tr.setCPU(t, outer, 30000, 100000)
	tr.setMemory(t, path, 96<<20)
	for _, c := range []struct{ own, want float64 }{{96 << 20, 96 << 20}, {256 << 20, 128 << 20}} {
		tr.setMemory(t, path, int(c.own))
		again, err := l.Container(id)
		if err != nil {
			t.Fatal(err)
		}
		var s cgroup.Stats
		if err := again.Read(&s); err != nil {
			t.Fatal(err)
		}
		again.Close()
		if want := (cgroup.Value{V: c.want, OK: true}); s.MemoryLimit != want {
			t.Errorf("limit %.0f inside 128 MiB: got %v, want %v", c.own, s.MemoryLimit, want)
		}
		if want := (cgroup.Value{V: 0.3, OK: true}); s.CPUQuota != want {
			t.Errorf("no quota inside one of 0.3: got %v, want %v", s.CPUQuota, want)
		}
	}

	tr.setMemory(t, path, 96<<20)
	_, _ = fmt.Fprintf(c.in, "hold %d\n", 256<<20)
	_ = c.cmd.Wait()
	after = tr.between(t, path, g)
	if !after.OOMKills.OK || after.OOMKills.V < 1 {
		t.Errorf("OOM kills: got %v, want 1; the child: %v", after.OOMKills, c.cmd.ProcessState)
	}
	if want := (cgroup.Value{V: 0, OK: true}); after.Processes != want {
		t.Errorf("processes after the end of the only one: got %v, want %v", after.Processes, want)
	}
	if pid, err := g.PID(); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("process of an empty group: got %d, %v, want %v", pid, err, cgroup.ErrGone)
	}
}

// What is removed is gone, whichever way one looks.
func TestRealGone(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	id := newID(t)
	path := parent(t) + "docker/" + id
	tr.make(t, path)
	c := startChild(t)
	tr.join(t, path, c.pid())
	g, err := l.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	s := tr.between(t, path, g)
	if err := g.Disks(func(*cgroup.Disk) {}); err != nil {
		t.Fatal(err)
	}
	c.end()
	for _, root := range tr.roots() {
		removeGroup(t, filepath.Join(root, path))
	}
	if err := g.Read(&s); !errors.Is(err, cgroup.ErrGone) || s != (cgroup.Stats{}) {
		t.Errorf("read: got %v and %+v, want %v and nothing", err, s, cgroup.ErrGone)
	}
	if err := g.Disks(func(d *cgroup.Disk) { t.Errorf("disk of a group that is gone: %+v", d) }); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("disks: got %v, want %v", err, cgroup.ErrGone)
	}
	if pid, err := g.PID(); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("process: got %d, %v, want %v", pid, err, cgroup.ErrGone)
	}
	if _, err := l.Container(id); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("by id: got %v, want %v", err, cgroup.ErrGone)
	}
	if _, err := l.OfPID(c.pid()); !errors.Is(err, cgroup.ErrGone) {
		t.Errorf("by process: got %v, want %v", err, cgroup.ErrGone)
	}
	if ids, err := l.Containers(); err != nil || slices.Contains(ids, id) {
		t.Errorf("containers: got %q, %v, want them without %s", ids, err, id)
	}
}

// What a process writes to and reads from a disk past the page cache is on
// its group's account, as far as the kernel keeps one: on version 1, kernels
// since 6.0 do so only in the direction that has a limit.
// FANIN_CGROUP_DISK names a disk to write to, else a file is taken.
func TestRealDisks(t *testing.T) {
	skipReal(t)
	tr, l := findTree(t), detect(t)
	path := parent(t) + "docker/" + newID(t)
	tr.make(t, path)
	c := startChild(t)
	tr.join(t, path, c.pid())
	g, err := l.OfPID(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	target := os.Getenv("FANIN_CGROUP_DISK")
	if target == "" {
		target = filepath.Join(t.TempDir(), "written")
	}
	if tr.has1("blkio") {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Dir(target), &st); err != nil {
			t.Fatal(err)
		}
		dev := st.Dev
		if os.Getenv("FANIN_CGROUP_DISK") != "" {
			if err := syscall.Stat(target, &st); err != nil {
				t.Fatal(err)
			}
			dev = st.Rdev
		}
		limit := fmt.Sprintf("%d:%d %d", unix.Major(dev), unix.Minor(dev), 1<<40)
		for _, way := range []string{"read", "write"} {
			name := filepath.Join(tr.one["blkio"], path, "blkio.throttle."+way+"_bps_device")
			if err := os.WriteFile(name, []byte(limit), 0); err != nil {
				t.Logf("no limit %q for the disk: %v", limit, err)
			}
		}
	}
	c.do(t, "write %s", target)

	var got []cgroup.Disk
	if err := g.Disks(func(d *cgroup.Disk) { got = append(got, *d) }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b cgroup.Disk) int { return int(a.Major<<20|a.Minor) - int(b.Major<<20|b.Minor) })
	want := tr.kernelDisks(t, path)
	if !slices.Equal(got, want) {
		t.Errorf("disks: got %+v, want the kernel's %+v", got, want)
	}
	t.Logf("disks: %+v", got)
	if parent(t) == "" {
		if len(got) != 1 || got[0].ReadBytes.V < diskBytes || got[0].WrittenBytes.V < diskBytes || got[0].Reads.V < 4 || got[0].Writes.V < 4 {
			t.Errorf("after writing and reading %d bytes: got %+v", diskBytes, got)
		}
	}
}

// A steady reading allocates nothing.
func TestRealReadAllocates(t *testing.T) {
	skipReal(t)
	g := ownGroup(t)
	var s cgroup.Stats
	n := testing.AllocsPerRun(200, func() {
		if err := g.Read(&s); err != nil {
			t.Fatal(err)
		}
		if err := g.Disks(func(*cgroup.Disk) {}); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("one Read with Disks: %v allocations, want 0", n)
	}
}

func BenchmarkRead(b *testing.B) {
	g := ownGroup(b)
	var s cgroup.Stats
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Read(&s); err != nil {
			b.Fatal(err)
		}
	}
}

func ownGroup(t testing.TB) *cgroup.Group {
	t.Helper()
	tr, l := findTree(t), detect(t)
	path := parent(t) + "docker/" + newID(t)
	tr.make(t, path)
	c := startChild(t)
	tr.join(t, path, c.pid())
	g, err := l.OfPID(c.pid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}
