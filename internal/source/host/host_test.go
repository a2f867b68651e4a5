package host

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/sample"
)

var update = flag.Bool("update", false, "rewrite golden files")

// node returns a source on a copy of the recorded tree, which the test may
// change.
func node(t *testing.T) *Source {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/node")); err != nil {
		t.Fatal(err)
	}
	return &Source{
		ProcRoot: filepath.Join(root, "proc"),
		SysRoot:  filepath.Join(root, "sys"),
		statfs:   func(string) (float64, float64, error) { return 270e9, 84e9, nil },
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// values takes one sample and returns it by the series' texts.
func values(t *testing.T, s *Source) map[string]float64 {
	t.Helper()
	var b sample.Batch
	before := time.Now().UnixMilli()
	if err := s.Sample(context.Background(), &b); err != nil {
		t.Fatalf("Sample: %v", err)
	}
	got := make(map[string]float64)
	for _, p := range b.Points {
		if p.T < before || p.T > time.Now().UnixMilli() {
			t.Errorf("%s is of %d, which is not within the call", p.Series.Text(), p.T)
		}
		if _, ok := got[p.Series.Text()]; ok {
			t.Errorf("%s stands twice", p.Series.Text())
		}
		got[p.Series.Text()] = p.V
	}
	return got
}

func TestGolden(t *testing.T) {
	s := node(t)
	var first, second sample.Batch
	if err := s.Sample(context.Background(), &first); err != nil {
		t.Fatal(err)
	}
	later, err := os.ReadFile("testdata/stat.later")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(s.ProcRoot, "stat"), string(later))
	if err := s.Sample(context.Background(), &second); err != nil {
		t.Fatal(err)
	}
	var page strings.Builder
	byFamily := make(map[*sample.Family][]string)
	for _, p := range second.Points {
		f := p.Series.Family()
		byFamily[f] = append(byFamily[f], fmt.Sprintf("%s %s\n", p.Series.Text(), strconv.FormatFloat(p.V, 'g', -1, 64)))
	}
	for _, f := range slices.SortedFunc(maps.Keys(byFamily), func(a, b *sample.Family) int { return strings.Compare(a.Name, b.Name) }) {
		slices.Sort(byFamily[f])
		fmt.Fprintf(&page, "# HELP %s %s\n# TYPE %s %s\n%s", f.Name, f.Help, f.Name, f.Type, strings.Join(byFamily[f], ""))
	}
	const golden = "testdata/page.golden"
	if *update {
		write(t, golden, page.String())
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if page.String() != string(want) {
		t.Errorf("the page differs from %s (-update rewrites it); got\n%s\nwant\n%s", golden, page.String(), want)
	}
	for _, p := range first.Points {
		if p.Series.Family() == LegacyCPU {
			t.Errorf("the first sample has %s, want it absent", p.Series.Text())
		}
	}
}

// kernelBusy reads /proc/stat by itself: seconds of work and of everything,
// over all cores.
func kernelBusy(t *testing.T) (work, all float64) {
	t.Helper()
	file, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := bytes.Cut(file, []byte("\n"))
	var n [10]float64
	for i, f := range strings.Fields(string(line))[1:] {
		if n[i], err = strconv.ParseFloat(f, 64); err != nil {
			t.Fatal(err)
		}
	}
	work = n[0] + n[1] + n[2] + n[5] + n[6] // guest is inside user
	return work / 100, (work + n[3] + n[4]) / 100
}

// TestBusyLoop keeps a core busy for two seconds and compares with the
// kernel's own file and with what the process was charged.
func TestBusyLoop(t *testing.T) {
	s := new(Source)
	var usage [2]syscall.Rusage
	charged := func(i int) time.Duration {
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage[i]); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage[i].Utime.Nano() + usage[i].Stime.Nano())
	}
	burnt := -charged(0)
	work0, all0 := kernelBusy(t)
	first := values(t, s)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
	}
	second := values(t, s)
	work1, all1 := kernelBusy(t)
	burnt += charged(1)

	got, ok := second["testbed_host_cpu"]
	want := 100 * (work1 - work0) / (all1 - all0)
	if !ok || math.Abs(got-want) > 2 {
		t.Errorf("testbed_host_cpu = %.2f (there: %v), want %.2f +- 2 as /proc/stat says", got, ok, want)
	}
	if floor := 100 * burnt.Seconds() / (all1 - all0); got < floor-3 {
		t.Errorf("testbed_host_cpu = %.2f, want at least %.2f, which this process alone used", got, floor)
	}
	mode := func(name string) float64 {
		key := `testbed_host_cpu_seconds_total{mode="` + name + `"}`
		return second[key] - first[key]
	}
	if d := mode("user") + mode("nice") + mode("system"); d < burnt.Seconds()-0.1 {
		t.Errorf("user, nice and system rose by %.2f s, want at least the %.2f s of this process", d, burnt.Seconds())
	}
}

