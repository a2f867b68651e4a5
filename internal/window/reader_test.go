package window

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"fanin/internal/sample"
)

func of(host, name string) *sample.Series {
	return sample.New(cpu, sample.Label{Name: sample.HostName, Value: host}, sample.Label{Name: sample.GuestName, Value: name}, sample.Label{Name: sample.GuestType, Value: "docker"})
}

var (
	anyone = func(sample.Owner) bool { return true }
	first  = ReaderID{Name: "first", Path: "/"}
	second = ReaderID{Name: "second", Path: "/"}
)

func next(t testing.TB, s *Store, id ReaderID, q Request) *Page {
	t.Helper()
	if q.Now.IsZero() {
		q.Now = start
	}
	p, err := s.Next(nil, id, q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func shownOn(p *Page) string {
	var all []string
	for _, p := range p.Points {
		v := fmt.Sprint(p.V)
		if IsStale(p.V) {
			v = "end"
		}
		all = append(all, fmt.Sprintf("%s %s@%d", p.Series.Label(sample.GuestName), v, p.T))
	}
	return strings.Join(all, ", ")
}

func put(t testing.TB, s *Store, series *sample.Series, times ...int64) {
	t.Helper()
	var points []sample.Point
	for _, at := range times {
		points = append(points, sample.Point{Series: series, T: at, V: float64(at)})
	}
	if n, _, err := s.Append(points, start, time.Minute, nil); n != len(times) || err != nil {
		t.Fatalf("got %d stored and %v, want %d", n, err, len(times))
	}
}

func TestPagesOfAReader(t *testing.T) {
	s := Store{Grace: 1}
	s.Sweep(start.Add(-time.Minute), anyone)
	a, b := of("h", "a"), of("h", "b")
	next(t, &s, second, Request{Match: anyone})
	put(t, &s, b, 1, 2)
	put(t, &s, a, 1)
	put(t, &s, b, 3)
	page := next(t, &s, first, Request{})
	if got, want := shownOn(page), "a 1@1, b 1@1, b 2@2, b 3@3"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	put(t, &s, a, 4)
	again := next(t, &s, first, Request{})
	if got, want := shownOn(again), "a 1@1, a 4@4, b 1@1, b 2@2, b 3@3"; got != want {
		t.Fatalf("not confirmed: got %s, want %s", got, want)
	}
	if page.Confirm(false) == nil {
		t.Fatal("a page was confirmed after the next was given out")
	}
	if err := again.Confirm(false); err != nil {
		t.Fatal(err)
	}
	put(t, &s, b, 5)
	if got, want := shownOn(next(t, &s, first, Request{})), "b 5@5"; got != want {
		t.Fatalf("confirmed: got %s, want %s", got, want)
	}
	// A bounded page goes on where it ended, in order of arrival.
	var got []string
	for range 4 {
		p := next(t, &s, second, Request{MaxPoints: 2, Match: anyone})
		got = append(got, shownOn(p))
		_ = p.Confirm(true)
	}
	if want := []string{"b 1@1, b 2@2", "a 1@1, b 3@3", "a 4@4, b 5@5", ""}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	status := s.Readers()
	if len(status) != 2 || status[0].Weak || !status[1].Weak || status[0].Lag != 1 || status[1].Delivered != 6 {
		t.Fatalf("got %+v", status)
	}
	if got := s.Collected(); got != 5 {
		t.Fatalf("got %d collected by all, want 5", got)
	}
	if got := page.Points[0].Series; got != a {
		t.Fatalf("got series %s", got.Text())
	}
}

// After a restart the second of two readers may come a while after the first.
func TestReadersThatComeLater(t *testing.T) {
	comeLater(t, &Store{Grace: 30 * time.Second})
	comeLater(t, &Store{Grace: 30 * time.Second, Expected: []ReaderID{first}, Others: true})
}

func comeLater(t *testing.T, s *Store) {
	t.Helper()
	put(t, s, of("h", "a"), 1)
	if err := next(t, s, first, Request{}).Confirm(false); err != nil {
		t.Fatal(err)
	}
	if got := s.Collected(); got != 0 {
		t.Fatalf("%d counts as collected while readers may still come", got)
	}
	p := next(t, s, second, Request{})
	if got := shownOn(p); got != "a 1@1" {
		t.Fatalf("the second reader got %q", got)
	}
	_ = p.Confirm(false)
	s.Sweep(start.Add(40*time.Second), anyone)
	if got := s.Tally().Points; got != 0 || s.Collected() != 1 {
		t.Fatalf("got %d points, collected %d; want 0 and 1", got, s.Collected())
	}
}

func TestTooOldIsPassedOverAndCountedOnce(t *testing.T) {
	var s Store
	put(t, &s, of("h", "a"), 1, 2, 3)
	for range 2 {
		if got := shownOn(next(t, &s, first, Request{Oldest: 3})); got != "a 3@3" {
			t.Fatalf("got %s", got)
		}
	}
	_ = next(t, &s, first, Request{Oldest: 3}).Confirm(false)
	if got := s.Readers()[0]; got.TooOld != 2 || got.Delivered != 1 {
		t.Fatalf("got %+v", got)
	}
}

func TestEndsStandAtTheRightPlace(t *testing.T) {
	var s Store
	a := of("h", "a")
	put(t, &s, a, 10, 20)
	put(t, &s, of("h", "b"), 10)
	none := func(o sample.Owner) bool { return o.Guest != "a" }
	s.Sweep(start, none)
	s.Sweep(start, none)
	if got := page(&s, nil); len(got) != 1 {
		t.Fatalf("an ended series is on the page of the newest: %q", got)
	}
	put(t, &s, a, 30) // it was only late
	if got, want := shownOn(next(t, &s, first, Request{Markers: true})), "a 10@10, a 20@20, a end@21, a 30@30, b 10@10"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if got, want := shownOn(next(t, &s, second, Request{})), "a 10@10, a 20@20, a 30@30, b 10@10"; got != want {
		t.Fatalf("without markers: got %s, want %s", got, want)
	}
	// A sender's own marker has the time it gave, and what is sent again of an
	// ended series is known.
	s.Append([]sample.Point{{Series: a, T: 40, V: math.Float64frombits(staleNaN)}}, start, time.Minute, nil)
	outcome := Stored
	s.Append([]sample.Point{{Series: a, T: 40, V: 1}}, start, time.Minute, func(_ int, o Outcome) { outcome = o })
	s.Append([]sample.Point{{Series: a, T: 30, V: 1}}, start, time.Minute, func(_ int, o Outcome) { outcome = max(outcome, o) })
	if outcome == Stored || s.Len() != 1 {
		t.Fatalf("a point before the end was taken; %d series", s.Len())
	}
	if got, want := shownOn(next(t, &s, first, Request{Markers: true})), "a 10@10, a 20@20, a end@21, a 30@30, a end@40, b 10@10"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
}

// fill appends n points of one series, one by one, from time t on.
func fill(s *Store, series *sample.Series, t int64, n int) (stored int, err error) {
	for i := range n {
		k, _, e := s.Append([]sample.Point{{Series: series, T: t + int64(i), V: 1}}, start, time.Minute, nil)
		if e != nil {
			return stored, e
		}
		stored += k
	}
	return stored, nil
}

func TestLaggingReaderLosesToThePointAndStopsNobody(t *testing.T) {
	s := Store{MaxBytes: MinBytes}
	a := of("h", "a")
	_ = next(t, &s, second, Request{}).Confirm(false)
	total, delivered := 0, 0
	for range 40 {
		n, err := fill(&s, a, int64(total), 5000)
		total += n
		if err != nil {
			t.Fatalf("after %d points: %v", total, err)
		}
		p := next(t, &s, first, Request{})
		delivered += len(p.Points)
		if err := p.Confirm(false); err != nil {
			t.Fatal(err)
		}
		if got := s.Tally(); got.Bytes > MinBytes {
			t.Fatalf("got %d bytes", got.Bytes)
		}
	}
	got := 0
	for {
		p := next(t, &s, second, Request{MaxPoints: 10_000})
		_ = p.Confirm(false)
		if got += len(p.Points); len(p.Points) == 0 {
			break
		}
	}
	if lost := s.Readers()[1].Lost; delivered != total || lost == 0 || got+int(lost) != total {
		t.Fatalf("of %d points the first got %d, the second %d with %d lost", total, delivered, got, lost)
	}
}

// What is dropped while it stands on a page under way is lost only if that
// page is.
func TestDroppedFromAPageUnderWay(t *testing.T) {
	for _, confirmed := range []bool{true, false} {
		s := Store{MaxBytes: MinBytes}
		a := of("h", "a")
		total, _ := fill(&s, a, 0, 1000)
		underWay := next(t, &s, second, Request{})
		for range 20 {
			n, _ := fill(&s, a, int64(total), 5000)
			total += n
			_ = next(t, &s, first, Request{}).Confirm(false)
		}
		got := 0
		if confirmed {
			if err := underWay.Confirm(false); err != nil {
				t.Fatal(err)
			}
			got = len(underWay.Points)
		}
		last := next(t, &s, second, Request{})
		if lost := int(s.Readers()[1].Lost); got+len(last.Points)+lost != total || lost == 0 {
			t.Fatalf("confirmed %v: got %d and %d, lost %d of %d", confirmed, got, len(last.Points), lost, total)
		}
	}
}

func TestNoRoomWhenNobodyCollects(t *testing.T) {
	s := Store{MaxBytes: MinBytes}
	next(t, &s, first, Request{})
	hot, quiet := of("hot", "a"), of("quiet", "b")
	if _, err := fill(&s, quiet, 0, 10); err != nil {
		t.Fatal(err)
	}
	n, err := fill(&s, hot, 0, 100_000)
	if !errors.Is(err, ErrShare) || n < 16_000 || n > 40_000 {
		t.Fatalf("the hot node: got %d points and %v, want its share", n, err)
	}
	if _, err := fill(&s, quiet, 100, 5000); err != nil {
		t.Fatalf("the quiet node is refused: %v", err)
	}
	m, err := fill(&s, quiet, 10_000, 100_000)
	if err == nil || s.Tally().Bytes > MinBytes {
		t.Fatalf("got %d more, %d bytes and no error", m, s.Tally().Bytes)
	}
	// All or nothing.
	before := s.Tally().Points
	batch := []sample.Point{}
	for i := range 20_000 {
		batch = append(batch, sample.Point{Series: hot, T: 1e6 + int64(i)})
	}
	if k, _, err := s.Append(batch, start, time.Minute, nil); k != 0 || err == nil || s.Tally().Points != before {
		t.Fatalf("got %d stored of a batch without room, %v", k, err)
	}
	if got := s.Tally(); got.Full+got.Share < 3 {
		t.Fatalf("got %+v", got)
	}
	// The next collection makes room.
	_ = next(t, &s, first, Request{}).Confirm(false)
	if k, _, err := s.Append(batch, start, time.Minute, nil); k != len(batch) || err != nil {
		t.Fatalf("got %d stored, %v", k, err)
	}
}

func TestWithoutReaders(t *testing.T) {
	s := Store{MaxBytes: MinBytes}
	n, err := fill(&s, of("h", "a"), 0, 200_000)
	if !errors.Is(err, ErrShare) && !errors.Is(err, ErrFull) || s.Collected() != 0 {
		t.Fatalf("while readers may still come: %d, %v, collected %d; want no more than there is room for", n, err, s.Collected())
	}
	s = Store{MaxBytes: MinBytes, Grace: time.Nanosecond}
	s.Sweep(start.Add(-time.Second), anyone)
	n, err = fill(&s, of("h", "a"), 0, 200_000)
	got := s.Tally()
	if n != 200_000 || err != nil || got.Bytes > MinBytes || got.Unread != 200_000-got.Points {
		t.Fatalf("got %d, %v, %+v", n, err, got)
	}
	s.Sweep(start.Add(2*time.Minute), anyone) // the series ends
	s.Sweep(start.Add(unreadFor+3*time.Minute), anyone)
	if got := s.Tally(); got.Points != 0 || got.Unread != 200_000 || s.Collected() != 200_001 {
		t.Fatalf("after 10 minutes: %+v, collected %d", got, s.Collected())
	}
}

func TestReadersAreFewAndForgotten(t *testing.T) {
	s := Store{ReaderExpiry: time.Hour, Log: slog.New(slog.DiscardHandler)}
	for i := range MaxReaders {
		for _, path := range []string{"/a", "/b"} {
			next(t, &s, ReaderID{Name: fmt.Sprint(i), Path: path}, Request{})
		}
	}
	if _, err := s.Next(nil, first, Request{Now: start}); !errors.Is(err, ErrTooManyReaders) {
		t.Fatalf("got %v", err)
	}
	next(t, &s, ReaderID{Name: "0", Path: "/a"}, Request{Now: start.Add(30 * time.Minute)})
	s.Sweep(start.Add(61*time.Minute), anyone)
	if got := s.Readers(); len(got) != 1 || s.Tally().Forgotten != 2*MaxReaders-1 {
		t.Fatalf("got %d readers, %+v", len(got), s.Tally())
	}
}

// Ended series are given up with their points, their cells and blocks are used
// again, and nothing grows; nor does it when there is always some page that is not
// done.
func TestChurn(t *testing.T) {
	for _, overlapping := range []bool{false, true} {
		t.Run(fmt.Sprint("overlapping=", overlapping), func(t *testing.T) {
			s := Store{MaxBytes: MinBytes}
			now := start
			for i := range 300 {
				before := s.looking.begun
				if overlapping {
					s.looking.begin()
				}
				var points []sample.Point
				for j := range 100 {
					points = append(points, sample.Point{Series: of("h", fmt.Sprint(i, "-", j)), T: int64(i)})
				}
				if n, _, err := s.Append(points, now, time.Second, nil); n != 100 || err != nil {
					t.Fatalf("round %d: %d, %v", i, n, err)
				}
				p := next(t, &s, first, Request{Now: now, Markers: true})
				if err := p.Confirm(false); err != nil {
					t.Fatal(err)
				}
				now = now.Add(time.Minute)
				s.Sweep(now, anyone)
				if got := s.Tally().Bytes; got > MinBytes {
					t.Fatalf("round %d: %d bytes", i, got)
				}
				if overlapping && i > 0 {
					s.looking.end(before - 1) // the round's before; the number between is next's
				}
			}
			s.Newest(nil, nil)
			if s.Len() != 0 || s.byKey.Len() > 12_000 || s.cells.n > 12_000 || len(s.order.refs) > 12_000 || len(s.owners) > 30_000 {
				t.Fatalf("got %d live, %d known, %d cells, %d in order, %d owners", s.Len(), s.byKey.Len(), s.cells.n, len(s.order.refs), len(s.owners))
			}
			if got := len(s.log.unused.lent); got > 2 {
				t.Fatalf("%d blocks wait for pages that are long done", got)
			}
		})
	}
}

// A series whose points were there when a page began is not given up before that
// page is done, however long ago it ended.
func TestPagesKeepTheirSeries(t *testing.T) {
	s := Store{}
	put(t, &s, of("h", "a"), 1)
	number := s.looking.begin()
	later := start.Add(time.Hour)
	s.Sweep(later, anyone) // it ends
	if err := next(t, &s, first, Request{Now: later, Markers: true}).Confirm(false); err != nil {
		t.Fatal(err)
	}
	later = later.Add(defaultGrace + rememberFor)
	s.Sweep(later, anyone)
	later = later.Add(defaultGrace + rememberFor)
	s.Sweep(later, anyone)
	if !s.known(0) || len(s.remembered) == 0 {
		t.Fatal("the series is given up, and a page may still name it")
	}
	s.looking.begin() // began when its points were gone
	s.looking.end(number)
	s.Sweep(later, anyone)
	if s.known(0) {
		t.Fatal("the series is still kept, and no page can name it")
	}
}

// A part that nobody reads any more, while others are read, is not waited for
// when there is no room.
func TestAbandonedPartStopsNobody(t *testing.T) {
	s := Store{MaxBytes: MinBytes}
	part := func(name string) ReaderID { return ReaderID{Name: "parts", Path: "/", Node: name} }
	of1 := func(host string) Request {
		return Request{Match: func(o sample.Owner) bool { return o.Host == host }, Now: start}
	}
	next(t, &s, part("gone"), of1("gone"))
	next(t, &s, part("h"), of1("h"))
	if n, err := fill(&s, of("h", "a"), 0, 100_000); err == nil {
		t.Fatalf("%d points were taken and none was collected", n)
	}
	later := start.Add(defaultGrace)
	s.Sweep(later, anyone)
	request := of1("h")
	request.Now = later
	if err := next(t, &s, part("h"), request).Confirm(false); err != nil {
		t.Fatal(err)
	}
	if _, err := fill(&s, of("h", "a"), 1e6, 10_000); err != nil {
		t.Fatalf("a reader that is gone stops the others: %v", err)
	}
	if got := s.Readers()[0]; got.Lost != 0 {
		t.Fatalf("got %+v, want no loss: none of the points was its", got)
	}
}

// A block that is dropped while a page is made of it is not written over: the
// page is put together without the lock.
func TestPagesKeepTheirBlocks(t *testing.T) {
	s := &Store{MaxBytes: 2 * MinBytes}
	slow, quick := ReaderID{Name: "slow"}, ReaderID{Name: "quick"}
	series := []*sample.Series{of("h1", "a"), of("h1", "b"), of("h1", "c")}
	at := int64(0)
	fill := func(n int) {
		points := make([]sample.Point, 0, n)
		for range n {
			at++
			points = append(points, sample.Point{Series: series[at%3], T: at, V: float64(at)})
		}
		if _, _, err := s.Append(points, start, time.Hour, nil); err != nil {
			t.Error(err)
		}
		if p, err := s.Next(nil, quick, Request{Now: start}); err != nil || p.Confirm(false) != nil {
			t.Error("the quick reader gets no page:", err)
		}
	}
	if _, err := s.Next(nil, slow, Request{Now: start}); err != nil {
		t.Fatal(err)
	}
	fill(20_000)
	done, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				fill(10_000)
			}
		}
	}()
	for range 200 {
		p, err := s.Next(nil, slow, Request{Now: start})
		if err != nil {
			t.Error(err)
			break
		}
		for _, point := range p.Points {
			if point.V != float64(point.T) || point.Series != series[point.T%3] {
				t.Fatalf("%s at %d is %v", point.Series.Text(), point.T, point.V)
			}
		}
	}
	close(stop)
	<-done
}
