package cgroup_test

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/cgroup"
)

// The tests named TestReal make groups on the machine they run on, put
// processes into them and compare with the kernel's own files. They run here,
// and once more inside a guest that has version 2 only (internal/e2e).

// tree is where this machine mounts its hierarchies, by the test's own look.
type tree struct {
	two string            // version 2
	one map[string]string // version 1, by controller
}

func findTree(t testing.TB) tree {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes cgroups and must run as root; SKIP_E2E=1 leaves it out")
	}
	tr := tree{one: map[string]string{}}
	b, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[2] {
		case "cgroup2":
			tr.two = f[1]
		case "cgroup":
			for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
				if strings.Contains(","+f[3]+",", ","+c+",") {
					tr.one[c] = f[1]
				}
			}
		}
	}
	if tr.two == "" && len(tr.one) == 0 {
		t.Fatal("no cgroup file system is mounted on this machine")
	}
	return tr
}

// skipReal is for short runs and for SKIP_E2E.
func skipReal(t testing.TB) {
	t.Helper()
	if os.Getenv("SKIP_E2E") == "1" {
		t.Skip("SKIP_E2E=1: not run against the real kernel")
	}
}

func (tr tree) roots() map[string]string {
	roots := map[string]string{}
	for c, dir := range tr.one {
		roots[c] = dir
	}
	if tr.two != "" {
		roots[""] = tr.two
	}
	return roots
}

// make makes a group in every hierarchy, with every controller on, and
// removes at the end what it has made.
func (tr tree) make(t testing.TB, path string) {
	t.Helper()
	for key, root := range tr.roots() {
		at := root
		for _, part := range strings.Split(path, "/") {
			if key == "" {
				for _, c := range []string{"+cpu", "+memory", "+pids", "+io"} {
					// Those that version 1 has are not to be had here.
					_ = os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte(c), 0)
				}
			}
			at = filepath.Join(at, part)
			dir := at
			err := os.Mkdir(dir, 0o755)
			if err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
			if err == nil {
				t.Cleanup(func() { removeGroup(t, dir) })
				// However busy this machine is, a process in the group gets its
				// quota and no less.
				_ = os.WriteFile(filepath.Join(dir, "cpu.shares"), []byte("262144"), 0)
				_ = os.WriteFile(filepath.Join(dir, "cpu.weight"), []byte("10000"), 0)
			}
		}
	}
}

// makeThreaded makes a group of version 2 for threads of its parent's
// processes.
func (tr tree) makeThreaded(t testing.TB, path string) {
	t.Helper()
	dir := filepath.Join(tr.two, path)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeGroup(t, dir) })
	tr.write(t, "", path, "cgroup.type", "threaded")
}

// removeGroup waits for the processes of a group to be really gone.
func removeGroup(t testing.TB, dir string) {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = syscall.Rmdir(dir); err == nil || errors.Is(err, syscall.ENOENT) {
			return
		}
	}
	t.Errorf("remove %s: %v", dir, err)
}

