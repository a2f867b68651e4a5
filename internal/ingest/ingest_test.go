package ingest

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/prompb"

	"fanin/internal/admission"
	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/sample"
	"fanin/internal/window"
	"fanin/internal/wire"
)

type gateway struct {
	*Handler
	url    string
	client *http.Client
}

func start(t *testing.T, change func(*Handler)) *gateway {
	t.Helper()
	g := inside(t, change)
	server := httptest.NewServer(g.Handler)
	t.Cleanup(server.Close)
	g.url, g.client = server.URL, http.DefaultClient
	return g
}

// direct hands requests over without a network, for which a bubble does not
// wait.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	r.RemoteAddr = "127.0.0.1:1"
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	return w.Result(), nil
}

// inside is a gateway in a bubble of [synctest.Test].
func inside(t *testing.T, change func(*Handler)) *gateway {
	t.Helper()
	file := filepath.Join(t.TempDir(), "signal-state.json")
	state := `{"project_name": "signal", "testbed_hosts": {"h1": {"ip": "10.0.0.1"}, "h2": {"ip": "10.0.0.2"}},
		"testbed_guests": {"web": {"name": "web", "docker": {"image": "x"}, "testbed_host": "h1"}}}`
	if err := os.WriteFile(file, []byte(state), 0o644); err != nil {
		t.Fatal(err)
	}
	roster, err := deployment.CheckSettings("", file)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	nodes, err := admission.NewNodes("", log)
	if err != nil {
		t.Fatal(err)
	}
	of := func() *deployment.Roster { return roster }
	h := &Handler{
		Nodes: nodes, Gate: &admission.Gate{Roster: of}, Window: &window.Store{}, Presence: &presence.Book{},
		Roster: of, Log: log,
	}
	if change != nil {
		change(h)
	}
	if err := h.Register(prometheus.NewRegistry()); err != nil {
		t.Fatal(err)
	}
	return &gateway{h, "http://gateway/", &http.Client{Transport: direct{h}}}
}

func (g *gateway) push(t *testing.T, host string, body []byte, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	return g.pushFrom(t, host, bytes.NewReader(body), change)
}

func (g *gateway) pushFrom(t *testing.T, host string, body io.Reader, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", wire.V1.ContentType())
	r.Header.Set("Content-Encoding", wire.ContentEncoding)
	r.Header.Set(admission.NodeHeader, host)
	if change != nil {
		change(r)
	}
	answer, err := g.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, strings.TrimSpace(string(text))
}

// body packs series given as "name guest value ms".
func body(t testing.TB, lines ...string) []byte {
	t.Helper()
	var w prompb.WriteRequest
	for _, line := range lines {
		var name, guest string
		var v float64
		var ts int64
		if _, err := fmt.Sscan(line, &name, &guest, &v, &ts); err != nil {
			t.Fatal(err)
		}
		labels := []prompb.Label{{Name: "__name__", Value: name}}
		if guest != "-" {
			labels = append(labels, prompb.Label{Name: "guest", Value: guest})
		}
		w.Timeseries = append(w.Timeseries, prompb.TimeSeries{Labels: labels, Samples: []prompb.Sample{{Value: v, Timestamp: ts}}})
	}
	return pack(t, &w)
}

func pack(t testing.TB, w *prompb.WriteRequest) []byte {
	t.Helper()
	raw, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, raw)
}

func (g *gateway) page() string {
	var lines []string
	for _, p := range g.Window.Newest(nil, nil) {
		lines = append(lines, fmt.Sprintf("%s %v %d", p.Series.Text(), p.V, p.T))
	}
	return strings.Join(lines, "\n")
}

