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
	// spacing is the least that a step spans, but for the last one. With 12 of
	// them there is always one that begins about span back, if points come that
	// often.
	spacing = 900
	kept    = 12
)

// track is one series with its newest point and how it came to be. There is one
// of every eighth series of a container, so it is kept small. Owned by Judge.
type track struct {
	series *sample.Series
	after  *track // which came next the last time
	seen   uint32 // when a point came last, by this machine's clock, seconds

	points uint8 // of the newest n-1 steps, and the one they begin with; 0: no point
	next   uint8 // the place of the next step
	at     int64 // of the newest point, by its sender's clock, milliseconds
	v      float64
	// Steps are from one point to the next, in milliseconds and by how much the
	// value rose; the newest end before next.
	spans [kept]uint16
	rises [kept]float32
}

// step is the place of the newest step for 1, of the one before it for 2.
func (t *track) step(back uint8) uint8 { return (t.next + kept - back) % kept }

// add appends a point. A counter that has been reset begins anew (so does a
// gauge that sinks, of which only the newest point counts), and so does every
// series when its sender's clock has been set back, or nothing came for longer
// than a share can be of.
func (t *track) add(at int64, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		t.points = 0
		return
	}
	took, rise := at-t.at, v-t.v
	last := t.step(1)
	switch {
	case t.points == 0 || took <= 0 || took > longest || rise < 0 || rise > math.MaxFloat32:
		t.points = 1
	case t.points > 1 && t.spans[last] < spacing:
		t.spans[last] += uint16(took)
		t.rises[last] += float32(rise)
	default:
		t.spans[t.next], t.rises[t.next] = uint16(took), float32(rise)
		t.next = (t.next + 1) % kept
		t.points = min(t.points+1, kept+1)
	}
	t.at, t.v = at, v
}

// newest is the value of the newest point, if that is of now.
func (t *track) newest(now clock) (float64, bool) {
	if age := now.at - t.at; t.points == 0 || age > now.fresh || age < -now.fresh {
		return 0, false
	}
	return t.v, true
}

// rate is by how much a counter rose in a second, over the last 10 s.
func (t *track) rate(now clock) (rate float64, ok bool) {
	if _, ok := t.newest(now); !ok {
		return 0, false
	}
	var ago int64
	var rise float64
	off := int64(math.MaxInt64)
	for back := uint8(1); back < t.points; back++ {
		i := t.step(back)
		ago += int64(t.spans[i])
		rise += float64(t.rises[i])
		d := max(ago-span, span-ago)
		if ago > longest || d > off {
			break
		}
		if ago >= shortest {
			rate, ok, off = rise*1000/float64(ago), true, d
		}
	}
	return rate, ok
}

// clock is what time it is on a host by its own clock, and how old or ahead a
// point may be that still stands for it; milliseconds.
type clock struct{ at, fresh int64 }
