package history

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fanin/internal/sample"
	"fanin/internal/window"
)

// TestRetention: of what is older than the retention nothing is kept, nor of
// what is more than its size, and the rest stays.
func TestRetention(t *testing.T) {
	for _, form := range []struct {
		name  string
		o     Options
		least time.Duration
	}{{"time", Options{RetentionTime: 4 * time.Hour}, 4 * time.Hour}, {"size", Options{RetentionSize: 1 << 20}, time.Hour}} {
		t.Run(form.name, func(t *testing.T) {
			p := begin(t, t.TempDir(), form.o)
			now := time.Now().Truncate(2 * time.Hour)
			written := points{}
			for at := now.Add(-16 * time.Hour); at.Before(now); at = at.Add(2 * time.Hour) {
				batch := lines(40, at, at.Add(2*time.Hour), 15*time.Second)
				written.add(batch)
				p.push(batch)
				p.compact()
			}
			got := p.all()
			written.lost(t, got) // nothing that was not written
			oldest := now
			for _, of := range got {
				for at := range of {
					if t := time.UnixMilli(at); t.Before(oldest) {
						oldest = t
					}
				}
			}
			for name, of := range written {
				for at := range of {
					if _, there := got[name][at]; !there && !time.UnixMilli(at).Before(oldest) {
						t.Fatalf("%s at %d is missing, and older ones are there", name, at)
					}
				}
			}
			if age := now.Sub(oldest); age > 12*time.Hour || age < form.least {
				t.Errorf("what is there begins %s before the end", age)
			}
			if form.o.RetentionSize > 0 && p.counts.size.Load() > 3*form.o.RetentionSize {
				t.Errorf("%d bytes are taken", p.counts.size.Load())
			}
		})
	}
}

// TestRestart: what was collected is there after a restart and after kill -9,
// what comes again is no error, and its copies are not counted twice.
func TestRestart(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	written := points{}
	at := time.Now().Truncate(time.Second).Add(-10 * time.Minute)
	for round := range 6 {
		batch := lines(20, at, at.Add(time.Minute), time.Second)
		written.add(batch)
		p.push(batch)
		if p.waiting() > 0 {
			t.Fatalf("%d points wait", p.waiting())
		}
		dir := copyOf(t, p.Path) // as kill -9 leaves it
		if round%2 == 1 {
			p.stop()
			dir = p.Path
		}
		p = begin(t, dir, Options{})
		if n := written.lost(t, p.all()); n > 0 {
			t.Errorf("%d points are missing\n%s", n, p.log)
		}
		p.push(batch) // what had not been said to be collected comes again
		if n := written.lost(t, p.all()); n > 0 || p.waiting() > 0 {
			t.Errorf("%d points are missing, %d wait", n, p.waiting())
		}
		at = at.Add(time.Minute)
	}
	for _, reason := range []string{reasonTooOld, reasonDuplicate, reasonInvalid} {
		if n := counted(t, p.counts.refused, reason); n > 0 {
			t.Errorf("%v points are refused as %s", n, reason)
		}
	}
}

// TestRefused: what the database can not take is counted, and stops nothing.
func TestRefused(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	p.push(lines(2, now, now.Add(time.Second), time.Second))
	old := lines(4, now.Add(-4*time.Hour), now.Add(-4*time.Hour+time.Minute), time.Second)[2*60:]
	late := lines(6, now.Add(-2*time.Hour), now.Add(-2*time.Hour+time.Minute), time.Second)[4*60:]
	p.push(append(old, late...))
	if got, n := p.all().count(), counted(t, p.counts.refused, reasonTooOld); got != 2+120 || n != 120 {
		t.Errorf("%d points are stored and %v refused as too old, want 122 and 120", got, n)
	}
	if p.waiting() != 0 {
		t.Errorf("%d points wait", p.waiting())
	}
	// Another value at a time that is known: the first one stays.
	q := begin(t, copyOf(t, p.Path), Options{})
	other := lines(2, now, now.Add(time.Second), time.Second)
	other[1].V++
	q.push(other)
	if n := counted(t, q.counts.refused, reasonDuplicate); n != 1 || q.all().count() != 122 {
		t.Errorf("%v refused as duplicates, %d points", n, q.all().count())
	}
}

