package spool

import (
	"fmt"
	"slices"
	"sort"
	"time"
)

// reserve makes room for a record.
func (s *Spool) reserve(length, samples int) (r Record, dead bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return r, false, ErrClosed
	}
	if samples < 0 {
		return r, false, fmt.Errorf("a record of %d samples", samples)
	}
	r = Record{Number: s.last + 1, Samples: samples, total: samples, before: s.before, length: length, Appended: time.Now()}
	if r.size() > s.maxBytes || length > maxBody {
		s.last++
		s.ledger.Committed += uint64(samples)
		s.ledger.Dropped[TooLarge] += uint64(samples)
		return r, false, fmt.Errorf("%w: %d bytes, %d are allowed in all", ErrTooLarge, length, min(s.maxBytes, maxBody))
	}
	s.expireLocked()
	for len(s.records) > 0 && (s.bytes+r.size() > s.maxBytes || s.onDisk+s.growthLocked(length) > s.maxBytes+3*s.segmentSize+s.deadLocked()) {
		s.dropOldestLocked(Full)
	}
	return r, s.deadLocked() > 0, nil
}

// deadLocked is what the next tidy frees.
func (s *Spool) deadLocked() (n int64) {
	for _, g := range s.segments {
		if g.live == 0 && g != s.active {
			n += g.size
		}
	}
	return n
}

func (r *Record) size() int64 { return int64(r.length) + overhead }

// boundMemoryLocked drops the oldest records that are in memory only.
func (s *Spool) boundMemoryLocked() {
	for s.memory > s.maxMemory {
		i := s.firstInMemoryLocked()
		if i == len(s.records) {
			return
		}
		s.sayLosingLocked(&s.records[i], Disk)
		s.dropLocked(i, Disk)
	}
}

// firstInMemoryLocked relies on records in memory being the newest.
func (s *Spool) firstInMemoryLocked() int {
	return sort.Search(len(s.records), func(i int) bool { return s.records[i].segment == nil })
}

// findLocked relies on the numbers being in order.
func (s *Spool) findLocked(after uint64) (Record, bool) {
	i := sort.Search(len(s.records), func(i int) bool { return s.records[i].Number > after })
	if i == len(s.records) {
		return Record{}, false
	}
	return s.records[i], true
}

// indexLocked is where a pending record stands, -1 when there is none.
func (s *Spool) indexLocked(number uint64) int {
	i := sort.Search(len(s.records), func(i int) bool { return s.records[i].Number >= number })
	if i == len(s.records) || s.records[i].Number != number {
		return -1
	}
	return i
}

func (s *Spool) expireLocked() {
	for len(s.records) > 0 && !s.closed && time.Since(s.records[0].Appended) > s.maxAge {
		s.dropOldestLocked(TooOld)
	}
}

func (s *Spool) dropOldestLocked(reason string) {
	s.sayLosingLocked(&s.records[0], reason)
	s.dropLocked(0, reason)
}

func (s *Spool) sayLosingLocked(r *Record, reason string) {
	if !s.losing {
		s.losing = true
		s.log.Warn("oldest samples are being dropped: nothing was delivered for too long", "reason", reason, "oldest", r.Appended.Round(0), "pending", s.ledger.Pending)
	}
}

// dropLocked removes one record and counts what it has.
func (s *Spool) dropLocked(i int, reason string) {
	r := s.records[i]
	s.ledger.Dropped[reason] += uint64(r.Samples)
	s.forgetLocked(&r)
	if i == 0 {
		s.removeLocked(1)
		return
	}
	s.records = slices.Delete(s.records, i, i+1)
	s.missLocked(&r)
}

// gap is samples that are missing in the sequence at one record and have been
// counted.
type gap struct {
	samples uint64
	stored  bool     // the record may be found on disk by the next Open
	segment *segment // in this one; nil: in which is not known any more
}

// missLocked notes that a record which was dropped is missing in the sequence.
// One gap for each would be too many to write down, after a long time without a
// disk or with a receiver that takes nothing: neighbours become one, at the last
// of them, where the next Open finds none of them or all: those that were never
// stored, and those of one segment. No gap moves past another kind of gap.
func (s *Spool) missLocked(r *Record) {
	one, before := s.gaps[r.Number]
	if !before { // else some were missing already in front of it
		one.stored, one.segment = r.stored, r.segment
	}
	one.samples += uint64(r.total)
	near := uint64(0)
	if i := sort.Search(len(s.records), func(i int) bool { return s.records[i].Number >= r.Number }); i > 0 {
		near = s.records[i-1].Number
	}
	alike := func(g gap) bool {
		return g.stored == one.stored && g.segment == one.segment && (g.segment != nil || !g.stored)
	}
	for key, g := range s.gaps {
		if key < r.Number && !alike(g) {
			near = max(near, key)
		}
	}
	for key, g := range s.gaps {
		if key > near && key < r.Number {
			one.samples += g.samples
			delete(s.gaps, key)
		}
	}
	s.gaps[r.Number] = one
}

// forgetLocked takes a record out of all sums.
func (s *Spool) forgetLocked(r *Record) {
	s.ledger.Pending -= uint64(r.Samples)
	s.bytes -= r.size()
	if r.segment == nil {
		s.memory -= r.size()
	} else {
		r.segment.live--
	}
}

// removeLocked takes the n oldest records away and lets their bytes go.
func (s *Spool) removeLocked(n int) {
	clear(s.records[:n])
	s.records = s.records[n:]
}

func (s *Spool) changedLocked() {
	close(s.news)
	s.news = make(chan struct{})
}
