package rig

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Bridge makes a bridge with an address of the range for benchmarks
// (RFC 2544), and another for a guest on it. It goes with the test; a process
// has one at a time.
func Bridge(t testing.TB) (name, host, guest string) {
	t.Helper()
	Need(t, "ip")
	NeedRoot(t)
	name = fmt.Sprintf("fan%d", os.Getpid())
	third := os.Getpid() % 250
	host, guest = fmt.Sprintf("198.18.%d.1", third), fmt.Sprintf("198.18.%d.2", third)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name).Run() })
	for _, args := range [][]string{
		{"link", "add", name, "type", "bridge"}, {"addr", "add", host + "/24", "dev", name}, {"link", "set", name, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	return name, host, guest
}
