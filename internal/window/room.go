package window

// Collected is the position up to which every point has been collected: by
// every reader, or by at least one when it had to be dropped before a lagging
// one came; or has had its time, when there is no reader. In the time of
// [Store.Grace] nothing that is still held counts.
func (s *Store) Collected() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.collectedByAll()
}

func (s *Store) collectedByAll() Position {
	if len(s.readers) == 0 || s.inGrace() {
		return s.log.start
	}
	least := s.log.end
	for _, r := range s.readers {
		least = min(least, r.confirmed)
	}
	return least
}

// collectedBySome is what at least one reader has. Readers of a part count
// only together and when nobody reads the whole; a part that nobody has come
// for in a while, while others were, is no longer read.
func (s *Store) collectedBySome() Position {
	whole, anyWhole := Position(0), false
	parts, all, recent := s.log.end, s.log.end, false
	for _, r := range s.readers {
		switch {
		case r.match == nil:
			whole, anyWhole = max(whole, r.confirmed), true
		case s.newest.Sub(r.seen) < defaultGrace:
			parts, recent = min(parts, r.confirmed), true
		default:
			all = min(all, r.confirmed)
		}
	}
	switch {
	case anyWhole:
		return whole
	case recent:
		return parts
	case len(s.readers) > 0:
		return all
	default:
		return s.log.start
	}
}

// trim takes out what everybody has, whoever watches too.
func (s *Store) trim() {
	if len(s.readers) == 0 {
		return
	}
	all := s.collectedByAll()
	if s.Watch != nil {
		all = min(all, s.watched.to)
	}
	for len(s.log.blocks) > 0 && s.log.blocks[0].end() <= all {
		s.log.remove(&s.looking)
	}
	s.settle()
}

// room makes room for n points and some more bytes, and drops what at least
// one reader has. A nil sender has no share.
func (s *Store) room(n int, from *sender, more int64) error {
	need, most := s.log.need(n)+more, s.maxBytes()
	// What waited on the nodes may come faster than the first reader.
	awaited := len(s.readers) > 0 || s.inGrace()
	if from != nil && awaited && s.log.uncollected()+need > most/2 {
		holding := s.log.holding
		if from.words == 0 {
			holding++
		}
		if int64(from.words)*8 > most/int64(max(1, holding)) {
			return ErrShare
		}
	}
	for s.log.bytes+need > most {
		if len(s.log.blocks) == 0 || awaited && s.log.collected == 0 {
			return ErrFull
		}
		s.drop()
		need = s.log.need(n) + more
	}
	return nil
}

// drop takes the oldest block out and counts whose loss that is.
func (s *Store) drop() {
	b := s.log.blocks[0].piece()
	if len(s.readers) == 0 {
		s.tally.Unread += uint64(b.points(0, b.end(), func(uint32) bool { return true }))
	}
	for _, r := range s.readers {
		if r.confirmed >= b.end() {
			continue
		}
		match := func(ref uint32) bool { return r.match == nil || r.match(*s.cells.at(ref).owner) }
		cut := r.confirmed
		if r.pending != nil {
			cut = max(cut, min(r.pending.cut, b.end()))
		}
		onPage := b.points(r.confirmed, cut, match)
		gone := b.points(cut, b.end(), match)
		r.unsure += uint64(onPage)
		r.lost += uint64(gone)
		r.confirmed = b.end()
		if !r.losing && onPage+gone > 0 {
			r.losing = true
			s.about(r.id).Warn("reader lags behind and loses points: the window is full and another reader has them", "last_seen", r.seen)
		}
	}
	s.log.remove(&s.looking)
	s.settle()
}

// points counts those in (from, to] that match, without markers.
func (p piece) points(from, to Position, match func(ref uint32) bool) (n int) {
	for run := range p.each(from, to) {
		for i, bits := range run.bits {
			if !isStale(bits) && match(run.ref+uint32(i)) {
				n++
			}
		}
	}
	return n
}
