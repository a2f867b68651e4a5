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
	series  atomic.Pointer[sample.Series] // nil: the cell is free
	owner   *sample.Owner
	t       int64
	v       float64
	last    Position // of its newest point or marker
	arrived uint32   // in tenths of a second since the first point came
	keep    uint32   // the same, without a new point
	ref     uint32   // its number in the table
	after   uint32   // what came next in its sender's last batch
	ended   bool
	owed    bool   // ended, and there was no room yet to write it down
	charged bool   // its bytes are counted
	hash    uint32 // of its series' key
}

var _ [64 - unsafe.Sizeof(cell{})]struct{} // a line of the processor's cache

// table is all cells by number. Those of one sender stand side by side, in the
// order in which they came first, which is mostly the order in which they come
// again. A cell never moves, and the table never shrinks: places are used again.
// Its pieces are large, as a page jumps to and fro in it, and a table that lies
// all over the memory costs a translation of addresses each time.
type table struct {
	chunks []*[chunkCells]cell
	n      uint32
}

const chunkCells = 1 << 13

func (t *table) at(ref uint32) *cell { return &t.chunks[ref/chunkCells][ref%chunkCells] }

func (t *table) add() *cell {
	if t.n%chunkCells == 0 {
		t.chunks = append(t.chunks, new([chunkCells]cell))
	}
	c := t.at(t.n)
	c.ref, c.after = t.n, t.n
	t.n++
	return c
}

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
	cell  *cell
	last  Position
	at    int64
	begun uint64 // of [looking], when the series' points were gone
}

func (e ending) stands() bool { return e.cell.ended && e.cell.last == e.last }

// bytes is about what a series takes beside its points.
func (c *cell) bytes() int64 {
	series := c.series.Load()
	return int64(256 + len(series.Name()) + len(series.Labels().Text()))
}

func (s *Store) add(series *sample.Series) *cell {
	var c *cell
	if n := len(s.free); n > 0 {
		c = s.cells.at(s.free[n-1])
		s.free = s.free[:n-1]
		*c = cell{ref: c.ref, after: c.ref}
	} else {
		c = s.cells.add()
	}
	c.series.Store(series)
	c.owner = s.intern(series.Owner())
	if s.Watch != nil {
		s.watched.set(c.ref, s.Watch(series))
	}
	c.hash = uint32(s.hash(series))
	s.byKey.Add(c.ref, s.hashOf)
	s.order.added = append(s.order.added, c.ref)
	s.live++
	return c
}

func (s *Store) hash(series *sample.Series) uint64 {
	return maphash.String(s.seed, series.Name())*0x9e3779b97f4a7c15 ^ maphash.String(s.seed, series.Labels().Text())
}

func (s *Store) hashOf(ref uint32) uint64 { return uint64(s.cells.at(ref).hash) }

// find looks a series up.
func (s *Store) find(series *sample.Series) *cell {
	hash, key := uint32(s.hash(series)), series.Key()
	ref, known := s.byKey.Find(uint64(hash), func(ref uint32) bool {
		c := s.cells.at(ref)
		return c.hash == hash && c.series.Load().Key() == key
	})
	if !known {
		return nil
	}
	return s.cells.at(ref)
}

func (s *Store) lose(c *cell) { s.byKey.Remove(c.ref, s.hashOf) }

// intern is one pointer for all owners that are the same, so that a sweep asks
// for each of them once.
func (s *Store) intern(o *sample.Owner) *sample.Owner {
	if s.lastOwner != nil && (s.lastOwner == o || *s.lastOwner == *o) {
		return s.lastOwner
	}
	known := s.owners[*o]
	if known == nil {
		known = o
		s.owners[*o] = known
	}
	s.lastOwner = known
	return known
}
