package window

import "slices"

// looking is the pages that are being put together, which is done without the
// lock. What such a page may look at is not used again before it is done; later
// pages do not see it any more, so that pages that overlap for ever hold nothing
// up.
type looking struct {
	begun uint64   // how many pages have begun
	open  []uint64 // the numbers of those that are not done, ascending
}

// begin is another page; the number is for end.
func (l *looking) begin() uint64 {
	l.begun++
	l.open = append(l.open, l.begun)
	return l.begun
}

func (l *looking) end(number uint64) {
	i, _ := slices.BinarySearch(l.open, number)
	l.open = slices.Delete(l.open, i, i+1)
}

// over reports whether the pages are done that had begun when begun was read.
func (l *looking) over(begun uint64) bool { return len(l.open) == 0 || l.open[0] > begun }
