package verdict

import (
	"math"

	"fanin/internal/sample"
)

// What a share is taken over, in milliseconds: from the newest point back to
// the one that is nearest to span before it, not nearer than shortest and not
// further than longest.
const (
	span     = 10_000
	shortest = 7_500
	longest  = 15_000
	// spacing is the least between two points that are kept. With 16 of them
	// there is always one at least span back, if they come that often.
	spacing = 900
	kept    = 16 // a power of two
)

// track is one series with some of its points. Owned by Judge.
type track struct {
	series *sample.Series
	after  *track // which came next the last time
	seen   int64  // when a point came last, by this machine's clock, milliseconds

	// The newest n points end before at next; the last of them takes the place of
	// the one before it while that is less than spacing behind its own.
	next, n int
	points  [kept]point
}

// point is a value at a time of the sender's clock, in milliseconds; both side by
// side, as a thousand tracks are not in the processor's caches.
type point struct {
	at int64
	v  float64
}

// back is the newest point for 1, the one before it for 2.
func (t *track) back(n int) *point { return &t.points[uint(t.next-n)%kept] }

// add appends a point. A counter that has been reset begins anew (so does a
// gauge that sinks, of which only the newest point counts), and so does every
// series when its sender's clock has been set back.
func (t *track) add(at int64, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		t.n = 0
		return
	}
	if t.n > 0 {
		last := t.back(1)
		if at <= last.at || v < last.v {
			t.n = 0
		} else if t.n > 1 && last.at-t.back(2).at < spacing {
			*last = point{at, v}
			return
		}
	}
	t.points[t.next] = point{at, v}
	t.next = (t.next + 1) % kept
	t.n = min(t.n+1, kept)
}

// newest is the value of the newest point, if that is of now.
func (t *track) newest(now clock) (float64, bool) {
	if t.n == 0 {
		return 0, false
	}
	last := t.back(1)
	if age := now.at - last.at; age > now.fresh || age < -now.fresh {
		return 0, false
	}
	return last.v, true
}

// rate is by how much a counter rose in a second, over the last 10 s.
func (t *track) rate(now clock) (float64, bool) {
	if _, ok := t.newest(now); !ok {
		return 0, false
	}
	last := t.back(1)
	ago := func(n int) int64 { return last.at - t.back(n).at }
	n := min(t.n, 1+span/1000) // there it is when points come every second
	for n > 1 && ago(n-1) >= span {
		n--
	}
	for n < t.n && ago(n) < span {
		n++
	}
	var base *point
	off := int64(math.MaxInt64)
	for n := n; n > 1 && ago(n) >= shortest; n-- {
		if d := ago(n) - span; ago(n) <= longest && max(d, -d) < off {
			base, off = t.back(n), max(d, -d)
		}
	}
	if base == nil {
		return 0, false
	}
	return (last.v - base.v) * 1000 / float64(last.at-base.at), true
}

// clock is what time it is on a host by its own clock, and how old or ahead a
// point may be that still stands for it; milliseconds.
type clock struct{ at, fresh int64 }
