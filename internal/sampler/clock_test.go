package sampler

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fanin/internal/sample"
)

// event sets the wall clock at a moment of the monotonic one. A suspend is the
// same thing: the monotonic clock stands then.
type event struct {
	at, step time.Duration
}

// seen is one tick.
type seen struct {
	real   time.Duration // on the monotonic clock
	due    time.Time
	missed int64
}

// set is a wall clock to which the events happen, ahead by so much at first.
func set(ahead time.Duration, events []event) (wall func() time.Time) {
	var step atomic.Int64
	step.Store(int64(ahead))
	for _, e := range events {
		time.AfterFunc(e.at, func() { step.Add(int64(e.step)) })
	}
	return func() time.Time { return time.Now().Add(time.Duration(step.Load())).Round(0) }
}

// happened are the events in a span of the monotonic clock.
func happened(events []event, from, to time.Duration) (n int, back time.Duration) {
	for _, e := range events {
		if e.at >= from && e.at <= to {
			n++
			back += max(-e.step, 0)
		}
	}
	return n, back
}

// events draws up to six of them within d, from a blink to ten years.
func events(r *rapid.T, interval, d time.Duration) []event {
	within := func(least, most time.Duration) *rapid.Generator[time.Duration] {
		return rapid.Map(rapid.Int64Range(int64(least), int64(most)), func(n int64) time.Duration { return time.Duration(n) })
	}
	whole := rapid.Map(rapid.IntRange(-100, 100), func(n int) time.Duration { return time.Duration(n) * interval })
	step := rapid.OneOf(within(-2*interval, 2*interval), within(-2*time.Minute, 2*time.Minute), within(-2*time.Hour, 2*time.Hour), within(-10*year, 10*year), whole)
	return rapid.SliceOfN(rapid.Custom(func(r *rapid.T) event {
		return event{at: within(0, d).Draw(r, "at"), step: step.Draw(r, "step")}
	}), 0, 6).Draw(r, "events")
}

const year = 365 * 24 * time.Hour

// ticks runs a clock for d while the events happen.
func ticks(t *testing.T, interval, begin, d time.Duration, events []event) (all []seen) {
	start := time.Now()
	wall := set(begin, events)
	c := clock{interval: interval, wall: wall}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for {
		due, missed, ok := c.next(ctx)
		if !ok {
			return all
		}
		all = append(all, seen{time.Since(start), due, missed})
	}
}

// TestClockModel does anything to the clock, a few times a minute: whatever it
// is, ticks stay on the grid, none is given twice while the clock runs on, none
// comes in a burst, and after at most two intervals they go on.
func TestClockModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		interval := rapid.SampledFrom([]time.Duration{100 * time.Millisecond, time.Second, 7 * time.Second}).Draw(r, "interval")
		d := 100 * interval
		events := events(r, interval, d)
		begin := rapid.Map(rapid.Int64Range(0, int64(interval)), func(n int64) time.Duration { return time.Duration(n) }).Draw(r, "begin")

		var got []seen
		synctest.Test(t, func(t *testing.T) { got = ticks(t, interval, begin, d, events) })

		last := seen{}
		for i, tick := range append(slices.Clone(got), seen{real: d}) {
			n, back := happened(events, last.real, tick.real)
			if gap := tick.real - last.real; gap > time.Duration(n+1)*interval+interval/2 {
				r.Fatalf("no tick from %s to %s, with %d steps in between", last.real, tick.real, n)
			}
			if i == len(got) {
				break
			}
			if tick.due.UnixNano()%int64(interval) != 0 {
				r.Fatalf("tick at %s is off the grid: %s", tick.real, tick.due)
			}
			if i > 0 {
				if back < interval && !tick.due.After(last.due) {
					r.Fatalf("after %s comes %s, though the clock went back by no more than %s", last.due, tick.due, back)
				}
				if n == 0 && (tick.real-last.real < interval/2 || tick.missed != 0) {
					r.Fatalf("ticks at %s and %s, %d missed, and nothing has happened", last.real, tick.real, tick.missed)
				}
				if want := max(int64(tick.due.Sub(last.due)/interval)-1, 0); tick.missed != want {
					r.Fatalf("%d ticks missed between %s and %s, want %d", tick.missed, last.due, tick.due, want)
				}
			}
			last = tick
		}
		if most := int(d/interval) + 1 + len(events); len(got) > most {
			r.Fatalf("%d ticks, want at most %d", len(got), most)
		}
	})
}

// TestSeriesModel does anything to the clock: the times of each series rise
// strictly, or the clock was set back by more than a minute, and then they
// begin anew at once. What is lost otherwise is the time until the old one is
// reached again.
func TestSeriesModel(t *testing.T) {
	const interval = time.Second
	type point struct {
		real time.Duration
		t    int64
	}
	rapid.Check(t, func(r *rapid.T) {
		d := 4 * time.Minute
		events := events(r, interval, d)
		got := make(map[string][]point)
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			wall := set(300*time.Millisecond, events)
			often, seldom := sample.New(family, sample.Label{Name: "of", Value: "often"}), sample.New(family, sample.Label{Name: "of", Value: "seldom"})
			var calls int
			s := &Sampler{Interval: interval, wall: wall, Sources: []Source{source(func(b *sample.Batch) {
				b.Add(often, wall().UnixMilli(), 1)
				if calls++; calls%50 == 0 {
					b.Add(seldom, wall().UnixMilli(), 1)
				}
			})}}
			s.Output = func(points []sample.Point) {
				for _, p := range points {
					got[p.Series.Text()] = append(got[p.Series.Text()], point{time.Since(start), p.T})
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for text, points := range got {
			for i, p := range points[1:] {
				before := points[i]
				if _, back := happened(events, before.real, p.real); p.t <= before.t && back <= future-2*interval {
					r.Fatalf("%s: %d comes after %d, though the clock went back by no more than %s", text, p.t, before.t, back)
				}
			}
		}
		last := point{}
		for _, p := range append(got[`test_value{of="often"}`], point{real: d}) {
			n, back := happened(events, last.real, p.real)
			most := time.Duration(n+1)*interval + interval/2 + min(back, time.Duration(n)*(future+interval))
			if gap := p.real - last.real; gap > most {
				r.Fatalf("nothing from %s to %s, where the clock was set %d times, back by %s", last.real, p.real, n, back)
			}
			last = p
		}
	})
}

// The clock is set back by an hour when a tick has just been given out, and a
// source hangs: the batch closes in time all the same, and the others go on.
func TestSetBackInATick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, readings := time.Now(), 0
		end := make(chan struct{})
		defer close(end)
		s := &Sampler{
			Sources: []Source{
				&fake{name: "hangs", f: func(context.Context, int, *sample.Batch) error { <-end; return nil }},
				&fake{name: "quick"},
			},
			wall: func() time.Time {
				now := time.Now().Round(0)
				if now.Sub(begin) < time.Second {
					return now
				}
				if readings++; readings == 1 { // by which the tick is due
					return now
				}
				return now.Add(-time.Hour)
			},
		}
		batches, _ := record(t, s, 5500*time.Millisecond, nil)
		if got, want := times(batches), "1800 2000 3000 4000 5000"; got != want {
			t.Errorf("batches at %s, want at %s", got, want)
		}
	})
}
