//go:build cgo

package libvirt

import (
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// kernelCPU is the test's own reading of a domain: what the kernel has counted
// for its control group, and how long its virtual processor was runnable and
// had to wait for a core.
func kernelCPU(t *testing.T, g *rig.Guest) (used, waited float64) {
	t.Helper()
	files, _ := filepath.Glob("/sys/fs/cgroup/unified/machine/qemu-*-" + g.Name + ".libvirt-qemu/cpu.stat")
	if len(files) == 0 {
		files, _ = filepath.Glob("/sys/fs/cgroup/machine*/*" + g.Name + "*/cpu.stat")
	}
	if len(files) == 1 {
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "usage_usec "); ok {
				n, err := strconv.ParseFloat(v, 64)
				if err != nil {
					t.Fatal(err)
				}
				used = n / 1e6
			}
		}
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", g.PID()))
	ran := 0.0
	for _, f := range tasks {
		var run, wait, slices float64
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(b), &run, &wait, &slices); err != nil {
			t.Fatal(err)
		}
		ran += run / 1e9
		if name, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "comm")); strings.HasPrefix(string(name), "CPU ") {
			waited += wait / 1e9
		}
	}
	if used == 0 {
		used = ran
	}
	return used, waited
}

func near(got, want, part float64) bool { return math.Abs(got-want) <= part*math.Abs(want) }

