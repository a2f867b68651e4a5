//go:build cgo

package libvirt

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// A guest whose balloon driver nobody asks: its memory in use is not known. With
// MemoryStatsPeriod it is, and is what the guest itself says; a period that
// somebody else has set stays, and so does every definition.
func TestMemoryStatsPeriod(t *testing.T) {
	t.Parallel()
	l := rig.Libvirtd(t)
	silent := l.Define(rig.Domain{
		Balloon: "<memballoon model='virtio'/>",
		Init:    "echo booted; sleep 100000",
	})
	own := l.Define(rig.Domain{Balloon: "<memballoon model='virtio'><stats period='3'/></memballoon>", Init: "echo booted; sleep 100000"})
	growing := l.Define(rig.Domain{
		Balloon: "<memballoon model='virtio'/>",
		Init:    "echo booted; mount -t tmpfs -o size=90% big /root; sleep 30; dd if=/dev/zero of=/root/x bs=1M count=40 2>/dev/null; echo grown; sleep 100000",
	})
	for _, g := range []*rig.Guest{silent, own, growing} {
		g.Start()
	}
	for _, g := range []*rig.Guest{silent, own, growing} {
		g.WaitFor("booted", 90*time.Second)
	}
	booted := time.Now()
	definitions := l.Virsh("dumpxml", "--inactive", silent.Name) + l.Virsh("dumpxml", "--inactive", own.Name)
	period := func(g *rig.Guest) string {
		_, rest, _ := strings.Cut(l.Virsh("dumpxml", g.Name), "<memballoon")
		_, rest, found := strings.Cut(rest, "<stats period='")
		if !found {
			return ""
		}
		value, _, _ := strings.Cut(rest, "'")
		return value
	}

	t.Run("nobody asks", func(t *testing.T) {
		s := &Source{URI: l.URI, SlowInterval: time.Second}
		stop := run(t, s)
		tape := record(t, s, 500*time.Millisecond)
		time.Sleep(time.Until(booted.Add(staleAfter + 3*time.Second)))
		k := []tick{}
		rig.Eventually(t, 10*time.Second, func() error {
			k = tape.since(time.Now().Add(-2 * time.Second))
			if len(of(k, "testbed_guest_memory_stats_age_seconds", "guest="+silent.Name)) == 0 {
				return errors.New("no age")
			}
			return nil
		})
		for _, p := range of(k, "testbed_guest_memory_stats_age_seconds", "guest="+silent.Name) {
			if p.V < staleAfter.Seconds() || p.V > time.Since(booted).Seconds()+60 {
				t.Errorf("the numbers are %v s old, the guest has been up for %s", p.V, time.Since(booted))
			}
		}
		for _, name := range []string{"testbed_guest_memory", "testbed_guest_memory_working_set_bytes", "testbed_guest_memory_usable_bytes"} {
			if p := of(k, name, "guest="+silent.Name); len(p) > 0 {
				t.Errorf("%s is %v, and is of the boot", name, p[0].V)
			}
			if p := of(k, name, "guest="+own.Name); len(p) == 0 {
				t.Errorf("no %s of the guest that is asked", name)
			}
		}
		if got := period(silent); got != "" {
			t.Errorf("the period is %s, and nobody wanted one", got)
		}
		tape.stop()
		stop()
	})

	t.Run("read-only", func(t *testing.T) {
		var log logBook
		s := &Source{URI: l.URI, SlowInterval: time.Second, MemoryStatsPeriod: 2 * time.Second, Log: log.logger()}
		stop := run(t, s)
		tape := record(t, s, 500*time.Millisecond)
		rig.Eventually(t, 10*time.Second, func() error {
			if !strings.Contains(log.String(), "period can not be set") {
				return errors.New("the log does not say that it can not be set")
			}
			if len(of(tape.since(time.Time{}), "testbed_guest_vcpu_seconds_total", "guest="+silent.Name)) < 3 {
				return errors.New("the other numbers are missing")
			}
			return nil
		})
		if got := period(silent); got != "" {
			t.Errorf("the period is %s", got)
		}
		tape.stop()
		stop()
	})

	t.Run("asked", func(t *testing.T) {
		s := &Source{URI: l.WritableURI, SlowInterval: time.Second, MemoryStatsPeriod: 2 * time.Second}
		run(t, s)
		tape := record(t, s, 500*time.Millisecond)
		newest := func(name string, g *rig.Guest) (float64, error) {
			p := of(tape.since(time.Now().Add(-3*time.Second)), name, "guest="+g.Name)
			if len(p) == 0 {
				return 0, fmt.Errorf("no %s of %s", name, g.Name)
			}
			return p[len(p)-1].V, nil
		}
		rig.Eventually(t, 20*time.Second, func() error {
			age, err := newest("testbed_guest_memory_stats_age_seconds", silent)
			if err == nil && age > 4 {
				err = fmt.Errorf("the numbers are %v s old", age)
			}
			return err
		})
		growing.WaitFor("grown", 90*time.Second)
		rig.Eventually(t, 20*time.Second, func() error {
			stats := domstats(t, l, growing, "--balloon")
			inUse := 1024 * (stats["balloon.available"] - stats["balloon.usable"])
			got, err := newest("testbed_guest_memory_working_set_bytes", growing)
			if err == nil && (!near(got, inUse, 0.03) || got < 40<<20) {
				err = fmt.Errorf("%.0f bytes in use, libvirt says %.0f, and 40 MiB were written", got, inUse)
			}
			return err
		})
		if percent, err := newest("testbed_guest_memory", growing); err != nil || percent < 25 || percent > 60 {
			t.Errorf("%v percent of 160 MiB in use, %v", percent, err)
		}
		for g, want := range map[*rig.Guest]string{silent: "2", growing: "2", own: "3"} {
			if got := period(g); got != want {
				t.Errorf("%s: the period is %q, want %s", g.Name, got, want)
			}
		}
		if got := l.Virsh("dumpxml", "--inactive", silent.Name) + l.Virsh("dumpxml", "--inactive", own.Name); got != definitions {
			t.Errorf("the definitions have changed:\n%s\nwere\n%s", got, definitions)
		}
		// It is set for this run alone, and for the next one again.
		l.Virsh("destroy", silent.Name)
		silent.Start()
		rig.Eventually(t, 30*time.Second, func() error {
			if got := period(silent); got != "2" {
				return fmt.Errorf("the period of the next run is %q, want 2", got)
			}
			return nil
		})
		if err := rising(tape.since(time.Time{})); err != nil {
			t.Error(err)
		}
	})
}
