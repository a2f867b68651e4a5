package docker

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

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// crowd makes n control groups that look like those of containers, each with
// a process in a network namespace of its own, and a source that takes them
// for running containers without an engine.
func crowd(t testing.TB, n int) *Source {
	t.Helper()
	rig.Need(t, "sleep")
	rig.NeedRoot(t)
	var tops []string
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio", "unified"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", c)); err == nil {
			tops = append(tops, filepath.Join("/sys/fs/cgroup", c, fmt.Sprintf("fanin-%d", os.Getpid())))
		}
	}
	if len(tops) == 0 {
		tops = append(tops, fmt.Sprintf("/sys/fs/cgroup/fanin-%d", os.Getpid()))
	}
	var entries []entry
	var groups []string
	t.Cleanup(func() {
		for _, g := range append(groups, tops...) {
			rig.Eventually(t, 5*time.Second, func() error {
				if err := os.Remove(g); !errors.Is(err, os.ErrNotExist) {
					return err
				}
				return nil
			})
		}
	})
	for i := range n {
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		id := fmt.Sprintf("%064x", 0xfa1100000000+i)
		for _, top := range tops {
			group := filepath.Join(top, id)
			groups = append(groups, group)
			if err := errors.Join(os.MkdirAll(group, 0o755),
				os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0)); err != nil {
				t.Fatal(err)
			}
		}
		entries = append(entries, entry{id: id, name: fmt.Sprintf("guest-%d", i), image: "image", state: running, network: networkOwn})
	}
	s := &Source{Host: "unix:///nowhere"}
	s.setup()
	s.following.Store(true)
	s.roster.replace(time.Now(), entries, nil)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// settle samples until every group has been opened for the second time.
func settle(t testing.TB, s *Source, b *sample.Batch) {
	t.Helper()
	for end := time.Now().Add(settling + 100*time.Millisecond); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		b.Points = b.Points[:0]
		if err := s.Sample(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// A container that is removed between two samples is never seen stopped.
func TestWhatVanishesIsReleased(t *testing.T) {
	s := crowd(t, 3)
	open := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.Contains(target, "00fa1100000") {
				n++
			}
		}
		return n
	}
	var b sample.Batch
	if err := s.Sample(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	if got := open(); got < 3*5 {
		t.Fatalf("descriptors on three groups: got %d, want at least 15", got)
	}
	s.roster.replace(time.Now(), nil, nil)
	if err := s.Sample(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	if got := open(); got != 0 {
		t.Errorf("descriptors on groups of removed containers: got %d, want 0", got)
	}
}

func TestSteadySampleAllocatesLittle(t *testing.T) {
	s := crowd(t, 10)
	var b sample.Batch
	settle(t, s, &b)
	if got, least := len(b.Points), 10*15; got < least {
		t.Fatalf("points: got %d, want at least %d", got, least)
	}
	got := testing.AllocsPerRun(20, func() {
		b.Points = b.Points[:0]
		if err := s.Sample(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	})
	if most := 10*3.0 + 10; got > most {
		t.Errorf("allocations of a steady sample of 10 containers: got %v, want at most %v", got, most)
	}
}

func BenchmarkSample100(b *testing.B) {
	s := crowd(b, 100)
	var batch sample.Batch
	settle(b, s, &batch)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		batch.Points = batch.Points[:0]
		if err := s.Sample(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(batch.Points)), "points")
}
