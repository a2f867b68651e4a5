package kernfile

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// What takes too long to read is given up: of a process nothing more is read
// until it has come back, and of no process while too many hang.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Patience
		release := make(chan struct{})
		read := func(ctx context.Context, pid int, hangs bool) (int, error) {
			return Patiently(ctx, &p, pid, func() (int, error) {
				if hangs {
					<-release
				}
				return pid, nil
			})
		}
		want := func(pid int, hangs bool, err error, after time.Duration) {
			t.Helper()
			began := time.Now()
			v, got := read(t.Context(), pid, hangs)
			if took := time.Since(began); !errors.Is(got, err) || took != after || err == nil && v != pid {
				t.Errorf("process %d: got %d, %v after %s, want %v after %s", pid, v, got, took, err, after)
			}
		}
		want(1, true, ErrHanging, patience)
		want(1, false, ErrHanging, 0)
		want(2, false, nil, 0)

		// Whoever waits is let go when its time is over.
		ctx, cancel := context.WithTimeout(t.Context(), patience/2)
		defer cancel()
		if _, err := read(ctx, 2, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that the deadline has passed", err)
		}
		if _, err := read(ctx, 3, false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("begun too late: got %v, want that the deadline has passed", err)
		}

		for pid := 3; pid <= maxHanging; pid++ {
			want(pid, true, ErrHanging, patience)
		}
		want(maxHanging+1, false, ErrHanging, 0)
		close(release)
		synctest.Wait()
		want(1, false, nil, 0)
		want(maxHanging+1, false, nil, 0)
	})
}
