package sampler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/sample"
)

var family = sample.NewGauge("test_value", "", "For tests.")

// fake is a source made of a function; its calls are numbered from 1.
type fake struct {
	name  string
	calls int
	f     func(ctx context.Context, call int, b *sample.Batch) error
}

func (f *fake) Name() string { return f.name }

func (f *fake) Sample(ctx context.Context, b *sample.Batch) error {
	f.calls++
	if f.f != nil {
		if err := f.f(ctx, f.calls, b); err != nil {
			return err
		}
	}
	b.Add(sample.New(family, sample.Label{Name: "of", Value: f.name}), time.Now().UnixMilli(), float64(f.calls))
	return nil
}

// batch is what one Output got.
type batch struct {
	at     time.Duration // since the beginning of the bubble
	points []sample.Point
}

// of are the points of one series, as "value@milliseconds since the beginning".
func of(batches []batch, begin time.Time, text string) string {
	var all []string
	for _, b := range batches {
		for _, p := range b.points {
			if p.Series.Text() == text {
				all = append(all, fmt.Sprintf("%v@%d", p.V, p.T-begin.UnixMilli()))
			}
		}
	}
	return strings.Join(all, " ")
}

func times(batches []batch) string {
	var all []string
	for _, b := range batches {
		all = append(all, fmt.Sprint(b.at.Milliseconds()))
	}
	return strings.Join(all, " ")
}

// record runs s for d and returns what it put out. before is called when it
// has started, with the bubble's clock at its beginning.
func record(t *testing.T, s *Sampler, d time.Duration, output func(n int)) ([]batch, time.Time) {
	t.Helper()
	begin := time.Now()
	var batches []batch
	s.Output = func(points []sample.Point) {
		batches = append(batches, batch{time.Since(begin), slices.Clone(points)})
		if output != nil {
			output(len(batches))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run: %v, want nil", err)
	}
	return batches, begin
}

// counts are the values of one of our own metrics, each after its labels'.
func counts(t *testing.T, g prometheus.Gatherer, name string) string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var one []string
			for _, l := range m.GetLabel() {
				one = append(one, l.GetValue())
			}
			all = append(all, strings.Join(append(one, fmt.Sprint(m.GetCounter().GetValue())), " "))
		}
	}
	return strings.Join(all, "; ")
}

func check(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestAligned(t *testing.T) {
	for _, c := range []struct{ interval, start time.Duration }{
		{time.Second, 370 * time.Millisecond},
		{100 * time.Millisecond, 30 * time.Millisecond},
		{7 * time.Second, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(c.start)
			s := &Sampler{Interval: c.interval, Sources: []Source{&fake{name: "a"}, &fake{name: "b"}}}
			batches, _ := record(t, s, 5*c.interval, nil)
			if len(batches) < 4 || len(batches) > 5 {
				t.Errorf("%s: %d batches in five intervals, want 5 or, less the beginning, 4", c.interval, len(batches))
			}
			for i, b := range batches {
				if len(b.points) != 6 {
					t.Errorf("%s: batch %d has %d points, want 6", c.interval, i, len(b.points))
				}
				for _, p := range b.points {
					if p.T%c.interval.Milliseconds() != 0 {
						t.Errorf("%s: %s is of %d, want a multiple of the interval", c.interval, p.Series.Text(), p.T)
					}
				}
			}
		})
	}
}

// TestSlow: a slow source is in the tick it finishes in, and the others never
// wait for it into the next one.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &fake{name: "slow", f: func(context.Context, int, *sample.Batch) error {
			time.Sleep(1200 * time.Millisecond)
			return nil
		}}
		batches, begin := record(t, &Sampler{Sources: []Source{slow, &fake{name: "fast"}}}, 5500*time.Millisecond, nil)
		// In odd ticks the slow one is still at it and nobody waits: it is started
		// at 1 s and ends at 2.2 s, is started again at 3 s and ends at 4.2 s.
		check(t, "batches", times(batches), "1800 2000 3800 4000 5500")
		check(t, "fast", of(batches, begin, `test_value{of="fast"}`), "1@1000 2@2000 3@3000 4@4000 5@5000")
		check(t, "slow", of(batches, begin, `test_value{of="slow"}`), "1@2200 2@4200")
		check(t, "duration", of(batches, begin, `fanin_source_duration_seconds{source="slow"}`), "1.2@2200 1.2@4200")
		check(t, "up", of(batches, begin, `fanin_source_up{source="slow"}`), "1@3800 1@4000")
		time.Sleep(time.Second) // the slow one is given up at the end; let it end
	})
}

func TestHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		hung := &fake{name: "hung", f: func(_ context.Context, call int, _ *sample.Batch) error {
			if call == 3 {
				<-release
			}
			return nil
		}}
		reg := prometheus.NewPedanticRegistry()
		s := &Sampler{Sources: []Source{hung, &fake{name: "fine"}}, Metrics: reg}
		batches, begin := record(t, s, 9500*time.Millisecond, func(n int) {
			if n == 7 {
				close(release)
			}
		})
		check(t, "fine", of(batches, begin, `test_value{of="fine"}`), "1@1000 2@2000 3@3000 4@4000 5@5000 6@6000 7@7000 8@8000 9@9000")
		check(t, "hung", of(batches, begin, `test_value{of="hung"}`), "1@1000 2@2000 3@7000 4@8000 5@9000")
		check(t, "up", of(batches, begin, `fanin_source_up{source="hung"}`), "1@1000 1@2000 1@3800 1@4000 0@5000 0@6000 0@7000 1@8000 1@9000")
		check(t, "failures", counts(t, reg, "fanin_source_failures_total"), "error fine 0; error hung 0; hung fine 0; hung hung 3; panic fine 0; panic hung 0")
	})
}

// TestDeadline: a source that heeds its context is called again after two
// intervals, and what it had appended counts.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &fake{name: "slow", f: func(ctx context.Context, call int, b *sample.Batch) error {
			b.Add(sample.New(family, sample.Label{Name: "of", Value: "part"}), time.Now().UnixMilli(), float64(call))
			<-ctx.Done()
			return ctx.Err()
		}}
		batches, begin := record(t, &Sampler{Sources: []Source{slow}}, 6500*time.Millisecond, nil)
		if got := of(batches, begin, `test_value{of="part"}`); !strings.HasPrefix(got, "1@1000 2@3000 3@5000") {
			t.Errorf("parts: got %q, want one every two seconds", got)
		}
		if slow.calls != 3 {
			t.Errorf("calls: got %d, want 3", slow.calls)
		}
	})
}

func TestPanicAndError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := &fake{name: "bad", f: func(_ context.Context, call int, b *sample.Batch) error {
			switch call {
			case 2:
				b.Add(sample.New(family, sample.Label{Name: "of", Value: "part"}), time.Now().UnixMilli(), 1)
				panic("oh")
			case 3:
				return errors.New("no")
			}
			return nil
		}}
		batches, begin := record(t, &Sampler{Sources: []Source{bad, &fake{name: "fine"}}}, 5500*time.Millisecond, nil)
		check(t, "fine", of(batches, begin, `test_value{of="fine"}`), "1@1000 2@2000 3@3000 4@4000 5@5000")
		check(t, "bad", of(batches, begin, `test_value{of="bad"}`), "1@1000 4@4000 5@5000")
		check(t, "part", of(batches, begin, `test_value{of="part"}`), "1@2000")
		check(t, "up", of(batches, begin, `fanin_source_up{source="bad"}`), "1@1000 0@2000 0@3000 1@4000 1@5000")
	})
}

func TestRising(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		start := time.Now().UnixMilli()
		twice := &fake{name: "x", f: func(_ context.Context, call int, b *sample.Batch) error {
			again := func(v float64, at int64) {
				b.Add(sample.New(family, sample.Label{Name: "of", Value: "again"}), start+at, v)
			}
			again(1, int64(call)*1000)
			again(2, int64(call)*1000) // same time
			again(3, int64(call)*1000-1)
			again(4, int64(call)*1000+1)
			return nil
		}}
		batches, begin := record(t, &Sampler{Sources: []Source{twice}, Metrics: reg}, 2500*time.Millisecond, nil)
		check(t, "again", of(batches, begin, `test_value{of="again"}`), "1@1000 4@1001 1@2000 4@2001")
		check(t, "dropped", counts(t, reg, "fanin_sampler_points_dropped_total"), "not_newer 4")
	})
}

// TestStopped: a process that does not run for a while (SIGSTOP, suspend) has
// one gap, and goes on at the next multiple.
func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		batches, begin := record(t, &Sampler{Sources: []Source{&fake{name: "a"}}, Metrics: reg}, 9500*time.Millisecond, func(n int) {
			if n == 2 {
				time.Sleep(4300 * time.Millisecond) // everything stands still
			}
		})
		check(t, "a", of(batches, begin, `test_value{of="a"}`), "1@1000 2@2000 3@7000 4@8000 5@9000")
		check(t, "missed", counts(t, reg, "fanin_sampler_ticks_missed_total"), "4")
	})
}

