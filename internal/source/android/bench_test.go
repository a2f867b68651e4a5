package android

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// measured is a Source that measures so many emulators, of which only one is a
// process of its own.
func measured(t testing.TB, n int) *Source {
	t.Helper()
	programs := emulators(t)
	avd := avdName()
	ns := rig.NetworkNamespace(t, avd+"-nmspc")
	start(t, ns.Command(filepath.Join(programs, "emulator"), "-avd", avd, "-cores", "2", "-memory", "2048"), "qemu-system-x86_64")
	s := source(t, &Source{})
	appears(t, s, avd)
	s.following.Store(true) // no looks
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.emulators[avd]
	s.order = s.order[:0]
	for i := range n {
		p, err := s.scanner.attach(first.process.pid, first.process.born)
		if err != nil {
			t.Fatal(err)
		}
		e := newEmulator(fmt.Sprint("e", i))
		e.become(p)
		e.hardware = first.hardware
		s.order = append(s.order, e)
	}
	return s
}

// A steady tick allocates nothing.
func TestSteadyTickAllocatesNothing(t *testing.T) {
	s := measured(t, 10)
	var b sample.Batch
	do := func() {
		b.Points = b.Points[:0]
		if err := s.Sample(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	do()
	do()
	if n := len(b.Points); n != 10*22+1 {
		t.Errorf("%d points of 10 emulators", n)
	}
	if n := testing.AllocsPerRun(100, do); n > 0 {
		t.Errorf("%.1f allocations in a tick of 10 emulators, want 0", n)
	}
}

func BenchmarkTick(b *testing.B) {
	for _, n := range []int{0, 1, 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := &Source{}
			if n > 0 {
				s = measured(b, n)
			}
			s.setup()
			s.following.Store(true)
			var batch sample.Batch
			b.ReportAllocs()
			for b.Loop() {
				batch.Points = batch.Points[:0]
				_ = s.Sample(b.Context(), &batch)
			}
		})
	}
}

// What a host pays every Rescan: a look at all its processes.
func BenchmarkLook(b *testing.B) {
	s := source(b, &Source{})
	s.setup()
	processes := 0
	look := func() {
		if err := s.look(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
	}
	for _, more := range []int{0, 500} {
		for range more {
			cmd := exec.Command("sleep", "1000")
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		}
		look()
		processes = 0
		if err := s.scanner.eachProcess(func(int) { processes++ }); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("processes=%d", processes), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				look()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(processes), "ns/process")
		})
	}
}
