//go:build cgo

package libvirt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"

	api "libvirt.org/go/libvirt"
)

func sampleOnce(t *testing.T, s *Source) []sample.Point {
	t.Helper()
	var b sample.Batch
	if err := s.Sample(t.Context(), &b); err != nil {
		t.Error(err)
	}
	return b.Points
}

// The library's own test driver: domains that libvirt says are running and
// that have no process, and its events.
func TestDriver(t *testing.T) {
	rig.Need(t, "libvirtd") // the library comes with it
	const uri = "test:///default"
	log := &logBook{}
	s := &Source{URI: uri, Log: log.logger()}
	points := sampleOnce(t, s)
	if v, reason, _, ok := upOf(tick{points: points}, "test"); !ok || v != 1 || reason != "" {
		t.Fatalf("the test domain is %v %q (%v), want up", v, reason, ok)
	}
	_ = s.Close()

	if err := eventLoop.acquire(); err != nil {
		t.Fatal(err)
	}
	defer eventLoop.release()
	c, err := api.NewConnect(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run(t, s)
	tape := record(t, s, 50*time.Millisecond)
	rig.Eventually(t, 5*time.Second, func() error {
		_, _, _, ok := upOf(tape.last(), "test")
		if !ok {
			return tape.last().err
		}
		return nil
	})
	d, err := c.LookupDomainByName("test")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free()
	for _, step := range []struct {
		do     func() error
		reason string
	}{
		{d.Suspend, "paused"}, {d.Resume, ""}, {d.Destroy, "stopped"}, {d.Create, ""},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		rig.Eventually(t, 2*time.Second, func() error {
			if _, reason, _, ok := upOf(tape.last(), "test"); !ok || reason != step.reason {
				return &wrong{reason, step.reason}
			}
			return nil
		})
	}
	if strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("log:\n%s", log)
	}
}

type wrong struct{ got, want string }

func (w *wrong) Error() string { return "reason " + w.got + ", want " + w.want }

// Where the library is not installed that is said once and nothing is wrong.
// A mount namespace takes it away from a second run of this test.
func TestNoLibrary(t *testing.T) {
	if os.Getenv("FANIN_NO_LIBRARY") == "" {
		rig.Need(t, "libvirtd", "unshare")
		rig.NeedRoot(t)
		const hide = `for f in /usr/lib/*/libvirt.so.0 /usr/lib64/libvirt.so.0; do [ -e $f ] && mount --bind /dev/null $f; done; exec "$@"`
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh",
			os.Args[0], "-test.run=^TestNoLibrary$", "-test.v")
		cmd.Env = append(os.Environ(), "FANIN_NO_LIBRARY=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PASS: TestNoLibrary") {
			t.Errorf("without the library: %v\n%s", err, out)
		}
		return
	}
	log := &logBook{}
	s := &Source{URI: "qemu:///system", Rescan: 50 * time.Millisecond, Log: log.logger()}
	if p := sampleOnce(t, s); len(p) > 0 {
		t.Errorf("points: %v", p)
	}
	if guests, err := s.Guests(t.Context()); err != nil || len(guests) > 0 {
		t.Errorf("Guests returned %v, %v", guests, err)
	}
	run(t, s)
	tape := record(t, s, 20*time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	for i, k := range tape.since(time.Time{}) {
		if k.err != nil || len(k.points) > 0 {
			t.Errorf("tick %d: %d points, %v", i, len(k.points), k.err)
		}
	}
	if n := strings.Count(log.String(), "no libvirt here"); n != 1 || !strings.Contains(log.String(), "libvirt.so.0") {
		t.Errorf("said %d times that there is no libvirt, want once, naming the library:\n%s", n, log)
	}
}

// A process that is called like QEMU and whose arguments can not be read holds
// up neither the events nor the end of Run.
func TestArgumentsThatHang(t *testing.T) {
	rig.Need(t, "libvirtd") // the library comes with it
	proc := t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "4711"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "4711/comm"), []byte("qemu-system-x86\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "4711/status"), []byte("NSpid:\t4711\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Stands for a process whose memory lock is not to be had: opening it waits
	// until somebody writes.
	arguments := filepath.Join(proc, "4711/cmdline")
	if err := syscall.Mkfifo(arguments, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if fd, err := syscall.Open(arguments, syscall.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = syscall.Close(fd)
		}
	})
	if err := eventLoop.acquire(); err != nil {
		t.Fatal(err)
	}
	defer eventLoop.release()
	const uri = "test:///default"
	c, err := api.NewConnect(uri)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := c.LookupDomainByName("test")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free()

	s := &Source{URI: uri, ProcRoot: proc, Rescan: time.Hour} // events alone tell
	stop := run(t, s)
	tape := record(t, s, 50*time.Millisecond)
	becomes := func(reason string) {
		t.Helper()
		rig.Eventually(t, 20*time.Second, func() error {
			if _, got, _, ok := upOf(tape.last(), "test"); !ok || got != reason {
				return &wrong{got, reason}
			}
			return nil
		})
	}
	becomes("")
	for _, step := range []struct {
		do     func() error
		reason string
	}{{d.Destroy, "stopped"}, {d.Create, ""}} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		becomes(step.reason)
	}
	stop()
	if n := testutil.ToFloat64(s.skipped.WithLabelValues(skipUnreadable)); n == 0 {
		t.Error("what could not be read is not counted")
	}
}