func TestAgainstThisMachine(t *testing.T) {
	got := values(t, new(Source))
	within := func(name string, want, slack float64) {
		t.Helper()
		v, ok := got[name]
		if !ok || math.Abs(v-want) > slack {
			t.Errorf("%s = %v (there: %v), want %v +- %v", name, v, ok, want, slack)
		}
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	unit := float64(info.Unit)
	within("testbed_host_memory_total_bytes", float64(info.Totalram)*unit, 0)
	within("testbed_host_memory_free_bytes", float64(info.Freeram)*unit, 512<<20)
	within("testbed_host_memory_swap_total_bytes", float64(info.Totalswap)*unit, 0)
	within("testbed_host_memory", (got["testbed_host_memory_total_bytes"]-got["testbed_host_memory_available_bytes"])/1e9, 1e-9)
	within("testbed_host_boot_time_seconds", float64(time.Now().Unix()-info.Uptime), 5)
	online, err := exec.Command("getconf", "_NPROCESSORS_ONLN").Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(online)))
	if err != nil {
		t.Fatal(err)
	}
	within("testbed_host_cpus", float64(n), 0)

	df, err := exec.Command("df", "-B1", "--output=size,avail", "/").Output()
	if err != nil {
		t.Fatal(err)
	}
	var size, avail float64
	if _, err := fmt.Sscan(strings.SplitN(string(df), "\n", 2)[1], &size, &avail); err != nil {
		t.Fatal(err)
	}
	if v, ok := got[`testbed_host_filesystem_size_bytes{mountpoint="/"}`]; ok { // not on an overlay
		if v != size {
			t.Errorf("size of / = %v, want %v as df says", v, size)
		}
		within(`testbed_host_filesystem_avail_bytes{mountpoint="/"}`, avail, 1<<30)
	}
	for name := range got {
		if strings.Contains(name, `device="lo"`) || strings.Contains(name, `device="loop`) {
			t.Errorf("%s is shown, want it left out", name)
		}
	}
}

func TestAbsent(t *testing.T) {
	s := node(t)
	for _, gone := range []string{"pressure", "diskstats"} {
		if err := os.RemoveAll(filepath.Join(s.ProcRoot, gone)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(s.ProcRoot, "meminfo"), "MemTotal: 1000 kB\nMemFree: 10 kB\n")
	got := values(t, s)
	for name := range got {
		for _, gone := range []string{"pressure", "disk", "swap", "available", "testbed_host_memory{"} {
			if strings.Contains(name, gone) || name == "testbed_host_memory" {
				t.Errorf("%s = %v, want it absent", name, got[name])
			}
		}
	}
	if v := got["testbed_host_memory_total_bytes"]; v != 1024000 {
		t.Errorf("testbed_host_memory_total_bytes = %v, want 1024000", v)
	}
}

// TestBroken: one bad file takes nothing else with it.
func TestBroken(t *testing.T) {
	s := node(t)
	write(t, filepath.Join(s.ProcRoot, "meminfo"), "nonsense\n")
	write(t, filepath.Join(s.ProcRoot, "stat"), "btime 5\n")
	var b sample.Batch
	err := s.Sample(context.Background(), &b)
	if err == nil || !strings.Contains(err.Error(), "meminfo") || !strings.Contains(err.Error(), "stat") {
		t.Errorf("Sample: %v, want an error that names meminfo and stat", err)
	}
	var load, cpu bool
	for _, p := range b.Points {
		load = load || p.Series.Family() == Load1
		cpu = cpu || p.Series.Family() == CPUSeconds
	}
	if !load || cpu {
		t.Errorf("load there: %v, cpu there: %v; want true, false", load, cpu)
	}
	if err := (&Source{ProcRoot: "/nowhere"}).Sample(context.Background(), &b); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("Sample without procfs: %v, want an error that names the path", err)
	}
}

