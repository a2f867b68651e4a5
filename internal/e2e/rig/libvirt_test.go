package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Two daemons at once, each with a domain, and nothing of them afterwards: no
// process, no control group, no mount, no file.
func TestLibvirtdLeavesNothingBehind(t *testing.T) {
	var pids []int
	var names []string
	var dirs []string
	t.Run("run", func(t *testing.T) {
		a, b := Libvirtd(t), Libvirtd(t)
		for _, l := range []*Libvirt{a, b} {
			g := l.Define(Domain{Init: "echo booted; sleep 1000"}).Start()
			g.WaitFor("booted", 60*time.Second)
			pids, names, dirs = append(pids, g.PID(), l.holder.Cmd.Process.Pid, l.libvirtd.Cmd.Process.Pid), append(names, g.Name), append(dirs, l.Dir)
		}
		if got := a.Virsh("list", "--name"); got != names[0] {
			t.Errorf("first daemon lists %q, want %q", got, names[0])
		}
		a.Restart()
		if got := a.Virsh("domstate", names[0]); got != "running" {
			t.Errorf("after the daemon's restart the domain is %q, want running", got)
		}
		pids = append(pids, a.libvirtd.Cmd.Process.Pid)
	})
	for _, pid := range pids {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(b), ") Z ") {
			t.Errorf("process %d still runs: %s", pid, b)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if left, _ := filepath.Glob("/sys/fs/cgroup/*/machine/*" + name + "*"); len(left) > 0 {
			t.Errorf("control groups left: %q", left)
		}
		if strings.Contains(string(mounts), dirs[i]) {
			t.Errorf("mounts left under %s", dirs[i])
		}
		if _, err := os.Stat(dirs[i]); err == nil {
			t.Errorf("folder %s is still there", dirs[i])
		}
	}
}
