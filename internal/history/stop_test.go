package history

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/index"

	"fanin/internal/sample"
)

// ending is a context that has ended once it was asked a few times.
type ending struct {
	context.Context
	after int
}

// Err implements [context.Context].
func (e *ending) Err() error {
	if e.after--; e.after < 0 {
		return context.Canceled
	}
	return nil
}

// TestStopWhileCatchingUp: a stop does not wait until all that the window has
// is written, and what is not written stays there.
func TestStopWhileCatchingUp(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	written := points{}
	for at := now.Add(-25 * time.Second); at.Before(now); at = at.Add(time.Second) {
		batch := lines(10_000, at, at.Add(time.Second), time.Second)
		written.add(batch)
		if _, _, err := p.store.Append(batch, now, time.Minute, nil); err != nil {
			t.Fatal(err)
		}
	}
	p.last[maintaining], p.last[scrubbing] = now, now
	p.step(&ending{t.Context(), 1}, now)
	if n := p.all().of("testbed_guest_test").count(); n != pagePoints || p.waiting() != 150_000 {
		t.Errorf("%d points are written and %d wait, want %d and 150000", n, p.waiting(), pagePoints)
	}
	p.step(t.Context(), now)
	if n := written.lost(t, p.all().of("testbed_guest_test")); n > 0 || p.waiting() > 0 {
		t.Errorf("%d points are missing afterwards and %d wait", n, p.waiting())
	}
}

// TestStopWhileTakingTheFolder: a stop leaves alone what an opening is taking
// at that moment.
func TestStopWhileTakingTheFolder(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "mount")
	if err := os.WriteFile(folder, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := unopened(t, filepath.Join(folder, "history"), Options{})
	if p.lock != nil {
		t.Fatal("the folder can be taken; the test wants to see it taken later")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	p.step(t.Context(), time.Now())
	p.stop()
	if !p.running[opening] {
		return // it was open already, and the stop has waited for it
	}
	p.note(t.Context(), <-p.ended)
	if p.lock == nil || !p.base.ready() {
		t.Errorf("the opening has not gone on\n%s", p.log)
	}
}

// TestStopWhileScrubbing: a stop does not wait until a block is read to its
// end, neither in its chunks nor in its lists.
func TestStopWhileScrubbing(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(2 * time.Hour)
	for at := now.Add(-6 * time.Hour); at.Before(now); at = at.Add(10 * time.Minute) {
		p.push(lines(300, at, at.Add(time.Second), time.Second))
	}
	p.compact()
	dir := filepath.Dir(glob(t, p.Path, "0*/meta.json")[0])
	ctx, stop := context.WithCancel(t.Context())
	block, err := tsdb.OpenBlock(nil, dir, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer block.Close()
	series, err := block.Index()
	if err != nil {
		t.Fatal(err)
	}
	defer series.Close()
	lists := &stopping{IndexReader: series, stop: stop}
	if err := readPostings(ctx, lists); !errors.Is(err, context.Canceled) || lists.read != 1 {
		t.Errorf("%d lists by guest are read, and %v; want the one in which it was stopped", lists.read, err)
	}
	change(t, largest(t, dir, "chunks/0*"), func(b []byte) []byte { b[len(b)-5] ^= 1; return b })
	if err := readBlock(t.Context(), dir, 0); err == nil || errors.Is(err, context.Canceled) {
		t.Fatalf("%v; the test wants to see the last chunk damaged", err)
	}
	if err := readBlock(&ending{t.Context(), 2}, dir, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop, and the last chunk is read: %v", err)
	}
}

// stopping is the index of a block in which a stop comes with the first of
// the lists by guest.
type stopping struct {
	tsdb.IndexReader
	stop context.CancelFunc
	read int
}

// Postings implements [tsdb.IndexReader].
func (s *stopping) Postings(ctx context.Context, name string, values ...string) (index.Postings, error) {
	if name == sample.GuestName {
		s.read++
		s.stop()
	}
	return s.IndexReader.Postings(context.WithoutCancel(ctx), name, values...)
}
