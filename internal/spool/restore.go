package spool

import (
	"slices"
	"time"
)

// restoreLocked takes over what was found in the directory. Samples that are
// missing between two records, at the beginning and at the end are counted,
// unless a spool before has done so.
func (s *Spool) restoreLocked(f *findings) {
	p := &f.position
	records := slices.DeleteFunc(f.records, func(r found) bool { return f.known && r.number <= p.head })
	slices.SortFunc(records, func(a, b found) int {
		if a.number < b.number {
			return -1
		}
		return 1
	})
	s.segments = f.segments
	for _, g := range s.segments {
		s.onDisk += g.size
	}

	now := time.Now()
	at, before := p.head, p.headBefore
	if !f.known && len(records) > 0 {
		before = records[0].before
	}
	var missing uint64
	miss := func(number, samples uint64) {
		var counted uint64
		for key, n := range p.gaps {
			if key > at && key <= number {
				counted += n
			}
		}
		if samples > counted {
			missing += samples - counted
		}
		if samples > 0 {
			s.gaps[number] = gap{samples: samples, stored: true}
		}
	}
	for i := range records {
		r := &records[i]
		var lost uint64
		if r.before > before {
			lost = r.before - before
		}
		if !r.intact {
			lost += uint64(r.samples)
		}
		miss(r.number, lost)
		at, before = r.number, max(before, r.before+uint64(r.samples))
		if !r.intact {
			continue
		}
		one := Record{
			Number: r.number, Samples: int(r.samples), total: int(r.samples), Appended: time.UnixMicro(r.micros),
			before: r.before, length: int(r.length), segment: r.segment, stored: true, offset: r.offset, crc: r.crc,
		}
		if one.Appended.After(now) {
			one.Appended = now // the clock went back meanwhile
		}
		one.segment.live++
		s.records = append(s.records, one)
		s.bytes += one.size()
		s.ledger.Pending += uint64(one.Samples)
	}
	if f.known && p.lastBefore > before {
		miss(max(p.last, at+1), p.lastBefore-before)
		before = p.lastBefore
	}
	s.ledger.Dropped[Damaged] += missing
	s.ledger.Committed += s.ledger.Pending + missing
	s.before = before
	switch {
	case f.fresh:
	case f.known && p.clean && at <= p.last:
		s.last = p.last
	default:
		// Numbers that were given out after the last one that is known may have
		// reached the receiver.
		s.last = max(at, p.last, uint64(now.UnixMicro()))
	}
	s.written, s.synced = s.last, s.last
	if missing > 0 {
		s.log.Error("the spool is damaged: samples that were committed are missing on disk; check the disk", "dir", s.dir, "samples", missing)
	}
	if n := len(s.records); n > 0 {
		s.log.Info("samples from before wait on disk", "dir", s.dir, "samples", s.ledger.Pending, "records", n, "oldest", s.records[0].Appended.Round(0))
	}
}

// positionLocked is where the spool is now.
func (s *Spool) positionLocked() position {
	p := position{id: s.id, head: s.last, headBefore: s.before, last: s.last, lastBefore: s.before}
	if len(s.records) > 0 {
		first := &s.records[0]
		p.head, p.headBefore = first.Number-1, first.before
	}
	for key := range s.gaps {
		if key <= p.head || len(s.records) > 0 && key == p.head+1 {
			delete(s.gaps, key) // nobody will miss them there again
		}
	}
	p.gaps = make(map[uint64]uint64, len(s.gaps))
	for key, g := range s.gaps {
		p.gaps[key] = g.samples
	}
	return p
}
