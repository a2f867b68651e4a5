package history

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"fanin/internal/sample"
	"fanin/internal/window"
)

// Window is where the samples come from.
type Window = window.Store

// Reader is what the history is to the window. It is waited for from the
// start: [window.Store.Expected].
var Reader = window.ReaderID{Name: "history", Path: "history"}

// pagePoints are written in one commit.
const pagePoints = 100_000

// collect writes all that has arrived since the last commit, or until ctx
// ends. The window's cursor moves on only behind a commit.
func (h *History) collect(ctx context.Context, now time.Time) {
	for ctx.Err() == nil {
		page, err := h.next(now, pagePoints)
		if err != nil {
			h.cannotWrite(err)
			return
		}
		if len(page.Points) > 0 {
			if err := h.write(func(a *appending) { h.appendPage(a, page.Points) }); err != nil {
				return
			}
		}
		if err := page.Confirm(false); err != nil {
			return // nobody else reads under this name: it is served again
		}
		h.counts.collected(now, len(page.Points) < pagePoints)
		if len(page.Points) < pagePoints {
			return
		}
	}
}

func (h *History) next(now time.Time, points int) (*window.Page, error) {
	page, err := h.Window.Next(h.points[:0], Reader, window.Request{
		Now: now, Oldest: math.MinInt64, MaxPoints: points, Markers: true,
	})
	if err == nil && cap(page.Points) > cap(h.points) {
		h.points = page.Points[:0]
	}
	return page, err
}

// beSeen keeps the window waiting for a reader that can not take anything now.
func (h *History) beSeen(now time.Time) { _, _ = h.next(now, 1) }

func (h *History) appendPage(a *appending, points []sample.Point) {
	var series *sample.Series
	var ref *ref
	for i := range points {
		p := &points[i]
		if p.Series != series {
			series = p.Series
			ref = h.refs.of(series)
			h.words.note(series)
		}
		a.add(ref, p.T, p.V)
	}
}

// ref is how the database knows a series.
type ref struct {
	ref    storage.SeriesRef
	series *sample.Series
	used   uint32
}

// refs knows the series by their address, as the window hands out the same
// ones again and again.
type refs struct {
	known map[*sample.Series]*ref
	now   uint32
}

func (r *refs) of(s *sample.Series) *ref {
	known := r.known[s]
	if known == nil {
		if r.known == nil {
			r.known = map[*sample.Series]*ref{}
		}
		known = &ref{series: s}
		r.known[s] = known
	}
	known.used = r.now
	return known
}

// age forgets the series that were not used since the call before the last.
func (r *refs) age() {
	for s, known := range r.known {
		if r.now-known.used > 1 {
			delete(r.known, s)
		}
	}
	r.now++
}

func (r *refs) clear() { r.known = nil }

// labelsOf are a series' labels as the database has them.
func labelsOf(s *sample.Series, b *labels.ScratchBuilder) labels.Labels {
	b.Reset()
	b.Add(model.MetricNameLabel, s.Name())
	for name, value := range s.Each {
		b.Add(name, value)
	}
	b.Sort()
	return b.Labels()
}

// appending is one transaction.
type appending struct {
	to      storage.Appender
	counts  *counts
	builder labels.ScratchBuilder
	points  int
}

// add appends one point. What the database does not take is counted: it must
// not stop the others.
func (a *appending) add(r *ref, t int64, v float64) {
	var lset labels.Labels
	if r.ref == 0 {
		lset = labelsOf(r.series, &a.builder)
	}
	got, err := a.to.Append(r.ref, lset, t, v)
	if err != nil && r.ref != 0 && reasonOf(err) == reasonInvalid { // the database has forgotten it
		got, err = a.to.Append(0, labelsOf(r.series, &a.builder), t, v)
	}
	if err != nil {
		a.counts.refused.WithLabelValues(reasonOf(err)).Inc()
		return
	}
	r.ref = got
	a.points++
}

// Why the database does not take a point.
const (
	reasonTooOld    = "too_old"   // more than the out-of-order window behind the newest
	reasonDuplicate = "duplicate" // another value at that time: the first stays
	reasonTooMany   = "too_many"  // of a new series, and there are too many in memory
	reasonInvalid   = "invalid"
)

func reasonOf(err error) string {
	switch {
	case errors.Is(err, storage.ErrTooOldSample), errors.Is(err, storage.ErrOutOfBounds), errors.Is(err, storage.ErrOutOfOrderSample):
		return reasonTooOld
	case errors.Is(err, storage.ErrDuplicateSampleForTimestamp):
		return reasonDuplicate
	case errors.Is(err, errTooMany):
		return reasonTooMany
	default:
		return reasonInvalid
	}
}
