package exposition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"fanin/internal/sample"
	"fanin/internal/window"
)

const delimited = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

// The reference decoder reads from the protobuf page what was put in.
func TestProtobufIsWhatTheReferenceReads(t *testing.T) {
	now, points := contents()
	series := points[len(points)-1].Series
	points = append(points, sample.Point{Series: series, T: at + 5, V: 2}, sample.Point{Series: series, T: at + 6, V: math.Float64frombits(0x7ff0000000000002)})
	decoder := expfmt.NewDecoder(bytes.NewReader(written(Protobuf, now, points)), expfmt.NewFormat(expfmt.TypeProtoDelim))
	var got []string
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, m := range f.GetMetric() {
			v := m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
			l := []sample.Label{}
			for _, p := range m.GetLabel() {
				l = append(l, sample.Label{Name: p.GetName(), Value: p.GetValue()})
			}
			got = append(got, fmt.Sprintf("%s %v %v %d %q", sample.NewNamed(&sample.Family{}, f.GetName(), l...).Text(), f.GetType(), v, m.GetTimestampMs(), f.GetHelp()))
		}
	}
	var want []string
	for i, p := range append(now, points...) {
		kind := dto.MetricType_UNTYPED
		switch p.Series.Family().Type {
		case sample.Counter:
			kind = dto.MetricType_COUNTER
		case sample.Gauge, sample.Info:
			kind = dto.MetricType_GAUGE
		}
		ts := p.T
		if i < len(now) {
			ts = 0
		}
		want = append(want, fmt.Sprintf("%s %v %v %d %q", p.Series.Text(), kind, p.V, ts, p.Series.Family().Help))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// server is the gateway's side of a scrape, with connections it can tell
// apart.
type server struct {
	*httptest.Server
	t     *testing.T
	store *window.Store
	pages *Pages
	last  int64
}

func serve(t *testing.T) *server {
	s := &server{t: t, store: &window.Store{}}
	s.pages = &Pages{Window: s.store, MaxAge: 1e6 * time.Hour, Now: func() []sample.Point { return nil }, Nodes: func() []Node {
		return []Node{{"h1", true}, {"h2", false}}
	}}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics/testbed", s.pages.Handler(nil))
	mux.Handle("GET /docker", s.pages.Handler(func(o sample.Owner) bool { return o.Kind == "docker" }))
	mux.Handle("GET /readers", s.pages.Readers())
	mux.Handle("GET /targets", s.pages.Targets())
	s.Server = httptest.NewUnstartedServer(mux)
	var connections Connections
	s.Config.ConnContext, s.Config.ConnState = connections.ConnContext, connections.ConnState
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// put appends the next point, whose value is its time.
func (s *server) put() {
	s.last++
	gauge := sample.NewGauge("x", "", "")
	s.store.Append([]sample.Point{{Series: sample.New(gauge, label("host_name", "h1")), T: s.last, V: float64(s.last)}}, time.Now(), time.Minute, nil)
}

// scraper is a client with one connection at a time.
type scraper struct {
	s    *server
	http *http.Client
}

func (s *server) scraper() *scraper {
	transport := &http.Transport{MaxConnsPerHost: 1}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &scraper{s, &http.Client{Transport: transport}}
}

// page is the values on a page.
func (c *scraper) page(path string, headers ...string) string {
	c.s.t.Helper()
	r, err := http.NewRequestWithContext(c.s.t.Context(), http.MethodGet, c.s.URL+path, nil)
	if err != nil {
		c.s.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Close = r.Header.Get("Connection") == "close"
	answer, err := c.http.Do(r)
	if err != nil {
		c.s.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		c.s.t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		return answer.Status
	}
	var values []string
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "#") {
			values = append(values, strings.Fields(line)[1])
		}
	}
	return strings.Join(values, " ")
}

func (s *server) want(got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Fatalf("got page %q, want %q", got, want)
	}
}

const named = "/metrics/testbed?scraper=a"

