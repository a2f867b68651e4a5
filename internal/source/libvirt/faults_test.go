//go:build cgo

package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

const sleeping = "echo booted; sleep 100000"

// upOf is a guest's newest testbed_guest_up: its value and reason, and how
// many other points the guest has in that tick.
func upOf(k tick, name string) (value float64, reason string, others int, ok bool) {
	for _, p := range k.points {
		switch {
		case p.Series.Label("guest") != name:
		case p.Series.Name() == "testbed_guest_up":
			value, reason, ok = p.V, p.Series.Label("reason"), true
		default:
			others++
		}
	}
	return value, reason, others, ok
}

// becomes waits until a guest is up (reason "") or down for this reason.
func becomes(t *testing.T, tape *tape, name, reason string, d time.Duration) {
	t.Helper()
	rig.Eventually(t, d, func() error {
		v, r, others, ok := upOf(tape.last(), name)
		switch {
		case !ok:
			return fmt.Errorf("%s is not reported, want %q: %w", name, reason, tape.last().err)
		case r != reason || (v == 1) != (reason == ""):
			return fmt.Errorf("%s is %v %q, want %q", name, v, r, reason)
		case v == 0 && others > 0:
			return fmt.Errorf("%s is down and has %d other points", name, others)
		case v == 1 && others < 5:
			return fmt.Errorf("%s is up and has only %d other points", name, others)
		}
		return nil
	})
}

func vanishes(t *testing.T, tape *tape, name string, d time.Duration) {
	t.Helper()
	rig.Eventually(t, d, func() error {
		if v, r, _, ok := upOf(tape.last(), name); ok {
			return fmt.Errorf("%s is %v %q, want it to be reported no more", name, v, r)
		}
		return nil
	})
}

// cadence reports when a guest was left out of a tick, or a tick was held up.
// What holds up takes 2 s at the least (the deadline of a slow call); less than
// a second is the machine's own doing, for the tests may share two cores with
// a lot else.
func cadence(ticks []tick, name string) error {
	points := of(ticks, "testbed_guest_cpu_usage_seconds_total", "guest="+name)
	if len(points) != len(ticks) || len(ticks) < 5 {
		return fmt.Errorf("%s has %d readings in %d ticks", name, len(points), len(ticks))
	}
	for i := range ticks {
		if ticks[i].took > time.Second/2 {
			return fmt.Errorf("tick %d took %s", i, ticks[i].took)
		}
	}
	for i := 1; i < len(points); i++ {
		if gap := points[i].T - points[i-1].T; gap > 1000 {
			return fmt.Errorf("%s has a gap of %d ms", name, gap)
		}
	}
	return nil
}

