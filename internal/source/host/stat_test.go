package host

import (
	"math"
	"testing"
)

func TestBusyPercent(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after cpuTimes
		want          float64
		ok            bool
	}{
		{"idle", cpuTimes{}, cpuTimes{idle: 2}, 0, true},
		{"one of two cores", cpuTimes{user: 5}, cpuTimes{user: 6, idle: 1}, 50, true},
		{"waiting for a disk is not work", cpuTimes{}, cpuTimes{system: 1, iowait: 3}, 25, true},
		{"stolen time is nobody's", cpuTimes{}, cpuTimes{user: 1, steal: 1}, 100, true},
		{"virtual machines are work", cpuTimes{}, cpuTimes{guestTime: 1, idle: 3}, 25, true},
		{"interrupts are work", cpuTimes{}, cpuTimes{irq: 1, softirq: 1, nice: 1, idle: 1}, 75, true},
		{"no time passed", cpuTimes{user: 1}, cpuTimes{user: 1}, 0, false},
	} {
		got, ok := busyPercent(c.before, c.after)
		if ok != c.ok || math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: got %v, %v; want %v, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

// TestGuestTimeOnce: the modes add up to the time there was.
func TestGuestTimeOnce(t *testing.T) {
	got := disjoint([10]uint64{1000, 500, 100, 2000, 0, 0, 0, 0, 700, 200})
	want := cpuTimes{user: 3, nice: 3, system: 1, idle: 20, guestTime: 9}
	if got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNeverBack(t *testing.T) {
	var s cpuState
	if _, _, ok := s.next(cpuTimes{user: 10, iowait: 3}); ok {
		t.Error("the first reading has one before it")
	}
	before, after, ok := s.next(cpuTimes{user: 11, iowait: 2.9})
	if !ok || after[iowait] != 3 || before[user] != 10 {
		t.Errorf("a jitter of iowait: got %v after %v, %v; want 3 s kept", after[iowait], before[iowait], ok)
	}
	if _, after, ok := s.next(cpuTimes{user: 1}); ok || after[user] != 1 {
		t.Errorf("a reset: got %v, %v; want 1, false", after[user], ok)
	}
}
