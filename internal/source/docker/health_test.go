package docker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHealthSaysWhenItBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := &health{log: slog.New(slog.NewTextHandler(&log, nil)), host: "unix:///x", patience: 2 * time.Second}
		want := func(what string, trouble bool) {
			t.Helper()
			if err := h.check(time.Now()); (err != nil) != trouble {
				t.Errorf("%s: got error %v, want one: %v", what, err, trouble)
			}
		}
		h.begin(callPing)
		time.Sleep(1900 * time.Millisecond)
		want("a ping that is not yet late", false)
		time.Sleep(200 * time.Millisecond)
		want("a late ping", true)
		want("a late ping, again", true)
		time.Sleep(8 * time.Second)
		h.end(callPing, errors.New("deadline"))
		want("a failed ping", true)
		h.begin(callFollow)
		h.end(callFollow, errors.New("refused"))
		h.begin(callFollow)
		h.end(callFollow, nil)
		want("the ping has still failed", true)
		h.begin(callPing)
		h.end(callPing, nil)
		want("all well", false)
		want("all well, again", false)

		if got := strings.Count(log.String(), "does not answer;"); got != 1 {
			t.Errorf("trouble was logged %d times, want once:\n%s", got, &log)
		}
		if want := "after=10.1s failed_calls=2"; strings.Count(log.String(), want) != 1 {
			t.Errorf("want one recovery with %q, got:\n%s", want, &log)
		}
	})
}

// A stream that breaks after hours is late from then on, not from its
// beginning; one short failure is nobody's concern.
func TestHealthOfABrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &health{log: slog.New(slog.DiscardHandler), patience: 2 * time.Second}
		h.begin(callFollow)
		h.end(callFollow, nil)
		time.Sleep(time.Hour)
		h.end(callFollow, errors.New("EOF"))
		if err := h.check(time.Now()); err != nil {
			t.Errorf("just broken: got %v, want nil", err)
		}
		h.begin(callFollow)
		time.Sleep(time.Second)
		h.end(callFollow, nil)
		time.Sleep(time.Hour)
		if err := h.check(time.Now()); err != nil {
			t.Errorf("well again: got %v, want nil", err)
		}
		h.begin(callPing)
		h.abandon(callPing)
		time.Sleep(time.Hour)
		if err := h.check(time.Now()); err != nil {
			t.Errorf("nobody waits any more: got %v, want nil", err)
		}
	})
}
