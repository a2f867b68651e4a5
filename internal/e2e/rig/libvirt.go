package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Libvirt is a real libvirtd of a test's own, with the QEMU driver and
// software emulation. It runs as root in a mount namespace in which /run,
// /etc/libvirt and the libvirt folders under /var are its own, so any number
// of them run at the same time and leave nothing behind. Network and process
// ids are the host's, and so are the control groups: its domains are where
// libvirt really puts them (/sys/fs/cgroup/*/machine/...).
type Libvirt struct {
	URI         string // for whoever reads: the read-only socket
	WritableURI string // for virsh
	Dir         string // for files that its domains read or write

	t        testing.TB
	holder   *Process // virtlogd, which keeps the namespace while libvirtd restarts
	libvirtd *Process
	kernel   string
	names    []string
}

// Libvirtd starts virtlogd and libvirtd and ends them and every domain of
// theirs with the test.
func Libvirtd(t testing.TB) *Libvirt {
	t.Helper()
	Need(t, "libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "unshare", "nsenter")
	NeedRoot(t)
	dir, err := os.MkdirTemp("/tmp", "fanin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := &Libvirt{
		URI:         "qemu+unix:///system?socket=" + dir + "/libvirt-sock-ro",
		WritableURI: "qemu+unix:///system?socket=" + dir + "/libvirt-sock",
		Dir:         dir, t: t,
	}
	for _, d := range []string{"", "etc/qemu", "etc/nwfilter", "lib", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// TempDirs are private; the emulator may be another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l.kernel = l.file("vmlinuz", string(kernel(t)))
	l.file("etc/libvirtd.conf", `unix_sock_dir = "`+dir+`"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
`)
	l.file("etc/qemu.conf", `security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
`)
	// What libvirt found out about the emulator is kept between tests, as
	// asking it takes 3 s; libvirt itself sees when that is out of date.
	cache := filepath.Join(CacheDir(t), "libvirt")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	const enter = `set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/libvirt /run/lock
mount --bind "$1/etc" /etc/libvirt
for d in lib log; do mount --bind "$1/$d" /var/$d/libvirt; done
mount --bind "$2" /var/cache/libvirt
exec "$(command -v virtlogd)"
`
	l.holder = Start(t, "unshare", "--mount", "--propagation", "private", "sh", "-c", enter, "sh", dir, cache)
	Eventually(t, 10*time.Second, func() error {
		_, err := os.Stat(l.Inside("/run/libvirt/virtlogd-sock"))
		return err
	})
	l.guard()
	l.startDaemon()
	return l
}

// guard does what clean does when the test process dies before it can (a
// crash, a time-out): a shell in a session of its own waits for the end of a
// pipe that the test holds.
func (l *Libvirt) guard() {
	l.t.Helper()
	const script = `cat
for p in /proc/[0-9]*; do
	[ "$(readlink $p/ns/mnt)" = "$1" ] && kill -9 ${p#/proc/}
done
sleep 1
for name in $(cat "$2/names"); do
	for g in /sys/fs/cgroup/*/machine/qemu-*-"$name".libvirt-qemu; do rmdir "$g"/*/ "$g"; done
done
rmdir /sys/fs/cgroup/*/machine
rm -rf "$2"`
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", l.holder.Cmd.Process.Pid))
	if err != nil {
		l.t.Fatal(err)
	}
	l.file("names", "")
	cmd := exec.Command("sh", "-c", script, "sh", ns, l.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = pipe.Close()
	})
}

// Inside is the path under which this host's processes see a file of
// libvirtd's mount namespace.
func (l *Libvirt) Inside(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", l.holder.Cmd.Process.Pid, path)
}

// Daemon is libvirtd itself, for signals.
func (l *Libvirt) Daemon() *Process { return l.libvirtd }

// Restart ends libvirtd and starts it again; its domains run on.
func (l *Libvirt) Restart() {
	l.t.Helper()
	l.StopDaemon()
	l.startDaemon()
}

// StopDaemon ends libvirtd alone; Restart brings it back.
func (l *Libvirt) StopDaemon() { l.libvirtd.Stop(10 * time.Second) }

func (l *Libvirt) startDaemon() {
	l.t.Helper()
	l.libvirtd = Start(l.t, "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", l.holder.Cmd.Process.Pid), "--",
		"libvirtd", "-f", filepath.Join(l.Dir, "etc/libvirtd.conf"))
	Eventually(l.t, 20*time.Second, func() error {
		_, err := l.TryVirsh("list")
		return err
	})
	// After the daemon's own cleanup, so that it runs before it: destroying
	// domains needs the daemon.
	l.t.Cleanup(l.clean)
}