func TestPush(t *testing.T) {
	g := start(t, nil)
	now := time.Now().UnixMilli()
	answer, text := g.push(t, "h1", body(t,
		fmt.Sprint("testbed_guest_cpu signal-web 12.5 ", now),
		fmt.Sprint("testbed_host_cpu - 50 ", now),
		fmt.Sprint("testbed_guest_up signal-web 1 ", now),
		fmt.Sprint("testbed_guest_cpu nobody 1 ", now),
		fmt.Sprint("testbed_guest_up nobody 1 ", now),
		fmt.Sprint("ahead - 1 ", now+2*time.Minute.Milliseconds()),
		fmt.Sprint("behind - 1 ", now-time.Hour.Milliseconds()),
	), func(r *http.Request) {
		r.Header.Set(IntervalHeader, "0.5")
		r.Header.Set(TimeHeader, fmt.Sprintf("%f", float64(time.Now().Add(3*time.Second).UnixMilli())/1000))
	})
	if answer.StatusCode != http.StatusNoContent || text != "" {
		t.Fatalf("got %s %q", answer.Status, text)
	}
	if got, want := answer.Header.Get(RefusedHeader), "future=1, too_old=1, unknown_guest=2"; got != want {
		t.Fatalf("got refused %q, want %q", got, want)
	}
	want := fmt.Sprintf("testbed_guest_cpu{guest_name=\"web\",guest_type=\"docker\",host_name=\"h1\",project=\"signal\"} 12.5 %d\ntestbed_host_cpu{host_name=\"h1\"} 50 %d", now, now)
	if got := g.page(); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	report := g.Presence.Report(g.Roster(), time.Now())
	if web := report.Guests[0]; !web.Up {
		t.Fatalf("got guest %+v, want it up", web)
	}
	h, _ := report.Host("h1")
	if !h.Up || h.Interval != 500*time.Millisecond || h.ClockOffset < 2*time.Second || h.ClockOffset > 4*time.Second {
		t.Fatalf("got host %+v", h)
	}
	if len(h.Strangers) != 1 || h.Strangers[0].Name != "nobody" {
		t.Fatalf("got strangers %+v", h.Strangers)
	}
	// The same again is nothing new, and nothing is refused.
	answer, _ = g.push(t, "h1", body(t, fmt.Sprint("testbed_host_cpu - 50 ", now)), nil)
	if answer.StatusCode != http.StatusNoContent || answer.Header.Get(RefusedHeader) != "" || answer.Header.Get(writtenHeader+"Samples-Written") != "1" {
		t.Fatalf("a repeat: got %s %v", answer.Status, answer.Header)
	}
	if got := testutil.ToFloat64(g.metrics.duplicates.WithLabelValues("h1")); got != 1 {
		t.Fatalf("got %v duplicates, want 1", got)
	}
	// From a host of no cluster; it is not remembered.
	answer, _ = g.push(t, "h9", body(t, fmt.Sprint("testbed_host_cpu - 1 ", now+1), fmt.Sprint("testbed_guest_cpu signal-web 99 ", now+1)), nil)
	if got := answer.Header.Get(RefusedHeader); got != "unknown_host=2" || g.page() != want {
		t.Fatalf("got refused %q and page\n%s", got, g.page())
	}
	if got := testutil.ToFloat64(g.metrics.refused.WithLabelValues("unknown", "unknown_host")); got != 2 {
		t.Fatalf("got %v counted as unknown_host, want 2", got)
	}
	// From the wrong host.
	answer, _ = g.push(t, "h2", body(t, fmt.Sprint("testbed_guest_cpu signal-web 99 ", now+1)), nil)
	if got := answer.Header.Get(RefusedHeader); got != "wrong_host=1" || g.page() != want {
		t.Fatalf("got refused %q and page\n%s", got, g.page())
	}
	if got := testutil.ToFloat64(g.metrics.refused.WithLabelValues("h2", "wrong_host")); got != 1 {
		t.Fatalf("got %v counted as wrong_host, want 1", got)
	}
}

// A guest is there when a number of it comes, and not when its host says that
// its page can not be scraped, or that a series of it has ended.
func TestWhatIsNoSignOfLife(t *testing.T) {
	for _, c := range []struct {
		name  string
		value float64
		up    bool
	}{
		{"testbed_guest_exporter_up", 0, false},
		{"testbed_guest_exporter_scrape_duration_seconds", 2, false},
		{"its_own", math.Float64frombits(0x7ff0000000000002), false},
		{"its_own", math.NaN(), true},
		{"its_own", 0, true},
	} {
		g := start(t, nil)
		g.push(t, "h1", pack(t, &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
			Labels:  []prompb.Label{{Name: "__name__", Value: c.name}, {Name: "guest", Value: "signal-web"}},
			Samples: []prompb.Sample{{Value: c.value, Timestamp: time.Now().UnixMilli()}},
		}}}), nil)
		if web := g.Presence.Report(g.Roster(), time.Now()).Guests[0]; web.Up != c.up {
			t.Errorf("%s %v: got %+v, want up %v", c.name, c.value, web, c.up)
		}
	}
}

