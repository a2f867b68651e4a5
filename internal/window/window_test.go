package window

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"fanin/internal/sample"
)

var (
	cpu    = sample.NewGauge("testbed_guest_cpu", "percent", "")
	memory = sample.NewGauge("testbed_guest_memory", "percent", "")
	start  = time.Unix(1_700_000_000, 0)
)

func series(f *sample.Family, guest string) *sample.Series {
	return sample.New(f, sample.Label{Name: sample.HostName, Value: "h"}, sample.Label{Name: sample.GuestName, Value: guest}, sample.Label{Name: sample.Project, Value: "p"})
}

func page(s *Store, match func(sample.Owner) bool) (got []string) {
	for _, p := range s.Newest(nil, match) {
		got = append(got, fmt.Sprintf("%s %s %v@%d", p.Series.Name(), p.Series.Label(sample.GuestName), p.V, p.T))
	}
	return got
}

func TestAppend(t *testing.T) {
	var s Store
	a := series(cpu, "a")
	for i, c := range []struct {
		t    int64
		v    float64
		want Outcome
	}{
		{1000, 1, Stored},
		{1000, 1, Duplicate},
		{1000, 2, Late}, // the first stays
		{999, 3, Late},
		{2000, 4, Stored},
		{1500, 5, Late},
		{3000, math.Float64frombits(staleNaN), Ended},
		{3000, math.Float64frombits(staleNaN), Ended},
		{4000, math.NaN(), Stored}, // an ordinary NaN is a value
	} {
		got := Stored
		s.Append([]sample.Point{{Series: a, T: c.t, V: c.v}}, start, time.Minute, func(_ int, o Outcome) { got = o })
		if got != c.want {
			t.Fatalf("append %d: got outcome %d, want %d", i, got, c.want)
		}
		if i == 5 {
			if got, want := page(&s, nil), []string{"testbed_guest_cpu a 4@2000"}; !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		if i == 6 && s.Len() != 0 {
			t.Fatalf("a stale marker left %d series", s.Len())
		}
	}
}

// TestClockSetBack: the clock was an hour ahead and is set right. Series begin
// anew at once, instead of being silent for an hour; a minute is waited out, as
// a sender's clock may be ahead by that much.
func TestClockSetBack(t *testing.T) {
	var s Store
	a := series(cpu, "a")
	for i, c := range []struct {
		clock, at time.Duration
		want      Outcome
	}{
		{time.Hour, time.Hour, Stored},
		{time.Hour, time.Hour + 30*time.Second, Stored},
		{time.Hour - 30*time.Second, time.Hour - 30*time.Second, Late},
		{0, 0, Stored},
		{0, 0, Duplicate},
		{time.Second, time.Second, Stored},
		{time.Second, time.Second / 2, Late},
		{time.Hour, time.Hour, Stored},
	} {
		got := Stored
		point := sample.Point{Series: a, T: start.Add(c.at).UnixMilli(), V: 1}
		s.Append([]sample.Point{point}, start.Add(c.clock), time.Minute, func(_ int, o Outcome) { got = o })
		if got != c.want {
			t.Errorf("append %d: got outcome %d, want %d", i, got, c.want)
		}
	}
	if got, want := page(&s, nil), fmt.Sprintf("testbed_guest_cpu a 1@%d", start.Add(time.Hour).UnixMilli()); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPageIsSortedAndMatched(t *testing.T) {
	var s Store
	s.Append([]sample.Point{
		{Series: series(memory, "b"), T: 1, V: 1},
		{Series: series(cpu, "b"), T: 1, V: 2},
		{Series: series(memory, "a"), T: 1, V: 3},
		{Series: series(cpu, "a"), T: 1, V: 4},
	}, start, time.Minute, nil)
	if got, want := page(&s, nil), []string{"testbed_guest_cpu a 4@1", "testbed_guest_cpu b 2@1", "testbed_guest_memory a 3@1", "testbed_guest_memory b 1@1"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	onlyA := func(o sample.Owner) bool { return o.Guest == "a" }
	if got, want := page(&s, onlyA), []string{"testbed_guest_cpu a 4@1", "testbed_guest_memory a 3@1"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	// The family of a series may become known later.
	known := &sample.Family{Name: "testbed_guest_cpu", Type: sample.Gauge, Help: "Known now."}
	s.Append([]sample.Point{{Series: series(known, "a"), T: 2, V: 5}}, start, time.Minute, nil)
	if p := s.Newest(nil, onlyA)[0]; p.Series.Family() != known || s.Len() != 4 {
		t.Fatalf("got family %+v and %d series, want the new family and 4", p.Series.Family(), s.Len())
	}
}

func TestSweep(t *testing.T) {
	var s Store
	all := func(sample.Owner) bool { return true }
	s.Append([]sample.Point{{Series: series(cpu, "a"), T: 1}}, start, 15*time.Second, nil)
	s.Append([]sample.Point{{Series: series(cpu, "b"), T: 1}}, start, time.Minute, nil)
	if n := s.Sweep(start.Add(15*time.Second), all); n != 2 {
		t.Fatalf("got %d series in time, want 2", n)
	}
	if n := s.Sweep(start.Add(16*time.Second), all); n != 1 {
		t.Fatalf("got %d series after 16 s, want 1", n)
	}
	if n := s.Sweep(start, func(o sample.Owner) bool { return o.Guest != "b" }); n != 0 {
		t.Fatalf("got %d series of owners that are gone, want 0", n)
	}
}

func TestMaxSeries(t *testing.T) {
	s := Store{MaxSeries: 2}
	full := 0
	var points []sample.Point
	for i := range 5 {
		points = append(points, sample.Point{Series: series(cpu, fmt.Sprint(i)), T: 1})
	}
	stored, _, _ := s.Append(points, start, time.Minute, func(_ int, o Outcome) {
		if o == Full {
			full++
		}
	})
	if stored != 2 || full != 3 || s.Len() != 2 {
		t.Fatalf("got %d stored, %d refused, %d kept; want 2, 3, 2", stored, full, s.Len())
	}
}

// What is watched is handed over once, as it was stored, and nothing else is.
func TestWatched(t *testing.T) {
	asked := map[string]int{}
	s := Store{Watch: func(s *sample.Series) bool { asked[s.Text()]++; return s.Family() == cpu }}
	a, b, other := series(cpu, "a"), series(cpu, "b"), series(memory, "a")
	append1 := func(points ...sample.Point) {
		t.Helper()
		if _, _, err := s.Append(points, start, time.Minute, nil); err != nil {
			t.Fatal(err)
		}
	}
	var spare []sample.Point
	handed := func(want ...sample.Point) {
		t.Helper()
		if spare = s.Watched(spare); !slices.Equal(spare, want) {
			t.Fatalf("got %v, want %v", spare, want)
		}
	}
	handed()
	append1(sample.Point{Series: a, T: 1000, V: 1}, sample.Point{Series: other, T: 1000, V: 2}, sample.Point{Series: b, T: 1000, V: 3})
	append1(sample.Point{Series: a, T: 1000, V: 1}, sample.Point{Series: b, T: 999, V: 1}, sample.Point{Series: a, T: 2000, V: 4}) // a repeat, a late one
	handed(sample.Point{Series: a, T: 1000, V: 1}, sample.Point{Series: b, T: 1000, V: 3}, sample.Point{Series: a, T: 2000, V: 4})
	handed()
	append1(sample.Point{Series: a, T: 3000, V: math.Float64frombits(staleNaN)}, sample.Point{Series: a, T: 4000, V: 5}, sample.Point{Series: other, T: 4000, V: 6})
	handed(sample.Point{Series: a, T: 4000, V: 5})
	if asked[a.Text()] != 1 || asked[other.Text()] != 1 {
		t.Fatalf("it was asked more than once: %v", asked)
	}
	for i := range int64(watchedAtOnce + 10) {
		append1(sample.Point{Series: a, T: 5000 + i, V: 1}, sample.Point{Series: other, T: 5000 + i, V: 1})
	}
	for _, want := range []int{watchedAtOnce, 10, 0} {
		if spare = s.Watched(spare); len(spare) != want {
			t.Fatalf("%d points are handed over at once, want %d", len(spare), want)
		}
	}
}
