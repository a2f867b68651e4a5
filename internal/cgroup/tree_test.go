package cgroup_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/cgroup"
)

// onHost lets the package see a host whose cgroup files are in a folder:
// mountinfo as it was there, with the folder in place of /sys/fs/cgroup, and
// for every process its /proc/PID/cgroup.
func onHost(t *testing.T, folder, mountinfo string, processes map[string]string) *cgroup.Layout {
	t.Helper()
	folder, err := filepath.Abs(folder)
	if err != nil {
		t.Fatal(err)
	}
	proc := t.TempDir()
	write(t, filepath.Join(proc, "self/mountinfo"), strings.ReplaceAll(mountinfo, "/sys/fs/cgroup", strings.ReplaceAll(folder, " ", `\040`)))
	for pid, text := range processes {
		write(t, filepath.Join(proc, pid, "cgroup"), text)
	}
	l, err := cgroup.DetectIn(proc)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func some(v float64) cgroup.Value { return cgroup.Value{V: v, OK: true} }

// The trees are copies of real ones: a container under half a core and 32 MiB
// (1 GiB around it on the hybrid host), that has read, written and swapped,
// and from which one process was killed for want of memory.
func TestRecordedTrees(t *testing.T) {
	for _, c := range []struct {
		name, version, id string
		pid               int
		want              cgroup.Stats
		pressure          [6]cgroup.Value
		disks             []cgroup.Disk
	}{
		{
			name: "v1-linux-6.1", version: "1", id: "3f4d7f0a9e1c5b28d6a0c4e7f19b3852a7d0e6c41f8b93257ad1e0c6b4f5829e", pid: 109,
			want: cgroup.Stats{
				CPUUsage: some(18.526225131), CPUUser: some(14.40), CPUSystem: some(4.12), CPUQuota: some(0.5),
				Periods: some(374), ThrottledPeriods: some(365), ThrottledSeconds: some(17.470430892),
				MemoryUsage: some(10973184), MemoryWorkingSet: some(483328), MemoryCache: some(10498048), MemorySwap: some(41938944),
				MemoryLimit: some(33554432), OOMKills: some(1), Processes: some(3),
			},
		},
		{
			name: "v2-linux-6.1", version: "2", id: "3f4d7f0a9e1c5b28d6a0c4e7f19b3852a7d0e6c41f8b93257ad1e0c6b4f5829e", pid: 99,
			want: cgroup.Stats{
				CPUUsage: some(17.782238), CPUUser: some(13.596752), CPUSystem: some(4.185485), CPUQuota: some(0.5),
				Periods: some(361), ThrottledPeriods: some(352), ThrottledSeconds: some(16.844252),
				MemoryUsage: some(11001856), MemoryWorkingSet: some(512000), MemoryCache: some(10498048), MemorySwap: some(41943040),
				MemoryLimit: some(33554432), OOMKills: some(1), Processes: some(3),
			},
			pressure: [6]cgroup.Value{some(17.689195), some(17.667344), some(4.083882), some(4.083882), some(0.132766), some(0.132766)},
			disks: []cgroup.Disk{
				{Major: 254, Minor: 16, ReadBytes: some(20480), WrittenBytes: some(100659200), Reads: some(5), Writes: some(24575)},
				{Major: 254, Minor: 0, ReadBytes: some(10487808), WrittenBytes: some(10503168), Reads: some(82), Writes: some(30)},
			},
		},
		{
			name: "hybrid-linux-6.18", version: "hybrid", id: "8c1f5e0b7a2d94634fe0a1b96c7d8e25f3046b9ad1c8e7f20b5a6d3c9e8f7a14", pid: 15977,
			want: cgroup.Stats{
				CPUUsage: some(0.520330), CPUUser: some(0.468295), CPUSystem: some(0.052035), CPUQuota: some(0.5),
				Periods: some(14), ThrottledPeriods: some(10), ThrottledSeconds: some(0.439826568),
				MemoryUsage: some(22085632), MemoryWorkingSet: some(1032192), MemoryCache: some(21209088), MemorySwap: some(0),
				MemoryLimit: some(1 << 30), OOMKills: some(0), Processes: some(3),
			},
			pressure: [6]cgroup.Value{some(0.451816), some(0.450796), some(0), some(0), some(0.012384), some(0.012376)},
			disks:    []cgroup.Disk{{Major: 254, ReadBytes: some(10719232), WrittenBytes: some(4096), Reads: some(44), Writes: some(2)}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join("testdata", c.name)
			l := onHost(t, filepath.Join(dir, "cgroup"), read(t, filepath.Join(dir, "mountinfo")),
				map[string]string{"4711": read(t, filepath.Join(dir, "process"))})
			if got := l.Version(); got != c.version {
				t.Errorf("version: got %q, want %q", got, c.version)
			}
			if got, err := l.Containers(); err != nil || !slices.Equal(got, []string{c.id}) {
				t.Errorf("containers: got %q, %v, want %s", got, err, c.id)
			}
			want := c.want
			p := &want.Pressure
			for i, v := range []*cgroup.Value{&p.CPUWaiting, &p.CPUStalled, &p.MemoryWaiting, &p.MemoryStalled, &p.IOWaiting, &p.IOStalled} {
				*v = c.pressure[i]
			}
			for how, open := range map[string]func() (*cgroup.Group, error){
				"by id":      func() (*cgroup.Group, error) { return l.Container(c.id) },
				"by process": func() (*cgroup.Group, error) { return l.OfPID(4711) },
			} {
				g, err := open()
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if got, want := g.Path(), "/docker/"+c.id; got != want {
					t.Errorf("%s: path: got %q, want %q", how, got, want)
				}
				if pid, err := g.PID(); pid != c.pid || err != nil {
					t.Errorf("%s: process: got %d, %v, want %d", how, pid, err, c.pid)
				}
				for range 2 {
					var got cgroup.Stats
					if err := g.Read(&got); err != nil || got.At.IsZero() {
						t.Errorf("%s: read: %v at %v", how, err, got.At)
					}
					if got.At = want.At; got != want {
						t.Errorf("%s:\n got %+v\nwant %+v", how, got, want)
					}
					var disks []cgroup.Disk
					if err := g.Disks(func(d *cgroup.Disk) { disks = append(disks, *d) }); err != nil || !slices.Equal(disks, c.disks) {
						t.Errorf("%s: disks:\n got %+v, %v\nwant %+v", how, disks, err, c.disks)
					}
				}
				if err := g.Close(); err != nil {
					t.Error(err)
				}
				var s cgroup.Stats
				if err := g.Read(&s); err == nil {
					t.Errorf("%s: a read after Close: got no error", how)
				}
			}
		})
	}
}

const (
	mounts1 = `26 22 0:22 / /sys/fs/cgroup rw - tmpfs cgroup rw
27 26 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
28 26 0:24 / /sys/fs/cgroup/memory rw shared:10 master:1 - cgroup cgroup rw,memory
29 26 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
30 26 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
`
	mounts2      = "26 22 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
	mountsHybrid = mounts1 + "31 26 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)

var trees = map[string][]string{
	mounts1:      {"cpu,cpuacct", "memory", "pids"},
	mounts2:      {"."},
	mountsHybrid: {"cpu,cpuacct", "memory", "pids", "unified"},
}

// Where the runtimes put a container, on hosts of every version.
func TestContainerIsFound(t *testing.T) {
	other := strings.Repeat("0", 64)
	for mounts, dirs := range trees {
		for _, shape := range []string{
			"docker/ID",
			"system.slice/docker-ID.scope",
			"machine.slice/libpod-ID.scope",
			"libpod_parent/libpod-ID",
			"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
			"user.slice/user-1000.slice/user@1000.service/app.slice/docker-ID.scope",
			"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-ID.scope",
			"kubepods/burstable/pod1/ID",
			"own-parent/ID",
			"default/ID",
			"system.slice/system.slice:docker:ID",
		} {
			folder, id := t.TempDir(), newID(t)
			for _, dir := range dirs {
				at := filepath.Join(folder, dir, strings.ReplaceAll(shape, "ID", id))
				write(t, filepath.Join(at, "cgroup.procs"), "41\n")
				write(t, filepath.Join(at, "pids.current"), "7\n")
				write(t, filepath.Join(at, "payload/cgroup.procs"), "42\n")
				write(t, filepath.Join(at, "docker", other, "cgroup.procs"), "43\n")
				write(t, filepath.Join(folder, dir, "machine.slice/libpod-conmon-"+other+".scope/cgroup.procs"), "44\n")
				write(t, filepath.Join(folder, dir, "docker", newID(t), "cgroup.procs"), "")
			}
			l := onHost(t, folder, mounts, nil)
			for range 2 { // the second time by what the first has learnt
				g, err := l.Container(id)
				if err != nil {
					t.Errorf("%s in %q: %v", shape, dirs, err)
					continue
				}
				var s cgroup.Stats
				if err := g.Read(&s); err != nil || s.Processes != some(7) {
					t.Errorf("%s in %q: processes: got %v, %v, want 7", shape, dirs, s.Processes, err)
				}
				if pid, err := g.PID(); pid != 41 || err != nil {
					t.Errorf("%s in %q: first process: got %d, %v, want 41", shape, dirs, pid, err)
				}
				_ = g.Close()
			}
			if got, err := l.Containers(); err != nil || !slices.Equal(got, []string{id}) {
				t.Errorf("containers of %s in %q: got %q, %v, want %s: not those inside it, empty ones and monitors", shape, dirs, got, err, id)
			}
			if _, err := l.Container(other); !errors.Is(err, cgroup.ErrGone) {
				t.Errorf("a container inside one, %s in %q: got %v, want %v", shape, dirs, err, cgroup.ErrGone)
			}
		}
	}
}

func TestContainerRefusesWhatIsNoID(t *testing.T) {
	l := onHost(t, t.TempDir(), mounts2, nil)
	id := newID(t)
	for _, bad := range []string{"", "..", "../" + id, id[:12], strings.ToUpper(id), id + "0", "docker-" + id, id + ".scope", id[:63] + "/"} {
		if g, err := l.Container(bad); err == nil || errors.Is(err, cgroup.ErrGone) {
			t.Errorf("%q: got %v, %v, want an error that is not %v", bad, g, err, cgroup.ErrGone)
		}
	}
}

// Which group of a process is its own, as hosts really have them.
func TestGroupOfProcess(t *testing.T) {
	id := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name, mounts, process string
		path                  string // "" for ErrNoGroup
		keys                  string // where the processes file is to be read
		machine               bool
	}{
		{"kernel thread", mounts2, "0::/\n", "", "", false},
		{"host of version 1, all roots", mounts1, "3:pids:/\n2:memory:/\n1:cpu,cpuacct:/\n", "", "", false},
		{
			"QEMU on a hybrid host whose cpuacct is the whole host", mountsHybrid,
			"4:pids:/\n3:memory:/machine/qemu-1-a.libvirt-qemu\n2:cpu,cpuacct:/\n0::/machine/qemu-1-a.libvirt-qemu/emulator\n",
			"/machine/qemu-1-a.libvirt-qemu", "memory unified", true,
		},
		{
			"QEMU under systemd, version 2", mounts2, `0::/machine.slice/machine-qemu\x2d3\x2da\x2db.scope/libvirt/emulator` + "\n",
			`/machine.slice/machine-qemu\x2d3\x2da\x2db.scope`, ".", true,
		},
		{
			"QEMU under systemd, version 1", mounts1,
			`3:pids:/machine.slice/machine-qemu\x2d3\x2da.scope` + "\n" + `2:memory:/machine.slice/machine-qemu\x2d3\x2da.scope/emulator` + "\n" + `1:cpu,cpuacct:/machine.slice/machine-qemu\x2d3\x2da.scope/vcpu12` + "\n",
			`/machine.slice/machine-qemu\x2d3\x2da.scope`, "pids memory cpu,cpuacct", true,
		},
		{
			"libvirtd that was started inside a group of its own", mountsHybrid,
			"4:pids:/x/machine/qemu-1-a.libvirt-qemu\n3:memory:/x/machine/qemu-1-a.libvirt-qemu/emulator\n2:cpu,cpuacct:/x\n0::/x\n",
			"/x/machine/qemu-1-a.libvirt-qemu", "pids memory", true,
		},
		{
			"VM of a user's session", mounts2, "0::/user.slice/user-1000.slice/session-2.scope\n",
			"/user.slice/user-1000.slice/session-2.scope", ".", false,
		},
		{
			"container in the engine's service in the unified tree", mountsHybrid,
			"4:pids:/docker/" + id + "\n3:memory:/docker/" + id + "\n2:cpu,cpuacct:/docker/" + id + "\n0::/system.slice/docker.service\n",
			"/docker/" + id, "pids memory cpu,cpuacct", false,
		},
		{
			"service without CPU accounting", mounts1,
			"3:pids:/system.slice/a.service\n2:memory:/system.slice\n1:cpu,cpuacct:/system.slice\n",
			"/system.slice/a.service", "pids", false,
		},
		{"group that was removed under the process", mounts2, "0::/docker/" + id + " (deleted)\n", "", "", false},
		{"only a hierarchy that is not mounted", mounts1, "0::/docker/" + id + "\n1:name=systemd:/docker/" + id + "\n", "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			// Every group that is named exists, and counts who is asked.
			for line := range strings.Lines(c.process) {
				f := strings.SplitN(strings.TrimSpace(line), ":", 3)
				dir := f[1]
				if dir == "" && c.mounts == mountsHybrid {
					dir = "unified"
				}
				at := filepath.Join(folder, dir)
				for part := range strings.SplitSeq(f[2], "/") {
					at = filepath.Join(at, part)
					write(t, filepath.Join(at, "cgroup.procs"), "9\n")
					switch dir {
					case "":
						write(t, filepath.Join(at, "pids.current"), "5\n")
						write(t, filepath.Join(at, "cpu.stat"), "usage_usec 5000000\n")
					case "pids":
						write(t, filepath.Join(at, "pids.current"), "5\n")
					case "memory":
						write(t, filepath.Join(at, "memory.usage_in_bytes"), "5\n")
					case "cpu,cpuacct":
						write(t, filepath.Join(at, "cpuacct.usage"), "5\n")
					case "unified":
						write(t, filepath.Join(at, "cpu.stat"), "usage_usec 5000000\n")
					}
				}
			}
			l := onHost(t, folder, c.mounts, map[string]string{"9": c.process})
			g, err := l.OfPID(9)
			if c.path == "" {
				if !errors.Is(err, cgroup.ErrNoGroup) {
					t.Fatalf("got %v, want %v", err, cgroup.ErrNoGroup)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if g.Path() != c.path {
				t.Errorf("path: got %q, want %q", g.Path(), c.path)
			}
			var s cgroup.Stats
			if err := g.Read(&s); err != nil {
				t.Fatal(err)
			}
			for key, v := range map[string]cgroup.Value{"pids": s.Processes, "memory": s.MemoryUsage} {
				if want := strings.Contains(c.keys, key) || c.mounts == mounts2 && key == "pids"; v.OK != want {
					t.Errorf("%s: got %v, want it to be read: %v", key, v, want)
				}
			}
			if want := c.keys != "pids" && c.keys != "pids memory"; s.CPUUsage.OK != want {
				t.Errorf("usage: got %v, want it to be read: %v", s.CPUUsage, want)
			}
			m, err := l.OfMachine(9)
			if (err == nil) != c.machine || err != nil && !errors.Is(err, cgroup.ErrNoGroup) {
				t.Errorf("as a machine: got %v, want one: %v", err, c.machine)
			}
			if err == nil {
				_ = m.Close()
			}
		})
	}
}

// Inside a container that has the host's hierarchy mounted: paths are told
// from the reader's own group.
func TestForeignNamespace(t *testing.T) {
	folder, id := t.TempDir(), newID(t)
	write(t, filepath.Join(folder, "host/docker", id, "pids.current"), "3\n")
	write(t, filepath.Join(folder, "own/pids.current"), "1\n")
	mounts := "26 22 0:22 / /sys/fs/cgroup/own rw - cgroup2 cgroup2 rw\n" +
		"27 22 0:22 /../.. /sys/fs/cgroup/host ro - cgroup2 cgroup2 rw\n"
	l := onHost(t, folder, mounts, map[string]string{"9": "0::/../../docker/" + id + "\n", "10": "0::/../..\n", "11": "0::/../../..\n"})
	for how, open := range map[string]func() (*cgroup.Group, error){
		"by id":      func() (*cgroup.Group, error) { return l.Container(id) },
		"by process": func() (*cgroup.Group, error) { return l.OfPID(9) },
	} {
		g, err := open()
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		var s cgroup.Stats
		if err := g.Read(&s); err != nil || s.Processes != some(3) {
			t.Errorf("%s: processes: got %v, %v, want 3", how, s.Processes, err)
		}
		_ = g.Close()
	}
	for _, pid := range []int{10, 11} {
		if g, err := l.OfPID(pid); !errors.Is(err, cgroup.ErrNoGroup) {
			t.Errorf("the host's root, seen from inside (process %d): got %v, %v, want %v", pid, g, err, cgroup.ErrNoGroup)
		}
	}
}

func TestNoCgroups(t *testing.T) {
	proc := t.TempDir()
	write(t, filepath.Join(proc, "self/mountinfo"), "22 27 0:21 / /proc rw,relatime - proc proc rw\n")
	if _, err := cgroup.DetectIn(proc); err == nil || !strings.Contains(err.Error(), "no cgroup file system") {
		t.Errorf("a host without: got %v, want an error that says so", err)
	}
	if _, err := cgroup.DetectIn(filepath.Join(proc, "none")); err == nil {
		t.Error("without /proc: got no error")
	}
}

// A limit that somebody writes is seen by the next reading, one that changes
// without a word from the kernel within 5 s, and a file that outgrows the buffer
// is read whole.
func TestReadFollowsChanges(t *testing.T) {
	folder, id := t.TempDir(), newID(t)
	outer := filepath.Join(folder, "kubepods/pod1/memory.max")
	own := filepath.Join(folder, "kubepods/pod1", id)
	write(t, outer, "3000\n")
	write(t, filepath.Join(own, "memory.max"), "max\n")
	write(t, filepath.Join(own, "memory.current"), "2000\n")
	write(t, filepath.Join(own, "memory.stat"), strings.Repeat("filler 1\n", 40)+"inactive_file 500\n")
	l := onHost(t, folder, mounts2, nil)
	g, err := l.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	synctest.Test(t, func(t *testing.T) {
		check := func(when string, limit, workingSet float64) {
			t.Helper()
			var s cgroup.Stats
			if err := g.Read(&s); err != nil || s.MemoryLimit != some(limit) || s.MemoryWorkingSet != some(workingSet) {
				t.Errorf("%s: got limit %v, working set %v, %v, want %v and %v", when, s.MemoryLimit, s.MemoryWorkingSet, err, limit, workingSet)
			}
		}
		check("at first", 3000, 1500)
		write(t, filepath.Join(own, "memory.stat"), strings.Repeat("filler 1\n", 4000)+"inactive_file 600\n")
		check("a longer file", 3000, 1400)
		write(t, outer, "2500\n")
		check("a limit around it, at once", 2500, 1400)
		write(t, filepath.Join(own, "memory.max"), "2400\n")
		check("its own, at once", 2400, 1400)
		inMemory(t, outer, "2300\n")
		time.Sleep(4900 * time.Millisecond)
		check("4.9 s after one that nobody was told of", 2400, 1400)
		time.Sleep(100 * time.Millisecond)
		check("5 s after it", 2300, 1400)
	})
}

// A group that can not be opened whole leaves nothing open.
func TestFailedOpenLeavesNothing(t *testing.T) {
	folder, id := t.TempDir(), newID(t)
	own := filepath.Join(folder, "kubepods/pod1", id)
	write(t, filepath.Join(own, "memory.max"), "max\n")
	write(t, filepath.Join(own, "memory.current"), "2000\n")
	if err := os.Mkdir(filepath.Join(own, "cpu.max"), 0o755); err != nil { // which can be opened and not read
		t.Fatal(err)
	}
	l := onHost(t, folder, mounts2, nil)
	for range 20 {
		if g, err := l.Container(id); err == nil {
			t.Fatalf("got %s, want an error", g.Path())
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.HasPrefix(target, folder) || strings.Contains(target, "inotify") {
			t.Errorf("%s is still open", target)
		}
	}
}

// inMemory changes a file by a mapping of it, which inotify does not tell.
func inMemory(t *testing.T, name, text string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, len(text), unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, text)
	if err := unix.Munmap(b); err != nil {
		t.Fatal(err)
	}
}
