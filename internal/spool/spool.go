// Package spool owns the queue between what is sampled and what is delivered:
// numbered records of bytes in order, on disk, bounded in size and age, and
// the ledger of what became of every sample in them. It knows neither what the
// bytes mean nor how they travel.
//
// A record is in a segment, a file of about 1 MiB, written and synced before
// Append returns. Whatever happens to the files, the spool opens and goes on:
// a damaged record is left out and counted, those around it are delivered.
// While the disk can not be written to, records are kept in memory, in order,
// and go to disk when it works again.
package spool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"
)

// Reasons for which records are dropped.
const (
	Full     = "full"      // the spool was full and the record the oldest
	TooOld   = "too_old"   // it waited for longer than MaxAge
	TooLarge = "too_large" // larger than the spool, or than the receiver takes
	Rejected = "rejected"  // the receiver will never take it
	Damaged  = "damaged"   // it was committed and is not on disk any more, or not as it was
	Disk     = "disk"      // the disk failed and memory was full, or the process ended
)

var dropReasons = [...]string{Full, TooOld, TooLarge, Rejected, Damaged, Disk}

// Errors of Append.
var (
	ErrClosed   = errors.New("spool is closed")
	ErrTooLarge = errors.New("record is larger than the spool")
)

const (
	defaultMaxBytes  = 512 << 20
	defaultMaxMemory = 16 << 20
	defaultMaxAge    = 2 * time.Hour
	// A segment is an eighth of the spool within these.
	smallestSegment = 4 << 10
	largestSegment  = 1 << 20
	// overhead is charged for every record, so that a flood of small ones is
	// bounded too; on disk a record has 88 bytes more than its body.
	overhead = 128
	// maxRefusals bounds the distinct reasons a receiver can make us count;
	// what comes after them is counted as "other".
	maxRefusals = 64
	other       = "other"
)

// Options of a spool. The zero value is a spool in memory, which ends with the
// process.
type Options struct {
	Dir string // made when it is not there; no two processes can have the same
	// Sync 0: a record is on disk when Append returns. Otherwise at most this
	// much later, and a power cut, not the end of the process, costs what was
	// appended since.
	Sync     time.Duration
	MaxBytes int64         // 0 for 512 MiB; the files take up to three segments more
	MaxAge   time.Duration // 0 for 2 hours; by the clock, also across restarts
	// MaxMemory bounds what is kept in memory while the disk fails, 0 for
	// 16 MiB.
	MaxMemory int64
	Log       *slog.Logger // nil: silent
}

// Record is one piece of the queue.
type Record struct {
	// Number rises, by one while the spool is open, and is never given twice in
	// a spool: when its last numbers are not known for certain at Open, it goes
	// on from the microseconds since 1970.
	Number   uint64
	Body     []byte // must not be changed
	Samples  int
	Appended time.Time

	total   int // samples at first
	before  uint64
	length  int
	segment *segment // nil: in memory only, and in Body
	stored  bool     // a file may have it, whatever became of it since
	offset  int64
	crc     uint32
}

// Spool is safe for concurrent use by one writer and one reader.
type Spool struct {
	dir         string
	sync        time.Duration
	maxBytes    int64
	maxMemory   int64
	segmentSize int64
	maxAge      time.Duration
	log         *slog.Logger
	name        string // immutable after Open
	holder      string // the same

	io   sync.Mutex // is taken before mu and held by who writes records
	disk disk

	mu       sync.Mutex // guards all below
	id       spoolID
	known    bool     // id is the directory's
	late     bool     // the directory holds what is not ours to acknowledge
	records  []Record // oldest first; those in memory come last
	bytes    int64
	memory   int64 // of bytes
	onDisk   int64 // the segments
	segments []*segment
	active   *segment // is appended to
	written  uint64   // number stored last
	synced   uint64   // up to this number nothing is lost in a power cut
	last     uint64   // number given out last
	before   uint64   // samples of all records so far
	gaps     map[uint64]gap
	failing  bool // records are kept in memory
	finished bool // nothing more is appended
	closed   bool
	news     chan struct{} // closed and made anew when something changes
	ledger   Ledger
	losing   bool // the drop before was of this spell, which has been logged
	harmed   bool // the same for damage
	failures map[string]uint64
}

// Ledger is the account of all samples ever appended. At every moment
// Committed = Delivered + all of Dropped + all of Refused + Pending.
//
// It begins anew with each Open: what is found on disk is committed and
// pending, what is found missing is committed and dropped as [Damaged], where
// the records around it tell how many samples it had. What is missing is
// counted by one Open only. Samples that had been refused before are pending
// again with the rest of their record.
type Ledger struct {
	Committed, Delivered, Pending uint64
	Dropped, Refused              map[string]uint64 // by reason

	Records int   // pending records
	Bytes   int64 // what they take up
	Memory  int64 // how much of this is not on disk
	Oldest  time.Time
}

