// Package window owns the admitted points in memory: the newest of each
// series, and the log of all that have arrived, which is kept until every
// reader has collected it. It knows neither how points arrive nor the format
// in which they leave.
//
// Its bytes are those of the log ([Store.MaxBytes] bounds them): blocks of 64
// KiB, counted whole as soon as the first point stands in them; 16 bytes for
// each sender in a block; and every series that has ended, for as long as points of
// it wait. The table of the series that have not ended is not among them: it
// is bounded by [Store.MaxSeries].
package window

import (
	"errors"
	"hash/maphash"
	"log/slog"
	"math"
	"sync"
	"time"

	"fanin/internal/index"
	"fanin/internal/sample"
)

// Outcome says what became of a point.
type Outcome uint8

// Outcomes of [Store.Append].
const (
	Stored    Outcome = iota
	Duplicate         // the series has this very point already
	Late              // the series already has a later point, or another value at that time
	Full              // a new series, and there are too many
	Ended             // a stale marker: the series is gone
)

// Why [Store.Append] takes nothing of a batch. Both pass when a reader
// collects.
var (
	ErrFull  = errors.New("the window is full of points that no reader has collected")
	ErrShare = errors.New("the window is filling up, and this node holds more than its fair share of it")
)

// staleNaN marks the end of a series in remote write
// (https://prometheus.io/docs/specs/prw/remote_write_spec/#stale-markers).
const staleNaN = 0x7ff0000000000002

// IsStale reports whether v is a stale marker: the end of its series, and no
// value. Only protobuf can carry one.
func IsStale(v float64) bool { return math.Float64bits(v) == staleNaN }

const (
	defaultMaxSeries = 1_000_000
	defaultMaxBytes  = 256 << 20
	// A reader that never comes again holds the acknowledgement of everything
	// back. It has to be forgotten before the senders' spools, which keep 2 h by
	// default, give up what all others have collected and count it as dropped.
	defaultReaderExpiry = 110 * time.Minute
	defaultGrace        = 5 * time.Minute
	// What is kept while nobody reads.
	unreadFor = 10 * time.Minute
	// An ended series is remembered so that what is sent again of it is not
	// taken twice.
	rememberFor = time.Hour
	maxEnded    = 100_000
	// aheadFor is how far ahead of the clock the newest point of a series can
	// be: what is further ahead is not admitted.
	aheadFor = time.Minute
)

// MinBytes is the least that [Store.MaxBytes] may be.
const MinBytes = 1 << 20

// Store keeps points. The zero value is ready; its methods may be called from
// any goroutine. Its fields are not changed after the first call.
type Store struct {
	MaxSeries    int           // that have not ended, default 1,000,000
	MaxBytes     int64         // of the log, default 256 MiB, at least [MinBytes]
	ReaderExpiry time.Duration // a reader unseen for so long is forgotten, default 1 h 50 min
	Log          *slog.Logger  // nil: nothing is logged

	// Expected are readers that are waited for from the start, as if they had
	// been there before. With them there is no grace, unless there may be Others.
	Expected []ReaderID
	Others   bool

	// Watch says of each new series whether its points are handed over by
	// [Store.Watched] too; nil: of none. It is called with the store locked.
	Watch func(*sample.Series) bool

	// Grace: for so long after the first point there may be readers that have
	// not come yet, as after a restart. Until then nothing counts as collected
	// by all, and what the others have is kept while there is room. Default 5
	// min, which is the longest scrape interval.
	Grace time.Duration

	mu      sync.Mutex
	cells   table
	free    []uint32    // cells to use again
	byKey   index.Index // cells by their series' name and labels
	seed    maphash.Seed
	live    int // series that have not ended
	order   order
	log     arrivals
	readers map[ReaderID]*reader
	looking looking
	tally   Tally
	first   time.Time // when the first point came
	newest  time.Time // the latest time that was seen
	watched watched

	owners    map[sample.Owner]*sample.Owner
	lastOwner *sample.Owner

	waiting    []ending // ended, and points of them are in the log
	remembered []ending // ended, and their points are gone
}

