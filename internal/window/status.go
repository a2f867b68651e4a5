package window

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// ReaderStatus is what is known of one reader.
type ReaderStatus struct {
	ReaderID
	LastSeen  time.Time
	Lag       uint64 // positions it has not confirmed, those of others' points included
	Delivered uint64 // points on confirmed pages
	Lost      uint64 // points that were dropped before it came for them
	TooOld    uint64 // points that were too old for a page
	Weak      bool   // its last page counts as collected only because it was written without error
}

// Readers lists the readers, sorted by name, path and node.
func (s *Store) Readers() []ReaderStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]ReaderStatus, 0, len(s.readers))
	for id, r := range s.readers {
		all = append(all, ReaderStatus{
			ReaderID: id, LastSeen: r.seen, Lag: uint64(s.log.end - r.confirmed), Delivered: r.delivered,
			Lost: r.lost, TooOld: r.late, Weak: r.weak,
		})
	}
	slices.SortFunc(all, func(a, b ReaderStatus) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Path, b.Path), strings.Compare(a.Node, b.Node))
	})
	return all
}

// Tally is what the window counts.
type Tally struct {
	Bytes, MaxBytes int64
	Points          uint64 // in the log
	Unread          uint64 // fell out while there was no reader
	Forgotten       uint64 // readers that expired
	Full, Share     uint64 // batches refused with ErrFull, with ErrShare
}

func (t *Tally) refuse(err error) {
	if errors.Is(err, ErrShare) {
		t.Share++
	} else {
		t.Full++
	}
}

// Tally is the state of the counts.
func (s *Store) Tally() Tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tally
	t.Bytes, t.MaxBytes, t.Points = s.log.bytes, s.maxBytes(), uint64(s.log.end-s.log.start)
	return t
}
