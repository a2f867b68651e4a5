package rig

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// What the engine leaves behind is checked from outside, after the subtest
// that used it has cleaned up: also when dockerd died of SIGKILL.
func TestDockerdLeavesNothing(t *testing.T) {
	Need(t, "dockerd", "containerd", "runc")
	for _, end := range []string{"ordinary", "killed"} {
		t.Run(end, func(t *testing.T) {
			var d *Docker
			var id string
			t.Run("engine", func(t *testing.T) {
				d = Dockerd(t)
				d.Network(t, "net")
				id = d.Run(t, "one", Container{CPUs: 0.5, Memory: 64 << 20, Network: "net"}, "busy")
				d.Run(t, "two", Container{}, "idle")
				if pid := d.PID(t, "one"); pid <= 0 {
					t.Fatalf("pid of a running container: got %d", pid)
				}
				if got := len(groupsOf("docker", id)); got == 0 {
					t.Fatal("a running container has no control group")
				}
				if end == "killed" {
					if err := d.Process.Signal(syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
					_ = d.Process.Wait(5 * time.Second)
				}
			})
			if got := groupsOf("docker", id); len(got) != 0 {
				t.Errorf("control groups left: %v", got)
			}
			if got := mountsUnder(d.dir); len(got) != 0 {
				t.Errorf("mounts left: %v", got)
			}
			if got := pidsWith(d.dir); len(got) != 0 {
				t.Errorf("processes left: %v", got)
			}
			if _, err := os.Stat(d.dir); !os.IsNotExist(err) {
				t.Errorf("folder left: %v", err)
			}
			for _, b := range d.bridge {
				if _, err := net.InterfaceByName(b); err == nil {
					t.Errorf("bridge left: %s", b)
				}
			}
		})
	}
}
