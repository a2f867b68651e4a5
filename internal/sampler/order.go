package sampler

import (
	"log/slog"
	"math"
	"time"

	"fanin/internal/sample"
)

// order keeps the timestamps of every series rising. Series are known by their
// key, as a source may build a guest's handles again.
type order struct {
	last   map[sample.Key]*mark
	marks  map[*sample.Series]*mark // the same, by the handle that came last: nearly all come again
	newest int64
	swept  time.Time
}

// mark is where a series has come to.
type mark struct {
	t      int64
	handle *sample.Series
}

func newOrder() order {
	return order{last: map[sample.Key]*mark{}, marks: map[*sample.Series]*mark{}}
}

// begin forgets what is of no more use at the beginning of a tick: series that
// have been silent for long, and times that the clock, set back since, says
// are far in the future. Keeping those would silence a node until its clock
// comes there again, which after a start with a wrong clock may be years.
func (o *order) begin(now time.Time, log *slog.Logger) {
	if ahead := time.UnixMilli(o.newest).Sub(now); o.newest != 0 && ahead > future {
		limit := now.Add(future).UnixMilli()
		o.drop(func(t int64) bool { return t > limit })
		o.newest = now.UnixMilli()
		o.swept = now
		log.Warn("the clock was set back: samples go on from there", "by", ahead.Round(time.Second))
	}
	if now.Sub(o.swept) < forget/10 {
		return
	}
	o.swept = now
	old := now.Add(-forget).UnixMilli()
	o.drop(func(t int64) bool { return t < old })
}

func (o *order) drop(unwanted func(t int64) bool) {
	for key, m := range o.last {
		if unwanted(m.t) {
			delete(o.last, key)
			delete(o.marks, m.handle)
		}
	}
}

// rises reports whether p is newer than what its series had.
func (o *order) rises(p sample.Point) bool {
	m := o.marks[p.Series]
	if m == nil {
		m = o.handled(p)
	}
	if p.T <= m.t {
		return false
	}
	m.t = p.T
	o.newest = max(o.newest, p.T)
	return true
}

// handled finds the mark of a series that comes with another handle.
func (o *order) handled(p sample.Point) *mark {
	key := p.Series.Key()
	m := o.last[key]
	if m == nil {
		m = &mark{t: math.MinInt64}
		o.last[key] = m
	} else {
		delete(o.marks, m.handle)
	}
	m.handle = p.Series
	o.marks[p.Series] = m
	return m
}
