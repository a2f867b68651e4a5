package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestNumber(t *testing.T) {
	for text, want := range map[string]Value{
		"0": {0, true}, "42": {42, true}, "18446744073709551615": {math.MaxUint64, true},
		"": {}, "max": {}, "-1": {}, "18446744073709551616": {}, "99999999999999999999": {}, "1.5": {}, "0x1": {}, "000000000000000000001": {},
	} {
		if got := number([]byte(text)); got != want {
			t.Errorf("number(%q): got %v, want %v", text, got, want)
		}
	}
}

// What one file says, beyond those of the recorded trees.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		name  string
		parse func([]byte, *reading)
		text  string
		want  reading
	}{
		{"cpu.max without a limit", parseCPUMax, "max 100000\n", reading{period: Value{100000, true}}},
		{"cpu.max", parseCPUMax, "150000 100000\n", reading{quota: Value{150000, true}, period: Value{100000, true}, Stats: Stats{CPUQuota: Value{1.5, true}}}},
		{"cfs quota without a limit", parseCFSQuota, "-1\n", reading{}},
		{"memory.max without a limit", parseMemoryMax, "max\n", reading{}},
		{"memory.max of nothing", parseMemoryMax, "0\n", reading{Stats: Stats{MemoryLimit: Value{0, true}}}},
		{"no limit with pages of 4 KiB", parseMemoryStat1, "hierarchical_memory_limit 9223372036854771712\n", reading{}},
		{"no limit with pages of 64 KiB", parseMemoryStat1, "hierarchical_memory_limit 9223372036854710272\n", reading{}},
		{"no limit on old kernels", parseMemoryStat1, "hierarchical_memory_limit 18446744073709551615\n", reading{}},
		{"memory.stat without swap accounting", parseMemoryStat1, "total_cache 1\n", reading{Stats: Stats{MemoryCache: Value{1, true}}}},
		{"oom_control before 4.13", parseOOMKills, "oom_kill_disable 0\nunder_oom 0\n", reading{}},
		{"cpu.pressure before 5.13", parsePressureCPU, "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n", cpuWaiting(1.5)},
		{"few microseconds", parsePressureCPU, "some avg10=0.00 avg60=0.00 avg300=0.00 total=76\n", cpuWaiting(0.000076)},
		{"torn in the middle of a number's line", parseCPUStat2, "usage_usec", reading{}},
		{"an unknown word before", parseCPUStat2, "core_sched.force_idle_usec 9\nusage_usec 7000000", reading{Stats: Stats{CPUUsage: Value{7, true}}}},
		{"empty", parseMemoryStat2, "", reading{}},
	} {
		var got reading
		c.parse([]byte(c.text), &got)
		got.finish()
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func cpuWaiting(s float64) (r reading) {
	r.Pressure.CPUWaiting = Value{s, true}
	return r
}

func TestParseDisks(t *testing.T) {
	v := func(n float64) Value { return Value{n, true} }
	for _, c := range []struct {
		name  string
		parse func([]byte, []Disk) []Disk
		text  string
		want  []Disk
	}{
		{
			"two devices, one without its line break", parseIOStat,
			"253:10 253:5 rbytes=8192 wbytes=0 rios=2 wios=0 dbytes=0 dios=0\n",
			[]Disk{{Major: 253, Minor: 10}, {Major: 253, Minor: 5, ReadBytes: v(8192), WrittenBytes: v(0), Reads: v(2), Writes: v(0)}},
		},
		{"io.latency and io.cost words", parseIOStat, "8:0 rbytes=1 cost.usage=4 depth=max\n", []Disk{{Major: 8, ReadBytes: v(1)}}},
		{"no device", parseIOStat, "rbytes=1\n", nil},
		{"blkio", parseBlkioBytes, "8:16 Read 4096\n8:16 Write 0\n8:16 Total 4096\nTotal 4096\n", []Disk{{Major: 8, Minor: 16, ReadBytes: v(4096)}}},
		{"blkio without a limit", parseBlkioOps, "8:0 Read 0\n8:0 Write 0\nTotal 0\n", []Disk{{Major: 8}}},
	} {
		if got := c.parse([]byte(c.text), nil); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo([]byte(`26 22 0:22 / /sys/fs/cgroup rw - tmpfs cgroup rw
27 26 0:23 /a\040b /mnt/with\040space\134 rw shared:9 - cgroup cgroup rw,cpuacct,cpu
28 26 0:24 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
29 26 0:25 / /sys/fs/cgroup/memory rw - tmpfs none rw,memory
30 26 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
31 26 0:27 / /one rw - cgroup2 cgroup2 rw
32 26 0:27 /x /two rw - cgroup2 none rw
33 26 0:28 / /torn rw`))
	space := []mount{{"/a b", `/mnt/with space\`}}
	want := map[string][]mount{"cpu": space, "cpuacct": space, unified: {{"/", "/one"}, {"/x", "/two"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		root, path, want string
		ok               bool
	}{
		{"/", "/docker/x", "/docker/x", true},
		{"/docker", "/docker/x", "/x", true},
		{"/docker/x", "/docker/x", "", true},
		{"/docker", "/docker2/x", "", false},
		{"/", "/../x", "", false},
		{"/..", "/../x", "/x", true},
		{"/..", "/../../x", "", false},
		{"/../..", "/../../x", "/x", true},
		{"/docker", "/", "", false},
	} {
		if got, ok := under(c.root, c.path); got != c.want || ok != c.ok {
			t.Errorf("under(%q, %q): got %q, %v, want %q, %v", c.root, c.path, got, ok, c.want, c.ok)
		}
	}
}

func TestOuterGroup(t *testing.T) {
	for path, want := range map[string][2]string{
		"/":                                    {"/", ""},
		"/libvirt":                             {"/libvirt", ""},
		"/emulator":                            {"/emulator", ""},
		"/machine/qemu-1-a.libvirt-qemu":       {"/machine/qemu-1-a.libvirt-qemu", ""},
		"/machine/qemu-1-a.libvirt-qemu/vcpu0": {"/machine/qemu-1-a.libvirt-qemu", ""},
		"/machine/a.scope/libvirt/iothread12":  {"/machine/a.scope", "libvirt"},
		"/machine/a.scope/libvirt":             {"/machine/a.scope", "libvirt"},
		"/a/vcpus":                             {"/a/vcpus", ""},
		"/../../emulator":                      {"/../../emulator", ""},
	} {
		outer, nested := outerGroup(path)
		if got := [2]string{outer, nested}; got != want {
			t.Errorf("outerGroup(%q): got %q, want %q", path, got, want)
		}
	}
}

// seeds gives the fuzzer every recorded file, and damaged ones.
func seeds(f *testing.F) {
	f.Helper()
	err := filepath.WalkDir("testdata", func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(name, filepath.Join("testdata", "fuzz")) {
			return err
		}
		b, err := os.ReadFile(name)
		if err == nil {
			f.Add(b)
			f.Add(b[:len(b)/2])
		}
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"\x00", "\n\n", "usage_usec -1", "some total=", "8:0", "8:0 8:0 =", ":::", "0::", "- - cgroup2 - -", "max max", strings.Repeat("9", 4096)} {
		f.Add([]byte(s))
	}
}

// Whatever a file holds, every number is absent or finite and not negative.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte, *reading){
			parseCPUStat2, parseCPUStat1, parseCPUAcctUsage, parseCPUAcctStat, parseCPUMax, parseCFSQuota, parseCFSPeriod,
			parseMemoryUsage, parseMemoryMax, parseMemorySwap, parseMemoryStat2, parseMemoryStat1, parseOOMKills, parsePids,
			parsePressureCPU, parsePressureMemory, parsePressureIO,
		} {
			var r reading
			parse(b, &r)
			r.finish()
			p := r.Pressure
			for i, v := range []Value{
				r.CPUUsage, r.CPUUser, r.CPUSystem, r.CPUQuota, r.Periods, r.ThrottledPeriods, r.ThrottledSeconds,
				r.MemoryUsage, r.MemoryWorkingSet, r.MemoryCache, r.MemorySwap, r.MemoryLimit, r.OOMKills, r.Processes,
				p.CPUWaiting, p.CPUStalled, p.MemoryWaiting, p.MemoryStalled, p.IOWaiting, p.IOStalled,
			} {
				if math.IsNaN(v.V) || math.IsInf(v.V, 0) || v.V < 0 || !v.OK && v.V != 0 {
					t.Fatalf("value %d: %v", i, v)
				}
			}
		}
		if pid := parseProcs(b); pid < 0 {
			t.Fatalf("process %d", pid)
		}
	})
}

// Whatever a file holds, a device stands once, with numbers that are absent
// or finite and not negative.
func FuzzParseDisks(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte, []Disk) []Disk{parseIOStat, parseBlkioBytes, parseBlkioOps} {
			seen := map[[2]uint32]bool{}
			for _, d := range parse(b, nil) {
				if id := [2]uint32{d.Major, d.Minor}; seen[id] {
					t.Fatalf("device %v twice", id)
				} else {
					seen[id] = true
				}
				for _, v := range []Value{d.ReadBytes, d.WrittenBytes, d.Reads, d.Writes} {
					if math.IsNaN(v.V) || v.V < 0 || !v.OK && v.V != 0 {
						t.Fatalf("%+v", d)
					}
				}
			}
		}
	})
}

// Whatever mountinfo and /proc/PID/cgroup hold, no root is taken for a
// process's own group, and no container has an id that is not one.
func FuzzParsePaths(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for key, mounts := range parseMountinfo(b) {
			if len(mounts) == 0 || !slices.Contains(keys[:], key) {
				t.Fatalf("hierarchy %q: %q", key, mounts)
			}
		}
		own := ownPath(parseProcCgroup(b))
		if own == "/" || own != "" && own[0] != '/' || strings.HasPrefix(own, "/../") {
			t.Fatalf("own group %q", own)
		}
		if id := containerID(string(b)); id != "" && (len(id) != 64 || containerID(id) != id || !strings.Contains(string(b), id)) {
			t.Fatalf("container %q", id)
		}
	})
}