func TestPageIsConfirmedByTheNextRequestOnItsConnection(t *testing.T) {
	s := serve(t)
	s.put()
	s.put()
	a := s.scraper()
	s.want(a.page(named), "1 2")
	s.want(s.scraper().page("/metrics/testbed"), "2") // without a name: the newest, and nothing is consumed
	s.put()
	s.want(a.page(named), "3")
	a.http.CloseIdleConnections()
	s.put()
	s.want(a.page(named), "3 4") // on another connection: again
	s.want(a.page(named), "")
	s.put()
	s.want(s.scraper().page("/metrics/testbed?scraper=b"), "1 2 3 4 5")
	s.want(a.page(named), "5")
}

// Where the connection says nothing about the scraper, the write must do.
func TestBehindAProxyTheWriteConfirms(t *testing.T) {
	for _, header := range [][]string{{"X-Forwarded-For", "10.0.0.1"}, {"Via", "1.1 nginx"}, {"Connection", "close"}} {
		s := serve(t)
		s.put()
		a := s.scraper()
		s.want(a.page(named, header...), "1")
		a.http.CloseIdleConnections()
		for deadline := time.Now().Add(5 * time.Second); s.store.Readers()[0].Lag > 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // it may have the page before the server knows that it was written
		}
		s.put()
		s.want(a.page(named, header...), "2")
		if got := s.store.Readers()[0]; !got.Weak {
			t.Fatalf("%v: got %+v, want it to be called weak", header, got)
		}
	}
}

func TestCutConnections(t *testing.T) {
	s := serve(t)
	s.put()
	for _, read := range []int{0, 20, 100_000} { // none, half a head, all of it and then gone
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", named)
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = io.ReadFull(c, make([]byte, read))
		c.Close()
	}
	s.want(s.scraper().page(named), "1")
}

func TestTwoScrapersOfOneName(t *testing.T) {
	s := serve(t)
	a, b := s.scraper(), s.scraper()
	s.put()
	s.want(a.page(named), "1")
	s.put()
	s.want(b.page(named), "1 2") // a may have gone
	s.put()
	s.want(a.page(named), "3") // it has not: the newest
	s.want(b.page(named), "3")
	s.put()
	s.want(a.page(named), "4")
	s.want(b.page(named), "4")
	var said struct {
		Readers []struct{ Conflict bool }
	}
	answer, err := http.Get(s.URL + "/readers")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&said); err != nil || len(said.Readers) != 1 || !said.Readers[0].Conflict {
		t.Fatalf("got %+v, %v", said, err)
	}
	b.http.CloseIdleConnections()
	deadline := time.Now().Add(5 * time.Second)
	for { // the server has to see the end of the connection
		if got := a.page(named); got == "3 4" || time.Now().After(deadline) {
			s.want(got, "3 4") // b's first page counts as its, up to 2
			return
		}
	}
}

// TestCallersAreBounded: who says of each request that it is for somebody else
// is not remembered for all of them, and two are still told apart.
func TestCallersAreBounded(t *testing.T) {
	s := serve(t)
	s.put()
	a := s.scraper()
	long := strings.Repeat("10.0.0.1, ", 1000)
	for i := range 3 * maxCallers {
		s.want(a.page(named, "X-Forwarded-For", long+fmt.Sprint(i)), map[bool]string{true: "1"}[i == 0])
	}
	for id, of := range s.pages.callers {
		if len(of.seen) != maxCallers {
			t.Errorf("%d callers of %v are remembered, want %d", len(of.seen), id, maxCallers)
		}
		for caller := range of.seen {
			if text, ok := caller.(string); ok && len(text) > 100 {
				t.Fatalf("a caller is remembered by %d bytes", len(text))
			}
		}
	}
	last := long + fmt.Sprint(3*maxCallers-1)
	for range 2 {
		a.page(named, "X-Forwarded-For", long+"another")
		s.put()
		s.want(a.page(named, "X-Forwarded-For", last), fmt.Sprint(s.last)) // the newest only
	}
	for _, of := range s.pages.callers {
		if !of.conflict {
			t.Error("two that differ behind 10,000 bytes are taken for one")
		}
	}
}