// Append takes the points of one sender, each series' in ascending order, and
// tells fn (which may be nil) what became of each that was not stored. A
// series ends when nothing was appended to it for keep.
//
// When there is no room it takes nothing at all and returns [ErrFull] or
// [ErrShare]. end is the position up to which the points stand in the log:
// see [Store.Collected].
func (s *Store) Append(points []sample.Point, now time.Time, keep time.Duration, fn func(i int, o Outcome)) (stored int, end Position, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(points) == 0 {
		return 0, s.log.end, nil
	}
	s.prepare()
	sender := s.log.sender(points[0].Series.Owner().Host)
	if err := s.room(len(points), sender, 0); err != nil {
		s.tally.refuse(err)
		return 0, s.log.end, err
	}
	at := s.at(now)
	arrived, kept := tenths(at), tenths(int64(keep))
	present := now.Add(aheadFor).UnixMilli()
	next, last := sender.first, (*cell)(nil)
	for i := range points {
		p := &points[i]
		// Most batches are like the one before, and cells stand in that order: the
		// next one's place is known before this one has come from memory.
		var c *cell
		if next < s.cells.n {
			c = s.cells.at(next)
		}
		if c == nil || c.series.Load() != p.Series {
			if c = s.after(last, p.Series); c != nil {
				next = c.ref
			}
		}
		o := Stored
		if c != nil && !c.ended && p.T > c.t && c.t <= present && !IsStale(p.V) {
			c.t, c.v = p.T, p.V
			c.last = s.log.append(next, p.T, p.V, at, sender)
		} else {
			if c != nil && c.t > present && p.T < c.t {
				// The clock was ahead when that point was taken, and has been set right:
				// the series begins anew.
				c.t = math.MinInt64
			}
			if c, o = s.append(c, p, at, sender); c != nil {
				next = c.ref
			}
		}
		if c != nil {
			if last == nil {
				sender.first = next
			} else if last.after != next {
				last.after = next
			}
			last = c
			next++
		}
		if o == Stored {
			c.arrived, c.keep = arrived, kept
			stored++
		} else if fn != nil {
			fn(i, o)
		}
	}
	return stored, s.log.end, nil
}

// after looks for a series that does not stand where it was expected: where
// it came last time, then anywhere. The cell it finds has this very series.
func (s *Store) after(last *cell, series *sample.Series) *cell {
	if last != nil {
		if c := s.cells.at(last.after); c.series.Load() == series {
			return c
		}
	}
	c := s.find(series)
	if c != nil {
		s.rename(c, series)
	}
	return c
}

// rename gives a cell another series of the same key, whose family may have
// become known meanwhile.
func (s *Store) rename(c *cell, series *sample.Series) {
	known := c.series.Load()
	if known == series {
		return
	}
	if known.Family() != series.Family() {
		s.order.stale = true
	}
	c.series.Store(series)
}

func (s *Store) prepare() {
	if s.owners == nil {
		s.owners = map[sample.Owner]*sample.Owner{}
		s.seed = maphash.MakeSeed()
	}
}

// at notes the time and returns it as nanoseconds since the first point came,
// by the monotonic clock: no series may live on, or end, because the wall clock
// is set.
func (s *Store) at(now time.Time) int64 {
	if s.first.IsZero() {
		s.first = now
		s.expect(now)
	}
	if now.After(s.newest) {
		s.newest = now
	}
	return int64(now.Sub(s.first))
}

// inGrace reports whether readers may still come that nobody knows of.
func (s *Store) inGrace() bool {
	if len(s.Expected) > 0 && !s.Others {
		return false
	}
	grace := s.Grace
	if grace <= 0 {
		grace = defaultGrace
	}
	return s.newest.Sub(s.first) < grace
}

