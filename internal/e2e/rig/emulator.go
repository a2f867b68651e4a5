package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Emulator builds what stands for the Android emulator (see
// fanin/internal/e2e/emulator) and returns the folder, open to every user, in
// which it is as emulator and as qemu-system-x86_64.
func Emulator(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fanin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "qemu-system-x86_64")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "fanin/internal/e2e/emulator")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the emulator: %v\n%s", err, out)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "emulator"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Namespace is a network namespace with a pair of interfaces between it and
// the host.
type Namespace struct {
	Name           string
	Device, Inside string // in the namespace: interface and address
	Outer, Host    string // on the host
}

var namespaces atomic.Int32

// NetworkNamespace makes one, and removes it with the test. Its addresses are
// of the range for benchmarks (RFC 2544).
func NetworkNamespace(t testing.TB, name string) *Namespace {
	t.Helper()
	Need(t, "ip")
	NeedRoot(t)
	i := namespaces.Add(1)
	n := &Namespace{Name: name, Device: "eth0", Outer: fmt.Sprintf("fan%d.%d", os.Getpid(), i)}
	third, fourth := os.Getpid()%250, 4*i%250
	for {
		n.Host, n.Inside = fmt.Sprintf("198.19.%d.%d", third, fourth+1), fmt.Sprintf("198.19.%d.%d", third, fourth+2)
		if c, err := net.ListenPacket("udp", n.Host+":0"); err != nil {
			break // nobody here has it
		} else {
			_ = c.Close()
		}
		third = (third + 1) % 250
	}
	n.ip(t, "netns add "+name)
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", n.Outer).Run()
		_ = exec.Command("ip", "netns", "del", name).Run()
	})
	n.ip(t, "link add "+n.Outer+" type veth peer name "+n.Device+" netns "+name)
	n.ip(t, "addr add "+n.Host+"/30 dev "+n.Outer)
	n.ip(t, "link set "+n.Outer+" up")
	n.ip(t, "-n "+name+" addr add "+n.Inside+"/30 dev "+n.Device)
	n.ip(t, "-n "+name+" link set "+n.Device+" up")
	n.ip(t, "-n "+name+" link set lo up")
	return n
}

func (n *Namespace) ip(t testing.TB, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// Command prepares a program that is started in the namespace, as TestbedOS
// starts emulators.
func (n *Namespace) Command(args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.Name}, args...)...)
}
