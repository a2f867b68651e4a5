package window

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fanin/internal/sample"
)

// A simple model beside the real thing: every reader gets every point exactly
// once and in order, unless it is counted as lost; whatever is appended, read,
// confirmed or let go, and in whichever order.
func TestModel(t *testing.T) {
	all := make([]*sample.Series, 12)
	for i := range all {
		all[i] = of(fmt.Sprint("h", i%3), fmt.Sprint("g", i))
	}
	rapid.Check(t, func(t *rapid.T) {
		s := &Store{MaxBytes: MinBytes}
		if rapid.Bool().Draw(t, "grace is over") {
			s.Grace = 1
			s.Sweep(start.Add(-time.Minute), anyone)
		}
		last := make([]int64, len(all))
		type arrival struct {
			series int
			t      int64
		}
		var log []arrival
		type modelReader struct {
			id     ReaderID
			match  func(sample.Owner) bool
			open   *Page
			got    []map[int64]int
			newest []int64
		}
		readers := []*modelReader{{id: first}, {id: second}, {id: ReaderID{Name: "part", Path: "/p"}, match: func(o sample.Owner) bool { return o.Host == "h1" }}}
		for _, r := range readers {
			r.newest = make([]int64, len(all))
			for range all {
				r.got = append(r.got, map[int64]int{})
			}
			p, err := s.Next(nil, r.id, Request{Match: r.match, Now: start})
			if err != nil {
				t.Fatal(err)
			}
			r.open = p
		}
		index := map[*sample.Series]int{}
		for i, series := range all {
			index[series] = i
		}
		confirm := func(r *modelReader) {
			if r.open == nil || r.open.Confirm(false) != nil {
				return
			}
			for _, p := range r.open.Points {
				i := index[p.Series]
				if p.T <= r.newest[i] {
					t.Fatalf("%s: series %d goes from %d to %d", r.id.Name, i, r.newest[i], p.T)
				}
				r.newest[i] = p.T
				r.got[i][p.T]++
			}
			r.open = nil
		}
		read := func(r *modelReader, most int) {
			p, err := s.Next(nil, r.id, Request{Match: r.match, Now: start, MaxPoints: most})
			if err != nil {
				t.Fatal(err)
			}
			if len(p.Points) > most {
				t.Fatalf("got %d points, at most %d were asked for", len(p.Points), most)
			}
			r.open = p
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				host := rapid.IntRange(0, 2).Draw(t, "host")
				n := rapid.SampledFrom([]int{1, 7, 4000, 20_000}).Draw(t, "n")
				var points []sample.Point
				for range n / 4 {
					for k := range 4 {
						i := host + 3*k
						last[i]++
						points = append(points, sample.Point{Series: all[i], T: last[i], V: float64(last[i])})
					}
				}
				before := s.Tally().Points
				stored, _, err := s.Append(points, start, time.Minute, nil)
				switch {
				case err != nil && (stored != 0 || s.Tally().Points > before):
					t.Fatalf("refused and yet stored: %d", stored)
				case err == nil && stored != len(points):
					t.Fatalf("stored %d of %d", stored, len(points))
				case err == nil:
					for _, p := range points {
						log = append(log, arrival{index[p.Series], p.T})
					}
				}
			},
			"read": func(t *rapid.T) {
				read(rapid.SampledFrom(readers).Draw(t, "reader"), rapid.SampledFrom([]int{1, 100, 5000, 500_000}).Draw(t, "most"))
			},
			"confirm": func(t *rapid.T) { confirm(rapid.SampledFrom(readers).Draw(t, "reader")) },
			"read and confirm": func(t *rapid.T) {
				r := rapid.SampledFrom(readers).Draw(t, "reader")
				read(r, 500_000)
				confirm(r)
			},
			"end": func(t *rapid.T) {
				host := rapid.SampledFrom([]string{"h0", "h1", "h2"}).Draw(t, "host")
				s.Sweep(start, func(o sample.Owner) bool { return o.Host != host })
				for i, series := range all {
					if series.Label(sample.HostName) == host {
						last[i]++ // the marker's time is taken
					}
				}
			},
			"": func(t *rapid.T) {
				if got := s.Tally(); got.Bytes > got.MaxBytes {
					t.Fatalf("%d bytes, at most %d", got.Bytes, got.MaxBytes)
				}
			},
		})
		for _, r := range readers {
			for {
				read(r, 300_000)
				n := len(r.open.Points)
				confirm(r)
				if n == 0 {
					break
				}
			}
			var lost uint64
			for _, status := range s.Readers() {
				if status.ReaderID == r.id {
					lost = status.Lost
				}
			}
			missing := uint64(0)
			for _, a := range log {
				if r.match != nil && !r.match(*all[a.series].Owner()) {
					continue
				}
				switch r.got[a.series][a.t] {
				case 0:
					missing++
				case 1:
				default:
					t.Fatalf("%s got %d@%d more than once", r.id.Name, a.series, a.t)
				}
			}
			if missing != lost {
				t.Fatalf("%s misses %d of %d points, %d are counted as lost", r.id.Name, missing, len(log), lost)
			}
		}
	})
}

// Pages are made while points arrive, end and are dropped: for the race
// detector.
func TestConcurrently(t *testing.T) {
	s := Store{MaxBytes: MinBytes}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for r := range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, err := s.Next(nil, ReaderID{Name: fmt.Sprint(r)}, Request{Now: start, MaxPoints: 3000, Markers: true})
				if err != nil {
					t.Error(err)
					return
				}
				newest := map[*sample.Series]int64{}
				for _, p := range p.Points {
					if p.T <= newest[p.Series] {
						t.Errorf("%s goes from %d to %d", p.Series.Text(), newest[p.Series], p.T)
						return
					}
					newest[p.Series] = p.T
				}
				_ = p.Confirm(false)
			}
		})
	}
	for i := range int64(3000) {
		var points []sample.Point
		for g := range 20 {
			points = append(points, sample.Point{Series: of("h", fmt.Sprint(g, "-", i/100)), T: i + 1, V: 1})
		}
		_, _, _ = s.Append(points, start, time.Minute, nil)
		if i%50 == 0 {
			s.Sweep(start.Add(time.Duration(i)*2*time.Second), func(o sample.Owner) bool { return strings.HasSuffix(o.Guest, fmt.Sprint("-", i/100)) })
		}
	}
	close(stop)
	readers.Wait()
}