// append takes one point of the series that c is; nil: of one that is not
// known.
func (s *Store) append(c *cell, p *sample.Point, now int64, from *sender) (*cell, Outcome) {
	ended := IsStale(p.V)
	switch {
	case ended && (c == nil || c.ended):
		return c, Ended
	case c != nil && p.T == c.t && (math.Float64bits(p.V) == math.Float64bits(c.v) || IsStale(c.v)):
		return c, Duplicate
	case c != nil && p.T == c.t:
		return c, Late // two speak for one series: the first stays, as in Prometheus
	case c != nil && p.T < c.t:
		return c, Late
	case ended:
		c.t, c.v = p.T, p.V
		s.end(c, now, from)
		return c, Ended
	case c != nil && c.ended && p.T == c.endsAt():
		return c, Duplicate // its marker stands there
	case (c == nil || c.ended && !c.owed) && s.live >= s.maxSeries():
		return c, Full
	case c == nil:
		c = s.add(p.Series)
	case c.ended:
		s.revive(c)
	}
	c.t, c.v = p.T, p.V
	c.last = s.log.append(c.ref, p.T, p.V, now, from)
	return c, Stored
}

// end takes a series off the page of the newest and puts a marker into the
// log. Without room for what it weighs from then on, it stays in the table,
// and the next sweep tries again.
func (s *Store) end(c *cell, now int64, from *sender) {
	c.ended, c.owed = true, true
	if s.room(1, nil, c.bytes()) != nil {
		return
	}
	c.owed = false
	s.live--
	c.charged = true
	s.log.bytes += c.bytes()
	c.last = s.log.append(c.ref, c.endsAt(), math.Float64frombits(staleNaN), now, from)
	s.waiting = append(s.waiting, ending{cell: c, last: c.last, at: now})
}

func (s *Store) revive(c *cell) {
	if !c.owed {
		s.live++
	}
	c.ended, c.owed = false, false
	s.discharge(c)
}

func (s *Store) discharge(c *cell) {
	if c.charged {
		c.charged = false
		s.log.bytes -= c.bytes()
	}
}

func (s *Store) maxSeries() int {
	if s.MaxSeries > 0 {
		return s.MaxSeries
	}
	return defaultMaxSeries
}

func (s *Store) maxBytes() int64 {
	if s.MaxBytes > 0 {
		return max(s.MaxBytes, MinBytes)
	}
	return defaultMaxBytes
}

// Sweep ends the series that have had their time and those whose owner keep
// does not answer for, forgets readers and points that nobody wants any more,
// and returns how many series are left.
func (s *Store) Sweep(now time.Time, keep func(sample.Owner) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prepare()
	at := s.at(now)
	verdicts := map[*sample.Owner]bool{}
	var owner *sample.Owner // of the series before, which most share
	var kept bool
	for ref := range s.cells.n {
		c := s.cells.at(ref)
		if c.owner == nil || c.ended && !c.owed {
			continue
		}
		if c.owner != owner {
			owner = c.owner
			var asked bool
			if kept, asked = verdicts[owner]; !asked {
				kept = keep(*owner)
				verdicts[owner] = kept
			}
		}
		if c.owed || !kept || uint64(tenths(at)) > uint64(c.arrived)+uint64(c.keep) {
			s.end(c, at, s.log.sender(c.owner.Host))
		}
	}
	s.expire(now)
	s.trim()
	for len(s.readers) == 0 && s.log.idle(at-int64(unreadFor)) {
		s.drop()
	}
	s.forget(at)
	return s.live
}

// settle stops counting the bytes of ended series whose points are gone.
func (s *Store) settle() {
	for len(s.waiting) > 0 && (s.waiting[0].last <= s.log.start || !s.waiting[0].stands()) {
		e := s.waiting[0]
		s.waiting = s.waiting[1:]
		if e.stands() {
			s.discharge(e.cell)
			e.begun = s.looking.begun
			s.remembered = append(s.remembered, e)
		}
	}
}

// forget gives up the series that ended long ago. A page under way that began
// when their points were still there may name their cells.
func (s *Store) forget(now int64) {
	for len(s.remembered) > 0 {
		e := s.remembered[0]
		if e.stands() && now-e.at < int64(rememberFor) && len(s.remembered) <= maxEnded || !s.looking.over(e.begun) {
			break
		}
		s.remembered = s.remembered[1:]
		if !e.stands() {
			continue
		}
		c := e.cell
		s.lose(c)
		c.series.Store(nil)
		c.owner = nil
		s.free = append(s.free, c.ref)
		s.order.gone++
	}
	if len(s.owners) > 2*s.byKey.Len()+1000 {
		clear(s.owners) // those in use stay with their series
	}
}

// Len is the number of series that have not ended.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live
}
