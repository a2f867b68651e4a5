package sampler

import (
	"log/slog"
	"time"

	"fanin/internal/sample"
)

// order keeps the timestamps of every series rising. Series are known by their
// key, as a source may build a guest's handles again.
type order struct {
	last   map[sample.Key]int64
	newest int64
	swept  time.Time
}

// begin forgets what is of no more use at the beginning of a tick: series that
// have been silent for long, and times that the clock, set back since, says
// are far in the future. Keeping those would silence a node until its clock
// comes there again, which after a start with a wrong clock may be years.
func (o *order) begin(now time.Time, log *slog.Logger) {
	if ahead := time.UnixMilli(o.newest).Sub(now); o.newest != 0 && ahead > future {
		limit := now.Add(future).UnixMilli()
		for key, t := range o.last {
			if t > limit {
				delete(o.last, key)
			}
		}
		o.newest = now.UnixMilli()
		o.swept = now
		log.Warn("the clock was set back: samples go on from there", "by", ahead.Round(time.Second))
	}
	if now.Sub(o.swept) < forget/10 {
		return
	}
	o.swept = now
	old := now.Add(-forget).UnixMilli()
	for key, t := range o.last {
		if t < old {
			delete(o.last, key)
		}
	}
}

// rises reports whether p is newer than what its series had.
func (o *order) rises(p sample.Point) bool {
	key := p.Series.Key()
	if last, ok := o.last[key]; ok && p.T <= last {
		return false
	}
	o.last[key] = p.T
	o.newest = max(o.newest, p.T)
	return true
}
