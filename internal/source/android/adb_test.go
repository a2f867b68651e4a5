package android

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

// device stands for the adb daemon inside a guest, as there is no guest here;
// the adb server that it talks to is the real one. It speaks the protocol of
// adb's protocol.txt as far as one command at a time needs it.
type device struct {
	name   string // of its AVD, as getprop tells it; "" for an image of old
	silent bool   // takes commands and does not answer
	flood  bool   // answers without an end
}

const (
	cmdConnect = 0x4e584e43 // CNXN
	cmdOpen    = 0x4e45504f // OPEN
	cmdOkay    = 0x59414b4f // OKAY
	cmdWrite   = 0x45545257 // WRTE
	cmdClose   = 0x45534c43 // CLSE
)

func (d *device) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = d.talk(c)
		}()
	}
}

func (d *device) talk(c net.Conn) error {
	send := func(cmd, a, b uint32, data []byte) error {
		sum := uint32(0)
		for _, x := range data {
			sum += uint32(x)
		}
		var header []byte
		for _, v := range []uint32{cmd, a, b, uint32(len(data)), sum, ^cmd} {
			header = binary.LittleEndian.AppendUint32(header, v)
		}
		_, err := c.Write(append(header, data...))
		return err
	}
	for {
		var header [24]byte
		if _, err := io.ReadFull(c, header[:]); err != nil {
			return err
		}
		field := func(i int) uint32 { return binary.LittleEndian.Uint32(header[4*i:]) }
		data := make([]byte, field(3))
		if _, err := io.ReadFull(c, data); err != nil {
			return err
		}
		var err error
		switch remote := field(1); field(0) {
		case cmdConnect:
			err = send(cmdConnect, 0x01000000, 4096, []byte("device::ro.product.name=sdk;ro.product.model=x;ro.product.device=x;features=cmd\x00"))
		case cmdOpen:
			if err = send(cmdOkay, 1, remote, nil); err != nil || d.silent {
				break
			}
			answer := d.name + "\n\n" + meminfo
			if d.flood {
				answer = strings.Repeat("x", 4096)
			}
			if strings.TrimRight(string(data), "\x00") != question {
				answer = "what?\n"
			}
			err = send(cmdWrite, 1, remote, []byte(answer))
		case cmdOkay: // to what was written
			if d.flood {
				err = send(cmdWrite, 1, remote, []byte(strings.Repeat("x", 4096)))
				break
			}
			err = send(cmdClose, 1, remote, nil)
		}
		if err != nil {
			return err
		}
	}
}

// listen listens on an address inside a network namespace.
func listen(t *testing.T, namespace, address string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	done := make(chan result)
	var inside func()
	inside = func() {
		runtime.LockOSThread() // which ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			again := make(chan struct{})
			go func() { defer close(again); inside() }()
			<-again
			runtime.UnlockOSThread()
			return
		}
		fd, err := unix.Open("/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", address)
		}
		done <- result{l, err}
	}
	go inside()
	r := <-done
	if r.err != nil {
		t.Fatalf("listen on %s in %s: %v", address, namespace, r.err)
	}
	t.Cleanup(func() { _ = r.l.Close() })
	return r.l
}

// adbServer starts a real adb server in a namespace and waits until it has the
// device.
func adbServer(t *testing.T, ns *rig.Namespace, devices int) {
	t.Helper()
	rig.Need(t, "adb")
	home := t.TempDir()
	cmd := ns.Command("adb", "nodaemon", "server")
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "ADB_LOCAL_TRANSPORT_MAX_PORT=5561")
	server := rig.StartCmd(t, cmd)
	// Who asks before it listens starts a server of its own, which stays.
	rig.Eventually(t, 20*time.Second, func() error {
		sockets, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", server.Cmd.Process.Pid))
		if err == nil && !strings.Contains(string(sockets), ":13AD 00000000:0000 0A") {
			err = errors.New("adb does not listen at port 5037 (13AD) yet")
		}
		return err
	})
	rig.Eventually(t, 20*time.Second, func() error {
		list := ns.Command("adb", "devices")
		list.Env = cmd.Env
		out, err := list.CombinedOutput()
		if err == nil && strings.Count(string(out), "\tdevice") != devices {
			err = fmt.Errorf("adb devices: %s", out)
		}
		return err
	})
}

