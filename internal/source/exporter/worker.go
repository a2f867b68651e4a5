package exporter

import (
	"context"
	"hash/fnv"
	"sync"
	"time"

	"fanin/internal/guest"
	"fanin/internal/sample"
)

const (
	// A scrape of more than a quarter of the timeout was slow; so many quick
	// ones in a row make up for it.
	slowPart = 4
	makeUp   = 10
	// maxReady is how many scrapes wait to be handed out at the most: one is
	// usual, two when a scrape and the sampler's tick are close together.
	maxReady = 3
	// quietFor is how long the log says nothing more of a target that was
	// spoken of.
	quietFor = time.Minute
)

// worker scrapes one target.
type worker struct {
	// immutable
	source   *Source
	key      key
	target   Target
	endpoint endpoint
	request  []byte
	bad      *failure // why there is nothing to scrape
	interval time.Duration
	labels   []sample.Label
	cancel   context.CancelFunc
	done     chan struct{} // closed when its goroutine ends; nil: it has none

	// owned by its goroutine, or by who calls once
	memory   *memory
	up       map[reason]*sample.Series
	duration *sample.Series
	series   *sample.Series
	points   []sample.Point
	before   reason // of the last scrape
	scraped  bool
	hurry    int  // quick scrapes until it counts as quick again
	inside   bool // no address led to it, and its namespace did
	spoke    time.Time
	said     reason

	mu    sync.Mutex
	ready []sample.Point // guarded by mu; of the scrapes that were not handed out yet
	waits int            // guarded by mu; scrapes in ready
}

func newWorker(s *Source, k key, t Target) *worker {
	w := &worker{
		source: s, key: k, target: t, cancel: func() {},
		interval: max(min(t.Interval, LongestInterval), s.Interval),
		labels:   []sample.Label{guest.Named(k.guest), {Name: portLabel, Value: k.port}},
		memory:   newMemory(k, &s.room, s.MaxSeries, s.MaxBytes),
		up:       map[reason]*sample.Series{},
	}
	w.duration, w.series = sample.New(Duration, w.labels...), sample.New(Series, w.labels...)
	if w.endpoint, w.bad = t.resolve(); w.bad == nil {
		w.request = s.requestFor(&w.endpoint)
	}
	return w
}

// start gives it a goroutine until ctx ends or cancel is called.
func (w *worker) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	w.done = make(chan struct{})
	go func() {
		defer w.source.Look() // what has the same port of the guest now may begin
		defer close(w.done)
		for ctx.Err() == nil {
			w.once(ctx)
			timer := time.NewTimer(time.Until(w.next(time.Now())))
			select {
			case <-ctx.Done():
				timer.Stop()
			case <-timer.C:
			}
		}
	}()
}

// next is when to scrape after a scrape that ended now: at the target's own
// point of each interval, so that all of them do not come at once.
func (w *worker) next(now time.Time) time.Time {
	h := fnv.New64a()
	_, _ = h.Write([]byte(w.key.guest + ":" + w.key.port))
	at := now.Truncate(w.interval).Add(time.Duration(h.Sum64() % uint64(w.interval)))
	for at.Sub(now) < w.interval/2 {
		at = at.Add(w.interval)
	}
	return at
}

func (w *worker) hasEnded() bool {
	if w.done == nil {
		return true
	}
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// last ends a worker that has ended, and returns the stale markers of what it
// has handed out. What it has not is dropped.
func (w *worker) last() []sample.Point {
	w.source.counts.omitted[gone].Add(uint64(len(w.ready)))
	now := time.Now().UnixMilli()
	var markers []sample.Point
	end := func(s *sample.Series) { markers = append(markers, sample.Point{Series: s, T: now, V: staleNaN}) }
	for _, s := range w.memory.present {
		end(s.Series)
	}
	if w.scraped {
		end(w.upFor(w.before))
		if w.bad == nil {
			end(w.duration)
		}
		if w.before == fine {
			end(w.series)
		}
	}
	w.memory.end()
	return markers
}

// hand gives out what is ready.
func (w *worker) hand(b *sample.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b.Points = append(b.Points, w.ready...)
	clear(w.ready)
	w.ready, w.waits = w.ready[:0], 0
}

// once scrapes once.
func (w *worker) once(ctx context.Context) {
	s := w.source
	points, took, failed := w.points[:0], time.Duration(0), w.bad
	if failed == nil {
		began := time.Now()
		points, failed = w.scrape(ctx, points)
		took = time.Since(began)
		w.pace(took)
		if ctx.Err() != nil {
			return // the target is gone, or the source ends
		}
	}
	why := fine
	if failed != nil {
		why = failed.reason
	}
	s.counts.scrapes[why].Add(1)
	w.say(failed)
	now := time.Now().UnixMilli()
	if why == fine {
		now = max(now, w.memory.now.UnixMilli())
		points = append(points, sample.Point{Series: w.series, T: now, V: float64(len(w.memory.present))})
	} else if w.scraped && w.before == fine {
		points = append(points, sample.Point{Series: w.series, T: now, V: staleNaN})
	}
	if w.scraped && w.before != why {
		points = append(points, sample.Point{Series: w.upFor(w.before), T: now, V: staleNaN})
	}
	v := 0.0
	if why == fine {
		v = 1
	}
	points = append(points, sample.Point{Series: w.upFor(why), T: now, V: v})
	if w.bad == nil {
		points = append(points, sample.Point{Series: w.duration, T: now, V: took.Seconds()})
	}
	w.before, w.scraped = why, true
	w.queue(points)
	clear(points) // series may be forgotten
	w.points = points[:0]
}

// queue makes points ready to be handed out.
func (w *worker) queue(points []sample.Point) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waits >= maxReady {
		w.source.counts.omitted[overrun].Add(uint64(len(points)))
		return
	}
	w.ready = append(w.ready, points...)
	w.waits++
}

// slots are those that a large page of this target takes one of.
func (w *worker) slots() chan struct{} {
	if w.hurry > 0 {
		return w.source.slow
	}
	return w.source.quick
}

func (w *worker) pace(took time.Duration) {
	if took > w.source.Timeout/slowPart {
		w.hurry = makeUp
	} else if w.hurry > 0 {
		w.hurry--
	}
}

func (w *worker) upFor(why reason) *sample.Series {
	if w.up[why] == nil {
		w.up[why] = sample.New(Up, append([]sample.Label{{Name: "reason", Value: why.String()}}, w.labels...)...)
	}
	return w.up[why]
}

// say logs a change, and of one target not too often.
func (w *worker) say(failed *failure) {
	why := fine
	if failed != nil {
		why = failed.reason
	}
	now := time.Now()
	if why == w.said || now.Sub(w.spoke) < quietFor {
		return
	}
	if failed == nil {
		w.source.Log.Info("page is scraped again", "guest", w.key.guest, "port", w.key.port)
	} else {
		w.source.Log.Warn("page can not be scraped", "guest", w.key.guest, "port", w.key.port, "reason", why.String(), "err", failed.err)
	}
	w.said, w.spoke = why, now
}
