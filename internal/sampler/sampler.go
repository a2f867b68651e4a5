// Package sampler owns the node's clock: when sources are asked, which of them
// are late or lost, and what makes up one batch. It knows nothing of what is
// measured or where batches go.
package sampler

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"fanin/internal/sample"
)

// What the sampler says about each source.
var (
	Duration = sample.NewGauge("fanin_source_duration_seconds", "seconds", "How long the source took for its last sample.")
	Up       = sample.NewGauge("fanin_source_up", "", "1 when the source's last sample was complete, 0 when it failed or when the source has not answered for two intervals.")
)

const (
	defaultInterval = time.Second
	// A batch closes when everybody has answered, or at four fifths of its
	// interval, so that it is on its way before the next one begins; and after
	// five seconds in any case, as the fast sources wait for it.
	longestBatch = 5 * time.Second
	// stopGrace is how long the sources that are still at it are waited for
	// at the end.
	stopGrace = 500 * time.Millisecond
	// future is how far a series may be ahead of the clock before it is taken
	// for granted that the clock was wrong then and is right now. Receivers
	// refuse what is that far ahead of them, so nothing was stored.
	future = time.Minute
	// forget is how long a series' last timestamp is remembered.
	forget = 10 * time.Minute
)

// Reasons of fanin_source_failures_total.
const (
	reasonError = "error"
	reasonPanic = "panic"
	reasonHung  = "hung"
)

// Sampler asks its sources on an aligned clock and hands out one batch a tick.
type Sampler struct {
	Sources []Source

	// Interval is the time between two ticks, 0 for a second. Ticks are at its
	// multiples on the wall clock.
	Interval time.Duration

	// Output takes the points of one tick. The slice is lent for the call;
	// Output runs on the sampler's goroutine and must be quick. Timestamps of
	// a series strictly rise, over all calls, unless the clock was set back by
	// more than a minute.
	Output func([]sample.Point)

	Log     *slog.Logger          // nil: silent
	Metrics prometheus.Registerer // nil: not exported

	wall func() time.Time // nil: the machine's clock
}

// Run samples until ctx ends; then it hands out what is still to be had at
// once and returns nil. A source that hangs or panics takes nobody with it.
func (s *Sampler) Run(ctx context.Context) error {
	r := s.newRun()
	for {
		due, missed, ok := r.clock.next(ctx)
		if !ok {
			break
		}
		r.metrics.ticks.Inc()
		r.metrics.missed.Add(float64(missed))
		r.start(ctx, due)
		// The clock may have been set back since the tick was due.
		r.gather(ctx.Done(), min(due.Add(r.batch).Sub(r.clock.wall()), r.batch), r.current)
		r.close(ctx)
	}
	r.stopping = true
	r.gather(nil, stopGrace, r.anyone)
	r.close(ctx)
	return nil
}

// run is the state of one Run, owned by its goroutine.
type run struct {
	*Sampler
	clock    clock
	interval time.Duration
	batch    time.Duration // how long a batch stays open
	log      *slog.Logger
	metrics  metrics

	sources []*watched
	results chan result
	tick    int64 // number of this tick
	points  []sample.Point
	order   order

	stopping bool // failures are our own doing
}

type metrics struct {
	ticks, missed, points, notNewer prometheus.Counter
	failures                        *prometheus.CounterVec
}

// watched is a source and what the sampler thinks of it.
type watched struct {
	source       Source
	duration, up *sample.Series

	busy  bool
	tick  int64     // the tick it was last started in
	since time.Time // and when
	batch sample.Batch

	answered bool   // its state is known
	down     string // reason, "" while all is well
	downAt   time.Time
	failures int
}

// result is the end of one call. Whoever receives it owns the source's batch
// again.
type result struct {
	w      *watched
	took   time.Duration
	at     int64
	err    error
	reason string
	stack  []byte // of a panic
}