// TestClockSet sets the wall clock while the sampler runs. The times are those
// of the wall clock, which the source reads too.
func TestClockSet(t *testing.T) {
	for _, c := range []struct {
		name string
		step time.Duration
		when time.Duration // 0: while the second batch is handed out
		want string
	}{
		{"forward, off the grid", 10*time.Minute + 300*time.Millisecond, 0, "1@1000 2@2000 3@603000 4@604000 5@605000"},
		{"forward, on the grid", 10 * time.Minute, 0, "1@1000 2@2000 3@603000 4@604000 5@605000"},
		{"back a little: silent until the old time is reached", -2 * time.Second, 0, "1@1000 2@2000 5@3000"},
		{"back by years: goes on at once", -24 * 365 * time.Hour, 0, "1@1000 2@2000 3@-31535997000 4@-31535996000 5@-31535995000"},
		{"forward while waiting", 10*time.Minute + 300*time.Millisecond, 2500 * time.Millisecond, "1@1000 2@2000 3@604000 4@605000 5@606000"},
		{"back by years while waiting", -24 * 365 * time.Hour, 2500 * time.Millisecond, "1@1000 2@2000 3@-31535996000 4@-31535995000 5@-31535994000"},
		{"slewed while waiting", -20 * time.Millisecond, 2500 * time.Millisecond, "1@1000 2@2000 3@3000 4@4000 5@5000"},
		{"slewed", -20 * time.Millisecond, 0, "1@1000 2@2000 3@3000 4@4000 5@5000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now().Round(0)
				var step atomic.Int64
				wall := func() time.Time { return time.Now().Round(0).Add(time.Duration(step.Load())) }
				if c.when > 0 {
					time.AfterFunc(c.when, func() { step.Store(int64(c.step)) })
				}
				series := sample.New(family, sample.Label{Name: "of", Value: "a"})
				var calls int
				source := source(func(b *sample.Batch) {
					calls++
					b.Add(series, wall().UnixMilli(), float64(calls))
				})
				s := &Sampler{Sources: []Source{source}, wall: wall}
				stop := make(chan struct{})
				ctx, cancel := context.WithCancel(context.Background())
				var got []batch
				s.Output = func(points []sample.Point) {
					got = append(got, batch{points: slices.Clone(points)})
					switch {
					case calls == 2 && c.when == 0:
						step.Store(int64(c.step))
					case calls == 5:
						cancel()
						close(stop)
					}
				}
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
				<-stop
				check(t, "a", of(got, begin, series.Text()), c.want)
			})
		})
	}
}

type source func(b *sample.Batch)

func (source) Name() string { return "wall" }
func (f source) Sample(_ context.Context, b *sample.Batch) error {
	f(b)
	return nil
}

// TestStop: the end does not wait for a source that hangs, and takes along
// what a willing one still gives.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		hung := &fake{name: "hung", f: func(context.Context, int, *sample.Batch) error { <-release; return nil }}
		willing := &fake{name: "willing", f: func(ctx context.Context, _ int, b *sample.Batch) error {
			<-ctx.Done()
			b.Add(sample.New(family, sample.Label{Name: "of", Value: "part"}), time.Now().UnixMilli(), 1)
			return ctx.Err()
		}}
		batches, begin := record(t, &Sampler{Sources: []Source{hung, willing, &fake{name: "fast"}}}, 1200*time.Millisecond, nil)
		check(t, "fast", of(batches, begin, `test_value{of="fast"}`), "1@1000")
		check(t, "part", of(batches, begin, `test_value{of="part"}`), "1@1200")
		if took := time.Since(begin); took > 1200*time.Millisecond+stopGrace {
			t.Errorf("stopped after %s, want at most %s after the end", took, stopGrace)
		}
	})
}

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		sources := []Source{
			&fake{name: "fine"},
			&fake{name: "bad", f: func(context.Context, int, *sample.Batch) error { return errors.New("no such thing") }},
			&fake{name: "hung", f: func(context.Context, int, *sample.Batch) error { <-release; return nil }},
		}
		points, err := (&Sampler{Sources: sources}).Once(context.Background())
		if err == nil || !strings.Contains(err.Error(), "source bad: no such thing") || !strings.Contains(err.Error(), "source hung: no answer") {
			t.Errorf("error: %v, want bad and hung named", err)
		}
		var got []string
		for _, p := range points {
			if p.Series.Family() != Duration {
				got = append(got, fmt.Sprintf("%s %v", p.Series.Text(), p.V))
			}
		}
		check(t, "points", strings.Join(got, "; "),
			`test_value{of="fine"} 2; fanin_source_up{source="fine"} 1; fanin_source_up{source="bad"} 0; fanin_source_up{source="hung"} 0`)
	})
}

func BenchmarkTick(b *testing.B) {
	series := make([]*sample.Series, 2000)
	for i := range series {
		series[i] = sample.New(family, sample.Label{Name: "of", Value: fmt.Sprint(i)})
	}
	var t int64
	s := &Sampler{Output: func([]sample.Point) {}, Sources: []Source{source(func(b *sample.Batch) {
		t++
		for _, one := range series {
			b.Add(one, t, 1)
		}
	})}}
	r := s.newRun()
	b.ReportAllocs()
	for b.Loop() {
		r.start(b.Context(), time.Time{})
		r.gather(nil, time.Minute, r.current)
		r.close(b.Context())
	}
}