func TestVersionsThatKeepOnePointGetTheNewest(t *testing.T) {
	for agent, keeps := range map[string]bool{
		"Prometheus/2.42.0": false, "Prometheus/2.51.2": false, "Prometheus/2.52.0": true, "Prometheus/2.53.2": true, "Prometheus/2.53.3": false,
		"Prometheus/2.54.0": true, "Prometheus/2.54.1": false, "Prometheus/3.15.0": false, "curl/8": false,
	} {
		if got := keepsOne(agent) != ""; got != keeps {
			t.Errorf("%s: got %v", agent, got)
		}
	}
	s := serve(t)
	s.put()
	s.put()
	s.want(s.scraper().page(named, "User-Agent", "Prometheus/2.53.0"), "2")
	if got := s.store.Readers(); len(got) != 0 {
		t.Fatalf("got %+v, want no reader", got)
	}
}

// TestVersionsAreWarnedOfOnce: however their number is written, and not of all
// that somebody can think of.
func TestVersionsAreWarnedOfOnce(t *testing.T) {
	s := serve(t)
	var log bytes.Buffer
	s.pages.Log = slog.New(slog.NewTextHandler(&log, nil))
	a := s.scraper()
	warned := func() int { return strings.Count(log.String(), "this version of Prometheus") }
	for i := range 100 {
		a.page(named, "User-Agent", "Prometheus/"+strings.Repeat("0", i)+"2.53."+strings.Repeat("0", i)+"1")
	}
	if got := warned(); got != 1 {
		t.Errorf("2.53.1 is warned of %d times, want once", got)
	}
	for i := range 100 {
		a.page(named, "User-Agent", fmt.Sprint("Prometheus/2.52.", i))
	}
	if got := warned(); got != maxWarned {
		t.Errorf("there are %d warnings, want %d", got, maxWarned)
	}
}

func TestNamesNodesAndLimits(t *testing.T) {
	s := serve(t)
	s.put()
	a := s.scraper()
	s.want(a.page("/metrics/testbed?scraper=a/b"), "400 Bad Request")
	s.want(a.page("/metrics/testbed?scraper="+strings.Repeat("a", 64)), "400 Bad Request")
	s.want(a.page("/metrics/testbed?node=h2"), "503 Service Unavailable")
	s.want(a.page("/metrics/testbed?node=h3"), "404 Not Found")
	s.want(a.page("/metrics/testbed?node=h2&scraper=silent"), "503 Service Unavailable")
	if got := s.store.Readers()[0]; got.Lag != 0 {
		t.Fatalf("the reader of a silent node stays behind: %+v", got)
	}
	s.want(a.page("/metrics/testbed?node=h1&scraper=a"), "1")
	s.want(a.page("/docker?scraper=a"), "") // another cursor, and no container
	s.want(a.page("/metrics/testbed?scraper=a"), "1")
	for i := range window.MaxReaders - 2 {
		s.want(a.page(fmt.Sprint("/metrics/testbed?scraper=r", i)), "1")
	}
	s.want(a.page("/metrics/testbed?scraper=more"), "429 Too Many Requests")
	answer, err := http.Get(s.URL + "/targets?scraper=a")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var targets []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.NewDecoder(answer.Body).Decode(&targets); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(targets), fmt.Sprintf("[{[%[1]s] map[__metrics_path__:/metrics/testbed __param_node:h1 __param_scraper:a instance:h1]} {[%[1]s] map[__metrics_path__:/metrics/testbed __param_node:h2 __param_scraper:a instance:h2]}]", s.Listener.Addr()); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

// Only protobuf carries the end of a series.
func TestEndsAreInProtobufOnly(t *testing.T) {
	s := serve(t)
	s.put()
	s.store.Sweep(time.Now(), func(sample.Owner) bool { return false })
	s.want(s.scraper().page("/metrics/testbed?scraper=text"), "1")
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/metrics/testbed?scraper=proto", nil)
	r.Header.Set("Accept", delimited)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var f dto.MetricFamily
	if err := expfmt.NewDecoder(answer.Body, expfmt.NewFormat(expfmt.TypeProtoDelim)).Decode(&f); err != nil {
		t.Fatal(err)
	}
	if m := f.GetMetric(); len(m) != 2 || m[1].GetTimestampMs() != 2 || !window.IsStale(m[1].GetGauge().GetValue()) {
		t.Fatalf("got %v, want a point at 1 and a marker at 2", m)
	}
}