// What only the guest knows comes from it through the adb server of its own
// network namespace: the newest reading once, with the moment it was made.
func TestADB(t *testing.T) {
	threads := func() int { tasks, _ := os.ReadDir("/proc/self/task"); return len(tasks) }
	before := threads()
	programs := emulators(t)
	avd := avdName()
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	home := t.TempDir()
	config(t, filepath.Join(home, ".android/avd", avd+".avd"), "hw.ramSize=2048\n")
	start(t, ns.Command(filepath.Join(programs, "emulator"), "-avd", avd), "qemu-system-x86_64", "HOME="+home)
	d := &device{name: avd}
	go d.serve(listen(t, ns.Name, "127.0.0.1:5555"))
	adbServer(t, ns, 1)

	s := source(t, &Source{ADB: true, ADBInterval: 300 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	const kib = 1024
	want := map[string]float64{
		"testbed_guest_memory_available_bytes": 2023408 * kib, "testbed_guest_memory_usable_bytes": 1201096 * kib,
		"testbed_guest_memory_unused_bytes": 143204 * kib, "testbed_guest_memory_cache_bytes": (6300 + 1083024) * kib,
		"testbed_guest_memory_working_set_bytes": (2023408 - 1201096) * kib,
		"testbed_guest_memory":                   100 * (2023408 - 1201096) * kib / float64(2<<30),
	}
	var last int64
	readings, ticks := 0, 0
	rig.Eventually(t, 10*time.Second, func() error {
		k := take(t, s).of(avd)
		ticks++
		p, there := k["testbed_guest_memory"]
		if !there {
			return errors.New("the guest has said nothing")
		}
		for name, v := range want {
			if k[name].V != v || k[name].T != p.T {
				t.Errorf("%s is %v at %d, want %v at %d", name, k[name].V, k[name].T, v, p.T)
			}
		}
		if p.T <= last {
			t.Errorf("a reading at %d after one at %d", p.T, last)
		}
		last = p.T
		if readings++; readings < 4 {
			return fmt.Errorf("%d readings", readings)
		}
		return nil
	})
	if ticks <= readings {
		t.Errorf("%d readings in %d ticks, want ticks without", readings, ticks)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Without Run it asks by itself, and a later tick has the answer.
	other := source(t, &Source{ADB: true})
	rig.Eventually(t, 2*time.Second, func() error {
		if k := take(t, other).of(avd); k["testbed_guest_memory"].V != want["testbed_guest_memory"] {
			return fmt.Errorf("without Run:\n%s", k)
		}
		return nil
	})
	if got := threads(); got > before+20 {
		t.Errorf("%d threads are left, %d were there before", got, before)
	}
	// This thread, and so every other, is still in the network it was in.
	if _, err := net.InterfaceByName(ns.Outer); err != nil {
		t.Errorf("the host's interface %s: %v", ns.Outer, err)
	}
	if b, err := os.ReadFile("/proc/net/dev"); err != nil || !strings.Contains(string(b), ns.Outer) {
		t.Errorf("/proc/net/dev is not the host's: %v\n%s", err, b)
	}
}

// A guest that hangs, one without an end, one that does not say who it is and
// a server that is not there: nobody waits, and nobody else loses anything.
func TestADBFaults(t *testing.T) {
	programs := emulators(t)
	qemu := filepath.Join(programs, "qemu-system-x86_64")
	s := source(t, &Source{ADB: true, ADBInterval: 300 * time.Millisecond, ADBDeadline: time.Second})
	guests := map[string]bool{} // whether it is to be known
	for kind, d := range map[string]*device{
		"silent": {silent: true}, "endless": {flood: true}, "nameless": {}, "another": {name: "another"}, "well": {}, "none": nil, "no server": nil,
	} {
		avd := avdName()
		ns := rig.NetworkNamespace(t, avd+"-nmspc")
		start(t, ns.Command(qemu, "-avd", avd), "qemu-system-x86_64")
		if kind == "well" {
			d.name = avd
		}
		n := 0
		if d != nil {
			go d.serve(listen(t, ns.Name, "127.0.0.1:5555"))
			n = 1
		}
		if kind != "no server" {
			adbServer(t, ns, n)
		}
		guests[avd] = kind == "well" || kind == "nameless"
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	known := map[string]int{}
	began, slowest := time.Now(), time.Duration(0)
	enough := func() bool {
		for avd, want := range guests {
			if want && known[avd] < 5 {
				return false
			}
		}
		return time.Since(began) > 3*s.ADBDeadline
	}
	for time.Since(began) < 20*time.Second && !enough() {
		at := time.Now()
		k := take(t, s)
		slowest = max(slowest, time.Since(at))
		for avd := range guests {
			if _, ok := k.of(avd)["testbed_guest_memory_working_set_bytes"]; ok {
				known[avd]++
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	for avd, want := range guests {
		if got := known[avd]; want != (got > 0) || want && got < 5 {
			t.Errorf("%s: memory is known in %d ticks, want %v", avd, got, want)
		}
	}
	if slowest > s.ADBDeadline/2 {
		t.Errorf("a tick took %s", slowest)
	}
	if s.skips[skipADB].Load() == 0 {
		t.Error("what failed is not counted")
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Second):
		t.Error("Run has not returned 2 s after its context ended")
	}
	t.Logf("the slowest tick took %s", slowest)
}

// A real adb server that is asked for a device it does not have says why.
func TestADBRefusal(t *testing.T) {
	avd := avdName()
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	adbServer(t, ns, 0)
	p := rig.StartCmd(t, ns.Command("sleep", "1000"))
	to := adb{dial: func(ctx context.Context) (net.Conn, error) {
		return dialIn(ctx, fmt.Sprintf("/proc/%d/ns/net", p.Cmd.Process.Pid), DefaultADBAddress)
	}}
	rig.Eventually(t, 5*time.Second, func() error {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.Cmd.Process.Pid))
		if err == nil && filepath.Base(exe) != "sleep" {
			err = errors.New("it is not there yet")
		}
		return err
	})
	if serials, err := to.emulators(t.Context()); err != nil || len(serials) > 0 {
		t.Errorf("got %q, %v, want none", serials, err)
	}
	if _, _, err := to.ask(t.Context(), "emulator-5554"); err == nil || !strings.Contains(err.Error(), "emulator-5554") {
		t.Errorf("got %v, want the server's own words", err)
	}
}

// What an adb server may say that is none.
func TestADBNonsense(t *testing.T) {
	for _, answer := range []string{
		"", "OK", "HTTP/1.1 400 Bad Request\r\n", "OKAY", "OKAYffff", "OKAYxxxx", "OKAY0004abc", "FAIL", "FAIL0100x", "FAILxxxx",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, answer)
			_, _ = io.ReadFull(c, make([]byte, 16))
			_ = c.Close()
		}()
		to := adb{dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", l.Addr().String())
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if serials, err := to.emulators(ctx); err == nil {
			t.Errorf("%q: got %q, want an error", answer, serials)
		}
		cancel()
		_ = l.Close()
	}
}
