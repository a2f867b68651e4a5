// Package window owns the admitted points in memory: what is kept of each
// series, for how long, and who may read it. It knows neither how points
// arrive nor the format in which they leave.
//
// So far it keeps the newest point of each series.
package window

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"fanin/internal/sample"
)

// Outcome says what became of a point.
type Outcome uint8

// Outcomes of [Store.Append].
const (
	Stored    Outcome = iota
	Duplicate         // the series already has a point at that time
	Late              // the series already has a later point
	Full              // a new series, and there are too many
	Ended             // a stale marker: the series is gone
)

// staleNaN marks the end of a series in remote write
// (https://prometheus.io/docs/specs/prw/remote_write_spec/#stale-markers).
const staleNaN = 0x7ff0000000000002

// Store keeps points. The zero value is ready; its methods may be called from
// any goroutine.
type Store struct {
	MaxSeries int // default 1,000,000; not changed after the first call

	mu     sync.RWMutex
	byText map[string]*cell // guarded by mu
	order  []*cell          // as on a page; nil when it must be sorted anew; guarded by mu
}

// cell is one series with its newest point.
type cell struct {
	series  *sample.Series
	owner   sample.Owner
	t       int64
	v       float64
	arrived time.Time
	keep    time.Duration
}

// Append takes the points of one sender, each series' in ascending order, and
// tells fn (which may be nil) what became of each that was not stored. A
// series is forgotten when nothing was appended to it for keep.
func (s *Store) Append(points []sample.Point, now time.Time, keep time.Duration, fn func(i int, o Outcome)) (stored int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byText == nil {
		s.byText = map[string]*cell{}
	}
	for i, p := range points {
		o := s.append(p, now, keep)
		if o == Stored {
			stored++
		} else if fn != nil {
			fn(i, o)
		}
	}
	return stored
}

func (s *Store) append(p sample.Point, now time.Time, keep time.Duration) Outcome {
	c := s.byText[p.Series.Text()]
	ended := math.Float64bits(p.V) == staleNaN
	switch {
	case c == nil && ended:
		return Ended
	case c == nil:
		if len(s.byText) >= s.maxSeries() {
			return Full
		}
		c = &cell{series: p.Series, owner: p.Series.Owner()}
		s.byText[p.Series.Text()] = c
		s.order = nil
	case p.T == c.t:
		return Duplicate
	case p.T < c.t:
		return Late
	case ended:
		delete(s.byText, p.Series.Text())
		s.order = nil
		return Ended
	case c.series != p.Series: // its family has become known meanwhile
		c.series = p.Series
		s.order = nil
	}
	c.t, c.v, c.arrived, c.keep = p.T, p.V, now, keep
	return Stored
}

func (s *Store) maxSeries() int {
	if s.MaxSeries > 0 {
		return s.MaxSeries
	}
	return 1_000_000
}

// Sweep forgets the series that have had their time and those whose owner
// keep does not answer for, and returns how many are left.
func (s *Store) Sweep(now time.Time, keep func(sample.Owner) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	verdicts := map[sample.Owner]bool{}
	for text, c := range s.byText {
		kept, asked := verdicts[c.owner]
		if !asked {
			kept = keep(c.owner)
			verdicts[c.owner] = kept
		}
		if !kept || now.Sub(c.arrived) > c.keep {
			delete(s.byText, text)
			s.order = nil
		}
	}
	return len(s.byText)
}

// Len is the number of series.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byText)
}

// Newest appends to dst the newest point of each series whose owner match
// accepts, sorted by family name and then by text. A nil match accepts all.
func (s *Store) Newest(dst []sample.Point, match func(sample.Owner) bool) []sample.Point {
	s.mu.Lock()
	if s.order == nil {
		s.order = make([]*cell, 0, len(s.byText))
		for _, c := range s.byText {
			s.order = append(s.order, c)
		}
		slices.SortFunc(s.order, func(a, b *cell) int {
			return cmp.Or(
				strings.Compare(a.series.Family().Name, b.series.Family().Name),
				strings.Compare(a.series.Text(), b.series.Text()))
		})
	}
	defer s.mu.Unlock()
	for _, c := range s.order {
		if match == nil || match(c.owner) {
			dst = append(dst, sample.Point{Series: c.series, T: c.t, V: c.v})
		}
	}
	return dst
}