func TestMalformedSeriesAreLeftOutAndTheOthersTaken(t *testing.T) {
	g := start(t, nil)
	now := time.Now().UnixMilli()
	answer, text := g.push(t, "h1", body(t, fmt.Sprint("bad-name - 1 ", now), fmt.Sprint("good - 1 ", now)), nil)
	if answer.StatusCode != http.StatusBadRequest || !strings.Contains(text, "bad_metric_name=1") || answer.Header.Get(writtenHeader+"Samples-Written") != "1" {
		t.Fatalf("got %s %q", answer.Status, text)
	}
	if got := g.page(); !strings.HasPrefix(got, `good{host_name="h1"} 1`) || strings.Count(got, "\n") != 0 {
		t.Fatalf("got page\n%s", got)
	}
}

// Bad input gets a 4xx with a reason, stores nothing and costs no memory that
// stays.
func TestBadInput(t *testing.T) {
	g := start(t, nil)
	now := time.Now().UnixMilli()
	good := body(t, fmt.Sprint("good - 1 ", now))
	many := func(n int) []byte {
		lines := make([]string, n)
		for i := range lines {
			lines[i] = fmt.Sprint("m - 1 ", i)
		}
		return body(t, lines...)
	}
	for _, c := range []struct {
		name   string
		body   []byte
		change func(*http.Request)
		code   int
		want   string
	}{
		{"GET", nil, func(r *http.Request) { r.Method = http.MethodGet }, 405, "POST"},
		{"JSON", []byte("{}"), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 415, "Content-Type"},
		{"no content type", good, func(r *http.Request) { r.Header.Del("Content-Type") }, 415, "Content-Type"},
		{"1.0 that calls itself 2.0", good, func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-protobuf; proto=io.prometheus.write.v2.Request")
		}, 400, "another version"},
		{"another message", good, func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v3.Request")
		}, 415, "v2.Request"},
		{"gzip", good, func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 415, "snappy"},
		{"no name", good, func(r *http.Request) { r.Header.Del(admission.NodeHeader) }, 401, admission.NodeHeader},
		{"through a proxy", good, func(r *http.Request) { r.Header.Set("X-Forwarded-For", "10.0.0.1") }, 401, "nodes-file"},
		{"not snappy", []byte("nonsense"), nil, 400, "snappy"},
		{"empty", nil, nil, 400, "snappy"},
		{"not protobuf", snappy.Encode(nil, []byte("nonsense")), nil, 400, "malformed"},
		{"too many series", many(10_001), nil, 413, "series"},
		{"too large", make([]byte, 3<<20), nil, 413, "bytes"},
		{"too large, of unknown length", make([]byte, 3<<20), func(r *http.Request) { r.ContentLength = -1 }, 413, "bytes"},
		{"4 GiB declared in 7 bytes", []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}, nil, 413, "decompression"},
		{"32 MiB of empty series", snappy.Encode(nil, bytes.Repeat([]byte{0x0a, 0}, 16<<20)), nil, 413, "decompression"},
		{"8 MiB of empty series", snappy.Encode(nil, bytes.Repeat([]byte{0x0a, 0}, 4<<20)), nil, 413, "series"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer, text := g.push(t, "h1", c.body, c.change)
			if answer.StatusCode != c.code || !strings.Contains(text, c.want) {
				t.Fatalf("got %s %q, want %d with %q", answer.Status, text, c.code, c.want)
			}
			if g.Window.Len() != 0 {
				t.Fatalf("something was stored: %s", g.page())
			}
		})
	}
}

