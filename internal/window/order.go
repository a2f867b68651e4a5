package window

import (
	"cmp"
	"slices"
	"strings"
)

// order is the series as they stand on a page, those that have ended
// included. The slice is never changed, only replaced.
type order struct {
	cells []*cell
	added []*cell // since
	gone  int     // since
	stale bool    // a series has another family now
}

func onPage(a, b *cell) int {
	x, y := a.series.Load(), b.series.Load()
	return cmp.Or(strings.Compare(x.Family().Name, y.Family().Name), strings.Compare(x.Text(), y.Text()))
}

// sorted is called with the lock held.
func (s *Store) sorted() []*cell {
	o := &s.order
	if o.stale {
		*o = order{}
		for _, c := range s.slots {
			if c != nil {
				o.cells = append(o.cells, c)
			}
		}
		slices.SortFunc(o.cells, onPage)
		return o.cells
	}
	if len(o.added) == 0 && o.gone == 0 {
		return o.cells
	}
	kept := func(c *cell) bool { return s.slots[c.ref] == c }
	slices.SortFunc(o.added, onPage)
	merged := make([]*cell, 0, len(o.cells)+len(o.added)-min(o.gone, len(o.cells)))
	added := o.added
	for _, c := range o.cells {
		for len(added) > 0 && onPage(added[0], c) < 0 {
			if kept(added[0]) {
				merged = append(merged, added[0])
			}
			added = added[1:]
		}
		if kept(c) {
			merged = append(merged, c)
		}
	}
	for _, c := range added {
		if kept(c) {
			merged = append(merged, c)
		}
	}
	*o = order{cells: merged}
	return merged
}
