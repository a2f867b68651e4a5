package docker

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// call is a kind of thing that is asked of the engine. One of a kind is under
// way at a time.
type call uint8

const (
	callFollow call = iota // connect, subscribe and list for the first time
	callList
	callPing
	callAsk // Sample's own list, while Run is not at work
	callKinds
)

// health knows since when the engine has not answered, if so. An answer that
// is late counts as none for as long as it is late.
type health struct {
	log      *slog.Logger
	host     string
	patience time.Duration

	mu       sync.Mutex
	calls    [callKinds]callState
	reported time.Time // since when, of the trouble that was logged; zero: none
	failures int       // calls that have failed since all was well
}

type callState struct {
	began time.Time // zero: none under way
	since time.Time // when the first of the calls began that have failed in a row; zero: the last one was good
	err   error
}

// begin notes that a call is made.
func (h *health) begin(c call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls[c].began = time.Now()
}

// end notes how it ended.
func (h *health) end(c call, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.calls[c]
	if err == nil {
		*s = callState{}
		return
	}
	h.failures++
	if s.since.IsZero() {
		s.since = s.began
	}
	if s.since.IsZero() { // a stream that was well until now
		s.since = time.Now()
	}
	s.began, s.err = time.Time{}, err
}

// abandon notes that nobody waits for the answer any more.
func (h *health) abandon(c call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls[c].began = time.Time{}
}

// forget drops what is known of all calls: there is nobody to call.
func (h *health) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls, h.reported, h.failures = [callKinds]callState{}, time.Time{}, 0
}

// check returns an error when the engine has not given a good answer for
// longer than is patient, and logs when that begins and ends.
func (h *health) check(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var since time.Time
	var err error
	for i := range h.calls {
		s := &h.calls[i]
		at, why := s.since, s.err
		if at.IsZero() {
			at, why = s.began, errSilent
		}
		if !at.IsZero() && (since.IsZero() || at.Before(since)) {
			since, err = at, why
		}
	}
	if since.IsZero() {
		if !h.reported.IsZero() {
			h.log.Info("docker answers again", "host", h.host, "after", now.Sub(h.reported).Round(time.Millisecond), "failed_calls", h.failures)
		}
		h.reported, h.failures = time.Time{}, 0
		return nil
	}
	if now.Sub(since) < h.patience {
		return nil
	}
	if h.reported.IsZero() {
		h.reported = since
		h.log.Warn("docker does not answer; containers known so far are still measured", "host", h.host, "err", err)
	}
	return fmt.Errorf("docker at %s has not answered for %s: %w", h.host, now.Sub(since).Round(time.Millisecond), err)
}

var errSilent = errors.New("no answer to a call that is still open")
