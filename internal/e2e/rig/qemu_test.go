package rig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A booted guest runs the given script with the given file and the modules
// loaded, and QEMU ends when the script does.
func TestKernelAndInitramfs(t *testing.T) {
	Need(t, "qemu-system-x86_64", "busybox")
	file := filepath.Join(t.TempDir(), "given")
	if err := os.WriteFile(file, []byte("from the host\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(t.TempDir(), "console")
	initramfs := Initramfs(t, map[string]string{"/opt/x/given": file},
		"cat /opt/x/given; ls -l /opt/x/given; lsmod; sleep 0.1; echo all done; poweroff -f", VirtioModules()...)
	qemu := Start(t, "qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-nographic", "-nodefaults", "-no-reboot",
		"-kernel", Kernel(t), "-initrd", initramfs, "-append", "console=ttyS0 panic=-1 no_timer_check quiet", "-serial", "file:"+console)
	began := time.Now()
	if err := qemu.Wait(60 * time.Second); err != nil {
		b, _ := os.ReadFile(console)
		t.Fatalf("qemu: %v; its console:\n%s", err, b)
	}
	b, err := os.ReadFile(console)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append([]string{"from the host", "-rwxr-xr-x", "all done"}, VirtioModules()...) {
		if !strings.Contains(string(b), want) {
			t.Errorf("the console lacks %q", want)
		}
	}
	if t.Failed() || strings.Contains(string(b), "failed") {
		t.Errorf("console:\n%s", b)
	}
	t.Logf("booted and ended in %.1f s", time.Since(began).Seconds())
}
