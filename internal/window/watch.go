package window

import "fanin/internal/sample"

// maxWatched bounds what waits for [Store.Watched].
const maxWatched = 1 << 20

// watchedPoint is one that waits. It names its series by the number of its cell:
// a pointer in each would have the garbage collector look at all of them.
type watchedPoint struct {
	t   int64
	v   float64
	ref uint32
}

// Watched hands over the points of the series that [Store.Watch] wants, as far
// as they were stored since the last call, in the order in which they came.
// They belong to the caller; spare is filled when it is large enough. What is
// not asked for in time is not kept: it holds back neither readers nor senders.
func (s *Store) Watched(spare []sample.Point) []sample.Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	points := spare[:0]
	for i := range s.watched {
		w := &s.watched[i]
		// One that has been forgotten meanwhile has no series any more.
		if series := s.cells.at(w.ref).series.Load(); series != nil {
			points = append(points, sample.Point{Series: series, T: w.t, V: w.v})
		}
	}
	if cap(s.watched) > 4*len(s.watched)+1024 {
		s.watched = nil // what came after an outage came once
	} else {
		s.watched = s.watched[:0]
	}
	return points
}

func (s *Store) watch(c *cell, p *sample.Point) {
	if len(s.watched) < maxWatched {
		s.watched = append(s.watched, watchedPoint{p.T, p.V, c.ref})
	}
}
