package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/admission"
	"fanin/internal/deployment"
	"fanin/internal/e2e/fleet"
	"fanin/internal/exposition"
	"fanin/internal/ingest"
	"fanin/internal/presence"
	"fanin/internal/sample"
	"fanin/internal/window"
	"fanin/internal/wire"
)

// gateway is the rooms of the real one that a sample goes through.
type gateway struct {
	roster *deployment.Roster
	book   *presence.Book
	store  *window.Store
	push   http.Handler
	page   http.Handler
}

func newGateway(f fleet.Fleet) (*gateway, error) {
	dir, err := os.MkdirTemp("", "simulate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := f.WriteStates(dir); err != nil {
		return nil, err
	}
	roster, err := deployment.CheckSettings("", filepath.Join(dir, "*-state.json"))
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	nodes, err := admission.NewNodes("", log)
	if err != nil {
		return nil, err
	}
	g := &gateway{roster: roster, book: &presence.Book{}}
	of := func() *deployment.Roster { return roster }
	g.store = &window.Store{MaxSeries: maxSeries, Expected: []window.ReaderID{{Name: reader, Path: pagePath}}}
	endpoint := &ingest.Handler{
		Nodes: nodes, Gate: &admission.Gate{Roster: of, NodeSeries: maxSeries, GatewaySeries: maxSeries},
		Window: g.store, Presence: g.book, Roster: of, Log: log,
		// A single node may have all series here.
		Limits: wire.Limits{Decoded: 1 << 30, Series: maxSeries, Samples: maxSeries}, MaxBody: 1 << 30,
	}
	registry := prometheus.NewRegistry()
	if err := endpoint.Register(registry); err != nil {
		return nil, err
	}
	pages := &exposition.Pages{
		Window: g.store, MaxPoints: 10 * maxSeries, Log: log,
		Now: func() []sample.Point { return g.book.Report(roster, time.Now()).Points() },
	}
	if err := pages.Register(registry); err != nil {
		return nil, err
	}
	g.push, g.page = endpoint, pages.Handler(nil)
	return g, nil
}

const (
	reader   = "prometheus"
	pagePath = "/metrics/testbed"
)

// discard is an answer of which only the status is kept.
type discard struct {
	header http.Header
	code   int
	bytes  int
}

func (d *discard) Header() http.Header { return d.header }
func (d *discard) WriteHeader(code int) {
	d.code = code
}

func (d *discard) Write(b []byte) (int, error) {
	d.bytes += len(b)
	return len(b), nil
}

// fetch takes one page and returns its bytes and what it cost.
func (g *gateway) fetch(query string) (size int, took time.Duration, err error) {
	r := httptest.NewRequest(http.MethodGet, pagePath+query, nil)
	w := &discard{header: http.Header{}, code: http.StatusOK}
	before := processor()
	g.page.ServeHTTP(w, r)
	took = processor() - before
	if w.code != http.StatusOK {
		err = fmt.Errorf("page: status %d", w.code)
	}
	return w.bytes, took, err
}

// sweep is what the gateway does once a second.
func (g *gateway) sweep() time.Duration {
	before := processor()
	now := time.Now()
	g.store.Sweep(now, g.book.Allowed(g.roster, now))
	return processor() - before
}

// costs of a run, of all of its ticks together.
type costs struct {
	pushing, paging, sweeping time.Duration
	heap                      float64 // bytes, beyond what was there without the gateway
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// Ticks before anything is measured: the first makes everything known, and with
// the next ones buffers find their size.
const warmUp = 4

// measure returns the gateway too, as it is at the end.
func (s *simulation) measure(f fleet.Fleet) (g *gateway, c costs, err error) {
	bodies := make([]*fleet.Body, f.Nodes)
	for i := range bodies {
		if bodies[i], err = f.Body(i, s.protocol, false); err != nil {
			return nil, c, err
		}
	}
	said := make([][]byte, f.Nodes)
	begin := time.Now().Add(-time.Duration(warmUp+s.ticks) * time.Second)
	say := func(tick int) {
		for i, b := range bodies {
			said[i] = b.At(tick, begin.Add(time.Duration(tick)*time.Second).UnixMilli())
		}
	}
	say(0)
	before := heap()
	if g, err = newGateway(f); err != nil {
		return nil, c, err
	}
	send, end, err := s.sender(g)
	if err != nil {
		return nil, c, err
	}
	defer end()
	for tick := range warmUp + s.ticks {
		say(tick)
		runtime.GC() // what saying left
		from := processor()
		for i, body := range said {
			if err := send(i, tick+1, body); err != nil {
				return nil, c, err
			}
		}
		pushing := processor() - from
		size, paging, err := g.fetch("?scraper=" + reader)
		if err != nil {
			return nil, c, err
		}
		if least := 50 * f.Total(); size < least {
			return nil, c, fmt.Errorf("tick %d: the reader's page has %d bytes, want at least %d", tick, size, least)
		}
		sweeping := g.sweep()
		if tick >= warmUp {
			c.pushing, c.paging, c.sweeping = c.pushing+pushing, c.paging+paging, c.sweeping+sweeping
		}
	}
	if n := g.store.Len(); n != f.Total() {
		return nil, c, fmt.Errorf("the window has %d series, want %d", n, f.Total())
	}
	c.heap = heap() - before
	runtime.KeepAlive(bodies)
	return g, c, nil
}

// newest has each gateway serve the newest points some times, in turns, as other
// work on the machine comes and goes. What it cost each is returned: a quarter of
// the pages were cheaper.
func newest(of []*gateway) ([]time.Duration, error) {
	costs := make([][]time.Duration, len(of))
	for range 31 {
		for i, g := range of {
			_, took, err := g.fetch("")
			if err != nil {
				return nil, err
			}
			costs[i] = append(costs[i], took)
		}
	}
	quarter := make([]time.Duration, len(of))
	for i, all := range costs {
		slices.Sort(all)
		quarter[i] = all[len(all)/4]
	}
	return quarter, nil
}

// sender is how a node's body gets to the gateway: straight to its endpoint, or
// over a connection on loopback.
func (s *simulation) sender(g *gateway) (send func(node, record int, body []byte) error, end func(), err error) {
	headers := func(h http.Header, node, record int) {
		s.protocol.Header(h.Set)
		h.Set(admission.NodeHeader, fleet.Node(node))
		h.Set(ingest.IntervalHeader, "1")
		h.Set(ingest.TimeHeader, strconv.FormatFloat(float64(time.Now().UnixMilli())/1000, 'f', 3, 64))
		h.Set(ingest.SpoolHeader, "spool-of-"+fleet.Node(node))
		h.Set(ingest.RecordHeader, strconv.Itoa(record))
	}
	if !s.http {
		return func(node, record int, body []byte) error {
			r := &http.Request{
				Method: http.MethodPost, RemoteAddr: "127.0.0.1:1", Header: http.Header{},
				Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
			}
			headers(r.Header, node, record)
			w := &discard{header: http.Header{}}
			g.push.ServeHTTP(w, r)
			return accepted(w.code, w.header)
		}, func() {}, nil
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	server := &http.Server{Handler: g.push, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }() // until end closes it
	url := "http://" + listener.Addr().String()
	return func(node, record int, body []byte) error {
		r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		headers(r.Header, node, record)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		return accepted(answer.StatusCode, answer.Header)
	}, func() { _ = server.Close() }, nil
}

func accepted(code int, header http.Header) error {
	if code != http.StatusNoContent || header.Get(ingest.RefusedHeader) != "" {
		return fmt.Errorf("push: status %d, refused %q", code, header.Get(ingest.RefusedHeader))
	}
	return nil
}
