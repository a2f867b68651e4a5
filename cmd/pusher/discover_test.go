package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/guest"
)

// TestSkeleton: the gateway reads what discover writes, and finds every guest
// by the name it has here.
func TestSkeleton(t *testing.T) {
	long := strings.Repeat("a", 80)
	twin := strings.Repeat("a", 80) + "b" // the same as far as it fits
	guests := []guest.Description{
		{Name: "signal-web", Kind: guest.Docker, Image: "nginx:stable"},
		{Name: "signal-server", Kind: guest.Libvirt, MemoryMB: 2048, CPUs: 2},
		{Name: "signal-", Kind: guest.Docker},          // no guest's name is left
		{Name: "signal--odd", Kind: guest.Docker},      // nor a valid one
		{Name: "web", Kind: guest.Docker},              // as signal-web is called
		{Name: "signal-signal-x", Kind: guest.Docker},  // takes the name of the next
		{Name: "signal-x", Kind: guest.Docker},         //
		{Name: "stranger_1.2", Kind: guest.Docker},     //
		{Name: "half", Kind: guest.Libvirt, CPUs: 0.5}, //
		{Name: "signal-" + strings.Repeat("g", 63), Kind: guest.Android},
		{Name: long, Kind: guest.Docker},
		{Name: twin, Kind: guest.Docker},
		{Name: strings.Repeat("x", 127), Kind: guest.Docker},
	}
	bad := []guest.Description{
		{Name: "a b", Kind: guest.Docker},
		{Name: "a\nb\"", Kind: guest.Docker},
		{Name: "-a", Kind: guest.Docker},
		{Name: "", Kind: guest.Docker},
		{Name: "ä", Kind: guest.Docker},
		{Name: strings.Repeat("x", 128), Kind: guest.Docker},
		{Name: "both", Kind: guest.Docker},
		{Name: "both", Kind: guest.Libvirt},
	}
	var log bytes.Buffer
	s := skeleton("signal", "main-host", "10.50.0.1", append(append([]guest.Description(nil), guests...), bad...), slog.New(slog.NewTextHandler(&log, nil)))
	if len(s.Guests) != len(guests) {
		t.Errorf("%d guests, want %d", len(s.Guests), len(guests))
	}
	if got := strings.Count(log.String(), "guest is left out"); got != len(bad) {
		t.Errorf("%d guests are named as left out, want %d:\n%s", got, len(bad), log.String())
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "signal-state.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &deployment.Watcher{StateGlobs: []string{filepath.Join(dir, "*-state.json")}, Interval: time.Second, Log: slog.New(slog.DiscardHandler)}
	w.Load()
	roster := w.Roster()
	if !roster.HasHost("main-host") {
		t.Error("the gateway does not know the host")
	}
	for _, d := range guests {
		g, match := roster.Lookup(d.Name)
		if match != deployment.Found || g.Kind != d.Kind || g.Host != "main-host" || g.Project != "signal" {
			t.Errorf("%q: the gateway has %+v, %v; want it found as a %s guest of main-host", d.Name, g, match, d.Kind)
		}
	}
	if t.Failed() {
		t.Logf("%s\n%+v", text, roster.Problems())
	}
}

func TestSkeletonGolden(t *testing.T) {
	s := skeleton("signal", "main-host", "10.50.0.1", []guest.Description{
		{Name: "signal-web", Kind: guest.Docker, Image: "nginx:stable"},
		{Name: "signal-server", Kind: guest.Libvirt, MemoryMB: 2048, CPUs: 2},
		{Name: "other", Kind: guest.Docker, Image: "redis"},
	}, slog.New(slog.DiscardHandler))
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const golden = "testdata/state.golden.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHashedName(t *testing.T) {
	for n := 1; n <= 127; n++ {
		if name := hashedName(strings.Repeat("x", n)); !nodeName.MatchString(name) {
			t.Errorf("%d characters become %q, which is no name", n, name)
		}
	}
	if a, b := hashedName(fmt.Sprint(strings.Repeat("x", 80), 1)), hashedName(fmt.Sprint(strings.Repeat("x", 80), 2)); a == b {
		t.Errorf("two long names become the same %q", a)
	}
}
