package android

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/guest"
)

func near(got, want, by float64) bool { return math.Abs(got-want) <= by*math.Abs(want) }

// As TestbedOS starts it: everything is the kernel's own number, and the
// directions are the guest's.
func TestAgainstTheKernel(t *testing.T) {
	programs := emulators(t)
	avd := avdName()
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	home, disk := t.TempDir(), filepath.Join(rig.CacheDir(t), avd)
	t.Cleanup(func() { _ = os.Remove(disk) })
	config(t, filepath.Join(home, ".android/avd", avd+".avd"), "hw.cpu.ncore = 2\nhw.ramSize = 2048M\n")
	server, err := net.Listen("tcp", ns.Host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	const in, out, onDisk, held = 4 << 20, 1 << 20, 8 << 20, 64 << 20
	before := time.Now()
	p := start(t, ns.Command(filepath.Join(programs, "emulator"), "-avd", avd), "qemu-system-x86_64", "HOME="+home,
		fmt.Sprintf("FANIN_ENGINE=memory=%d file=%s,%d receive=:7000 send=%s,%d busy=0.5", held, disk, onDisk, server.Addr(), out))
	pid := p.Cmd.Process.Pid
	back, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = back.Read(make([]byte, 2<<20)); drain(back) }()
	s := source(t, &Source{})
	first := appears(t, s, avd)

	sendTo(t, ns.Inside+":7000", in)
	a, atA := threads(t, pid), take(t, s).of(avd)
	time.Sleep(4 * time.Second)
	b, got := threads(t, pid), take(t, s).of(avd)

	value := func(name string) float64 {
		t.Helper()
		p, ok := got[name]
		if !ok {
			t.Errorf("no %s in\n%s", name, got)
			return math.NaN()
		}
		return p.V
	}
	usage := "testbed_guest_cpu_usage_seconds_total"
	used, seconds := got[usage].V-atA[usage].V, float64(got[usage].T-atA[usage].T)/1e3
	kernel := b - a
	if !near(used, kernel, 0.02) || used < 1 {
		t.Errorf("used %.3f s of processor time in %.2f s, its threads say %.3f", used, seconds, kernel)
	}
	if modes := value(`testbed_guest_cpu_seconds_total{mode="user"}`) + value(`testbed_guest_cpu_seconds_total{mode="system"}`); !near(modes, value(usage), 1e-9) {
		t.Errorf("user and system are %.3f s, want %.3f", modes, value(usage))
	}
	if percent := value("testbed_guest_cpu"); !near(percent, 100*kernel/seconds/2, 0.02) {
		t.Errorf("%.2f percent of 2 processors, want %.2f", percent, 100*kernel/seconds/2)
	}
	if got := value("testbed_guest_cpu_limit_cores"); got != 2 {
		t.Errorf("%v processors, want 2", got)
	}
	if got := value("testbed_guest_memory_limit_bytes"); got != 2<<30 {
		t.Errorf("%v bytes at the most, want 2 GiB", got)
	}
	resident := procField(t, pid, "smaps_rollup", "Rss:") * 1024
	if got := value("testbed_guest_memory_usage_bytes"); !near(got, resident, 0.02) || got < held {
		t.Errorf("%.0f bytes resident, the kernel's pages say %.0f", got, resident)
	}
	if got, want := value("testbed_guest_memory_swap_bytes"), procField(t, pid, "smaps_rollup", "Swap:")*1024; got != want {
		t.Errorf("%.0f bytes swapped out, want %.0f", got, want)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	if got := value("testbed_guest_processes"); math.Abs(got-float64(len(tasks))) > 1 {
		t.Errorf("%v threads, want %d", got, len(tasks))
	}
	if began := value("testbed_guest_start_time_seconds"); math.Abs(began-float64(before.UnixMilli())/1e3) > 1.5 || began != first["testbed_guest_start_time_seconds"].V {
		t.Errorf("started at %.2f, want %.2f", began, float64(before.UnixMilli())/1e3)
	}
	if got, want := value("testbed_guest_disk_written_bytes_total"), procField(t, pid, "io", "write_bytes:"); got != want || got < onDisk || got > 1.1*onDisk {
		t.Errorf("%.0f bytes written, want the %.0f of the kernel and the %d that were", got, want, onDisk)
	}
	if got, want := value("testbed_guest_disk_read_bytes_total"), procField(t, pid, "io", "read_bytes:"); got != want || got < onDisk || got > 1.5*onDisk {
		t.Errorf("%.0f bytes read, want the %.0f of the kernel and the %d that were", got, want, onDisk)
	}

	// The interface inside is the guest's own: what the host has sent into the
	// namespace was received.
	const device = `{device="eth0"}`
	received, sent := value("testbed_guest_network_receive_bytes_total"+device), value("testbed_guest_network_transmit_bytes_total"+device)
	if received < in || received > 1.1*in {
		t.Errorf("%.0f bytes received, %d were sent to the guest", received, in)
	}
	if sent < out || sent > 1.25*out {
		t.Errorf("%.0f bytes sent, the guest has sent %d", sent, out)
	}
	inside, outside := link(t, "-n", ns.Name, ns.Device), link(t, ns.Outer)
	for name, want := range map[string][2]float64{
		"receive_bytes": {inside.Rx.Bytes, outside.Tx.Bytes}, "transmit_bytes": {inside.Tx.Bytes, outside.Rx.Bytes},
		"receive_packets": {inside.Rx.Packets, outside.Tx.Packets}, "transmit_packets": {inside.Tx.Packets, outside.Rx.Packets},
	} {
		if got := value("testbed_guest_network_" + name + "_total" + device); !near(got, want[0], 0.02) || !near(got, want[1], 0.02) {
			t.Errorf("%s: %.0f, the interface inside has %.0f and its other end %.0f", name, got, want[0], want[1])
		}
	}
	for _, name := range []string{"receive_errors", "receive_drops", "transmit_errors", "transmit_drops"} {
		value("testbed_guest_network_" + name + "_total" + device)
	}
	if p := got[fmt.Sprintf(`testbed_guest_info{backend_id="%d"}`, pid)]; p.V != 1 {
		t.Errorf("no info with process %d", pid)
	}
	// Nobody was asked what only the guest knows, and the loopback is none of
	// its interfaces.
	for _, name := range []string{
		`testbed_guest_network_receive_bytes_total{device="lo"}`, "testbed_guest_memory", "testbed_guest_memory_working_set_bytes",
		"testbed_guest_memory_available_bytes", "testbed_guest_memory_usable_bytes", "testbed_guest_memory_cache_bytes",
	} {
		if p, ok := got[name]; ok {
			t.Errorf("%s is %v", name, p.V)
		}
	}
	if t.Failed() {
		t.Logf("the last tick:\n%s", got)
	}
	t.Logf("%.3f s of processor time (%.3f), %.0f bytes resident (%.0f), %.0f received, %.0f sent", used, kernel, value("testbed_guest_memory_usage_bytes"), resident, received, sent)

	guests, err := s.Guests(t.Context())
	if want := (guest.Description{Name: avd, Kind: guest.Android, Running: true, CPUs: 2, MemoryMB: 2048}); err != nil || len(guests) == 0 || !contains(guests, want) {
		t.Errorf("Guests returned %+v, %v, want %+v among them", guests, err, want)
	}

	// What the kernel tells the parent when it is over.
	last := take(t, s).of(avd)[usage].V
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait(5 * time.Second)
	if total := (p.Cmd.ProcessState.UserTime() + p.Cmd.ProcessState.SystemTime()).Seconds(); last > total+0.02 || last < total-0.3 {
		t.Errorf("used %.2f s shortly before its end, %.2f s in all", last, total)
	}
}

func contains(guests []guest.Description, want guest.Description) bool {
	for _, g := range guests {
		if g == want {
			return true
		}
	}
	return false
}

func drain(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// sendTo sends n bytes and waits until they were read.
func sendTo(t *testing.T, address string, n int) {
	t.Helper()
	var c net.Conn
	rig.Eventually(t, 10*time.Second, func() error {
		var err error
		c, err = net.DialTimeout("tcp", address, time.Second)
		return err
	})
	defer c.Close()
	if _, err := c.Write(make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Read(make([]byte, 1)) // until the other end has closed
}

// threads is the processor time of all threads in nanoseconds' precision
// (/proc/PID/task/TID/schedstat), in seconds.
func threads(t *testing.T, pid int) float64 {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no threads of %d: %v", pid, err)
	}
	sum := 0.0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		ns, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseFloat(ns, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n / 1e9
	}
	return sum
}

// procField is a number of a file in /proc/PID.
func procField(t *testing.T, pid int, file, key string) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if words := strings.Fields(string(line)); len(words) > 1 && words[0] == key {
			n, err := strconv.ParseFloat(words[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in /proc/%d/%s:\n%s", key, pid, file, b)
	return 0
}

// linkStats is what iproute2 says of an interface.
type linkStats struct {
	Rx, Tx struct{ Bytes, Packets float64 }
}

func link(t *testing.T, args ...string) linkStats {
	t.Helper()
	device := args[len(args)-1]
	args = append(append([]string{"-s", "-j"}, args[:len(args)-1]...), "link", "show", device)
	out, err := exec.Command("ip", args...).Output()
	if err != nil {
		t.Fatalf("ip %v: %v", args, err)
	}
	var all []struct{ Stats64 linkStats }
	if err := json.Unmarshal(out, &all); err != nil || len(all) != 1 {
		t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return all[0].Stats64
}

// config writes an AVD's config.ini.
func config(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.ini"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// An emulator among very many interfaces does not use up the node's series.
func TestManyInterfaces(t *testing.T) {
	qemu := filepath.Join(emulators(t), "qemu-system-x86_64")
	rig.NeedRoot(t)
	avd := avdName()
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	var bridges strings.Builder
	for i := range 2 * maxDevices {
		fmt.Fprintf(&bridges, "link add name b%d type bridge\n", i)
	}
	add := ns.Command("ip", "-batch", "-")
	add.Stdin = strings.NewReader(bridges.String())
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	start(t, ns.Command(qemu, "-avd", avd), "qemu-system-x86_64")
	s := source(t, &Source{})
	appears(t, s, avd)
	before := s.skips[skipDevices].Load()
	devices := 0
	for text := range take(t, s).of(avd) {
		if strings.HasPrefix(text, "testbed_guest_network_receive_bytes_total{") {
			devices++
		}
	}
	if n := s.skips[skipDevices].Load(); devices != maxDevices || n != before+1 {
		t.Errorf("got %d interfaces, and %d times more were left out, want %d and once", devices, n-before, maxDevices)
	}
}
