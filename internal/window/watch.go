package window

import (
	"iter"
	"math"
	"math/bits"

	"fanin/internal/sample"
)

// watched is which series are wanted by [Store.Watch], and how far their points
// have been handed over.
type watched struct {
	to   Position
	refs []uint64 // one bit for each cell: 100,000 fit into a processor's nearest cache
}

func (w *watched) set(ref uint32, on bool) {
	for int(ref/64) >= len(w.refs) {
		w.refs = append(w.refs, 0)
	}
	w.refs[ref/64] &^= 1 << (ref % 64)
	if on {
		w.refs[ref/64] |= 1 << (ref % 64)
	}
}

// among are those of the n cells from ref on that are wanted, counted from 0.
func (w *watched) among(ref uint32, n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for at := ref / 64; n > 0 && at <= (ref+uint32(n)-1)/64; at++ {
			for set := w.refs[at]; set != 0; set &= set - 1 {
				i := int(at)*64 + bits.TrailingZeros64(set) - int(ref)
				if i >= 0 && i < n && !yield(i) {
					return
				}
			}
		}
	}
}

// watchedAtOnce bounds what [Store.Watched] returns, and with that for how long
// it has the lock.
const watchedAtOnce = 4096

// Watched hands over points of the series that [Store.Watch] wants, as far as
// they were stored since the last call, in the order in which they came, and not
// too many at once: there are no more when it returns none. spare is filled when
// it is large enough. Points wait in the log until they are handed over, unless
// their room is needed: nobody is held back by them.
func (s *Store) Watched(spare []sample.Point) []sample.Point {
	points := spare[:0]
	if cap(points) < watchedAtOnce {
		points = make([]sample.Point, 0, watchedAtOnce)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.watched
	if s.Watch == nil {
		return points
	}
	w.to = max(w.to, s.log.start)
	for _, piece := range s.log.from(w.to) {
		for run := range piece.each(w.to, s.log.end) {
			for i := range w.among(run.ref, len(run.bits)) {
				if isStale(run.bits[i]) {
					continue
				}
				series := s.cells.at(run.ref + uint32(i)).series.Load()
				points = append(points, sample.Point{Series: series, T: run.t, V: math.Float64frombits(run.bits[i])})
				if len(points) == watchedAtOnce {
					w.to = run.behind + Position(i) + 1
					return points
				}
			}
		}
	}
	w.to = s.log.end
	return points
}
