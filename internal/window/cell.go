package window

import (
	"hash/maphash"
	"math"
	"sync/atomic"
	"unsafe"

	"fanin/internal/sample"
)

// cell is one series with its newest point. There may be a million.
type cell struct {
	series  atomic.Pointer[sample.Series]
	owner   *sample.Owner
	t       int64
	v       float64
	last    Position // of its newest point or marker
	after   *cell    // what came next in its sender's last batch
	arrived uint32   // in tenths of a second since the first point came
	keep    uint32   // the same, without a new point
	ref     uint32
	ended   bool
	owed    bool // ended, and there was no room yet to write it down
	charged bool // its bytes are counted
}

var _ [64 - unsafe.Sizeof(cell{})]struct{} // it fits a size of the allocator

// tenths is nanoseconds as cells have them.
func tenths(ns int64) uint32 { return uint32(max(0, min(ns/1e8, math.MaxUint32))) }

// endsAt is the time of the marker: that of the sender's own, else the first
// millisecond after the newest point.
func (c *cell) endsAt() int64 {
	if IsStale(c.v) {
		return c.t
	}
	return c.t + 1
}

// ending is one end of a series; it is void when the series has gone on.
type ending struct {
	cell *cell
	last Position
	at   int64
}

func (e ending) stands() bool { return e.cell.ended && e.cell.last == e.last }

// bytes is about what a series takes beside its points.
func (c *cell) bytes() int64 {
	return int64(256 + len(c.series.Load().Text()))
}

func (s *Store) add(series *sample.Series) *cell {
	c := &cell{owner: s.intern(series.Owner())}
	c.series.Store(series)
	if n := len(s.free); n > 0 && s.pages == 0 {
		c.ref, s.free = s.free[n-1], s.free[:n-1]
		s.slots[c.ref] = c
	} else {
		c.ref = uint32(len(s.slots))
		s.slots = append(s.slots, c)
	}
	at := maphash.String(s.seed, series.Text())
	for s.byText[at] != nil {
		at++
	}
	s.byText[at] = c
	s.order.added = append(s.order.added, c)
	s.live++
	return c
}

// find looks a series up. One whose hash is taken stands at the next free one;
// of 64 bits with a key, that is as good as never.
func (s *Store) find(text string) *cell {
	for at := maphash.String(s.seed, text); ; at++ {
		if c := s.byText[at]; c == nil || c.series.Load().Text() == text {
			return c
		}
	}
}

func (s *Store) lose(c *cell) {
	for at := maphash.String(s.seed, c.series.Load().Text()); ; at++ {
		if known := s.byText[at]; known == c || known == nil {
			delete(s.byText, at)
			return
		}
	}
}

func (s *Store) intern(o sample.Owner) *sample.Owner {
	known := s.owners[o]
	if known == nil {
		known = &o
		s.owners[o] = known
	}
	return known
}
