package history

import (
	"context"
	"testing"
	"time"
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
