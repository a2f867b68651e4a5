package host

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// numbers are the words of a file of the kernel, 0 where a word is none.
func numbers(t *testing.T, name string) []float64 {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []float64
	for _, word := range strings.Fields(string(b)) {
		v, _ := strconv.ParseFloat(word, 64)
		all = append(all, v)
	}
	return all
}

// What is mounted and unmounted is seen at once, and nothing is read meanwhile.
func TestMountsChanged(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("has to be root to mount something")
		}
		t.Skip("has to be root to mount something")
	}
	f := file{path: "/proc/self/mountinfo"}
	defer f.close()
	point := t.TempDir()
	changed := func(want, there bool) {
		t.Helper()
		if got := f.mountsChanged(); got != want {
			t.Errorf("changed: %v, want %v", got, want)
		}
		b, err := f.read()
		if err != nil || bytes.Contains(b, []byte(" "+point+" ")) != there {
			t.Errorf("%v; want %s in it: %v\n%s", err, point, there, b)
		}
		// Others may mount something, but not all the time.
		for range 100 {
			if !f.mountsChanged() {
				return
			}
		}
		t.Error("it never stops to say that something has changed")
	}
	changed(true, false) // nothing is known yet
	if err := unix.Mount("fanin", point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	mounted := true
	defer func() {
		if mounted {
			_ = unix.Unmount(point, unix.MNT_DETACH)
		}
	}()
	changed(true, true)
	mounted = unix.Unmount(point, 0) != nil
	changed(true, false)
	plain := file{path: filepath.Join(t.TempDir(), "mountinfo")}
	defer plain.close()
	write(t, plain.path, "")
	if _, err := plain.read(); err != nil || !plain.mountsChanged() {
		t.Errorf("%v; an ordinary file is read each time", err)
	}
}

// Disks, interfaces and pressure lie between two readings of other files of the
// kernel's: /sys/block/*/stat, /sys/class/net/*/statistics and
// /proc/pressure.
func TestKernelsOwnNumbers(t *testing.T) {
	s := new(Source)
	values(t, s)
	write(t, filepath.Join(t.TempDir(), "file"), strings.Repeat("x", 4<<20)) // something to count

	type counter struct {
		series string
		read   func() float64
	}
	var all []counter
	disks, err := filepath.Glob("/sys/block/*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range disks {
		name := filepath.Base(filepath.Dir(file))
		if s.SkipDisks.MatchString(name) {
			continue
		}
		// Documentation/block/stat.rst
		for what, c := range map[string]struct {
			word int
			unit float64
		}{
			"reads_total": {0, 1}, "read_bytes_total": {2, 512}, "read_seconds_total": {3, 1e-3},
			"writes_total": {4, 1}, "written_bytes_total": {6, 512}, "write_seconds_total": {7, 1e-3},
			"busy_seconds_total": {9, 1e-3}, "flush_seconds_total": {16, 1e-3},
		} {
			if len(numbers(t, file)) <= c.word { // no flushes before Linux 5.5
				continue
			}
			all = append(all, counter{
				fmt.Sprintf(`testbed_host_disk_%s{device=%q}`, what, strings.ReplaceAll(name, "!", "/")),
				func() float64 { return numbers(t, file)[c.word] * c.unit },
			})
		}
	}
	interfaces, err := filepath.Glob("/sys/class/net/*/statistics")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range interfaces {
		name := filepath.Base(filepath.Dir(dir))
		if s.SkipInterfaces.MatchString(name) || strings.HasPrefix(name, "fan") { // of other tests, which come and go
			continue
		}
		for what, file := range map[string]string{
			"receive_bytes": "rx_bytes", "receive_packets": "rx_packets", "receive_errors": "rx_errors",
			"transmit_bytes": "tx_bytes", "transmit_packets": "tx_packets", "transmit_errors": "tx_errors", "transmit_drops": "tx_dropped",
		} {
			file = filepath.Join(dir, file)
			all = append(all, counter{
				fmt.Sprintf(`testbed_host_network_%s_total{device=%q}`, what, name),
				func() float64 { return numbers(t, file)[0] },
			})
		}
	}
	for _, resource := range []string{"cpu", "memory", "io"} {
		file := "/proc/pressure/" + resource
		if _, err := os.Stat(file); err != nil {
			continue
		}
		for word, kind := range map[string]string{"waiting": "some", "stalled": "full"} {
			if resource == "cpu" && kind == "full" { // which the kernel leaves undefined
				continue
			}
			all = append(all, counter{fmt.Sprintf("testbed_host_pressure_%s_%s_seconds_total", resource, word), func() float64 {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				_, rest, _ := strings.Cut(string(b), kind+" ")
				_, rest, _ = strings.Cut(rest, "total=")
				total, _, _ := strings.Cut(rest, "\n")
				v, err := strconv.ParseFloat(total, 64)
				if err != nil {
					t.Fatal(err)
				}
				return v / 1e6
			}})
		}
	}
	if len(all) < 10 {
		t.Fatalf("this machine has %d counters, want some disk, interface and pressure", len(all))
	}
	before := make([]float64, len(all))
	for i, c := range all {
		before[i] = c.read()
	}
	got := values(t, s)
	for i, c := range all {
		after := c.read()
		v, ok := got[c.series]
		// Milliseconds are cut differently by the two files.
		if !ok || v < before[i]-0.002 || v > after+0.002 {
			t.Errorf("%s = %v (there: %v), the kernel says %v before and %v after", c.series, v, ok, before[i], after)
		}
	}
	t.Logf("%d counters of %d disks and %d interfaces", len(all), len(disks), len(interfaces))
}
