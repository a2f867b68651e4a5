package rig

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Kernel returns the path of a Linux kernel that QEMU boots directly with
// `-kernel`: Debian's cloud kernel, downloaded and unpacked into [CacheDir]
// the first time (some 25 MB) and never installed. The file is in a folder
// under /tmp that every user may read and that goes away with the test.
//
// On the command line, console=ttyS0 shows its console on the first serial
// port, and panic=-1 with QEMU's -no-reboot ends QEMU when init ends. On a busy
// machine it needs no_timer_check: its test of the timer then fails by chance.
func Kernel(t testing.TB) string {
	t.Helper()
	return publicFile(t, "vmlinuz", kernel(t))
}

// kernel is the file itself, for whoever puts it elsewhere.
func kernel(t testing.TB) []byte {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(kernelTree(t), "boot", "vmlinuz-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the kernel package holds %d kernels (%v), want 1", len(found), err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// VirtioModules are the modules of [Kernel] that a guest of libvirt needs for
// its network card, disk and balloon, in the order in which they load.
func VirtioModules() []string {
	return []string{
		"failover", "net_failover", "virtio_ring", "virtio", "virtio_pci_legacy_dev",
		"virtio_pci_modern_dev", "virtio_pci", "virtio_net", "virtio_blk", "virtio_balloon",
	}
}

// Initramfs returns the path of an initramfs for [Kernel], as readable as it.
// It holds a static busybox with all its applets in /bin, the given files
// (path in the guest -> file on this host, whose permissions it keeps) and the
// given kernel modules. /init mounts /proc, /sys, /dev and /tmp, loads the
// modules in the order given and goes on with the given shell script, as
// process 1 with the console as its input and output.
func Initramfs(t testing.TB, files map[string]string, init string, modules ...string) string {
	t.Helper()
	return publicFile(t, "initramfs.gz", initramfs(t, files, init, modules...))
}

func initramfs(t testing.TB, files map[string]string, init string, modules ...string) []byte {
	t.Helper()
	Need(t, "busybox")
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	a := &archive{w: zip, seen: map[string]bool{}}

	for _, dir := range []string{"/bin", "/dev", "/proc", "/sys", "/tmp", "/etc", "/root"} {
		a.dir(dir)
	}
	// The kernel opens /dev/console for init before devtmpfs is there.
	a.add("/dev/console", syscall.S_IFCHR|0o600, 5, 1, nil)
	busybox, _ := exec.LookPath("busybox")
	a.host(t, "/bin/busybox", busybox)

	script := "#!/bin/busybox sh\n" +
		"/bin/busybox --install -s /bin\nexport PATH=/bin\n" +
		"mount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\nmount -t tmpfs tmp /tmp\n"
	for _, m := range modules {
		file := moduleFile(t, m)
		a.host(t, "/modules/"+filepath.Base(file), file)
		script += "insmod /modules/" + filepath.Base(file) + " || echo insmod " + m + " failed\n"
	}
	for _, inside := range slices.Sorted(maps.Keys(files)) {
		a.host(t, inside, files[inside])
	}
	a.add("/init", syscall.S_IFREG|0o755, 0, 0, []byte(script+init+"\n"))
	a.add("TRAILER!!!", 0, 0, 0, nil)
	if a.err == nil {
		a.err = zip.Close()
	}
	if a.err != nil {
		t.Fatalf("initramfs: %v", a.err)
	}
	return out.Bytes()
}

// unikernel is an initramfs of one static program and the modules that it
// loads, numbered in their order.
func unikernel(t testing.TB, program string, modules ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	a := &archive{w: zip, seen: map[string]bool{}}
	a.dir("/dev")
	a.dir("/proc")
	a.add("/dev/console", syscall.S_IFCHR|0o600, 5, 1, nil)
	a.host(t, "/init", program)
	for i, m := range modules {
		a.host(t, fmt.Sprintf("/modules/%02d-%s", i, m), moduleFile(t, m))
	}
	a.add("TRAILER!!!", 0, 0, 0, nil)
	if a.err == nil {
		a.err = zip.Close()
	}
	if a.err != nil {
		t.Fatalf("initramfs: %v", a.err)
	}
	return out.Bytes()
}

// archive writes the "newc" cpio format of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
type archive struct {
	w    io.Writer
	ino  int
	seen map[string]bool // folders
	err  error
}

func (a *archive) dir(name string) {
	if name == "/" || name == "." || a.seen[name] {
		return
	}
	a.seen[name] = true
	a.dir(path.Dir(name))
	a.add(name, syscall.S_IFDIR|0o755, 0, 0, nil)
}

func (a *archive) host(t testing.TB, inside, file string) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	inside = path.Clean("/" + inside)
	a.dir(path.Dir(inside))
	a.add(inside, syscall.S_IFREG|uint32(info.Mode().Perm()), 0, 0, b)
}

func (a *archive) add(name string, mode uint32, major, minor int, b []byte) {
	name = strings.TrimPrefix(name, "/")
	a.ino++
	const links, none = 1, 0
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, none, none, links, none, len(b), none, none, major, minor, len(name)+1, none, name))
	a.write(b)
}

// write pads to four bytes, as both the header with the name and the content
// have to be.
func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	_, a.err = a.w.Write(append(slices.Clip(b), make([]byte, -len(b)&3)...))
}

func publicFile(t testing.TB, name string, b []byte) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fanin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// moduleFile finds a module by its name; the kernel takes - and _ for the same.
func moduleFile(t testing.TB, name string) string {
	t.Helper()
	want := strings.ReplaceAll(name, "-", "_") + ".ko"
	found := ""
	err := filepath.WalkDir(filepath.Join(kernelTree(t), "lib", "modules"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.ReplaceAll(d.Name(), "-", "_") == want {
			found = p
			return fs.SkipAll
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no module %s in the kernel package (%v)", name, err)
	}
	return found
}

// kernelTree is the unpacked kernel package. A lock keeps test processes that
// run at the same time from downloading it twice; what is half done is never
// taken for whole, as the finished folder gets its name by a rename.
func kernelTree(t testing.TB) string {
	t.Helper()
	cache := filepath.Join(CacheDir(t), "kernel")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(cache, "tree")
	if _, err := os.Stat(tree); err == nil {
		return tree
	}

	Need(t, "apt-get", "apt-cache", "dpkg-deb")
	deps, err := exec.Command("apt-cache", "depends", "linux-image-cloud-amd64").Output()
	if err != nil {
		t.Fatalf("apt-cache depends linux-image-cloud-amd64: %v; `apt-get update` as root may help", err)
	}
	name := ""
	for _, word := range strings.Fields(string(deps)) {
		if strings.HasPrefix(word, "linux-image-") && word != "linux-image-cloud-amd64" {
			name = word
			break
		}
	}
	work, err := os.MkdirTemp(cache, "work-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	download := exec.Command("apt-get", "download", name)
	download.Dir = work
	if out, err := download.CombinedOutput(); err != nil {
		t.Fatalf("apt-get download %s: %v; `apt-get update` as root may help\n%s", name, err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	if len(debs) != 1 {
		t.Fatalf("apt-get download %s left %q, want one package", name, debs)
	}
	unpacked := filepath.Join(work, "tree")
	if out, err := exec.Command("dpkg-deb", "-x", debs[0], unpacked).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb -x %s: %v\n%s", debs[0], err, out)
	}
	if err := os.Rename(unpacked, tree); err != nil {
		t.Fatal(err)
	}
	return tree
}