// One daemon and two domains through everything that can happen to them.
func TestFaults(t *testing.T) {
	t.Parallel()
	l := rig.Libvirtd(t)
	one := l.Define(rig.Domain{Init: sleeping})
	two := l.Define(rig.Domain{Init: sleeping})
	one.Start()
	two.Start()
	one.WaitFor("booted", 90*time.Second)
	two.WaitFor("booted", 90*time.Second)
	log := &logBook{}
	const interval = 200 * time.Millisecond
	s := &Source{
		URI: l.URI, Interval: interval, Rescan: 5 * time.Second, SlowInterval: time.Second, SlowDeadline: 2 * time.Second, Log: log.logger(),
	}
	stop := run(t, s)
	tape := record(t, s, interval)
	becomes(t, tape, one.Name, "", 10*time.Second)
	becomes(t, tape, two.Name, "", 10*time.Second)
	slow := func(name string, since time.Time) int {
		return len(of(tape.since(since), "testbed_guest_vcpu_seconds_total", "guest="+name))
	}

	t.Run("QEMU hangs", func(t *testing.T) {
		pid := one.PID()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
		time.Sleep(1500 * time.Millisecond) // a call that was answered before may still come in
		began := time.Now()
		time.Sleep(8 * time.Second)
		ticks := tape.since(began)
		for _, name := range []string{one.Name, two.Name} {
			if err := cadence(ticks, name); err != nil {
				t.Error(err)
			}
		}
		if n := slow(one.Name, began); n > 0 {
			t.Errorf("%d slow readings of a stopped QEMU", n)
		}
		if n := slow(two.Name, began); n < 4 {
			t.Errorf("%d slow readings of the other in 8 s, want one a second but for the 2 s deadline", n)
		}
		for i := range ticks {
			if ticks[i].err != nil {
				t.Errorf("tick %d: %v", i, ticks[i].err)
			}
		}
		if n := strings.Count(log.String(), "a domain does not answer; its slow numbers are missing\" domain="+one.Name); n != 1 {
			t.Errorf("said %d times that %s hangs, want once:\n%s", n, one.Name, log)
		}
		_ = syscall.Kill(pid, syscall.SIGCONT)
		back := time.Now()
		rig.Eventually(t, 10*time.Second, func() error {
			if n := slow(one.Name, back); n < 2 {
				return fmt.Errorf("%d slow readings since it runs again", n)
			}
			return nil
		})
	})

	t.Run("the daemon hangs", func(t *testing.T) {
		if err := l.Daemon().Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Daemon().Signal(syscall.SIGCONT) }()
		began := time.Now()
		time.Sleep(7 * time.Second)
		ticks := tape.since(began)
		for _, name := range []string{one.Name, two.Name} {
			if err := cadence(ticks, name); err != nil {
				t.Error(err)
			}
		}
		if err := ticks[len(ticks)-1].err; err == nil {
			t.Error("no error though the daemon has not answered for 7 s")
		}
		if ticks[1].err != nil {
			t.Errorf("an error at once: %v", ticks[1].err)
		}
		// The domain's end is seen without the daemon.
		_ = syscall.Kill(two.PID(), syscall.SIGKILL)
		becomes(t, tape, two.Name, "stopped", 2*time.Second)
		_ = l.Daemon().Signal(syscall.SIGCONT)
		rig.Eventually(t, 10*time.Second, func() error { return tape.last().err })
		becomes(t, tape, two.Name, "stopped", time.Second)
		rig.Eventually(t, 3*time.Second, func() error {
			if !strings.Contains(log.String(), "libvirt answers again") {
				return errors.New("the log does not say that libvirt answers again")
			}
			return nil
		})
		rig.Eventually(t, 10*time.Second, func() error {
			_, err := l.TryVirsh("start", two.Name)
			return err
		})
		becomes(t, tape, two.Name, "", 10*time.Second)
	})

	t.Run("the daemon hangs until keep-alive ends the connection", func(t *testing.T) {
		if err := l.Daemon().Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		rig.Eventually(t, 26*time.Second, func() error {
			if !strings.Contains(log.String(), "libvirt connection ended") {
				return errors.New("the connection has not ended")
			}
			return nil
		})
		_ = l.Daemon().Signal(syscall.SIGCONT)
		if err := cadence(tape.since(began), one.Name); err != nil {
			t.Error(err)
		}
		rig.Eventually(t, 15*time.Second, func() error { return tape.last().err })
		l.Virsh("suspend", one.Name)
		becomes(t, tape, one.Name, "paused", 2*time.Second)
		l.Virsh("resume", one.Name)
		becomes(t, tape, one.Name, "", 2*time.Second)
	})

	t.Run("the daemon restarts", func(t *testing.T) {
		began := time.Now()
		l.Restart()
		rig.Eventually(t, 15*time.Second, func() error {
			if err := tape.last().err; err != nil {
				return err
			}
			if !strings.Contains(log.String(), "closed by libvirt") {
				return errors.New("the loss of the connection was not noticed")
			}
			return nil
		})
		time.Sleep(2 * time.Second)
		if err := cadence(tape.since(began), one.Name); err != nil {
			t.Error(err)
		}
		for i, k := range tape.since(began) {
			if v, reason, _, ok := upOf(k, one.Name); !ok || v != 1 {
				t.Errorf("tick %d: the domain is up %v %q (%v), though it runs on", i, v, reason, ok)
			}
		}
		// Events are there again.
		l.Virsh("suspend", one.Name)
		becomes(t, tape, one.Name, "paused", 2*time.Second)
		l.Virsh("resume", one.Name)
		becomes(t, tape, one.Name, "", 2*time.Second)
	})

	t.Run("life of a domain", func(t *testing.T) {
		before := of(tape.since(time.Now().Add(-time.Second)), "testbed_guest_start_time_seconds", "guest="+one.Name)
		l.Virsh("destroy", one.Name)
		becomes(t, tape, one.Name, "stopped", 2*time.Second)

		old := one.Name
		l.Virsh("domrename", old, old+"-new")
		one.Name = old + "-new"
		becomes(t, tape, one.Name, "stopped", 2*time.Second)
		vanishes(t, tape, old, time.Second)

		at := time.Now()
		one.Start()
		becomes(t, tape, one.Name, "", 5*time.Second)
		ticks := tape.since(at)
		if p := of(ticks, "testbed_guest_start_time_seconds", "guest="+one.Name); len(p) == 0 || len(before) == 0 || p[0].V <= before[0].V {
			t.Errorf("start time %v after the restart, %v before", p, before)
		}
		if p := of(ticks, "testbed_guest_cpu_usage_seconds_total", "guest="+one.Name); len(p) == 0 || p[0].V > 3 {
			t.Errorf("CPU time begins with %v, want a new counter", p)
		}
		l.Virsh("destroy", one.Name)
		l.Virsh("undefine", one.Name)
		vanishes(t, tape, one.Name, 2*time.Second)

		fleeting := l.Define(rig.Domain{Init: sleeping, Transient: true})
		becomes(t, tape, fleeting.Name, "", 5*time.Second)
		l.Virsh("destroy", fleeting.Name)
		vanishes(t, tape, fleeting.Name, 2*time.Second)
		for i, k := range tape.since(at) {
			if v, reason, _, ok := upOf(k, fleeting.Name); ok && reason == "stopped" {
				t.Errorf("tick %d: a domain that is forgotten was %v %q", i, v, reason)
			}
		}
		rig.Eventually(t, 3*time.Second, func() error {
			if n := of([]tick{tape.last()}, "testbed_host_guests", "state=running"); len(n) != 1 || n[0].V != 1 {
				return fmt.Errorf("running guests: %v, want 1", n)
			}
			return nil
		})
	})

	t.Run("nothing is left open", func(t *testing.T) {
		if connections(t, l) == 0 {
			t.Error("there is no connection to be closed")
		}
		tape.stop()
		if err := rising(tape.since(time.Time{})); err != nil {
			t.Error(err)
		}
		stop()
		rig.Eventually(t, 5*time.Second, func() error {
			if n := connections(t, l); n != 0 {
				return fmt.Errorf("%d connections are open", n)
			}
			return nil
		})
	})
	if t.Failed() {
		t.Logf("log:\n%s", log)
	}
}