func TestBombsDoNotGrowMemory(t *testing.T) {
	g := start(t, nil)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	bombs := [][]byte{
		{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0},
		snappy.Encode(nil, bytes.Repeat([]byte{0x0a, 0}, 16<<20)),
	}
	g.push(t, "h1", bombs[1], nil)
	before := heap()
	for range 200 {
		for _, b := range bombs {
			g.push(t, "h1", b, nil)
		}
	}
	if after := heap(); after > before+8<<20 {
		t.Fatalf("the heap grew from %d to %d bytes", before, after)
	}
}

func TestOverload(t *testing.T) {
	g := start(t, nil)
	for range cap(g.decoding) {
		g.decoding <- struct{}{}
	}
	answer, _ := g.push(t, "h1", body(t, "a - 1 1"), nil)
	if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") == "" {
		t.Fatalf("got %s, Retry-After %q", answer.Status, answer.Header.Get("Retry-After"))
	}
}

// Bodies that hang cost their own sender an answer, and others only when there
// are many such senders.
func TestBodiesThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inside(t, nil)
		load := body(t, fmt.Sprint("good - 1 ", time.Now().UnixMilli()))
		push := func(host string, want int, says string) {
			t.Helper()
			answer, text := g.push(t, host, load, nil)
			if answer.StatusCode != want || !strings.Contains(text, says) || (answer.Header.Get("Retry-After") != "") != (want == http.StatusTooManyRequests) {
				t.Errorf("%s: got %s %q, again after %q, want %d and %q", host, answer.Status, text, answer.Header.Get("Retry-After"), want, says)
			}
		}
		var hanging []*io.PipeWriter
		hang := func(host string, n int) {
			for range n {
				w, _ := g.slowly(t, host, "", 0)
				hanging = append(hanging, w)
			}
			synctest.Wait()
		}
		hang("h1", maxReading/2)
		push("h1", http.StatusTooManyRequests, "of h1")
		push("h2", http.StatusNoContent, "")
		for i := range maxReading / 2 / maxReadingOf {
			push("h2", http.StatusNoContent, "")
			hang(fmt.Sprint("other", i), maxReadingOf)
		}
		push("h2", http.StatusTooManyRequests, "too many pushes are")
		for _, w := range hanging {
			w.Close()
		}
		synctest.Wait()
		push("h1", http.StatusNoContent, "")
		if n := len(g.reading.of); g.reading.all != 0 || n != 0 {
			t.Errorf("%d bodies of %d senders count as being read", g.reading.all, n)
		}
	})
}