// Open opens the spool in a directory. Only options that make no sense, and a
// directory that another process has ([ErrLocked]), are errors. Records that
// are damaged are left out and counted; a directory that can not be used is
// logged and tried again. Close must be called.
func Open(o Options) (*Spool, error) {
	if o.MaxBytes < 0 || o.MaxAge < 0 || o.Sync < 0 || o.MaxMemory < 0 {
		return nil, fmt.Errorf("spool bounds must not be negative: %d bytes, %d in memory, %s, sync after %s", o.MaxBytes, o.MaxMemory, o.MaxAge, o.Sync)
	}
	s := &Spool{
		dir:       o.Dir,
		sync:      o.Sync,
		maxBytes:  o.MaxBytes,
		maxMemory: o.MaxMemory,
		maxAge:    o.MaxAge,
		log:       o.Log,
		news:      make(chan struct{}),
		gaps:      make(map[uint64]gap),
		ledger:    Ledger{Dropped: make(map[string]uint64), Refused: make(map[string]uint64)},
		failures:  make(map[string]uint64),
	}
	if s.maxBytes == 0 {
		s.maxBytes = defaultMaxBytes
	}
	if s.maxMemory == 0 {
		s.maxMemory = defaultMaxMemory
	}
	if s.maxAge == 0 {
		s.maxAge = defaultMaxAge
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.segmentSize = max(smallestSegment, min(largestSegment, s.maxBytes/8))
	for _, reason := range dropReasons {
		s.ledger.Dropped[reason] = 0
	}
	for _, operation := range operations {
		s.failures[operation] = 0
	}
	_, _ = rand.Read(s.id[:]) // which never fails
	if s.dir == "" {
		s.name, s.holder = s.id.String(), s.id.String()
		s.maxMemory = s.maxBytes
		return s, nil
	}
	if absolute, err := filepath.Abs(s.dir); err == nil {
		s.dir = absolute
	}
	s.io.Lock()
	defer s.io.Unlock()
	err := s.mount(true)
	if errors.Is(err, ErrLocked) {
		return nil, err
	}
	s.name, s.holder = s.id.String(), holderOf(s.disk.dir)
	if s.disk.dir == nil {
		// Above whatever may be there.
		s.last = uint64(time.Now().UnixMicro())
	}
	if err != nil {
		s.fail(err)
	}
	s.tidy()
	return s, nil
}

// ID names the spool that the numbers belong to, in hexadecimal digits. It lies
// in the directory and is that of the next Open too. In memory, and while the
// directory could not be opened at the start, it is this Open's alone.
func (s *Spool) ID() string { return s.name }

// Holder tells copies of one spool apart, as on cloned machines: it is that of
// the next Open too, until the machine boots again.
func (s *Spool) Holder() string { return s.holder }

// Append puts a copy of body, which holds so many samples, at the end of the
// queue; they are committed when it returns. While the disk fails that means
// that they are in memory. Oldest records are dropped to make room. A body
// larger than the whole spool is committed and dropped at once, with
// [ErrTooLarge]; after Finish or Close nothing is committed and the error is
// [ErrClosed].
func (s *Spool) Append(body []byte, samples int) (number uint64, err error) {
	s.io.Lock()
	defer s.io.Unlock()
	r, dead, err := s.reserve(len(body), samples)
	if err != nil {
		return r.Number, err
	}
	if dead {
		s.tidy()
	}
	s.mu.Lock()
	toDisk := s.dir != "" && !s.failing
	s.mu.Unlock()
	r.Body, r.stored = body, toDisk
	if toDisk {
		if err := s.store(&r); err != nil {
			s.fail(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Body = nil; r.segment == nil {
		r.Body = append(make([]byte, 0, len(body)), body...)
		s.memory += r.size()
	} else {
		r.segment.live++
	}
	s.last, s.before = r.Number, r.before+uint64(samples)
	s.records = append(s.records, r)
	s.bytes += r.size()
	s.ledger.Committed += uint64(samples)
	s.ledger.Pending += uint64(samples)
	s.boundMemoryLocked()
	s.changedLocked()
	return r.Number, nil
}

// Next returns the oldest record whose number is above after, and waits for
// one when there is none. The record stays where it is until it is
// acknowledged or dropped; one that can not be read any more is dropped and
// passed over. io.EOF: no record is left and Finish was called; [ErrClosed]:
// Close was called; otherwise it is ctx's error.
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
			found, err := s.fetch(ctx, &r)
			if err != nil || found {
				return r, err
			}
			continue
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

// Has reports whether the record is still pending: it may have been dropped
// while it was being delivered.
func (s *Spool) Has(number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	return s.indexLocked(number) >= 0
}

// Finish says that nothing more will be appended; what is pending can still be
// delivered.
func (s *Spool) Finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.changedLocked()
}

// Close ends the spool. What is pending on disk waits there for the next Open;
// what could not be written, after one more attempt, is dropped and logged.
func (s *Spool) Close() error {
	s.Finish()
	s.io.Lock()
	defer s.io.Unlock()
	for s.dir != "" && s.recoverSome(catchUp) {
		continue
	}
	err := s.flushActive()
	if err != nil {
		s.fail(err)
		for s.recoverSome(catchUp) {
			continue
		}
	}
	if s.disk.retry != nil {
		s.disk.retry.Stop()
	}
	_ = s.endSegment() // what can not be synced is in memory again
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if first := s.firstInMemoryLocked(); first < len(s.records) {
		var samples int
		for i := len(s.records) - 1; i >= first; i-- {
			samples += s.records[i].Samples
			s.dropLocked(i, Disk)
		}
		s.log.Warn("samples that were neither delivered nor on disk are lost", "samples", samples)
	}
	if n := s.ledger.Pending; n > 0 {
		s.log.Info("samples that are not delivered yet stay on disk", "dir", s.dir, "samples", n, "records", len(s.records))
	}
	s.changedLocked()
	s.mu.Unlock()
	s.tidy()
	err = s.savePosition(true, true)
	if err == nil {
		err = s.savePosition(true, true) // the other slot
	}
	s.unmount()
	s.disk.read.Lock()
	s.closeRead()
	s.disk.read.Unlock()
	return err
}

// Ledger is the account at this moment.
func (s *Spool) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expireLocked()
	l := s.ledger
	l.Dropped, l.Refused = maps.Clone(l.Dropped), maps.Clone(l.Refused)
	l.Records, l.Bytes, l.Memory = len(s.records), s.bytes, s.memory
	if len(s.records) > 0 {
		l.Oldest = s.records[0].Appended
	}
	return l
}
