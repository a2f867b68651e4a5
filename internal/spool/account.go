package spool

// Ack removes every pending record up to number: delivered, all but the
// samples that [Spool.Refuse] and [Spool.DropSamples] have taken out before.
// After a kill or a power cut the records that were acknowledged last may be
// pending again.
func (s *Spool) Ack(number uint64) {
	s.mu.Lock()
	n := 0
	for i := range s.records {
		r := &s.records[i]
		if r.Number > number {
			break
		}
		s.ledger.Delivered += uint64(r.Samples)
		s.forgetLocked(r)
		n++
	}
	s.removeLocked(n)
	if n > 0 {
		s.losing, s.harmed = false, false
	}
	s.mu.Unlock()
	if n > 0 {
		s.tidy()
	}
}

// Refuse counts samples of a pending record as refused by the receiver for a
// reason. It never counts more than the record still has.
func (s *Spool) Refuse(number uint64, reason string, samples int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.ledger.Refused[reason]; !known && len(s.ledger.Refused) >= maxRefusals {
		reason = other
	}
	s.takeOutLocked(s.ledger.Refused, number, reason, samples)
}

// DropSamples counts samples of a pending record as dropped for a reason, one
// of this package's constants. It never counts more than the record still has.
func (s *Spool) DropSamples(number uint64, reason string, samples int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeOutLocked(s.ledger.Dropped, number, reason, samples)
}

func (s *Spool) takeOutLocked(account map[string]uint64, number uint64, reason string, samples int) {
	i := s.indexLocked(number)
	if i < 0 {
		return
	}
	r := &s.records[i]
	samples = max(0, min(samples, r.Samples))
	r.Samples -= samples
	s.ledger.Pending -= uint64(samples)
	account[reason] += uint64(samples)
}

// Drop removes one pending record and counts its samples as dropped for a
// reason, one of this package's constants. After a restart it may be pending
// again when an older record is.
func (s *Spool) Drop(number uint64, reason string) {
	s.mu.Lock()
	i := s.indexLocked(number)
	if i >= 0 {
		s.dropLocked(i, reason)
	}
	s.mu.Unlock()
	if i >= 0 {
		s.tidy()
	}
}
