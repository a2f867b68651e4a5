// Package e2e holds tests of the whole, against real programs and kernels.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// The tests of package cgroup that make real groups, run inside machines
// whose kernels have the hierarchies that this one may not have: version 2
// alone, version 1 alone (with cpu and cpuacct in one, as systemd mounts
// them) and both. Groups are where Docker, Podman and libvirt put them.
func TestCgroupVersions(t *testing.T) {
	rig.Need(t, "qemu-system-x86_64", "busybox")
	binary := filepath.Join(t.TempDir(), "cgroup.test")
	build := exec.Command("go", "test", "-c", "-ldflags=-s -w", "-o", binary, "fanin/internal/cgroup")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test binary: %v\n%s", err, out)
	}
	list, err := exec.Command(binary, "-test.list", "^TestReal").Output()
	if err != nil {
		t.Fatalf("list the tests: %v", err)
	}
	tests := strings.Fields(string(list))
	if len(tests) < 5 {
		t.Fatalf("the test binary has %d tests named TestReal, want the suite: %q", len(tests), tests)
	}
	const one = `
mount -t tmpfs cgroup /sys/fs/cgroup
for c in cpu,cpuacct memory pids blkio; do mkdir /sys/fs/cgroup/$c; mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c; done
`
	for _, c := range []struct{ version, mount, cmdline string }{
		{"2", "mount -t cgroup2 cgroup2 /sys/fs/cgroup\n", "cgroup_no_v1=all"},
		{"1", one, ""},
		{"hybrid", one + "mkdir /sys/fs/cgroup/unified\nmount -t cgroup2 cgroup2 /sys/fs/cgroup/unified\n", ""},
	} {
		t.Run(c.version, func(t *testing.T) {
			t.Parallel()
			inGuest(t, binary, tests, c.version, c.mount, c.cmdline)
		})
	}
}

// inGuest boots a machine that runs the suite and wants it to say so.
func inGuest(t *testing.T, binary string, tests []string, version, mount, cmdline string) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 16<<20); err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(dir, "console")
	initramfs := rig.Initramfs(t, map[string]string{"/cgroup.test": binary}, mount+`
export FANIN_CGROUP_OWN_MACHINE=1 FANIN_CGROUP_VERSION=`+version+` FANIN_CGROUP_DISK=/dev/vda TMPDIR=/tmp
uname -r
cat /proc/cgroups /proc/mounts
cd /tmp
/cgroup.test -test.v -test.run '^TestReal' -test.bench Read -test.benchtime 1s -test.timeout 180s
echo "suite ended: $?"
sleep 0.2
poweroff -f`, "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")

	qemu := rig.Start(t, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "512",
		"-nographic", "-nodefaults", "-no-reboot", "-serial", "file:"+console,
		"-drive", "file="+disk+",format=raw,if=virtio",
		"-kernel", rig.Kernel(t), "-initrd", initramfs,
		"-append", "console=ttyS0 panic=-1 quiet psi=1 "+cmdline)
	began := time.Now()
	ended := qemu.Wait(4 * time.Minute)
	b, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.ReplaceAll(string(b), "\r", "")
	t.Logf("the guest ended after %.1f s", time.Since(began).Seconds())
	show := func() string { return said[max(0, len(said)-12000):] }
	if ended != nil {
		t.Fatalf("qemu: %v; the guest's console:\n%s", ended, show())
	}
	if !strings.Contains(said, "\nsuite ended: 0\n") {
		t.Errorf("the suite in the guest did not end with 0; its console:\n%s", show())
	}
	for _, name := range tests {
		if !strings.Contains(said, "--- PASS: "+name+" ") && !strings.Contains(said, "--- SKIP: "+name+" ") {
			t.Errorf("the guest does not report that %s passed", name)
		}
	}
	// What the guest measured must have been something: a busy process under
	// a quota of half a core, in every shape of group.
	readings := regexp.MustCompile(`([\d.]+) s: used ([\d.]+) s by the group, ([\d.]+) s by getrusage, ([\d.]+) s throttled, ([\d.]+) s waiting`).FindAllStringSubmatch(said, -1)
	if len(readings) < 5 {
		t.Errorf("the guest tells %d readings of containers, want 5", len(readings))
	}
	for _, r := range readings {
		var took, used, rusage, throttled, waiting float64
		if _, err := fmt.Sscan(strings.Join(r[1:], " "), &took, &used, &rusage, &throttled, &waiting); err != nil {
			t.Fatal(err)
		}
		if used <= 0 || throttled <= 0 || used > 0.55*took+0.1 {
			t.Errorf("a busy process with a quota of half a core: %s", r[0])
		}
		t.Log(r[0])
	}
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "BenchmarkRead") || strings.HasPrefix(line, "--- SKIP") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
