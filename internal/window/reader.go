package window

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"fanin/internal/sample"
)

// MaxReaders is how many names of readers there may be at a time. One name
// may read several paths, each with a cursor of its own.
const MaxReaders = 64

// ErrTooManyReaders says that a new reader has no place.
var ErrTooManyReaders = fmt.Errorf("there are %d readers already; one that is not seen for its expiry is forgotten", MaxReaders)

// errOvertaken ends a confirmation that came too late.
var errOvertaken = errors.New("the reader has been given another page since")

// ReaderID is who collects what: a name, and which part of the window.
type ReaderID struct {
	Name string
	Path string
	Node string // "" for all nodes
}

// reader is a cursor. All fields are guarded by the store's lock.
type reader struct {
	id        ReaderID
	match     func(sample.Owner) bool
	confirmed Position
	pending   *Page // the page that was handed out last, unless it is confirmed
	seen      time.Time
	weak      bool
	late      uint64 // points that were too old
	lost      uint64 // points that were dropped
	unsure    uint64 // dropped while they stood on the pending page
	losing    bool
	delivered uint64
}

// Request asks for a page.
type Request struct {
	Match     func(sample.Owner) bool // nil: all; the same for every page of a reader
	Now       time.Time
	Oldest    int64 // milliseconds: older points are passed over and counted
	MaxPoints int   // on the page, default 500,000
	Markers   bool  // the reader understands stale markers
}

const defaultMaxPoints = 500_000

// Page is what a reader gets at once. It belongs to one goroutine.
type Page struct {
	// Points are grouped by series, in the order of [Store.Newest]; those of
	// a series ascend, unless this machine's clock was set back meanwhile. Stale
	// markers are among them if the reader wanted them.
	Points []sample.Point

	store *Store
	of    *reader
	cut   Position
	late  uint64
	shown uint64
}

// Next makes the next page of a reader, into dst: all that has arrived since
// its last confirmed page, up to a bound. A reader that is not known begins
// with the oldest point there is. A page that is not confirmed is followed by
// one that begins where it began.
func (s *Store) Next(dst []sample.Point, id ReaderID, q Request) (*Page, error) {
	if q.MaxPoints <= 0 {
		q.MaxPoints = defaultMaxPoints
	}
	s.mu.Lock()
	s.prepare()
	r, err := s.reader(id, q.Match)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	r.seen = q.Now
	r.giveUp()
	p := &Page{store: s, of: r}
	pieces := s.log.from(r.confirmed)
	counts, cells := make([]uint32, s.cells.n), s.cells
	verdicts := s.count(p, counts, pieces, q)
	order := s.sorted()
	from := r.confirmed
	r.pending = p
	number := s.looking.begin()
	s.mu.Unlock()

	points := slices.Grow(dst[:0], int(p.shown))[:p.shown]
	next := uint32(0)
	for _, ref := range order {
		n := counts[ref]
		if n == 0 {
			continue
		}
		counts[ref] = next
		series := cells.at(ref).series.Load()
		for i := next; i < next+n; i++ {
			points[i].Series = series
		}
		next += n
	}
	for _, piece := range pieces {
		for run := range piece.each(from, p.cut) {
			if run.t < q.Oldest {
				continue
			}
			for i, bits := range run.bits {
				ref := run.ref + uint32(i)
				if verdicts != nil && verdicts[ref] != shown || !q.Markers && isStale(bits) {
					continue
				}
				at := counts[ref]
				counts[ref]++
				points[at].T, points[at].V = run.t, math.Float64frombits(bits)
			}
		}
	}
	p.Points = points
	s.mu.Lock()
	s.looking.end(number)
	s.log.unused.returned(&s.looking)
	s.mu.Unlock()
	return p, nil
}

// Verdicts on a series while a page is counted.
const (
	unasked = iota
	shown
	hidden
)

// count finds where the page ends and how many points of each series stand on
// it.
func (s *Store) count(p *Page, counts []uint32, pieces []piece, q Request) (verdicts []uint8) {
	var owners map[*sample.Owner]bool
	if q.Match != nil {
		verdicts, owners = make([]uint8, s.cells.n), map[*sample.Owner]bool{}
	}
	hides := func(ref uint32) bool {
		if verdicts == nil {
			return false
		}
		if verdicts[ref] == unasked {
			verdicts[ref] = hidden
			owner := s.cells.at(ref).owner
			match, asked := owners[owner]
			if !asked {
				match = q.Match(*owner)
				owners[owner] = match
			}
			if match {
				verdicts[ref] = shown
			}
		}
		return verdicts[ref] == hidden
	}
	p.cut = s.log.end
	for _, piece := range pieces {
		for run := range piece.each(p.of.confirmed, p.cut) {
			old := run.t < q.Oldest
			for i, bits := range run.bits {
				ref, stale := run.ref+uint32(i), isStale(bits)
				switch {
				case hides(ref) || stale && (old || !q.Markers):
				case old:
					p.late++
				case p.shown == uint64(q.MaxPoints):
					p.cut = run.behind + Position(i)
					return verdicts
				default:
					counts[ref]++
					p.shown++
				}
			}
		}
	}
	return verdicts
}

// Confirm says that the reader has the page. It returns an error, and changes
// nothing, when the reader has been given another page since. weak says that
// nothing but the successful write speaks for it.
func (p *Page) Confirm(weak bool) error {
	s := p.store
	s.mu.Lock()
	defer s.mu.Unlock()
	r := p.of
	if r.pending != p {
		return errOvertaken
	}
	r.pending = nil
	r.confirmed = max(r.confirmed, p.cut)
	r.weak = weak
	r.late += p.late
	r.delivered += p.shown
	r.unsure = 0
	if r.losing && r.confirmed == s.log.end {
		r.losing = false
		s.about(r.id).Info("reader has caught up", "points_lost_so_far", r.lost)
	}
	s.log.advance(s.collectedBySome())
	s.trim()
	return nil
}

// giveUp makes the pending page one that never was.
func (r *reader) giveUp() {
	r.pending = nil
	r.lost += r.unsure
	r.unsure = 0
}

func (s *Store) reader(id ReaderID, match func(sample.Owner) bool) (*reader, error) {
	if r := s.readers[id]; r != nil {
		return r, nil
	}
	names := map[string]bool{id.Name: true}
	for other := range s.readers {
		names[other.Name] = true
	}
	if len(names) > MaxReaders {
		return nil, ErrTooManyReaders
	}
	if s.readers == nil {
		s.readers = map[ReaderID]*reader{}
	}
	r := &reader{id: id, match: match, confirmed: s.log.start}
	s.readers[id] = r
	return r, nil
}

// expect lets the readers that are waited for begin now.
func (s *Store) expect(now time.Time) {
	for _, id := range s.Expected {
		if r, err := s.reader(id, nil); err == nil && r.seen.IsZero() {
			r.seen = now
		}
	}
}

// expire forgets the readers that have not been seen for long.
func (s *Store) expire(now time.Time) {
	expiry := s.ReaderExpiry
	if expiry <= 0 {
		expiry = defaultReaderExpiry
	}
	for id, r := range s.readers {
		if now.Sub(r.seen) > expiry {
			r.giveUp()
			delete(s.readers, id)
			s.tally.Forgotten++
			s.about(id).Warn("reader has not been seen for long and is forgotten", "last_seen", r.seen)
		}
	}
	s.log.advance(s.collectedBySome())
}

func (s *Store) about(id ReaderID) *slog.Logger {
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return log.With("reader", id.Name, "path", id.Path, "node", id.Node)
}
