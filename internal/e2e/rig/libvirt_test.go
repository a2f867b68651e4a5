package rig

import (
	"fmt"
	"os"
	"os/exec"
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

// What a test process leaves that dies in the middle is taken away, too.
func TestLibvirtdOfADeadTest(t *testing.T) {
	if os.Getenv("FANIN_DIE") != "" {
		l := Libvirtd(t)
		g := l.Define(Domain{Init: "sleep 1000"}).Start()
		fmt.Printf("left %s %s %d %d\n", l.Dir, g.Name, g.PID(), l.libvirtd.Cmd.Process.Pid)
		os.Exit(9)
	}
	NeedRoot(t)
	Need(t, "libvirtd", "virsh", "qemu-system-x86_64")
	cmd := exec.Command(os.Args[0], "-test.run=^TestLibvirtdOfADeadTest$")
	cmd.Env = append(os.Environ(), "FANIN_DIE=1")
	out, err := cmd.CombinedOutput()
	var dir, name string
	var pids [2]int
	if _, found := fmt.Sscanf(string(out), "left %s %s %d %d", &dir, &name, &pids[0], &pids[1]); found != nil {
		t.Fatalf("the other test: %v\n%s", err, out)
	}
	Eventually(t, 20*time.Second, func() error {
		for _, pid := range pids {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(b), ") Z ") {
				return fmt.Errorf("process %d still runs: %s", pid, b)
			}
		}
		if left, _ := filepath.Glob("/sys/fs/cgroup/*/machine/*" + name + "*"); len(left) > 0 {
			return fmt.Errorf("control groups left: %q", left)
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("folder %s is still there", dir)
		}
		return nil
	})
}
