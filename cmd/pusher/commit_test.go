package main

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/sample"
	"fanin/internal/spool"
	"fanin/internal/wire"
)

// TestLargeTick: a tick with more points than a receiver takes at once becomes
// several records, in order, and none is missing.
func TestLargeTick(t *testing.T) {
	queue, err := spool.Open(spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	family := sample.NewGauge("test_value", "", "For tests.")
	const n = 2*mostPoints + 1
	points := make([]sample.Point, n)
	for i := range points {
		points[i] = sample.Point{Series: sample.New(family, sample.Label{Name: "i", Value: fmt.Sprint(i)}), T: int64(i + 1), V: 1}
	}
	c := newCommitter(queue, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	c.points(points)
	l := queue.Ledger()
	if l.Records != 3 || l.Committed < n || l.Committed > n+20 {
		t.Errorf("%d samples in %d records, want the %d and the ledger in 3", l.Committed, l.Records, n)
	}
	var last, number uint64
	for range l.Records {
		r, err := queue.Next(t.Context(), number)
		if err != nil {
			t.Fatal(err)
		}
		number = r.Number
		request, err := new(wire.Decoder).Decode(r.Body, &wire.Memory{Version: wire.V2}) // with the gateway's default limits
		if err != nil {
			t.Fatalf("record %d: %v", number, err)
		}
		if request.Samples != r.Samples {
			t.Errorf("record %d has %d samples, the spool says %d", number, request.Samples, r.Samples)
		}
		request.EachSeries(func(s *wire.Series) {
			if at := s.Points[0].T; at <= n {
				if uint64(at) != last+1 {
					t.Fatalf("point %d comes after %d", at, last)
				}
				last++
			}
		})
	}
	if last != n {
		t.Errorf("the last point is %d, want %d", last, n)
	}
}

// TestVitals: what travels is the ledger, and it balances.
func TestVitals(t *testing.T) {
	var v vitals
	l := spool.Ledger{Committed: 10, Delivered: 4, Pending: 3, Dropped: map[string]uint64{"full": 1, "too_old": 0}, Refused: map[string]uint64{"not_active": 2}}
	for i := range 2 {
		points := v.append(nil, l, time.UnixMilli(int64(5+i)))
		got := make(map[string]float64)
		for _, p := range points {
			got[p.Series.Text()] = p.V
		}
		want := map[string]float64{
			"fanin_samples_committed_total": 10, "fanin_samples_delivered_total": 4, "fanin_samples_pending": 3,
			`fanin_samples_dropped_total{reason="full"}`: 1, `fanin_samples_dropped_total{reason="too_old"}`: 0,
			`fanin_samples_refused_total{reason="not_active"}`: 2, buildSeries().Text(): 1,
		}
		if len(got) != len(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		for name, value := range want {
			if v, ok := got[name]; !ok || v != value {
				t.Errorf("%s = %v (there: %v), want %v", name, v, ok, value)
			}
		}
	}
}

// TestVitalsWhenTheClockIsSet: their times rise, or begin anew after more than a
// minute.
func TestVitalsWhenTheClockIsSet(t *testing.T) {
	var v vitals
	begin := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		at   time.Duration
		want bool
	}{
		{0, true},
		{0, false},
		{time.Second, true},
		{-29 * time.Second, false},
		{time.Second + time.Millisecond, true},
		{2 * time.Minute, true},
		{0, true},
		{time.Millisecond, true},
		{0, false},
	} {
		if got := len(v.append(nil, spool.Ledger{}, begin.Add(c.at))) > 0; got != c.want {
			t.Errorf("at %s: %v, want %v", c.at, got, c.want)
		}
	}
}