// Without room nothing of a body is taken, and the sender is told to come
// again; the next collection makes room.
func TestWindowWithoutRoom(t *testing.T) {
	g := start(t, func(h *Handler) { h.Window.MaxBytes = window.MinBytes })
	ask := func() *window.Page {
		p, err := g.Window.Next(nil, window.ReaderID{Name: "a"}, window.Request{Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ask()
	now := time.Now().UnixMilli()
	full := func(round int) []byte {
		lines := make([]string, 5000)
		for i := range lines {
			lines[i] = fmt.Sprint("m", i, " - 1 ", now+int64(round))
		}
		return body(t, lines...)
	}
	taken := 0
	for ; taken < 100; taken++ {
		answer, text := g.push(t, "h1", full(taken), nil)
		if answer.StatusCode == http.StatusNoContent {
			continue
		}
		if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") == "" || !strings.Contains(text, "no reader") || answer.Header.Get(RefusedHeader) != "" {
			t.Fatalf("got %s %q %v", answer.Status, text, answer.Header)
		}
		break
	}
	p := ask()
	if taken < 5 || len(p.Points) != 5000*taken {
		t.Fatalf("got %d points in the window after %d bodies were taken", len(p.Points), taken)
	}
	if err := p.Confirm(false); err != nil {
		t.Fatal(err)
	}
	if answer, text := g.push(t, "h1", full(taken), nil); answer.StatusCode != http.StatusNoContent {
		t.Fatalf("after a collection: got %s %q", answer.Status, text)
	}
}

// A sender that promises a body and does not deliver it stores nothing.
func TestHalfABody(t *testing.T) {
	g := start(t, nil)
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	whole := body(t, fmt.Sprint("good - 1 ", time.Now().UnixMilli()))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Encoding: snappy\r\n%s: h1\r\nContent-Length: %d\r\n\r\n", admission.NodeHeader, len(whole))
	if _, err := c.Write(whole[:len(whole)/2]); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(c)
	if !strings.Contains(string(answer), "400 Bad Request") || g.Window.Len() != 0 {
		t.Fatalf("got %q and %d series", answer, g.Window.Len())
	}
}

func TestSecondsHeader(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1": time.Second, "0.1": 100 * time.Millisecond, "": 0, "x": 0, "-1": 0, "NaN": 0, "Inf": 0, "1e300": 0,
	} {
		if got := seconds(text, time.Hour); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// discard is an answer that nobody reads.
type discard struct {
	header http.Header
	code   int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(code int)        { d.code = code }

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkPush is the way of a body into the window, HTTP left out: 50 nodes
// of 2,000 series each, in turns. B/series is the memory of one that has come
// once, its point included.
func BenchmarkPush(b *testing.B) {
	const hosts, series = 50, 2000
	file := filepath.Join(b.TempDir(), "signal-state.json")
	var names []string
	for i := range hosts {
		names = append(names, fmt.Sprintf(`"h%d": {"ip": "10.0.0.%d"}`, i, i+1))
	}
	if err := os.WriteFile(file, []byte(`{"project_name": "signal", "testbed_hosts": {`+strings.Join(names, ", ")+`}, "testbed_guests": {}}`), 0o644); err != nil {
		b.Fatal(err)
	}
	roster, err := deployment.CheckSettings("", file)
	if err != nil {
		b.Fatal(err)
	}
	family := sample.NewCounter("testbed_host_network_receive_bytes_total", "bytes", "Bytes received on one of the host's interfaces.")
	points := make([]sample.Point, series)
	for i := range points {
		points[i].Series = sample.New(family, sample.Label{Name: "device", Value: fmt.Sprintf("signal-web-%d-eth0", i)}, sample.Label{Name: "mode", Value: "bridged"}, sample.Label{Name: "state", Value: "forwarding"}, sample.Label{Name: "switch", Value: fmt.Sprintf("signal-switch-%d", i/50)})
	}
	for _, version := range []wire.Version{wire.V1, wire.V2} {
		b.Run("version="+version.String(), func(b *testing.B) {
			log := slog.New(slog.DiscardHandler)
			nodes, err := admission.NewNodes("", log)
			if err != nil {
				b.Fatal(err)
			}
			of := func() *deployment.Roster { return roster }
			h := &Handler{Nodes: nodes, Gate: &admission.Gate{Roster: of}, Window: &window.Store{Grace: 1}, Presence: &presence.Book{}, Roster: of, Log: log}
			h.Window.Sweep(time.Now().Add(-time.Second), func(sample.Owner) bool { return true })
			const ticks = 100
			begin := time.Now().Add(-ticks * time.Second).UnixMilli()
			var enc wire.Encoder
			bodies := make([][]byte, ticks)
			for n := range bodies {
				for i := range points {
					points[i].T, points[i].V = begin+int64(n)*1000, float64(n*i)*1.37
				}
				bodies[n] = enc.Append(nil, points)
				if version == wire.V1 {
					if bodies[n], err = wire.Downgrade(bodies[n]); err != nil {
						b.Fatal(err)
					}
				}
			}
			n := 0
			push := func() {
				r := &http.Request{
					Method: http.MethodPost, RemoteAddr: "127.0.0.1:1", Body: io.NopCloser(bytes.NewReader(bodies[n/hosts%ticks])), Header: http.Header{},
				}
				r.Header.Set("Content-Type", version.ContentType())
				r.Header.Set("Content-Encoding", wire.ContentEncoding)
				r.Header.Set(admission.NodeHeader, fmt.Sprint("h", n%hosts))
				w := &discard{header: http.Header{}}
				h.ServeHTTP(w, r)
				if w.code != http.StatusNoContent {
					b.Fatalf("%d %v", w.code, w.header)
				}
				n++
			}
			before := heap()
			for range hosts {
				push()
			}
			perSeries := float64(heap()-before) / (hosts * series)
			b.ReportAllocs()
			for b.Loop() {
				push()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*series), "ns/sample")
			b.ReportMetric(float64(len(bodies[0]))/series, "B/sample")
			b.ReportMetric(perSeries, "B/series")
		})
	}
}