// Virsh runs virsh with writing access and returns what it prints.
func (l *Libvirt) Virsh(args ...string) string {
	l.t.Helper()
	out, err := l.TryVirsh(args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// TryVirsh is [Libvirt.Virsh] for what may fail; it takes a minute at the most.
func (l *Libvirt) TryVirsh(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-c", l.WritableURI}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func (l *Libvirt) file(name, text string) string {
	l.t.Helper()
	p := filepath.Join(l.Dir, name)
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// clean destroys what runs, kills what remains in the namespace, and removes
// the control groups that a killed emulator leaves.
func (l *Libvirt) clean() {
	_ = l.libvirtd.Signal(syscall.SIGCONT)
	if out, err := l.TryVirsh("list", "--name"); err == nil {
		for _, name := range strings.Fields(out) {
			_ = syscall.Kill(l.pid(name), syscall.SIGCONT)
			_, _ = l.TryVirsh("destroy", name)
		}
	}
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", l.holder.Cmd.Process.Pid))
	keep := map[int]bool{l.holder.Cmd.Process.Pid: true, l.libvirtd.Cmd.Process.Pid: true}
	if procs, _ := filepath.Glob("/proc/[0-9]*"); err == nil {
		for _, p := range procs {
			pid, _ := strconv.Atoi(filepath.Base(p))
			if ns, err := os.Readlink(p + "/ns/mnt"); err == nil && ns == ours && !keep[pid] {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	for _, name := range l.names {
		if err := removeGroups(name, 5*time.Second); err != nil {
			l.t.Errorf("control group of %s: %v", name, err)
		}
	}
	// The last one out removes the parent; it stays while others use it.
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/machine")
	for _, p := range parents {
		_ = os.Remove(p)
	}
}

// removeGroups waits for the last process of a domain, too: a group with one
// can not be removed.
func removeGroups(name string, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		var last error
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/machine/qemu-*-" + name + ".libvirt-qemu")
		for _, g := range groups {
			children, _ := filepath.Glob(g + "/*/")
			for _, dir := range append(children, g) {
				if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
					last = err
				}
			}
		}
		if last == nil || time.Now().After(deadline) {
			return last
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *Libvirt) pid(name string) int {
	b, err := os.ReadFile(l.Inside("/run/libvirt/qemu/" + name + ".pid"))
	if err != nil {
		return 1 << 30 // no such process, for kill
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 1 << 30
	}
	return pid
}

// Domain says what a domain of a test is like. The zero value but for Init is
// a persistent domain with one virtual processor, 160 MiB, the virtio drivers
// and a balloon device whose driver reports every second.
type Domain struct {
	Name      string            // "" for a name of its own
	Init      string            // what the guest does, a shell script, see [Initramfs]
	Files     map[string]string // see [Initramfs]
	Program   string            // a static program on this host: the guest's only one, in place of Init and Files
	Cmdline   string            // more of the kernel's command line; NAME=value that it does not know is Program's environment
	Modules   []string          // nil for [VirtioModules]
	MemoryMiB int
	VCPUs     int
	Balloon   string // XML, "" for a reporting one
	Devices   string // more XML
	Transient bool   // started by Define and forgotten by libvirt when it ends
}

// Guest is a domain that was defined.
type Guest struct {
	Name    string
	UUID    string
	Console string // file with what it printed on its serial port

	l *Libvirt
}

// Define defines a domain; Start boots it.
func (l *Libvirt) Define(d Domain) *Guest {
	l.t.Helper()
	console, err := os.CreateTemp(l.Dir, "console-")
	if err != nil {
		l.t.Fatal(err)
	}
	console.Close()
	g := &Guest{Name: d.Name, Console: console.Name(), l: l}
	if g.Name == "" {
		g.Name = "fanin-" + strings.TrimPrefix(filepath.Base(console.Name()), "console-")
	}
	l.names = append(l.names, g.Name)
	l.file("names", strings.Join(l.names, "\n"))
	if d.Modules == nil {
		d.Modules = VirtioModules()
	}
	if d.MemoryMiB == 0 {
		d.MemoryMiB = 160
	}
	if d.Balloon == "" {
		d.Balloon = "<memballoon model='virtio'><stats period='1'/></memballoon>"
	}
	var initrd []byte
	if d.Program != "" {
		initrd = unikernel(l.t, d.Program, d.Modules...)
	} else {
		initrd = initramfs(l.t, d.Files, d.Init, d.Modules...)
	}
	xml := fmt.Sprintf(`<domain type='qemu'>
<name>%s</name><memory unit='MiB'>%d</memory><vcpu>%d</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>%s</kernel><initrd>%s</initrd>
<cmdline>console=ttyS0 panic=-1 no_timer_check quiet %s</cmdline></os>
<features><acpi/></features><on_reboot>destroy</on_reboot><on_crash>preserve</on_crash>
<devices>
<serial type='file'><source path='%s'/><target port='0'/></serial>
%s%s
</devices></domain>`, g.Name, d.MemoryMiB, max(1, d.VCPUs), l.kernel,
		l.file(filepath.Base(g.Console)+".initramfs", string(initrd)), d.Cmdline, g.Console, d.Balloon, d.Devices)
	file := l.file(filepath.Base(g.Console)+".xml", xml)
	if d.Transient {
		l.Virsh("create", file)
	} else {
		l.Virsh("define", file)
	}
	g.UUID = l.Virsh("domuuid", g.Name)
	return g
}

// Start boots a defined domain.
func (g *Guest) Start() *Guest {
	g.l.t.Helper()
	g.l.Virsh("start", g.Name)
	return g
}

// PID is the domain's emulator as libvirt's own pid file names it.
func (g *Guest) PID() int {
	g.l.t.Helper()
	pid := g.l.pid(g.Name)
	if pid == 1<<30 {
		g.l.t.Fatalf("domain %s has no pid file", g.Name)
	}
	return pid
}

// WaitFor waits until the guest has printed text.
func (g *Guest) WaitFor(text string, d time.Duration) {
	g.l.t.Helper()
	Eventually(g.l.t, d, func() error {
		b, err := os.ReadFile(g.Console)
		if err == nil && !strings.Contains(string(b), text) {
			err = errors.New("the console of " + g.Name + " lacks " + strconv.Quote(text) + ":\n" + string(b))
		}
		return err
	})
}
