package docker_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/source/docker"
)

// Throttling, processes and pressure of a container under a quota lie between
// two readings of the kernel's own files.
func TestKernelsOwnNumbers(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	id := d.Run(t, "busy", rig.Container{CPUs: 0.3, Memory: 64 << 20}, "busy", "3")
	s := &docker.Source{Host: d.Host(), Interval: 30 * time.Second}
	follow(t, s)
	rig.Eventually(t, patience, func() error {
		p, err := take(s)
		return errors.Join(err, up("busy")(p))
	})
	time.Sleep(2 * time.Second)

	// value is the word behind key, on the line that begins with one, in the
	// first of the files that is there.
	value := func(key string, files ...string) (v float64, ok bool) {
		for _, f := range files {
			b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", strings.ReplaceAll(f, "ID", "docker/"+id)))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				if rest, found := strings.CutPrefix(strings.TrimSpace(line), key); found {
					words := strings.Fields(rest)
					n, err := strconv.ParseFloat(strings.TrimPrefix(words[len(words)-1], "total="), 64)
					if err != nil {
						t.Fatal(err)
					}
					return n, true
				}
			}
		}
		return 0, false
	}
	type reading struct {
		name  string
		unit  float64
		key   string
		files []string
	}
	all := []reading{
		{"testbed_guest_cpu_periods_total", 1, "nr_periods ", []string{"cpu/ID/cpu.stat", "ID/cpu.stat"}},
		{"testbed_guest_cpu_throttled_periods_total", 1, "nr_throttled ", []string{"cpu/ID/cpu.stat", "ID/cpu.stat"}},
		{"testbed_guest_processes", 1, "", []string{"pids/ID/pids.current", "ID/pids.current"}},
		{"testbed_guest_memory_usage_bytes", 1, "", []string{"memory/ID/memory.usage_in_bytes", "ID/memory.current"}},
		{"testbed_guest_oom_kills_total", 1, "oom_kill ", []string{"memory/ID/memory.oom_control", "ID/memory.events"}},
	}
	if _, ok := value("throttled_time ", "cpu/ID/cpu.stat"); ok {
		all = append(all, reading{"testbed_guest_cpu_throttled_seconds_total", 1e9, "throttled_time ", []string{"cpu/ID/cpu.stat"}})
	} else {
		all = append(all, reading{"testbed_guest_cpu_throttled_seconds_total", 1e6, "throttled_usec ", []string{"ID/cpu.stat"}})
	}
	for _, resource := range []string{"cpu", "memory", "io"} {
		for kind, word := range map[string]string{"some ": "waiting", "full ": "stalled"} {
			all = append(all, reading{"testbed_guest_pressure_" + resource + "_" + word + "_seconds_total", 1e6, kind, []string{"unified/ID/" + resource + ".pressure", "ID/" + resource + ".pressure"}})
		}
	}
	for _, r := range all {
		before, known := value(r.key, r.files...)
		p, err := take(s)
		if err != nil {
			t.Fatal(err)
		}
		after, _ := value(r.key, r.files...)
		got, there := p[series(r.name, "busy")]
		if there != known {
			t.Errorf("%s is there: %v, and known to the kernel: %v", r.name, there, known)
			continue
		}
		before, after = min(before, after)/r.unit, max(before, after)/r.unit // memory may shrink
		if known && (got < before*0.98 || got > after*1.02) {
			t.Errorf("%s: got %v, the kernel says %v before and %v after", r.name, got, before, after)
		}
	}
	p, err := take(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"testbed_guest_cpu_throttled_seconds_total", "testbed_guest_cpu_throttled_periods_total", "testbed_guest_processes"} {
		if p[series(name, "busy")] <= 0 {
			t.Errorf("%s of a busy container under a quota: got %v", name, p[series(name, "busy")])
		}
	}
}
