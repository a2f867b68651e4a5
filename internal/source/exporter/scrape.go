package exporter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"fanin/internal/sample"
)

const (
	maxHeaders = 16 << 10
	maxInterim = 5             // answers of 1xx before the real one
	keptPage   = 2 * smallPage // a larger buffer is not kept for the next scrape
	accepted   = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1"
)

// requestFor is the request of every scrape of a target. Each scrape has a
// connection of its own: one that is kept can end up with another guest when
// an address is used again, and small servers serve one at a time.
func (s *Source) requestFor(e *endpoint) []byte {
	host := "localhost"
	if len(e.addresses) > 0 {
		host = e.addresses[0].String()
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(e.port)))
	r := http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: "http", Host: address, Path: e.path},
		Header: http.Header{
			"Accept":                              {accepted},
			"Accept-Encoding":                     {"identity"}, // it comes from this machine: compressing costs more than it saves
			"User-Agent":                          {s.UserAgent},
			"X-Prometheus-Scrape-Timeout-Seconds": {strconv.FormatFloat(s.Timeout.Seconds(), 'f', -1, 64)},
		},
		Close: true,
	}
	var b bytes.Buffer
	_ = r.Write(&b) // a buffer takes everything
	return b.Bytes()
}

// scratch is what a scrape needs while it is under way.
type scratch struct {
	reader *bufio.Reader
	page   []byte
}

// scrape appends the points of the target's page as it is now. Nothing that
// the other side does makes it take longer than the timeout or more memory
// than a page may have.
func (w *worker) scrape(ctx context.Context, dst []sample.Point) ([]sample.Point, *failure) {
	s := w.source
	deadline := time.Now().Add(s.Timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, failed := w.dial(ctx)
	if failed != nil {
		return dst, failed
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(w.request); err != nil {
		return dst, ioFailure(err)
	}
	room, _ := s.scratch.Get().(*scratch)
	if room == nil {
		room = &scratch{reader: bufio.NewReader(nil)}
	}
	defer func() {
		if cap(room.page) > keptPage {
			room.page = nil
		}
		s.scratch.Put(room)
	}()
	slots := w.slots()
	held := false
	defer func() {
		if held {
			<-slots
		}
	}()
	f, at, failed := s.receive(conn, room, func() *failure {
		select {
		case slots <- struct{}{}:
			held = true
			return nil
		case <-ctx.Done():
			return &failure{reason: timeout, err: errors.New("too many large pages at once")}
		}
	})
	if failed != nil {
		return dst, failed
	}
	points, left, failed := w.memory.read(dst, room.page, f, at)
	for i, n := range left {
		s.counts.omitted[i].Add(n)
	}
	return points, failed
}

// receive reads one answer. at is when it began; the page is in room then,
// and has room for one more byte. large is asked before it gets large.
func (s *Source) receive(conn io.Reader, room *scratch, large func() *failure) (f format, at time.Time, failed *failure) {
	limited := &io.LimitedReader{R: conn, N: maxHeaders}
	room.reader.Reset(limited)
	defer room.reader.Reset(nil)
	answer, at, failed := head(room.reader, limited)
	if failed != nil {
		return f, at, failed
	}
	defer func() {
		limited.N = 0 // Close would read all the rest
		_ = answer.Body.Close()
	}()
	switch {
	case answer.StatusCode/100 == 3:
		return f, at, &failure{reason: redirect, err: fmt.Errorf("%.80q", answer.Status)}
	case answer.StatusCode != http.StatusOK:
		return f, at, &failure{reason: status, err: fmt.Errorf("%.80q", answer.Status)}
	}
	if coding := answer.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return f, at, &failure{reason: encoding, err: fmt.Errorf("Content-Encoding %.40q", coding)}
	}
	f, failed = formatOf(answer.Header.Get("Content-Type"))
	if failed != nil {
		return f, at, failed
	}
	if answer.ContentLength > int64(s.MaxBytes) {
		return f, at, &failure{reason: tooLarge, err: fmt.Errorf("%d bytes", answer.ContentLength)}
	}
	limited.N = 2*int64(s.MaxBytes) + maxHeaders // chunks have heads
	room.page, failed = readAll(room.page[:0], answer.Body, s.MaxBytes, large)
	if failed != nil && limited.N <= 0 {
		failed = &failure{reason: tooLarge, err: errors.New("more chunks than page")}
	}
	return f, at, failed
}

// head reads the answer's head, passing over those of 1xx.
func head(r *bufio.Reader, limited *io.LimitedReader) (*http.Response, time.Time, *failure) {
	for range maxInterim {
		answer, err := http.ReadResponse(r, nil)
		at := time.Now()
		switch {
		case err == nil && (answer.StatusCode/100 != 1 || answer.StatusCode == http.StatusSwitchingProtocols):
			return answer, at, nil
		case err == nil:
			_ = answer.Body.Close()
		case limited.N <= 0:
			return nil, at, &failure{reason: tooLarge, err: fmt.Errorf("headers of more than %d bytes", maxHeaders)}
		default:
			return nil, at, ioFailure(err)
		}
	}
	return nil, time.Time{}, &failure{reason: broken, err: fmt.Errorf("more than %d answers of 1xx", maxInterim)}
}

// readAll reads to the end, most bytes at the most.
func readAll(page []byte, r io.Reader, most int, large func() *failure) ([]byte, *failure) {
	asked := false
	for {
		if len(page) >= smallPage && !asked {
			asked = true
			if failed := large(); failed != nil {
				return page, failed
			}
		}
		if cap(page)-len(page) < 512 {
			page = append(make([]byte, 0, min(max(smallPage/4, 2*cap(page)), most+1024)), page...)
		}
		n, err := r.Read(page[len(page) : cap(page)-1])
		page = page[:len(page)+n]
		switch {
		case len(page) > most:
			return page, &failure{reason: tooLarge, err: fmt.Errorf("more than %d bytes", most)}
		case errors.Is(err, io.EOF):
			return page, nil
		case err != nil:
			return page, ioFailure(err)
		}
	}
}

// formatOf reads the Content-Type. Small servers may leave it out.
func formatOf(header string) (format, *failure) {
	if header == "" {
		return text, nil
	}
	media, params, err := mime.ParseMediaType(header)
	if err == nil {
		version := params["version"]
		switch {
		case media == "text/plain" && (version == "" || version == "0.0.4" || version == "1.0.0"):
			return text, nil
		case media == "application/openmetrics-text" && (version == "" || version == "0.0.1" || version == "1.0.0"):
			return openMetrics, nil
		}
	}
	return text, &failure{reason: contentType, err: fmt.Errorf("Content-Type %.80q", header)}
}

// ioFailure tells what ran out of time from what broke.
func ioFailure(err error) *failure {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return &failure{reason: timeout, err: errors.New("no complete answer in time")}
	}
	return &failure{reason: broken, err: shortened(err)}
}