// One daemon, three domains: one in a busy loop, one asleep with a balloon
// driver, and one without a driver that has a disk and a network card.
func TestDomains(t *testing.T) {
	t.Parallel()
	l := rig.Libvirtd(t)
	bridge, host, inside := rig.Bridge(t)
	disk := filepath.Join(l.Dir, "disk.raw")
	if err := os.WriteFile(disk, make([]byte, 8<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	busy := l.Define(rig.Domain{Init: "echo booted; while :; do :; done"})
	idle := l.Define(rig.Domain{Init: "echo booted; sleep 100000"})
	modules := rig.VirtioModules()
	bare := l.Define(rig.Domain{
		Init: "cat /dev/vda | wc -c; dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync 2>/dev/null\n" +
			"ip addr add " + inside + "/24 dev eth0; ip link set eth0 up; echo booted\n" +
			"while :; do nc -l -p 7000 >/dev/null; nc -w 10 " + host + " 7001 </bin/busybox; grep eth0: /proc/net/dev; done",
		Modules: modules[:len(modules)-1], // without virtio_balloon
		Devices: "<disk type='file'><driver name='qemu' type='raw'/><source file='" + disk + "'/><target dev='vda' bus='virtio'/></disk>" +
			"<interface type='bridge'><source bridge='" + bridge + "'/><model type='virtio'/></interface>",
	})
	for _, g := range []*rig.Guest{busy, idle, bare} {
		g.Start()
	}
	for _, g := range []*rig.Guest{busy, idle, bare} {
		g.WaitFor("booted", 90*time.Second)
	}

	t.Run("once", func(t *testing.T) { testOnce(t, l, busy, idle, bare) })

	log := &logBook{}
	s := &Source{URI: l.URI, Log: log.logger(), SlowInterval: 2 * time.Second}
	run(t, s)
	tape := record(t, s, time.Second)
	rig.Eventually(t, 10*time.Second, func() error {
		if n := len(of(tape.since(time.Time{}), "testbed_guest_vcpu_seconds_total")); n < 3 {
			return fmt.Errorf("%d points of virtual processors, want 3 or more: %w", n, tape.last().err)
		}
		return nil
	})

	t.Run("network", func(t *testing.T) { testNetwork(t, tape, l, bare, host, inside) })
	// The last one, when nothing else is under way.
	t.Run("cpu", func(t *testing.T) { testCPU(t, tape, busy, idle) })
	t.Run("pressure", func(t *testing.T) { testPressure(t, tape, busy) })
	t.Run("memory", func(t *testing.T) { testMemory(t, tape, l, idle, bare) })
	t.Run("disk", func(t *testing.T) { testDisk(t, tape, bare) })
	t.Run("unprivileged", func(t *testing.T) { testWithoutProc(t, l, busy, bare) })

	tape.stop()
	all := tape.since(time.Time{})
	if err := rising(all); err != nil {
		t.Error(err)
	}
	for i := range all {
		if all[i].err != nil || all[i].took > time.Second/2 {
			t.Errorf("tick %d took %s: %v", i, all[i].took, all[i].err)
		}
	}
	if t.Failed() {
		t.Logf("log:\n%s\nlast tick:\n%s", log, page(tape.last().points))
	}
}

// Without Run, one call gives everything but what needs two readings.
func testOnce(t *testing.T, l *rig.Libvirt, busy, idle, bare *rig.Guest) {
	s := &Source{URI: l.URI}
	defer s.Close()
	var b sample.Batch
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Sample(ctx, &b); err != nil {
		t.Fatal(err)
	}
	ticks := []tick{{points: b.Points}}
	// Where the kernel does not count it, libvirt says 0, and it is absent.
	scheduler := 0
	if b, err := os.ReadFile("/proc/sys/kernel/sched_schedstats"); err == nil && strings.TrimSpace(string(b)) == "1" {
		scheduler = 1
	}
	want := map[string]int{
		"testbed_guest_up": 3, "testbed_guest_info": 3, "testbed_guest_start_time_seconds": 3,
		"testbed_guest_cpu_usage_seconds_total": 3, "testbed_guest_cpu_seconds_total": 6, "testbed_guest_cpu_limit_cores": 3,
		"testbed_guest_vcpu_seconds_total": 3, "testbed_guest_vcpu_wait_seconds_total": 3 * scheduler, "testbed_guest_vcpu_delay_seconds_total": 3,
		"testbed_guest_memory_usage_bytes": 3, "testbed_guest_memory_limit_bytes": 3, "testbed_guest_memory_working_set_bytes": 2,
		"testbed_guest_memory_unused_bytes": 2, "testbed_guest_memory_available_bytes": 2, "testbed_guest_memory_usable_bytes": 2,
		"testbed_guest_memory_stats_age_seconds": 2, "testbed_guest_memory": 2,
		"testbed_guest_network_receive_bytes_total": 1, "testbed_guest_network_transmit_drops_total": 1,
		"testbed_guest_disk_read_bytes_total": 1, "testbed_guest_disk_flush_seconds_total": 1,
		"testbed_guest_pressure_cpu_waiting_seconds_total": 3, "testbed_host_guests": 5,
		"testbed_guest_cpu": 0, "testbed_guest_cpu_throttled_seconds_total": 0, "testbed_guest_processes": 0,
	}
	for name, n := range want {
		if got := len(of(ticks, name)); got != n {
			t.Errorf("%d points of %s, want %d", got, name, n)
		}
	}
	for _, g := range []*rig.Guest{busy, idle, bare} {
		if p := of(ticks, "testbed_guest_info", "guest="+g.Name, "backend_id="+g.UUID); len(p) != 1 {
			t.Errorf("no info of %s with its UUID", g.Name)
		}
		p := of(ticks, "testbed_guest_start_time_seconds", "guest="+g.Name)
		out, err := exec.Command("ps", "-o", "etimes=", "-p", strconv.Itoa(g.PID())).Output()
		if err != nil {
			t.Fatal(err)
		}
		age, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := float64(time.Now().Unix()) - p[0].V; math.Abs(got-age) > 3 {
			t.Errorf("%s was started %.1f s ago, ps says %.0f", g.Name, got, age)
		}
	}
	guests, err := s.Guests(ctx)
	if err != nil || len(guests) != 3 || !guests[0].Running || guests[0].CPUs != 1 || guests[0].MemoryMB != 160 {
		t.Errorf("Guests returned %+v, %v, want three running ones of one processor and 160 MiB", guests, err)
	}
	if t.Failed() {
		t.Log(page(b.Points))
	}
}

// trace is a row of kernelCPU readings, for the kernel's count at any moment
// between them.
type trace []struct {
	at           time.Time
	used, waited float64
}

func follow(t *testing.T, d time.Duration, guests ...*rig.Guest) []trace {
	t.Helper()
	rows := make([]trace, len(guests))
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for i, g := range guests {
			used, waited := kernelCPU(t, g)
			rows[i] = append(rows[i], struct {
				at           time.Time
				used, waited float64
			}{time.Now(), used, waited})
		}
	}
	return rows
}

// between is what was used and waited from one moment to another, each between
// two readings.
func (r trace) between(from, to int64) (used, waited float64) {
	at := func(ms int64) (float64, float64) {
		moment := time.UnixMilli(ms)
		for i := 1; i < len(r); i++ {
			if r[i].at.After(moment) {
				a, b := r[i-1], r[i]
				part := moment.Sub(a.at).Seconds() / b.at.Sub(a.at).Seconds()
				return a.used + part*(b.used-a.used), a.waited + part*(b.waited-a.waited)
			}
		}
		return r[len(r)-1].used, r[len(r)-1].waited
	}
	used0, waited0 := at(from)
	used1, waited1 := at(to)
	return used1 - used0, waited1 - waited0
}

// The busy guest wants one whole core. On a machine that has it to give, it
// reads 95 to 105 percent; where others compete for it, what it used and what
// it waited for together do. Either way the reading is the kernel's own.
func testCPU(t *testing.T, tape *tape, busy, idle *rig.Guest) {
	began := time.Now()
	rows := follow(t, 31500*time.Millisecond, busy, idle)
	ticks := tape.since(began.Add(100 * time.Millisecond))
	ticks = ticks[:len(ticks)-1] // the last one may be newer than the last reading

	usage := of(ticks, "testbed_guest_cpu_usage_seconds_total", "guest="+busy.Name)
	by, in := grown(usage)
	if in < 28*time.Second {
		t.Fatalf("%d readings over %s, want 30 s", len(usage), in)
	}
	used, waited := rows[0].between(usage[0].T, usage[len(usage)-1].T)
	rate, kernel := by/in.Seconds(), used/in.Seconds()
	if !near(rate, kernel, 0.02) {
		t.Errorf("busy: %.4f cores over %s, the kernel says %.4f", rate, in, kernel)
	}
	// The first percentage is of the time before the first usage.
	percents := of(ticks, "testbed_guest_cpu", "guest="+busy.Name)
	mean := meanOf(percents[1:])
	if len(percents) != len(usage) || !near(mean, 100*kernel, 0.02) {
		t.Errorf("busy: %.2f percent in the mean of %d, the kernel says %.2f", mean, len(percents), 100*kernel)
	}
	waiting := 100 * waited / in.Seconds()
	if mean > 105 || mean+waiting < 95 {
		t.Errorf("busy: %.2f percent (and %.2f waiting for a core), want 95 to 105", mean, waiting)
	}
	t.Logf("busy: %.2f percent in the mean, %.2f by the kernel, %.2f waiting for a core", mean, 100*kernel, waiting)

	percents = of(ticks, "testbed_guest_cpu", "guest="+idle.Name)
	mean = meanOf(percents[1:])
	used, _ = rows[1].between(percents[0].T, percents[len(percents)-1].T)
	if k := 100 * used / in.Seconds(); len(percents) < 28 || mean >= 3 || math.Abs(mean-k) > 0.1 {
		t.Errorf("idle: %.2f percent in the mean of %d, want under 3 and the kernel's %.2f", mean, len(percents), k)
	}
	for _, mode := range []string{"user", "system"} {
		if by, _ := grown(of(ticks, "testbed_guest_cpu_seconds_total", "guest="+busy.Name, "mode="+mode)); by < 0 || by > rate*in.Seconds() {
			t.Errorf("busy: %s time grew by %.2f of %.2f s", mode, by, rate*in.Seconds())
		}
	}
	// What the processor's own thread used is nearly all of it.
	vcpu, in := grown(of(ticks, "testbed_guest_vcpu_seconds_total", "guest="+busy.Name, "vcpu=0"))
	if got := vcpu / in.Seconds(); !near(got, rate, 0.08) {
		t.Errorf("busy: vcpu 0 used %.3f cores, the whole guest %.3f", got, rate)
	}
}

// testPressure reads the busy guest's group by itself, before and after a tick.
func testPressure(t *testing.T, tape *tape, busy *rig.Guest) {
	files, _ := filepath.Glob("/sys/fs/cgroup/unified/machine/qemu-*-" + busy.Name + ".libvirt-qemu/cpu.pressure")
	if len(files) == 0 {
		files, _ = filepath.Glob("/sys/fs/cgroup/machine*/*" + busy.Name + "*/cpu.pressure")
	}
	if len(files) != 1 {
		t.Skipf("the group of %s has no pressure: a kernel without it, or version 1 alone", busy.Name)
	}
	dir := filepath.Dir(files[0])
	kernel := func(resource, kind string) float64 {
		b, err := os.ReadFile(filepath.Join(dir, resource+".pressure"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if words := strings.Fields(line); len(words) > 0 && words[0] == kind {
				n, err := strconv.ParseFloat(strings.TrimPrefix(words[len(words)-1], "total="), 64)
				if err != nil {
					t.Fatal(err)
				}
				return n / 1e6
			}
		}
		return math.NaN()
	}
	for _, c := range []struct{ resource, kind, word string }{
		{"cpu", "some", "waiting"},
		{"cpu", "full", "stalled"},
		{"memory", "some", "waiting"},
		{"memory", "full", "stalled"},
		{"io", "some", "waiting"},
		{"io", "full", "stalled"},
	} {
		began := time.Now()
		before := kernel(c.resource, c.kind)
		var p []sample.Point
		rig.Eventually(t, 5*time.Second, func() error {
			if p = of(tape.since(began), "testbed_guest_pressure_"+c.resource+"_"+c.word+"_seconds_total", "guest="+busy.Name); len(p) == 0 {
				return fmt.Errorf("no %s %s: %s", c.resource, c.word, page(tape.last().points))
			}
			return nil
		})
		if after := kernel(c.resource, c.kind); p[0].V < before || p[0].V > after {
			t.Errorf("%s %s: %v, the kernel says %v before and %v after", c.resource, c.word, p[0].V, before, after)
		}
	}
}

func meanOf(points []sample.Point) float64 {
	sum := 0.0
	for _, p := range points {
		sum += p.V
	}
	return sum / float64(max(1, len(points)))
}

func testMemory(t *testing.T, tape *tape, l *rig.Libvirt, with, without *rig.Guest) {
	ticks := tape.since(time.Now().Add(-20 * time.Second))
	newest := func(name string, g *rig.Guest) float64 {
		p := of(ticks, name, "guest="+g.Name)
		if len(p) == 0 {
			t.Errorf("no %s of %s", name, g.Name)
			return math.NaN()
		}
		return p[len(p)-1].V
	}
	for _, g := range []*rig.Guest{with, without} {
		stats := domstats(t, l, g, "--balloon")
		if got, want := newest("testbed_guest_memory_usage_bytes", g), 1024*stats["balloon.rss"]; !near(got, want, 0.01) {
			t.Errorf("%s uses %.0f bytes, libvirt says %.0f", g.Name, got, want)
		}
		if got, want := newest("testbed_guest_memory_limit_bytes", g), 1024*stats["balloon.current"]; got != want {
			t.Errorf("%s may use %.0f bytes, libvirt says %.0f", g.Name, got, want)
		}
	}
	stats := domstats(t, l, with, "--balloon")
	for name, key := range map[string]string{
		"testbed_guest_memory_unused_bytes": "balloon.unused", "testbed_guest_memory_available_bytes": "balloon.available",
		"testbed_guest_memory_usable_bytes": "balloon.usable", "testbed_guest_memory_cache_bytes": "balloon.disk_caches",
	} {
		if got, want := newest(name, with), 1024*stats[key]; !near(got, want, 0.02) {
			t.Errorf("%s: %s is %.0f, libvirt says %.0f", with.Name, name, got, want)
		}
	}
	inUse := 1024 * (stats["balloon.available"] - stats["balloon.usable"])
	if got := newest("testbed_guest_memory_working_set_bytes", with); !near(got, inUse, 0.05) {
		t.Errorf("working set %.0f, want %.0f", got, inUse)
	}
	if got, want := newest("testbed_guest_memory", with), 100*inUse/(160<<20); !near(got, want, 0.05) {
		t.Errorf("memory %.2f percent, want %.2f", got, want)
	}
	if age := newest("testbed_guest_memory_stats_age_seconds", with); age < 0 || age > 3 {
		t.Errorf("balloon statistics are %.1f s old, want under 3", age)
	}
	for _, name := range []string{"", "_working_set_bytes", "_unused_bytes", "_available_bytes", "_usable_bytes", "_cache_bytes", "_stats_age_seconds"} {
		if p := of(ticks, "testbed_guest_memory"+name, "guest="+without.Name); len(p) > 0 {
			t.Errorf("%s has no balloon driver and testbed_guest_memory%s is %v", without.Name, name, p[0].V)
		}
	}
	for _, name := range []string{
		"testbed_guest_cpu", "testbed_guest_cpu_usage_seconds_total", "testbed_guest_memory_usage_bytes",
		"testbed_guest_network_receive_bytes_total", "testbed_guest_disk_read_bytes_total",
	} {
		newest(name, without)
	}
}

// domstats is virsh's own view of a domain.
func domstats(t *testing.T, l *rig.Libvirt, g *rig.Guest, group string) map[string]float64 {
	t.Helper()
	stats := map[string]float64{}
	for line := range strings.Lines(l.Virsh("domstats", group, g.Name)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			stats[key], _ = strconv.ParseFloat(value, 64)
		}
	}
	return stats
}

func testDisk(t *testing.T, tape *tape, g *rig.Guest) {
	ticks := tape.since(time.Now().Add(-10 * time.Second))
	newest := func(name string) float64 {
		p := of(ticks, name, "guest="+g.Name, "device=vda")
		if len(p) == 0 {
			return math.NaN()
		}
		return p[len(p)-1].V
	}
	if got := newest("testbed_guest_disk_read_bytes_total"); !(got >= 8<<20 && got < 12<<20) {
		t.Errorf("%.0f bytes read, want the 8 MiB that the guest has read", got)
	}
	if got := newest("testbed_guest_disk_written_bytes_total"); got != 1<<20 {
		t.Errorf("%.0f bytes written, want the 1 MiB that the guest has written", got)
	}
	for _, name := range []string{"reads_total", "writes_total", "read_seconds_total", "write_seconds_total"} {
		if got := newest("testbed_guest_disk_" + name); !(got > 0) {
			t.Errorf("%s is %v, want more than 0", name, got)
		}
	}
}

// The host sends 4 MiB into the guest, and the guest then its 1 to 2 MiB
// busybox to the host: each is seen in the guest's own direction, as the
// guest's own counters have it.
func testNetwork(t *testing.T, tape *tape, l *rig.Libvirt, g *rig.Guest, host, inside string) {
	const into = 4 << 20
	server, err := net.Listen("tcp", host+":7001")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	counters := func() (in, out float64) {
		ticks := tape.since(time.Now().Add(-1500 * time.Millisecond))
		r := of(ticks, "testbed_guest_network_receive_bytes_total", "guest="+g.Name)
		x := of(ticks, "testbed_guest_network_transmit_bytes_total", "guest="+g.Name)
		if len(r) == 0 || len(x) == 0 {
			t.Fatalf("no network of %s: %s", g.Name, page(tape.last().points))
		}
		if d := r[0].Series.Label("device"); !strings.HasPrefix(d, "vnet") {
			t.Errorf("device %q, want vnetN", d)
		}
		return r[len(r)-1].V, x[len(x)-1].V
	}
	time.Sleep(1200 * time.Millisecond)
	in0, out0 := counters()
	var c net.Conn
	rig.Eventually(t, 20*time.Second, func() error {
		var err error
		c, err = net.DialTimeout("tcp", inside+":7000", time.Second)
		return err
	})
	_, err = c.Write(make([]byte, into))
	_ = c.Close()
	if err != nil {
		t.Fatal(err)
	}
	back, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = back.SetReadDeadline(time.Now().Add(20 * time.Second))
	received := 0
	for buf := make([]byte, 64<<10); ; {
		n, err := back.Read(buf)
		received += n
		if err != nil {
			break
		}
	}
	_ = back.Close()
	g.WaitFor("eth0:", 20*time.Second)
	time.Sleep(2200 * time.Millisecond)
	in1, out1 := counters()
	in, out := in1-in0, out1-out0
	if in < into || in > 1.25*into {
		t.Errorf("receive rose by %.0f, the host has sent %d into the guest", in, into)
	}
	if out < float64(received) || out > 1.3*float64(received) || received < 500_000 {
		t.Errorf("transmit rose by %.0f, the guest has sent %d to the host", out, received)
	}
	console, err := os.ReadFile(g.Console)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(console), "eth0:")
	words := strings.Fields(line)
	if len(words) < 9 {
		t.Fatalf("console has %q", line)
	}
	own := func(i int) float64 { v, _ := strconv.ParseFloat(words[i], 64); return v }
	if !near(in1, own(0), 0.02) || !near(out1, own(8), 0.02) {
		t.Errorf("received %.0f and sent %.0f, the guest itself counts %.0f and %.0f", in1, out1, own(0), own(8))
	}
	stats := domstats(t, l, g, "--interface")
	if !near(in1, stats["net.0.rx.bytes"], 0.02) || !near(out1, stats["net.0.tx.bytes"], 0.02) {
		t.Errorf("received %.0f and sent %.0f, libvirt says %v", in1, out1, stats)
	}
}

