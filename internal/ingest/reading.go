package ingest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	maxReading = 64 // bodies at a time
	// Of one sender once half of them are taken: a stock sender may push on fifty
	// connections, and who lets them hang must not have the others wait.
	maxReadingOf = 8
)

// read reads a body, as long as there is a place for it.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, host string, job *work, from *parcel) *refusal {
	if no := h.reading.begin(host); no != nil {
		return no
	}
	defer h.reading.end(host)
	if r.ContentLength > h.MaxBody {
		return &refusal{code: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("body of %d bytes, at most %d are taken", r.ContentLength, h.MaxBody)}
	}
	job.body.Reset()
	body := listener{http.MaxBytesReader(w, r.Body, h.MaxBody), func() { h.senders.hear(host, from, time.Now()) }}
	if _, err := job.body.ReadFrom(body); err != nil {
		if over := (*http.MaxBytesError)(nil); errors.As(err, &over) {
			return &refusal{code: http.StatusRequestEntityTooLarge, text: fmt.Sprintf("body of more than %d bytes", h.MaxBody)}
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return &refusal{code: http.StatusBadRequest, text: "body ended early"}
		}
		return &refusal{code: http.StatusBadRequest, text: "body could not be read"}
	}
	return nil
}

// reading counts the bodies that are being read.
type reading struct {
	mu  sync.Mutex
	all int
	of  map[string]int // by sender
}

func (r *reading) begin(host string) *refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.of[host] >= maxReadingOf && r.all >= maxReading/2:
		return &refusal{http.StatusTooManyRequests, "too many pushes of " + host + " are being read; try again", time.Second}
	case r.all == maxReading:
		return &refusal{http.StatusTooManyRequests, "too many pushes are being read; try again", time.Second}
	case r.of == nil:
		r.of = map[string]int{}
	}
	r.all++
	r.of[host]++
	return nil
}

func (r *reading) end(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all--
	if r.of[host]--; r.of[host] == 0 {
		delete(r.of, host)
	}
}

// listener tells of each piece of a body that has come.
type listener struct {
	io.Reader
	heard func()
}

// Read implements [io.Reader].
func (l listener) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	if n > 0 {
		l.heard()
	}
	return n, err
}
