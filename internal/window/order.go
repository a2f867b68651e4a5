package window

import (
	"slices"

	"fanin/internal/sample"
)

// order is the series as they stand on a page, those that have ended
// included, by the numbers of their cells. The slice is never changed, only
// replaced.
type order struct {
	refs  []uint32
	added []uint32 // since
	gone  int      // since
	stale bool     // a series has another family now
}

func (s *Store) onPage(a, b uint32) int {
	return s.cells.at(a).series.Load().Compare(s.cells.at(b).series.Load())
}

func (s *Store) known(ref uint32) bool { return s.cells.at(ref).owner != nil }

// sorted is called with the lock held.
func (s *Store) sorted() []uint32 {
	o := &s.order
	if o.stale {
		*o = order{refs: make([]uint32, 0, s.byKey.Len())}
		for ref := range s.cells.n {
			if s.known(ref) {
				o.refs = append(o.refs, ref)
			}
		}
		slices.SortFunc(o.refs, s.onPage)
		return o.refs
	}
	if len(o.added) == 0 && o.gone == 0 {
		return o.refs
	}
	// A number that was used again stands among those that were added.
	added := slices.DeleteFunc(o.added, func(ref uint32) bool { return !s.known(ref) })
	slices.Sort(added)
	added = slices.Compact(added)
	again := map[uint32]bool{}
	if o.gone > 0 {
		for _, ref := range added {
			again[ref] = true
		}
	}
	slices.SortFunc(added, s.onPage)
	merged := make([]uint32, 0, len(o.refs)+len(added)-min(o.gone, len(o.refs)))
	for _, ref := range o.refs {
		if !s.known(ref) || again[ref] {
			continue
		}
		for len(added) > 0 && s.onPage(added[0], ref) < 0 {
			merged = append(merged, added[0])
			added = added[1:]
		}
		merged = append(merged, ref)
	}
	*o = order{refs: append(merged, added...)}
	return o.refs
}

// Newest appends to dst the newest point of each series whose owner match
// accepts, sorted by family name and then by text. A nil match accepts all.
func (s *Store) Newest(dst []sample.Point, match func(sample.Owner) bool) []sample.Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range s.sorted() {
		c := s.cells.at(ref)
		if !c.ended && (match == nil || match(*c.owner)) {
			dst = append(dst, sample.Point{Series: c.series.Load(), T: c.t, V: c.v})
		}
	}
	return dst
}