func TestDevices(t *testing.T) {
	s := node(t)
	const line = " 8 %d %s 1 0 2 3 4 0 5 6 0 7 8\n"
	write(t, filepath.Join(s.ProcRoot, "diskstats"), fmt.Sprintf(line+line+line+line, 0, "sda", 1, "sda1", 2, "cciss/c0d0", 3, "loop0"))
	write(t, filepath.Join(s.SysRoot, "block/sda"), "")
	write(t, filepath.Join(s.SysRoot, "block/cciss!c0d0"), "")
	netdev := filepath.Join(s.ProcRoot, "1/net/dev")
	const head = "Inter-|   Receive\n face |bytes\n"
	const rest = ": 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
	write(t, netdev, head+"lo"+rest+"eth0"+rest+"veth12"+rest+"vnet0"+rest+"tap3"+rest+"br0"+rest)
	devices := func() string {
		found := make(map[string]bool)
		var b sample.Batch
		if err := s.Sample(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
		for _, p := range b.Points {
			if d := p.Series.Label("device"); d != "" {
				found[d] = true
			}
			if p.Series.Family() == DiskFlushSeconds {
				t.Errorf("%s from a line without flushes, want it absent", p.Series.Text())
			}
		}
		return strings.Join(slices.Sorted(maps.Keys(found)), " ")
	}
	if got, want := devices(), "br0 cciss/c0d0 eth0 sda"; got != want {
		t.Errorf("devices: %s, want %s", got, want)
	}
	got := values(t, s)
	for name, want := range map[string]float64{
		`testbed_host_disk_read_bytes_total{device="sda"}`:           1024,
		`testbed_host_disk_write_seconds_total{device="sda"}`:        0.006,
		`testbed_host_disk_busy_seconds_total{device="sda"}`:         0.007,
		`testbed_host_network_receive_drops_total{device="eth0"}`:    4,
		`testbed_host_network_transmit_packets_total{device="eth0"}`: 6,
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	write(t, netdev, head+"eth1"+rest)
	if got, want := devices(), "cciss/c0d0 eth1 sda"; got != want || len(s.devices) != 1 {
		t.Errorf("after a change: %s (%d kept), want %s (1 kept)", got, len(s.devices), want)
	}
}

// TestHungFilesystem: a file system that does not answer costs one sample 50
// ms, the next ones nothing, and is back when it answers again.
func TestHungFilesystem(t *testing.T) {
	s := node(t)
	mountinfo := filepath.Join(s.ProcRoot, "1/mountinfo")
	file, err := os.ReadFile(mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	write(t, mountinfo, string(file)+"50 27 8:1 / /data rw - xfs /dev/sda1 rw\n51 27 8:2 / /odd rw - xfs /dev/sda2 rw\n")
	release := make(chan struct{})
	calls := make(chan string, 100)
	s.statfs = func(path string) (float64, float64, error) {
		calls <- path
		switch filepath.Base(path) {
		case "data":
			<-release
		case "odd":
			return 0, 0, syscall.EIO
		}
		return 2, 1, nil
	}
	sampleOnce := func() (points map[string]bool, took time.Duration, err error) {
		var b sample.Batch
		start := time.Now()
		err = s.Sample(context.Background(), &b)
		points = make(map[string]bool)
		for _, p := range b.Points {
			points[p.Series.Text()] = true
		}
		return points, time.Since(start), err
	}
	const data = `testbed_host_filesystem_size_bytes{mountpoint="/data"}`
	for i := range 3 {
		points, took, err := sampleOnce()
		if err == nil || !strings.Contains(err.Error(), "/data: does not answer") || !errors.Is(err, syscall.EIO) {
			t.Errorf("sample %d: error %v, want one that names /data, and EIO", i, err)
		}
		if points[data] || !points[`testbed_host_filesystem_size_bytes{mountpoint="/"}`] || !points["testbed_host_load1"] {
			t.Errorf("sample %d: /data there: %v; want it absent and the rest present", i, points[data])
		}
		if took > time.Second {
			t.Errorf("sample %d took %s, want it not to wait", i, took)
		}
	}
	var asked int
	for len(calls) > 0 {
		if filepath.Base(<-calls) == "data" {
			asked++
		}
	}
	if asked != 1 {
		t.Errorf("the hung file system was asked %d times, want 1", asked)
	}
	if got := s.skipped[skipHung].Load(); got != 3 {
		t.Errorf("skipped as hung: %d, want 3", got)
	}
	close(release)
	deadline := time.Now().Add(5 * time.Second)
	for {
		points, _, _ := sampleOnce()
		if points[data] {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the file system is not back after it answered again")
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	const file = `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 8:1 / /srv/with\040space rw shared:1 - xfs /dev/sda1 rw
29 27 8:1 /sub /srv/a rw - xfs /dev/sda1 rw
30 27 0:50 / /net rw - nfs4 server:/x rw
31 27 0:51 / /run rw - tmpfs tmpfs rw
32 27 0:52 / /merged rw - overlay overlay rw
33 27 0:53 / /pool rw - zfs pool rw
34 27 8:2 / /hidden rw - ext4 /dev/sda2 rw
35 27 0:54 / /hidden rw - fuse.sshfs host: rw
garbage
36 - ext4
`
	var got []string
	for _, m := range parseMountinfo([]byte(file)) {
		got = append(got, m.device+" "+m.kind+" "+m.point)
	}
	want := []string{"254:0 ext4 /", "8:1 xfs /srv/a", "0:53 zfs /pool"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := unescape(`/a\040b\134c\9`); got != `/a b\c\9` {
		t.Errorf("unescape: got %q", got)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add([]byte("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"))
	f.Add([]byte(`28 27 8:1 / /with\040space\1 rw shared:1 - xfs /dev/sda1 rw`))
	f.Fuzz(func(t *testing.T, file []byte) {
		devices := make(map[string]bool)
		for _, m := range parseMountinfo(file) {
			if devices[m.device] || !local[m.kind] {
				t.Errorf("%+v: twice, or not local", m)
			}
			devices[m.device] = true
		}
	})
}

func BenchmarkSample(b *testing.B) {
	s := new(Source)
	var batch sample.Batch
	b.ReportAllocs()
	for b.Loop() {
		batch.Points = batch.Points[:0]
		if err := s.Sample(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
	}
}
