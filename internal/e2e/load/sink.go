package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"sync"
	"time"

	"fanin/internal/e2e/fleet"
)

// sink takes everything and keeps nothing, and answers 204 in the way of a
// receiver of remote write 2.0.
type sink struct {
	address string
	// decompress: bodies are read into memory and decompressed, which is the least
	// that a receiver can do, on as many processors as the gateway takes.
	decompress bool
}

// drain listens until the context ends.
func (s *sink) drain(ctx context.Context) error {
	if err := onLoopback(s.address); err != nil {
		return err
	}
	if s.decompress {
		runtime.GOMAXPROCS((runtime.GOMAXPROCS(0) + 1) / 2)
	}
	server := &http.Server{
		Addr: s.address, ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			read := discard
			if s.decompress && r.Method == http.MethodPost {
				read = decompress
			}
			if err := read(r.Body); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", "0") // it does not look
			w.WriteHeader(http.StatusNoContent)
		}),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func discard(body io.Reader) error {
	_, err := io.Copy(io.Discard, body)
	return err
}

var spare = sync.Pool{New: func() any { return &fleet.Decompressor{} }}

func decompress(body io.Reader) error {
	d, _ := spare.Get().(*fleet.Decompressor)
	defer spare.Put(d)
	return d.Read(body)
}