// Where the processes can not be seen, libvirt is asked for CPU and network,
// too.
func testWithoutProc(t *testing.T, l *rig.Libvirt, busy, bare *rig.Guest) {
	s := &Source{URI: l.URI, ProcRoot: t.TempDir(), SlowInterval: time.Second}
	run(t, s)
	tape := record(t, s, 500*time.Millisecond)
	var ticks []tick
	rig.Eventually(t, 15*time.Second, func() error {
		ticks = tape.since(time.Time{})
		if n := len(of(ticks, "testbed_guest_cpu", "guest="+busy.Name)); n < 3 {
			return fmt.Errorf("%d points of CPU, want 3", n)
		}
		return tape.last().err
	})
	usage := of(ticks, "testbed_guest_cpu_usage_seconds_total", "guest="+busy.Name)
	used, _ := kernelCPU(t, busy)
	if got := usage[len(usage)-1].V; got > used || got < used-4 {
		t.Errorf("busy has used %.2f s, the kernel says %.2f a moment later", got, used)
	}
	if by, in := grown(usage); by <= 0 || by > 1.06*in.Seconds() {
		t.Errorf("busy: %.2f s in %s", by, in)
	}
	p := of(ticks, "testbed_guest_network_receive_bytes_total", "guest="+bare.Name)
	want := domstats(t, l, bare, "--interface")["net.0.rx.bytes"]
	if len(p) == 0 || !near(p[len(p)-1].V, want, 0.02) {
		t.Errorf("received %v, libvirt says %.0f", p, want)
	}
	if p := of(ticks, "testbed_guest_memory_usage_bytes", "guest="+bare.Name); len(p) == 0 || p[0].V < 50<<20 {
		t.Errorf("memory %v, want at least 50 MiB", p)
	}
}
