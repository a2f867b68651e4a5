// Package spool owns the queue between what is sampled and what is delivered:
// numbered records of bytes in order, bounded in size and age, and the ledger
// of what became of every sample in them. It knows neither what the bytes mean
// nor how they travel.
//
// Records are kept in memory for now and end with the process.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sort"
	"sync"
	"time"
)

// Reasons for which records are dropped.
const (
	Full     = "full"      // the spool was full and the record the oldest
	TooOld   = "too_old"   // it waited for longer than MaxAge
	TooLarge = "too_large" // larger than the spool, or than the receiver takes
	Rejected = "rejected"  // the receiver will never take it
	Shutdown = "shutdown"  // not delivered when the process ended
)

var dropReasons = [...]string{Full, TooOld, TooLarge, Rejected, Shutdown}

// Errors of Append.
var (
	ErrClosed   = errors.New("spool is closed")
	ErrTooLarge = errors.New("record is larger than the spool")
)

const (
	defaultMaxBytes = 64 << 20
	defaultMaxAge   = 2 * time.Hour
	// overhead is charged for every record, so that a flood of small ones is
	// bounded too.
	overhead = 128
	// maxRefusals bounds the distinct reasons a receiver can make us count;
	// what comes after them is counted as "other".
	maxRefusals = 64
	other       = "other"
)

// Options of a spool. The zero value works.
type Options struct {
	MaxBytes int64         // 0 for 64 MiB
	MaxAge   time.Duration // 0 for 2 hours
	Log      *slog.Logger  // nil: silent
}

// Record is one piece of the queue.
type Record struct {
	Number   uint64 // from 1, rising by one
	Body     []byte // must not be changed
	Samples  int
	Appended time.Time
}

// Spool is safe for concurrent use by one writer and one reader.
type Spool struct {
	maxBytes int64
	maxAge   time.Duration
	log      *slog.Logger

	mu       sync.Mutex // guards all below
	records  []Record   // oldest first
	bytes    int64
	last     uint64 // number given out last
	finished bool   // nothing more is appended
	closed   bool
	news     chan struct{} // closed and made anew when something changes
	ledger   Ledger
	losing   bool // the drop before was of this spell, which has been logged
}

// Ledger is the account of all samples ever appended. At every moment
// Committed = Delivered + all of Dropped + all of Refused + Pending.
type Ledger struct {
	Committed, Delivered, Pending uint64
	Dropped, Refused              map[string]uint64 // by reason

	Records int   // pending records
	Bytes   int64 // what they take up
	Oldest  time.Time
}

