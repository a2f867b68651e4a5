package peers

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processorSeconds is what a process has used so far, all of its threads and
// the kernel's part together, by its own clock (clock_getcpuclockid(3)).
func processorSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	const scheduled = 2 // CPUCLOCK_SCHED of the kernel's posix-timers_types.h
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &used); err != nil {
		t.Fatalf("processor time of process %d: %v", pid, err)
	}
	return float64(used.Nano()) / 1e9
}

// resident is VmRSS in bytes.
func resident(t testing.TB, pid int) float64 { return inStatus(t, pid, "VmRSS") }

// inStatus is a line of a process's status, in bytes.
func inStatus(t testing.TB, pid int, name string) float64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib float64
		if _, err := fmt.Sscanf(lines.Text(), name+": %f kB", &kib); err == nil {
			return kib * 1024
		}
	}
	t.Fatalf("process %d has no %s", pid, name)
	return 0
}

var client = http.Client{Timeout: 30 * time.Second}

func get(url string) (string, error) {
	answer, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", url, answer.Status)
	}
	return string(body), err
}

// own finds one of a program's metrics of itself on its page.
func own(page, name string) (float64, error) {
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(rest), 64)
		}
	}
	return 0, fmt.Errorf("the page has no %s", name)
}

// settle makes a Go program collect its garbage several times, by asking for its
// own metrics over and over, and returns the least that its heap came to. The
// pages that it makes for that are garbage too.
func settle(t testing.TB, url string) (heap float64) {
	t.Helper()
	const cycles, used = "go_gc_duration_seconds_count", "go_memstats_heap_alloc_bytes"
	begin, last := -1.0, -1.0
	heap = math.Inf(1)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && last < begin+4; {
		page, err := get(url)
		if err != nil {
			t.Fatal(err)
		}
		now, err := own(page, cycles)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		if begin < 0 {
			begin = now
		}
		if now != last { // it has just collected
			last = now
			v, err := own(page, used)
			if err != nil {
				t.Fatalf("%s: %v", url, err)
			}
			if now > begin {
				heap = min(heap, v)
			}
		}
	}
	return heap
}

// done is the line of JSON that the load generator prints, of a push or of a
// scrape.
type done struct {
	Samples int
	Written int
	Bytes   int
	Raw     int `json:"raw_bytes"`
	Pages   int
	Type    string `json:"content_type"`
	Seconds float64
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Answers map[string]int
	Said    string
}

// drive runs the load generator to its end.
func drive(t testing.TB, load string, args ...string) done {
	t.Helper()
	d, err := tryDrive(load, args...)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tryDrive(load string, args ...string) (d done, err error) {
	out, err := exec.Command(load, args...).Output()
	if err != nil {
		said := ""
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			said = string(exit.Stderr)
		}
		return d, fmt.Errorf("load %v: %w %s", args, err, said)
	}
	if err := json.Unmarshal(out, &d); err != nil {
		return d, fmt.Errorf("load %v: %w", args, err)
	}
	for answer, n := range d.Answers {
		if answer[0] != '2' {
			return d, fmt.Errorf("load %v: %d times %s: %s", args, n, answer, d.Said)
		}
	}
	if d.Said != "" {
		return d, fmt.Errorf("load %v: %s", args, d.Said)
	}
	return d, nil
}