// join puts a process into the group of every hierarchy, or of those named.
func (tr tree) join(t testing.TB, path string, pid int, keys ...string) {
	t.Helper()
	for key, root := range tr.roots() {
		wanted := len(keys) == 0
		for _, k := range keys {
			wanted = wanted || k == key
		}
		if !wanted {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// has reports whether a controller is in version 1.
func (tr tree) has1(controller string) bool { return tr.one[controller] != "" }

// setCPU sets the quota of a group; -1 is none.
func (tr tree) setCPU(t testing.TB, path string, quota, period int) {
	t.Helper()
	if tr.has1("cpu") {
		tr.write(t, "cpu", path, "cpu.cfs_period_us", strconv.Itoa(period))
		tr.write(t, "cpu", path, "cpu.cfs_quota_us", strconv.Itoa(quota))
		return
	}
	text := "max"
	if quota >= 0 {
		text = strconv.Itoa(quota)
	}
	tr.write(t, "", path, "cpu.max", fmt.Sprint(text, " ", period))
}

func (tr tree) setMemory(t testing.TB, path string, limit int) {
	t.Helper()
	if tr.has1("memory") {
		tr.write(t, "memory", path, "memory.limit_in_bytes", strconv.Itoa(limit))
		return
	}
	tr.write(t, "", path, "memory.max", strconv.Itoa(limit))
}

func (tr tree) write(t testing.TB, key, path, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tr.roots()[key], path, name), []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// ask reads a number from one of the kernel's files, the field after the
// given word, or the first when the word is "".
func (tr tree) ask(t testing.TB, key, path, name, word string) float64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(tr.roots()[key], path, name))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.FieldsFunc(string(b), func(r rune) bool { return r == ' ' || r == '\n' || r == '=' })
	for i := range f {
		at := i
		if word != "" {
			at = i + 1
		}
		if (word == "" || f[i] == word) && at < len(f) {
			n, err := strconv.ParseFloat(f[at], 64)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return n
		}
	}
	t.Fatalf("%s of %s has no %q:\n%s", name, path, word, b)
	return 0
}

// kernel asks for everything that Stats has, from the files a person would
// look into.
func (tr tree) kernel(t testing.TB, path string) map[string]float64 {
	t.Helper()
	k := map[string]float64{}
	if tr.two == "" {
		k["usage"] = tr.ask(t, "cpuacct", path, "cpuacct.usage", "") / 1e9
	} else {
		k["usage"] = tr.ask(t, "", path, "cpu.stat", "usage_usec") / 1e6
		k["user"] = tr.ask(t, "", path, "cpu.stat", "user_usec") / 1e6
		k["system"] = tr.ask(t, "", path, "cpu.stat", "system_usec") / 1e6
	}
	if tr.has1("cpu") {
		k["periods"] = tr.ask(t, "cpu", path, "cpu.stat", "nr_periods")
		k["throttled periods"] = tr.ask(t, "cpu", path, "cpu.stat", "nr_throttled")
		k["throttled"] = tr.ask(t, "cpu", path, "cpu.stat", "throttled_time") / 1e9
	} else {
		k["periods"] = tr.ask(t, "", path, "cpu.stat", "nr_periods")
		k["throttled periods"] = tr.ask(t, "", path, "cpu.stat", "nr_throttled")
		k["throttled"] = tr.ask(t, "", path, "cpu.stat", "throttled_usec") / 1e6
	}
	if tr.has1("memory") {
		k["memory"] = tr.ask(t, "memory", path, "memory.usage_in_bytes", "")
		k["inactive"] = tr.ask(t, "memory", path, "memory.stat", "total_inactive_file")
		k["cache"] = tr.ask(t, "memory", path, "memory.stat", "total_cache")
		k["oom"] = tr.ask(t, "memory", path, "memory.oom_control", "oom_kill")
	} else {
		k["memory"] = tr.ask(t, "", path, "memory.current", "")
		k["inactive"] = tr.ask(t, "", path, "memory.stat", "inactive_file")
		k["cache"] = tr.ask(t, "", path, "memory.stat", "file")
		k["swap"] = tr.ask(t, "", path, "memory.swap.current", "")
		k["oom"] = tr.ask(t, "", path, "memory.events", "oom_kill")
	}
	pids := ""
	if tr.has1("pids") {
		pids = "pids"
	}
	k["processes"] = tr.ask(t, pids, path, "pids.current", "")
	if tr.two != "" {
		for _, what := range []string{"cpu", "memory", "io"} {
			k[what+" waiting"] = tr.ask(t, "", path, what+".pressure", "total") / 1e6
		}
	}
	return k
}

// values gives a Stats the words of kernel.
func values(s cgroup.Stats) map[string]cgroup.Value {
	return map[string]cgroup.Value{
		"usage": s.CPUUsage, "user": s.CPUUser, "system": s.CPUSystem,
		"periods": s.Periods, "throttled periods": s.ThrottledPeriods, "throttled": s.ThrottledSeconds,
		"memory": s.MemoryUsage, "cache": s.MemoryCache, "swap": s.MemorySwap, "oom": s.OOMKills,
		"processes":   s.Processes,
		"cpu waiting": s.Pressure.CPUWaiting, "memory waiting": s.Pressure.MemoryWaiting, "io waiting": s.Pressure.IOWaiting,
	}
}

// between reads the group between two looks into the kernel's own files, and
// wants every number between theirs.
func (tr tree) between(t testing.TB, path string, g *cgroup.Group) cgroup.Stats {
	t.Helper()
	// The kernel adds up memory per processor, in batches that reach its
	// files when it likes.
	slack := map[string]float64{"memory": 1 << 20, "cache": 1 << 20, "swap": 1 << 20}
	before := tr.kernel(t, path)
	var s cgroup.Stats
	if err := g.Read(&s); err != nil {
		t.Fatal(err)
	}
	after := tr.kernel(t, path)
	got := values(s)
	for what, low := range before {
		v, ok := got[what]
		if !ok {
			continue
		}
		low, high := min(low, after[what])-slack[what]-1e-6, max(low, after[what])+slack[what]+1e-6
		if !v.OK || v.V < low || v.V > high {
			t.Errorf("%s of %s: got %v, want it between the kernel's own %f and %f", what, path, v, low, high)
		}
	}
	if want := s.MemoryUsage.V - before["inactive"]; !s.MemoryWorkingSet.OK || s.MemoryWorkingSet.V < want-1<<20 || s.MemoryWorkingSet.V > want+1<<20 {
		t.Errorf("working set of %s: got %v, want about %f", path, s.MemoryWorkingSet, want)
	}
	if tr.two != "" {
		for what, v := range map[string]cgroup.Value{"cpu": s.Pressure.CPUStalled, "memory": s.Pressure.MemoryStalled, "io": s.Pressure.IOStalled} {
			if !v.OK {
				t.Errorf("%s stalled of %s is absent, want a number", what, path)
			}
		}
	}
	return s
}

// kernelDisks asks for what Disks has, sorted by device.
func (tr tree) kernelDisks(t testing.TB, path string) []cgroup.Disk {
	t.Helper()
	by := map[[2]uint32]cgroup.Disk{}
	look := func(key, name string, f func(d *cgroup.Disk, words []string)) {
		b, err := os.ReadFile(filepath.Join(tr.roots()[key], path, name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var id [2]uint32
			if _, err := fmt.Sscanf(line, "%d:%d ", &id[0], &id[1]); err != nil {
				continue
			}
			d := by[id]
			d.Major, d.Minor = id[0], id[1]
			f(&d, strings.Fields(line)[1:])
			by[id] = d
		}
	}
	value := func(s string) cgroup.Value {
		n, err := strconv.ParseFloat(s, 64)
		if n == 0 && tr.has1("blkio") {
			return cgroup.Value{} // not known from none
		}
		return cgroup.Value{V: n, OK: err == nil}
	}
	if tr.has1("blkio") {
		look("blkio", "blkio.throttle.io_service_bytes_recursive", func(d *cgroup.Disk, w []string) {
			switch w[0] {
			case "Read":
				d.ReadBytes = value(w[1])
			case "Write":
				d.WrittenBytes = value(w[1])
			}
		})
		look("blkio", "blkio.throttle.io_serviced_recursive", func(d *cgroup.Disk, w []string) {
			switch w[0] {
			case "Read":
				d.Reads = value(w[1])
			case "Write":
				d.Writes = value(w[1])
			}
		})
	} else {
		look("", "io.stat", func(d *cgroup.Disk, w []string) {
			for _, word := range w {
				key, n, _ := strings.Cut(word, "=")
				switch key {
				case "rbytes":
					d.ReadBytes = value(n)
				case "wbytes":
					d.WrittenBytes = value(n)
				case "rios":
					d.Reads = value(n)
				case "wios":
					d.Writes = value(n)
				}
			}
		})
	}
	maps.DeleteFunc(by, func(id [2]uint32, d cgroup.Disk) bool { return d == cgroup.Disk{Major: id[0], Minor: id[1]} })
	disks := slices.Collect(maps.Values(by))
	slices.SortFunc(disks, func(a, b cgroup.Disk) int { return int(a.Major<<20|a.Minor) - int(b.Major<<20|b.Minor) })
	return disks
}

func newID(t testing.TB) string {
	t.Helper()
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func detect(t testing.TB) *cgroup.Layout {
	t.Helper()
	l, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// parent is a part of the tree for this test alone; in a guest of our own
// everything is, and groups stand exactly where runtimes put them.
func parent(t testing.TB) string {
	if os.Getenv("FANIN_CGROUP_OWN_MACHINE") == "1" {
		return ""
	}
	return "fanin-test-" + newID(t)[:12] + "/"
}