// TestTooManySeries: new series beyond the bound are refused and counted, those
// that are known go on, and a start with more of them is none that fails.
func TestTooManySeries(t *testing.T) {
	p := begin(t, t.TempDir(), Options{MaxSeries: 10})
	now := time.Now().Truncate(time.Second)
	p.push(lines(10, now, now.Add(time.Second), time.Second))
	p.push(lines(30, now.Add(time.Second), now.Add(2*time.Second), time.Second))
	if n, got := counted(t, p.counts.refused, reasonTooMany), p.all(); n != 20 || len(got) != 10 || got.count() != 20 {
		t.Errorf("%v refused, %d series with %d points; want 20, 10 and 20", n, len(got), got.count())
	}
	q := begin(t, copyOf(t, p.Path), Options{MaxSeries: 5})
	q.push(lines(12, now.Add(3*time.Second), now.Add(4*time.Second), time.Second))
	if n, got := counted(t, q.counts.refused, reasonTooMany), q.all(); n != 2 || len(got) != 10 || got.count() != 30 {
		t.Errorf("%v refused, %d series with %d points after a restart; want 2, 10 and 30", n, len(got), got.count())
	}
}

// TestEnds: the window's stale markers are stored as the protobuf page has
// them, and end the series.
func TestEnds(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	p.push(lines(1, now, now.Add(time.Second), time.Second))
	p.store.Sweep(time.Now().Add(2*time.Minute), nobody)
	p.collect(t.Context(), time.Now())
	address := p.serve() + "/api/v1/query?query=testbed_guest_test&time="
	if _, got := get(t, address+stamp(now)); len(got.Data) < 60 {
		t.Errorf("at its last value: %s", got.Data)
	}
	if _, got := get(t, address+stamp(now.Add(time.Millisecond))); len(got.Data) > 60 {
		t.Errorf("a millisecond later: %s", got.Data)
	}
}

// TestClockWasAhead: after the gateway's clock was hours ahead and is set right,
// the history goes on at once, and has what it was told before.
func TestClockWasAhead(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	written := points{}
	past := lines(3, now.Add(-time.Hour), now.Add(-time.Minute), time.Second)
	written.add(past)
	p.push(past)
	p.push(lines(3, now.Add(5*time.Hour), now.Add(8*time.Hour), time.Minute))
	late := lines(4, now.Add(6*time.Hour), now.Add(6*time.Hour+time.Minute), time.Second)[3*60:]
	p.push(late)
	q := unopened(t, copyOf(t, p.Path), Options{}) // another window, as of a gateway that is started again
	if err := q.open(nil, nil); err != nil {
		t.Fatal(err)
	}
	q.push(lines(3, now, now.Add(time.Second), time.Second))
	if n := counted(t, q.counts.refused, reasonTooOld); n != 3 {
		t.Fatalf("%v points are refused; the test wants to see the database refuse them", n)
	}
	q.tick(func() bool { return !q.turned.IsZero() && q.base.ready() })
	for second := range 3 {
		more := lines(3, now.Add(time.Duration(1+second)*time.Second), now.Add(time.Duration(2+second)*time.Second), time.Second)
		written.add(more)
		q.push(more)
		if second == 1 { // and a restart in this state
			q.stop()
			dir := q.Path
			q = begin(t, dir, Options{})
		}
	}
	if n := written.lost(t, q.all().of("testbed_guest_test")); n > 0 {
		t.Errorf("%d points are missing\n%s", n, q.log)
	}
}

