package android

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// The processes here are real, and so are the network namespaces; only the
// program is not the Android emulator (see fanin/internal/e2e/emulator).

// emulators is the folder of the programs.
func emulators(t testing.TB) string {
	t.Helper()
	rig.Need(t, "ip")
	return rig.Emulator(t)
}

var names atomic.Int32

// avdName is a name that nobody else on this machine uses.
func avdName() string { return fmt.Sprintf("fanin%d-phone%d", os.Getpid(), names.Add(1)) }

// start starts a command with more in its environment, and waits until it is
// the program it should become.
func start(t testing.TB, cmd *exec.Cmd, program string, env ...string) *rig.Process {
	t.Helper()
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir()), env...)
	p := rig.StartCmd(t, cmd)
	waitFor(t, p.Cmd.Process.Pid, program)
	rig.Eventually(t, 10*time.Second, func() error {
		if !strings.Contains(p.Tail(100), "ready") {
			return fmt.Errorf("%s is not ready", program)
		}
		return nil
	})
	return p
}

func waitFor(t testing.TB, pid int, program string) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, func() error {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && filepath.Base(exe) != program {
			err = fmt.Errorf("process %d runs %s, want %s", pid, exe, program)
		}
		return err
	})
}

func source(t testing.TB, s *Source) *Source {
	t.Helper()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// tick is one Sample, by the series' texts.
type tick map[string]sample.Point

// look makes the Source look for emulators at its next Sample.
func look(s *Source) {
	s.setup()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = time.Time{}
}

func take(t testing.TB, s *Source) tick {
	t.Helper()
	got, err := try(s)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func try(s *Source) (tick, error) {
	var b sample.Batch
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.Sample(ctx, &b)
	got := tick{}
	for _, p := range b.Points {
		if _, twice := got[p.Series.Text()]; twice {
			err = errors.Join(err, fmt.Errorf("%s stands twice", p.Series.Text()))
		}
		got[p.Series.Text()] = p
	}
	return got, err
}

// of are the guest's series: without the guest's own label.
func (k tick) of(avd string) tick {
	got := tick{}
	for text, p := range k {
		if p.Series.Label("guest") == avd {
			text = strings.NewReplacer(`,guest="`+avd+`"`, "", `guest="`+avd+`",`, "", `{guest="`+avd+`"}`, "").Replace(text)
			got[text] = p
		}
	}
	return got
}

func (k tick) String() string {
	var lines []string
	for text, p := range k {
		lines = append(lines, fmt.Sprint(text, " ", p.V))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// appears looks until a guest is up and returns that tick.
func appears(t testing.TB, s *Source, avd string) tick {
	t.Helper()
	var got tick
	rig.Eventually(t, 5*time.Second, func() error {
		look(s)
		k, err := try(s)
		if got = k.of(avd); err == nil && got["testbed_guest_up"].V != 1 {
			err = fmt.Errorf("%s is not up: %v", avd, k)
		}
		return err
	})
	return got
}

// absent looks once and wants nothing to be said of a guest.
func absent(t testing.TB, s *Source, avd string) {
	t.Helper()
	look(s)
	for text := range take(t, s) {
		if strings.Contains(text, avd) {
			t.Errorf("%q is measured: %s", avd, text)
		}
	}
}
