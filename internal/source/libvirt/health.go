//go:build cgo

package libvirt

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

var errSilent = errors.New("no answer to a call that is still open")

// health knows since when the daemon has not answered, if so. An answer that
// is late counts as none for as long as it is late.
type health struct {
	log      *slog.Logger
	uri      string
	patience time.Duration

	mu       sync.Mutex
	began    time.Time // of the call that is under way, or when it may be waited for; zero: none
	failing  time.Time // when the first of the calls began that have failed in a row
	err      error     // of the last one
	failures int
	known    bool      // there has been a daemon
	missing  bool      // said that there is none
	reported time.Time // since when, of the trouble that was logged
}

// begin notes that Run asks the daemon something, which may take this much longer
// than a mere answer, and end how that ended. There is one such call at a time.
func (h *health) begin(longer time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.began = time.Now().Add(longer)
}

func (h *health) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	began := h.began
	h.began = time.Time{}
	if h.meet(err) {
		h.failing, h.err = time.Time{}, nil
		return
	}
	h.failures++
	if h.failing.IsZero() {
		h.failing = began
	}
	h.err = err
}

// met notes how a call has ended that is not Run's, and so says nothing of
// whether the daemon answers Run.
func (h *health) met(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.meet(err)
}

// meet notes whether there is a daemon, and reports whether all is well: it has
// answered, or there is none and never was one.
func (h *health) meet(err error) bool {
	switch {
	case err == nil:
		if h.missing {
			h.log.Info("libvirt is there now", "uri", h.uri)
		}
		h.known, h.missing = true, false
		return true
	case errors.Is(err, errAbsent) && !h.known:
		if !h.missing {
			h.missing = true
			h.log.Info("no libvirt here; looked for again from time to time", "uri", h.uri, "err", err)
		}
		return true
	}
	return false
}

// absent reports whether there is no daemon and never was one.
func (h *health) absent() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.missing
}

// silent reports whether the daemon has not answered for longer than is
// patient.
func (h *health) silent() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, _ := h.trouble()
	return !since.IsZero() && time.Since(since) >= h.patience
}

// there reports whether there has ever been a daemon.
func (h *health) there() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known
}

// trouble is since when a good answer is missing, and why.
func (h *health) trouble() (since time.Time, err error) {
	if h.failing.IsZero() {
		return h.began, errSilent
	}
	return h.failing, h.err
}

// check returns an error when the daemon has not given a good answer for
// longer than is patient, and logs when that begins and ends.
func (h *health) check(now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, err := h.trouble()
	switch {
	case since.IsZero():
		if !h.reported.IsZero() {
			h.log.Info("libvirt answers again", "uri", h.uri, "after", now.Sub(h.reported).Round(time.Millisecond), "failed_calls", h.failures)
		}
		h.reported, h.failures = time.Time{}, 0
		return nil
	case now.Sub(since) < h.patience:
		return nil
	}
	if h.reported.IsZero() {
		h.reported = since
		h.log.Warn("libvirt does not answer; domains known so far are still measured", "uri", h.uri, "err", err)
	}
	return fmt.Errorf("libvirt at %s has not answered for %s: %w", h.uri, now.Sub(since).Round(time.Millisecond), err)
}