// Open returns an empty spool.
func Open(o Options) (*Spool, error) {
	if o.MaxBytes < 0 || o.MaxAge < 0 {
		return nil, fmt.Errorf("spool bounds must not be negative: %d bytes, %s", o.MaxBytes, o.MaxAge)
	}
	s := &Spool{
		maxBytes: o.MaxBytes,
		maxAge:   o.MaxAge,
		log:      o.Log,
		news:     make(chan struct{}),
		ledger:   Ledger{Dropped: make(map[string]uint64), Refused: make(map[string]uint64)},
	}
	if s.maxBytes == 0 {
		s.maxBytes = defaultMaxBytes
	}
	if s.maxAge == 0 {
		s.maxAge = defaultMaxAge
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for _, reason := range dropReasons {
		s.ledger.Dropped[reason] = 0
	}
	return s, nil
}

// Append puts a copy of body, which holds so many samples, at the end of the
// queue; they are committed when it returns. Oldest records are dropped to
// make room. A body larger than the whole spool is committed and dropped at
// once, with [ErrTooLarge]; after Finish or Close nothing is committed and the
// error is [ErrClosed].
func (s *Spool) Append(body []byte, samples int) (number uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished {
		return 0, ErrClosed
	}
	s.last++
	r := Record{Number: s.last, Samples: samples, Appended: time.Now()}
	s.ledger.Committed += uint64(samples)
	if int64(len(body))+overhead > s.maxBytes {
		s.ledger.Dropped[TooLarge] += uint64(samples)
		return r.Number, fmt.Errorf("%w: %d bytes, %d are allowed in all", ErrTooLarge, len(body), s.maxBytes)
	}
	s.expireLocked()
	for s.bytes+int64(len(body))+overhead > s.maxBytes {
		s.dropOldestLocked(Full)
	}
	r.Body = append(make([]byte, 0, len(body)), body...)
	s.records = append(s.records, r)
	s.bytes += r.size()
	s.ledger.Pending += uint64(samples)
	s.changedLocked()
	return r.Number, nil
}

func (r *Record) size() int64 { return int64(len(r.Body)) + overhead }

// Next returns the oldest record whose number is above after, and waits for
// one when there is none. The record stays where it is until it is
// acknowledged or dropped. io.EOF: no record is left and Finish was called;
// [ErrClosed]: Close was called; otherwise it is ctx's error.
func (s *Spool) Next(ctx context.Context, after uint64) (Record, error) {
	for {
		s.mu.Lock()
		s.expireLocked()
		r, ok := s.findLocked(after)
		news, finished, closed := s.news, s.finished, s.closed
		s.mu.Unlock()
		switch {
		case closed:
			return Record{}, ErrClosed
		case ok:
			return r, nil
		case finished:
			return Record{}, io.EOF
		}
		select {
		case <-news:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// findLocked relies on the numbers being in order.
func (s *Spool) findLocked(after uint64) (Record, bool) {
	i := sort.Search(len(s.records), func(i int) bool { return s.records[i].Number > after })
	if i == len(s.records) {
		return Record{}, false
	}
	return s.records[i], true
}

// Has reports whether the record is still pending: it may have been dropped
// while it was being delivered.
func (s *Spool) Has(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	r, ok := s.findLocked(number - 1)
	return ok && r.Number == number
}

// Ack removes every pending record up to number: delivered, all but the
// samples that [Spool.Refuse] has taken out before.
func (s *Spool) Ack(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.records {
		if r.Number > number {
			break
		}
		s.ledger.Delivered += uint64(r.Samples)
		s.ledger.Pending -= uint64(r.Samples)
		s.bytes -= r.size()
		n++
	}
	s.removeLocked(n)
	s.losing = false
}

// Refuse counts samples of a pending record as refused by the receiver for a
// reason. It never counts more than the record still has.
func (s *Spool) Refuse(number uint64, reason string, samples int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.records {
		r := &s.records[i]
		if r.Number != number {
			continue
		}
		samples = max(0, min(samples, r.Samples))
		r.Samples -= samples
		s.ledger.Pending -= uint64(samples)
		if _, known := s.ledger.Refused[reason]; !known && len(s.ledger.Refused) >= maxRefusals {
			reason = other
		}
		s.ledger.Refused[reason] += uint64(samples)
		return
	}
}

// Drop removes one pending record and counts its samples as dropped for a
// reason, one of this package's constants.
func (s *Spool) Drop(number uint64, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.records {
		if r.Number == number {
			s.countDropLocked(&r, reason)
			copy(s.records[i:], s.records[i+1:])
			s.records[len(s.records)-1] = Record{}
			s.records = s.records[:len(s.records)-1]
			return
		}
	}
}

// Finish says that nothing more will be appended; what is pending can still be
// delivered.
func (s *Spool) Finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.changedLocked()
}

// Close ends the spool. What is still pending is lost with the process, and
// counted and logged.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.finished, s.closed = true, true
	if n := s.ledger.Pending; n > 0 {
		s.log.Warn("samples that were not delivered are lost", "samples", n, "records", len(s.records))
	}
	for i := range s.records {
		s.countDropLocked(&s.records[i], Shutdown)
	}
	s.records = nil
	s.changedLocked()
	return nil
}

// Ledger is the account at this moment.
func (s *Spool) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	l := s.ledger
	l.Dropped, l.Refused = maps.Clone(l.Dropped), maps.Clone(l.Refused)
	l.Records, l.Bytes = len(s.records), s.bytes
	if len(s.records) > 0 {
		l.Oldest = s.records[0].Appended
	}
	return l
}

func (s *Spool) expireLocked() {
	for len(s.records) > 0 && time.Since(s.records[0].Appended) > s.maxAge {
		s.dropOldestLocked(TooOld)
	}
}

func (s *Spool) dropOldestLocked(reason string) {
	r := &s.records[0]
	if !s.losing {
		s.losing = true
		s.log.Warn("oldest samples are being dropped: nothing was delivered for too long", "reason", reason, "oldest", r.Appended.Round(0), "pending", s.ledger.Pending)
	}
	s.countDropLocked(r, reason)
	s.removeLocked(1)
}

func (s *Spool) countDropLocked(r *Record, reason string) {
	s.ledger.Dropped[reason] += uint64(r.Samples)
	s.ledger.Pending -= uint64(r.Samples)
	s.bytes -= r.size()
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