// connections counts those that a daemon has at its read-only socket
// (proc_net(5), unix): other tests have daemons of their own.
func connections(t *testing.T, l *rig.Libvirt) (n int) {
	t.Helper()
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sockets)) {
		const state, path, connected = 5, 7, "03"
		if f := strings.Fields(line); len(f) > path && f[state] == connected && f[path] == filepath.Join(l.Dir, "libvirt-sock-ro") {
			n++
		}
	}
	return n
}

// No daemon is no error, and is said once; when it comes it is found.
func TestNoDaemon(t *testing.T) {
	l := rig.Libvirtd(t)
	l.StopDaemon()
	log := &logBook{}
	s := &Source{URI: l.URI, Rescan: 300 * time.Millisecond, Log: log.logger()}
	run(t, s)
	tape := record(t, s, 100*time.Millisecond)
	time.Sleep(1500 * time.Millisecond)
	for i, k := range tape.since(time.Time{}) {
		if k.err != nil || len(k.points) > 0 {
			t.Errorf("tick %d: %d points, error %v, want none", i, len(k.points), k.err)
		}
	}
	if n := strings.Count(log.String(), "no libvirt here"); n != 1 {
		t.Errorf("said %d times that there is no libvirt, want once:\n%s", n, log)
	}
	l.Restart()
	rig.Eventually(t, 5*time.Second, func() error {
		if n := len(of([]tick{tape.last()}, "testbed_host_guests")); n != 5 {
			return fmt.Errorf("%d counts of guests, want 5", n)
		}
		return nil
	})
	if !strings.Contains(log.String(), "libvirt is there now") {
		t.Errorf("the log does not say that libvirt is there:\n%s", log)
	}

	other := &Source{URI: "qemu+unix:///system?socket=" + l.Dir + "/missing"}
	defer other.Close()
	b := tick{}
	if guests, err := other.Guests(t.Context()); err != nil || len(guests) > 0 {
		t.Errorf("without a socket Guests returned %v, %v, want nothing", guests, err)
	}
	if p := sampleOnce(t, other); len(p) > 0 {
		t.Errorf("without a socket there are points: %v", b.points)
	}
}
