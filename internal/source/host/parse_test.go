package host

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/procfs"
	"github.com/prometheus/procfs/blockdevice"

	"fanin/internal/sample"
)

// TestAsProcfsReads holds our readings of a recorded host against those of the
// procfs library.
func TestAsProcfsReads(t *testing.T) {
	s := node(t)
	if s.ProcRoot == "" {
		t.Fatal("no recorded host")
	}
	got := values(t, s)
	fs, err := procfs.NewFS(s.ProcRoot)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{}
	stat, err := fs.Stat()
	if err != nil {
		t.Fatal(err)
	}
	want[`testbed_host_cpu_seconds_total{mode="system"}`] = stat.CPUTotal.System
	want[`testbed_host_cpu_seconds_total{mode="user"}`] = stat.CPUTotal.User - stat.CPUTotal.Guest
	want[`testbed_host_cpu_seconds_total{mode="softirq"}`] = stat.CPUTotal.SoftIRQ
	want["testbed_host_cpus"] = float64(len(stat.CPU))
	want["testbed_host_boot_time_seconds"] = float64(stat.BootTime)
	memory, err := fs.Meminfo()
	if err != nil {
		t.Fatal(err)
	}
	want["testbed_host_memory_total_bytes"] = float64(*memory.MemTotalBytes)
	want["testbed_host_memory_available_bytes"] = float64(*memory.MemAvailableBytes)
	want["testbed_host_memory_cached_bytes"] = float64(*memory.CachedBytes)
	load, err := fs.LoadAvg()
	if err != nil {
		t.Fatal(err)
	}
	want["testbed_host_load1"], want["testbed_host_load5"], want["testbed_host_load15"] = load.Load1, load.Load5, load.Load15
	for _, r := range []string{"cpu", "memory", "io"} {
		p, err := fs.PSIStatsForResource(r)
		if err != nil {
			t.Fatal(err)
		}
		want["testbed_host_pressure_"+r+"_waiting_seconds_total"] = float64(p.Some.Total) / 1e6
		if r != "cpu" {
			want["testbed_host_pressure_"+r+"_stalled_seconds_total"] = float64(p.Full.Total) / 1e6
		}
	}
	first, err := fs.Proc(1)
	if err != nil {
		t.Fatal(err)
	}
	devices, err := first.NetDev()
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for name, d := range devices {
		label := `{device="` + name + `"}`
		if _, ok := got["testbed_host_network_receive_bytes_total"+label]; !ok {
			continue // left out by its name
		}
		shown++
		want["testbed_host_network_receive_bytes_total"+label], want["testbed_host_network_transmit_bytes_total"+label] = float64(d.RxBytes), float64(d.TxBytes)
		want["testbed_host_network_receive_drops_total"+label], want["testbed_host_network_transmit_errors_total"+label] = float64(d.RxDropped), float64(d.TxErrors)
	}
	blocks, err := blockdevice.NewFS(s.ProcRoot, s.SysRoot)
	if err != nil {
		t.Fatal(err)
	}
	disks, err := blocks.ProcDiskstats()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		label := `{device="` + d.DeviceName + `"}`
		if _, ok := got["testbed_host_disk_read_bytes_total"+label]; !ok {
			continue
		}
		shown++
		want["testbed_host_disk_read_bytes_total"+label], want["testbed_host_disk_writes_total"+label] = float64(d.ReadSectors)*512, float64(d.WriteIOs)
		want["testbed_host_disk_busy_seconds_total"+label], want["testbed_host_disk_flush_seconds_total"+label] = float64(d.IOsTotalTicks)/1e3, float64(d.TimeSpentFlushing)/1e3
	}
	if shown < 2 {
		t.Errorf("%d devices were compared", shown)
	}
	for name, v := range want {
		if g, ok := got[name]; !ok || math.Abs(g-v) > 1e-9*math.Abs(v) {
			t.Errorf("%s: got %v (%v), procfs reads %v", name, g, ok, v)
		}
	}
}

// TestFilesAreKept: a steady reading opens and allocates nothing; a file that
// is replaced is found.
func TestFilesAreKept(t *testing.T) {
	s := &Source{}
	var b sample.Batch
	read := func() {
		b.Points = b.Points[:0]
		for _, err := range []error{s.readStat(&b), s.readLoadavg(&b), s.readMeminfo(&b), s.readPressure(&b), s.readNetDev(&b), s.readDiskstats(&b)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Sample(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	read()
	if got := testing.AllocsPerRun(50, read); got > 0 {
		t.Errorf("a steady reading makes %v allocations, want none", got)
	}

	name := filepath.Join(t.TempDir(), "loadavg")
	f := file{path: name}
	defer f.close()
	for _, text := range []string{"1", "22", "3"} {
		if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
		if got, err := f.read(); err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
	long := bytes.Repeat([]byte("x"), 5*firstRead+7)
	if err := os.WriteFile(name, long, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := f.read(); err != nil || !bytes.Equal(got, long) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(long))
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if got, err := f.read(); err == nil {
		t.Errorf("a file that is gone reads %q", got)
	}
}

func FuzzParsers(f *testing.F) {
	for _, name := range []string{"stat", "meminfo", "loadavg", "pressure/memory"} {
		b, err := os.ReadFile(filepath.Join("testdata/node/proc", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("cpu  1 2 3 99999999999999999999999\nMemTotal: kB\nsome total=\n1.2.3 . 9999999999"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseStat(b); ok && s.hasAll {
			for i, v := range disjoint(s.all) {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("mode %d is %v", i, v)
				}
			}
		}
		if load, ok := parseLoadavg(b); ok {
			for _, v := range load {
				if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
					t.Errorf("load %v", v)
				}
			}
		}
		parseMeminfo(b)
		parsePressure(b)
	})
}
