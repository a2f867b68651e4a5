package main

import (
	"strings"
	"testing"
)

// Everything that is pushed must be in the window, and on the reader's page;
// otherwise a run fails.
func TestSimulation(t *testing.T) {
	for _, s := range []simulation{
		{nodes: 12, guests: 2, series: 30, same: 2000, ticks: 2, protocol: 1},
		{nodes: 12, guests: 2, series: 30, same: 2000, ticks: 2, protocol: 2},
		{nodes: 12, guests: 2, series: 30, same: 2000, ticks: 2, protocol: 2, http: true},
	} {
		var out strings.Builder
		if err := run(&out, s, false, ""); err != nil {
			t.Fatalf("%+v: %v\n%s", s, err, out.String())
		}
		for _, row := range []string{"\n| 1 | 60 |", "\n| 10 | 600 |", "\n| 12 | 720 |", "\n| 1 | ", "\n| 12 | ", "times the cheapest"} {
			if !strings.Contains(out.String(), row) {
				t.Errorf("%+v: there is no %q in\n%s", s, row, out.String())
			}
		}
	}
}

func TestBounds(t *testing.T) {
	good := simulation{nodes: 10, guests: 2, series: 30, same: 2000, ticks: 2, protocol: 2}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*simulation){
		"no nodes":        func(s *simulation) { s.nodes = 0 },
		"too many nodes":  func(s *simulation) { s.nodes = maxNodes + 1 },
		"too many series": func(s *simulation) { s.series = maxSeries },
		"too large":       func(s *simulation) { s.same = maxSeries + 1 },
		"too small":       func(s *simulation) { s.same = 999 },
		"no ticks":        func(s *simulation) { s.ticks = 0 },
	} {
		s := good
		if change(&s); s.check() == nil {
			t.Errorf("%s: passes", name)
		}
	}
}