func (s *Sampler) newRun() *run {
	r := &run{Sampler: s, interval: s.Interval, log: s.Log}
	if r.interval <= 0 {
		r.interval = defaultInterval
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.clock = clock{interval: r.interval, wall: s.wall}
	if s.wall == nil {
		r.clock.wall = func() time.Time { return time.Now().Round(0) }
	}
	r.batch = min(r.interval*4/5, longestBatch)
	r.results = make(chan result, len(s.Sources))
	r.order = newOrder()
	m := promauto.With(s.Metrics)
	dropped := m.NewCounterVec(prometheus.CounterOpts{Name: "fanin_sampler_points_dropped_total", Help: "Points that sources gave and no batch took, by reason."}, []string{"reason"})
	r.metrics = metrics{
		ticks:    m.NewCounter(prometheus.CounterOpts{Name: "fanin_sampler_ticks_total", Help: "Ticks of the node's clock in which sources were asked."}),
		missed:   m.NewCounter(prometheus.CounterOpts{Name: "fanin_sampler_ticks_missed_total", Help: "Ticks of the node's clock that passed unused: the process was stopped, the machine suspended or its clock set."}),
		points:   m.NewCounter(prometheus.CounterOpts{Name: "fanin_sampler_points_total", Help: "Points handed out in batches."}),
		notNewer: dropped.WithLabelValues("not_newer"),
		failures: m.NewCounterVec(prometheus.CounterOpts{Name: "fanin_source_failures_total", Help: "Failed samples of a source, by reason; hung counts the ticks in which it did not answer."}, []string{"source", "reason"}),
	}
	for _, source := range s.Sources {
		name := sample.Label{Name: "source", Value: source.Name()}
		r.sources = append(r.sources, &watched{source: source, duration: sample.New(Duration, name), up: sample.New(Up, name)})
		for _, reason := range []string{reasonError, reasonPanic, reasonHung} {
			r.metrics.failures.WithLabelValues(source.Name(), reason)
		}
	}
	return r
}

// start begins a tick: it asks every source that is not busy, and gives up
// those that have been for two intervals.
func (r *run) start(ctx context.Context, due time.Time) {
	r.tick++
	r.order.begin(r.clock.wall(), r.log)
	r.takeLate()
	for _, w := range r.sources {
		if w.busy {
			if r.tick-w.tick >= 2 && time.Since(w.since) > 2*r.interval-r.interval/10 {
				r.failed(w, reasonHung, fmt.Errorf("no answer for %s", time.Since(w.since).Round(time.Millisecond)))
			}
			continue
		}
		w.busy, w.tick, w.since = true, r.tick, time.Now()
		go func() { r.results <- call(ctx, w, 2*r.interval-r.interval/10) }() // just in time for the tick after the next
	}
}

// call asks one source and survives it.
func call(ctx context.Context, w *watched, limit time.Duration) (res result) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	res.w = w
	defer func() {
		if p := recover(); p != nil {
			res.reason, res.err, res.stack = reasonPanic, fmt.Errorf("panic: %v", p), debug.Stack()
		}
		end := time.Now()
		res.took, res.at = end.Sub(start), end.UnixMilli()
	}()
	if res.err = w.source.Sample(ctx, &w.batch); res.err != nil {
		res.reason = reasonError
	}
	return res
}

// takeLate takes the results that came since the last batch was closed.
func (r *run) takeLate() {
	for {
		select {
		case res := <-r.results:
			r.finish(res)
		default:
			return
		}
	}
}

// gather takes results as long as there is somebody to wait for, d has not
// passed and done is open.
func (r *run) gather(done <-chan struct{}, d time.Duration, wanted func(*watched) bool) {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	for {
		waiting := false
		for _, w := range r.sources {
			waiting = waiting || w.busy && wanted(w)
		}
		if !waiting {
			return
		}
		select {
		case res := <-r.results:
			r.finish(res)
		case <-timer.C:
			return
		case <-done:
			return
		}
	}
}

func (r *run) current(w *watched) bool { return w.tick == r.tick }
func (r *run) anyone(*watched) bool    { return true }

// finish takes over what a source has given.
func (r *run) finish(res result) {
	w := res.w
	w.busy = false
	for _, p := range w.batch.Points {
		r.add(p)
	}
	clear(w.batch.Points) // series of guests that are gone
	w.batch.Points = w.batch.Points[:0]
	r.add(sample.Point{Series: w.duration, T: res.at, V: res.took.Seconds()})
	if res.err != nil {
		if !r.stopping {
			if res.reason == reasonPanic && w.down != reasonPanic {
				r.log.Error("source panicked: please report this", "source", w.source.Name(), "err", res.err, "stack", string(res.stack))
			}
			r.failed(w, res.reason, res.err)
		}
		return
	}
	if w.down != "" {
		r.log.Info("source is back", "source", w.source.Name(), "after", time.Since(w.downAt).Round(time.Millisecond), "failures", w.failures)
	}
	w.answered, w.down, w.failures = true, "", 0
}

func (r *run) failed(w *watched, reason string, err error) {
	r.metrics.failures.WithLabelValues(w.source.Name(), reason).Inc()
	if w.down == "" {
		w.downAt = time.Now()
	}
	if w.down != reason {
		r.log.Warn("source failed", "source", w.source.Name(), "reason", reason, "err", err)
	}
	w.answered, w.down = true, reason
	w.failures++
}

func (r *run) add(p sample.Point) {
	if !r.order.rises(p) {
		r.metrics.notNewer.Inc()
		return
	}
	r.points = append(r.points, p)
}

// close ends the batch and hands it out.
func (r *run) close(ctx context.Context) {
	if ctx.Err() == nil {
		t := r.clock.wall().UnixMilli()
		for _, w := range r.sources {
			if w.answered {
				v := 1.0
				if w.down != "" {
					v = 0
				}
				r.add(sample.Point{Series: w.up, T: t, V: v})
			}
		}
	}
	if len(r.points) == 0 {
		return
	}
	r.metrics.points.Add(float64(len(r.points)))
	r.Output(r.points)
	clear(r.points)
	r.points = r.points[:0]
}
