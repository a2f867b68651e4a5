package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/golang/snappy"
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
	read := discard
	if s.decompress {
		runtime.GOMAXPROCS((runtime.GOMAXPROCS(0) + 1) / 2)
		read = decompress
	}
	server := &http.Server{
		Addr: s.address, ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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

const maxBody = 8 << 20

// buffers are what one request needs.
type buffers struct {
	packed bytes.Buffer
	raw    []byte
}

var spare = sync.Pool{New: func() any { return &buffers{} }}

func decompress(body io.Reader) error {
	b, _ := spare.Get().(*buffers)
	defer spare.Put(b)
	b.packed.Reset()
	if _, err := b.packed.ReadFrom(io.LimitReader(body, maxBody)); err != nil {
		return err
	}
	size, err := snappy.DecodedLen(b.packed.Bytes())
	if err != nil || size > maxBody {
		return errors.Join(err, errors.New("not a snappy block of at most 8 MiB"))
	}
	if size > cap(b.raw) {
		b.raw = make([]byte, size)
	}
	_, err = snappy.Decode(b.raw[:cap(b.raw)], b.packed.Bytes())
	return err
}