// TestOpenedAnew: a database whose log was set aside numbers its series anew.
// What comes the moment it is open, before Run knows that, goes to its own
// series, and a stop then leaves the folder to the next one.
func TestOpenedAnew(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	written := points{}
	push := func(points []sample.Point) {
		written.add(points)
		p.push(points)
	}
	past := lines(3, now.Add(-time.Minute), now, time.Minute)
	push(past)
	p.push(lines(1, now.Add(4*time.Hour), now.Add(4*time.Hour+time.Second), time.Second))
	p.last[scrubbing] = now
	p.step(t.Context(), now) // finds that its newest is of the future
	for deadline := time.Now().Add(time.Minute); !p.base.ready() || !p.running[opening]; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not opened anew: %v\n%s", p.running, p.log)
		}
	}
	p.found = &blockError{}
	if p.step(t.Context(), now); !p.base.ready() {
		t.Fatal("it is opened again before Run knows that it is open")
	}
	p.found = nil
	one := lines(3, now, now.Add(time.Second), time.Second)
	for i := range one {
		one[i].Series = past[i].Series // the window hands out the same ones
	}
	push(one[2:]) // is number 1 now, and was 3
	push(one[:2])
	p.stop()
	p = begin(t, p.Path, Options{})
	if n := written.lost(t, p.all().of("testbed_guest_test")); n > 0 {
		t.Errorf("%d points are missing\n%s", n, p.log)
	}
}

// TestBackgroundIsIdle: what is written while the database is kept in shape
// does not set its own goroutine to work, in which a panic would end the
// gateway.
func TestBackgroundIsIdle(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	p.push(lines(1000, now.Add(-10*time.Hour), now.Add(-time.Minute), 2*time.Minute))
	done := make(chan error, 1)
	go func() { done <- p.maintain(t.Context()) }()
	for at, busy := now, true; busy; at = at.Add(time.Millisecond) {
		p.push(lines(1, at, at.Add(time.Millisecond), time.Millisecond))
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			busy = false
		default:
		}
	}
	counter := func(name string) (n float64) {
		families, err := p.base.failed.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				n = f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return n
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		woken, idle := counter("prometheus_tsdb_compactions_triggered_total"), counter("prometheus_tsdb_compactions_skipped_total")
		if woken > 0 && woken == idle {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the database's own goroutine was woken %v times and did nothing %v times", woken, idle)
		}
	}
}

// TestStopWhileMaintaining: a stop ends a compaction that is under way, and
// nothing is lost by that.
func TestStopWhileMaintaining(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(2 * time.Hour)
	written := points{}
	for at := now.Add(-12 * time.Hour); at.Before(now); at = at.Add(30 * time.Minute) {
		batch := lines(500, at, at.Add(30*time.Minute), 2*time.Minute)
		written.add(batch)
		p.push(batch)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.maintain(ctx) }()
	for begun := []string(nil); begun == nil; time.Sleep(time.Millisecond) {
		begun, _ = filepath.Glob(filepath.Join(p.Path, "0*"))
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("all of it was done before it ended: %v", err)
	}
	p.stop()
	p = begin(t, p.Path, Options{})
	p.compact()
	if n := written.lost(t, p.all()); n > 0 {
		t.Errorf("%d points are missing\n%s", n, p.log)
	}
}

// TestSecond: another process may not take the folder.
func TestSecond(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	if _, err := New(Options{Path: p.Path, Window: &window.Store{}}); err == nil {
		t.Error("the folder was taken twice")
	}
	p.stop()
	h, err := New(Options{Path: p.Path, Window: &window.Store{}})
	if err != nil {
		t.Error(err)
	}
	h.stop()
}

// TestRun is the whole loop: it collects by itself, and ends.
func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by it")
	p := unopened(t, dir, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	now := time.Now().Truncate(time.Second)
	batch := lines(3, now.Add(-time.Minute), now, time.Second)
	if _, _, err := p.store.Append(batch, now, time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); p.store.Collected() < window.Position(len(batch)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is collected\n%s", p.log)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "wal")); err != nil {
		t.Error(err)
	}
	q := begin(t, dir, Options{})
	want := points{}
	want.add(batch)
	if n := want.lost(t, q.all()); n > 0 {
		t.Errorf("%d points are missing", n)
	}
}
