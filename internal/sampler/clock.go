package sampler

import (
	"context"
	"time"
)

// clock says when to sample: at the multiples of its interval since 1970 on
// the wall clock, however often that clock is set and the process is stopped.
// It waits on the monotonic clock and looks at the wall clock after each wait.
type clock struct {
	interval time.Duration
	wall     func() time.Time // without a monotonic reading

	last time.Time // the last tick given out
}

// next waits for the next tick and returns it with the number of ticks that
// passed unused since the one before. ok is false when ctx ended.
//
// A tick is given out at most half an interval late. A process that was
// stopped, a machine that was suspended, a clock that was set: all of them are
// one gap, then the next multiple.
func (c *clock) next(ctx context.Context) (due time.Time, missed int64, ok bool) {
	now := c.wall()
	due = c.after(now)
	if !due.After(c.last) && c.last.Sub(now) < c.interval {
		due = c.last.Add(c.interval) // set back by less than a tick: not the same one again
	}
	for {
		if !sleep(ctx, due.Sub(now)) {
			return time.Time{}, 0, false
		}
		now = c.wall()
		switch early := due.Sub(now); {
		case early > c.interval: // set back
			due = c.after(now)
		case early > 0: // slewed: the clocks do not run at quite the same speed
		case -early > c.interval/2:
			due = c.after(now)
		default:
			if !c.last.IsZero() && due.After(c.last) {
				missed = int64(due.Sub(c.last)/c.interval) - 1
			}
			c.last = due
			return due, missed, true
		}
	}
}

// after is the first multiple of the interval after t.
func (c *clock) after(t time.Time) time.Time {
	passed := t.UnixNano() % int64(c.interval)
	if passed < 0 { // before 1970
		passed += int64(c.interval)
	}
	return t.Add(c.interval - time.Duration(passed))
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
