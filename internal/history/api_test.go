package history

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promapi "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"

	"fanin/internal/sample"
)

// answered is what the API says.
type answered struct {
	Status, ErrorType, Error string
	Data                     json.RawMessage
	Warnings                 []string
}

// get asks and wants JSON.
func get(t *testing.T, address string) (code int, answer answered) {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %s: %.300q: %v", address, resp.Status, body, err)
	}
	return resp.StatusCode, answer
}

// TestClient asks with Prometheus' own client for Go.
func TestClient(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	start := time.Now().Truncate(time.Second).Add(-10 * time.Minute)
	end := start.Add(5 * time.Minute)
	p.push(lines(3, start, end, time.Second))
	client, err := api.NewClient(api.Config{Address: p.serve()})
	if err != nil {
		t.Fatal(err)
	}
	ask, ctx := promapi.NewAPI(client), context.Background()

	value, warnings, _, err := ask.Query(ctx, `count_over_time(testbed_guest_test{guest_name="g1"}[1m])`, end)
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if v := value.(model.Vector); len(v) != 1 || v[0].Value != 59 || string(v[0].Metric[sample.HostName]) != "h" {
		t.Errorf("count_over_time: %v", v) // the range is open on the left, and the last point is a second ago
	}
	value, _, _, err = ask.QueryRange(ctx, "testbed_guest_test", promapi.Range{Start: start, End: end.Add(-time.Second), Step: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := points{}
	want.add(lines(3, start, end, time.Second))
	m := value.(model.Matrix)
	if len(m) != 3 {
		t.Fatalf("%d series", len(m))
	}
	for _, s := range m {
		if len(s.Values) != 300 {
			t.Errorf("%v: %d values", s.Metric, len(s.Values))
		}
		var guest int
		if _, err := fmt.Sscanf(string(s.Metric[sample.GuestName]), "g%d", &guest); err != nil {
			t.Fatal(err)
		}
		for _, v := range s.Values {
			if wanted := lines(guest+1, v.Timestamp.Time(), v.Timestamp.Time().Add(1), 1)[guest].V; float64(v.Value) != wanted {
				t.Fatalf("%v at %v is %v, want %v", s.Metric, v.Timestamp, v.Value, wanted)
			}
		}
	}
	if value, _, _, err = ask.Query(ctx, `scalar(sum(testbed_guest_test)) > bool 0`, end); err != nil || value.Type() != model.ValScalar {
		t.Errorf("scalar: %v, %v", value, err)
	}
	sets, _, _, err := ask.Series(ctx, []string{`testbed_guest_test{guest_name=~"g[01]"}`, `{guest_name="g1"}`}, start, end)
	if err != nil || len(sets) != 2 {
		t.Errorf("series: %v, %v", sets, err)
	}
	names, _, _, err := ask.LabelNames(ctx, nil, time.Time{}, time.Time{})
	if err != nil || len(names) != 4 || names[3] != sample.HostName {
		t.Errorf("labels: %v, %v", names, err)
	}
	values, warnings, _, err := ask.LabelValues(ctx, "guest_name", []string{"testbed_guest_test"}, start, end, promapi.WithLimit(2))
	if err != nil || len(values) != 2 || len(warnings) != 1 {
		t.Errorf("label values: %v, %v, %v", values, warnings, err)
	}
	if values, _, _, err = ask.LabelValues(ctx, "guest_name", nil, end.Add(24*time.Hour), end.Add(25*time.Hour)); err != nil || len(values) != 0 {
		t.Errorf("label values of tomorrow: %v, %v", values, err)
	}
	meta, err := ask.Metadata(ctx, "testbed_guest_test", "")
	if err != nil || len(meta["testbed_guest_test"]) != 1 || meta["testbed_guest_test"][0] != (promapi.Metadata{Type: "gauge", Help: "A test."}) {
		t.Errorf("metadata: %v, %v", meta, err)
	}
	if info, err := ask.Buildinfo(ctx); err != nil || info.Version != apiVersion {
		t.Errorf("buildinfo: %v, %v", info, err)
	}
	if rules, err := ask.Rules(ctx, nil); err != nil || len(rules.Groups) != 0 {
		t.Errorf("rules: %v, %v", rules, err)
	}
	if alerts, err := ask.Alerts(ctx); err != nil || len(alerts.Alerts) != 0 {
		t.Errorf("alerts: %v, %v", alerts, err)
	}
	if exemplars, err := ask.QueryExemplars(ctx, "up", start, end); err != nil || len(exemplars) != 0 {
		t.Errorf("exemplars: %v, %v", exemplars, err)
	}
}

// TestAnswers: bytes that Grafana depends on, and what goes wrong.
func TestAnswers(t *testing.T) {
	p := begin(t, t.TempDir(), Options{MaxSamples: 5000})
	start := time.UnixMilli(1_700_000_000_500)
	odd := sample.New(testFamily, sample.Label{Name: "guest_name", Value: "a\"\\\n<é"})
	p.push([]sample.Point{{Series: odd, T: start.UnixMilli(), V: 1e-7}})
	p.push(lines(40, start, start.Add(5*time.Minute), time.Second))
	url1 := p.serve() + "/api/v1/"
	resp, err := http.Get(url1 + "query?query=testbed_guest_test{guest_type=\"\"}&time=1700000000.5")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	const want = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"testbed_guest_test","guest_name":"a\"\\\n\u003cé"},"value":[1700000000.5,"1e-07"]}]}}`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	for query, value := range map[string]string{"1/0": "+Inf", "-1/0": "-Inf", "0/0": "NaN", "1e21": "1e+21", "123456789012": "123456789012"} {
		if _, got := get(t, url1+"query?time=-1.05&query="+url.QueryEscape(query)); string(got.Data) != `{"resultType":"scalar","result":[-1.05,"`+value+`"]}` {
			t.Errorf("%s: %s", query, got.Data)
		}
	}
	long := strings.Repeat("-", maxQuery) + "1"
	for _, form := range []struct {
		path, kind string
		code       int
	}{
		{"query?query=" + url.QueryEscape("up{"), "bad_data", 400},
		{"query?query=up&time=x", "bad_data", 400},
		{"query?query=up&time=NaN", "bad_data", 400},
		{"query?query=up&timeout=x", "bad_data", 400},
		{"query?query=up&limit=-1", "bad_data", 400},
		{"query?query=" + long, "bad_data", 400},
		{"query", "bad_data", 400},
		{"query_range?query=up&start=1&end=0&step=1", "bad_data", 400},
		{"query_range?query=up&start=0&end=1&step=0", "bad_data", 400},
		{"query_range?query=up&start=0&end=1&step=1e-9", "bad_data", 400},
		{"query_range?query=up&start=0&end=20000&step=1", "bad_data", 400},
		{"query_range?query=up&start=0&end=20000", "bad_data", 400},
		{"query_range?query=up&start=-1e300&end=1e300&step=9e9", "bad_data", 400},
		{"query_range?query=up&start=0&end=1&step=1e300", "bad_data", 400},
		{"query_range?query=up&end=20000&step=1", "bad_data", 400},
		{"query_range?query=up[5m]&start=0&end=10&step=1", "bad_data", 400},
		{"series", "bad_data", 400},
		{"series?match[]={}", "bad_data", 400},
		{"series?match[]={a=~\".*\"}", "bad_data", 400},
		{"labels?match[]=((", "bad_data", 400},
		{"label/a%2Fb%ff/values", "bad_data", 400},
		{"query?query=testbed_guest_test[5m]&time=1700000300", "execution", 422}, // too many samples
		{"query?time=1700000001&query=" + url.QueryEscape("testbed_guest_test * on() testbed_guest_test"), "execution", 422},
		{"query?query=up&timeout=0", "timeout", 503},
		{"query?query=max_over_time(up[30d:1ms])", "bad_data", 400},
		{"query?query=" + url.QueryEscape(`label_replace(up,"a","`+strings.Repeat("$1", 17)+`","b","(.*)")`), "bad_data", 400},
		{"query?query=" + url.QueryEscape(`label_replace(label_replace(up,"a","$1$1$1$1$1","b","(.*)"),"b","$1$1$1$1","a","(.*)")`), "bad_data", 400},
		{"query?query=" + url.QueryEscape(`1+sum(label_join(label_join(up,"a","","b","b","b","b","b"),"b","","a","a","a","a"))`), "bad_data", 400},
		{"query?query=" + url.QueryEscape(`label_join(up,"a","`+strings.Repeat("x", 513)+`","b")`), "bad_data", 400},
		{"query?query=sum(-(max_over_time(up[300y:1ms])))", "bad_data", 400},
	} {
		code, got := get(t, url1+form.path)
		if code != form.code || got.Status != "error" || got.ErrorType != form.kind || got.Error == "" {
			t.Errorf("%.80s: %d %+v, want %d %s", form.path, code, got, form.code, form.kind)
		}
	}
	if n := testutil.ToFloat64(p.counts.queries.WithLabelValues("bad_data")); n < 15 {
		t.Errorf("%v bad requests are counted", n)
	}
	if _, got := get(t, url1+"query?time=5&query=\"text\""); string(got.Data) != `{"resultType":"string","result":[5,"text"]}` {
		t.Errorf("a string: %s", got.Data)
	}
	// A body that is too large, and one that is large enough.
	for length, want := range map[int]int{maxBody + 1: 400, 1000: 200} {
		resp, err := http.Post(url1+"query", "application/x-www-form-urlencoded", strings.NewReader("query=up&x="+strings.Repeat("x", length)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a body of %d bytes: %s", length, resp.Status)
		}
	}
	// Long answers are packed, short ones are not.
	for path, packed := range map[string]bool{
		"query_range?query=testbed_guest_test{guest_name=~\"g1.\"}&start=1700000000&end=1700000300&step=1": true,
		"query?query=up": false,
	} {
		req, _ := http.NewRequest(http.MethodGet, url1+path, nil)
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		var r io.Reader = resp.Body
		if (resp.Header.Get("Content-Encoding") == "gzip") != packed {
			t.Errorf("%s is answered as %q", path, resp.Header.Get("Content-Encoding"))
		} else if packed {
			if r, err = gzip.NewReader(resp.Body); err != nil {
				t.Fatal(err)
			}
		}
		body, err := io.ReadAll(r)
		resp.Body.Close()
		if err != nil || !json.Valid(body) || packed && len(body) < 10*300*10 {
			t.Errorf("%s: %d bytes, %v", path, len(body), err)
		}
	}
}

// TestHostileQueries: the smallest questions with the largest answers are
// bounded in time and memory, and the others are answered meanwhile.
func TestHostileQueries(t *testing.T) {
	debug.SetMaxStack(256 << 20) // a query must not come near the 1 GB at which Go gives up
	p := begin(t, t.TempDir(), Options{QueryTimeout: time.Second, MaxSamples: 1_000_000, MaxQueries: 2})
	now := time.Now().Truncate(time.Second)
	p.push(lines(1000, now.Add(-5*time.Minute), now, time.Second))
	address := p.serve() + "/api/v1/"
	deep := maxQuery/2 - 10
	queries := map[string]string{
		"parentheses": strings.Repeat("(", deep) + "1" + strings.Repeat(")", deep),
		"signs":       strings.Repeat("-", maxQuery-10) + "1",
		"calls":       strings.Repeat("abs(", maxQuery/5-10) + "up" + strings.Repeat(")", maxQuery/5-10),
		"sums":        "1" + strings.Repeat("+1", maxQuery/2-10),
		"or":          "testbed_guest_test" + strings.Repeat(" or testbed_guest_test", maxQuery/22-2),
		"everything":  `{__name__=~".+"}[100y]`,
		"subquery":    `max_over_time(rate(testbed_guest_test[5m])[30d:1ms])`,
		"wide":        `max_over_time(rate(testbed_guest_test[5m])[900s:1ms])`,
		"subqueries":  `max_over_time(max_over_time(max_over_time(testbed_guest_test[5m:1s])[5m:1s])[5m:1s])`,
		"product":     `count(testbed_guest_test * on(x) group_left() testbed_guest_test)`,
		"regex":       `{guest_name=~"(((((a*)*)*)*)*)*b|(.*.*.*.*.*.*.*.*)*"}`,
		"replace":     `label_replace(testbed_guest_test, "x", "` + strings.Repeat("$1", 16) + `", "guest_name", "(.*)")`,
		"sort":        `sort(testbed_guest_test) or topk(1000000, testbed_guest_test) or quantile_over_time(0.5, testbed_guest_test[5m])`,
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all sync.WaitGroup
	turns := make(chan bool, 2)
	for name, query := range queries {
		all.Go(func() {
			turns <- true
			defer func() { <-turns }()
			began := time.Now()
			form := url.Values{"query": {query}, "start": {fmt.Sprint(now.Add(-10_000 * time.Second).Unix())}, "end": {fmt.Sprint(now.Unix())}, "step": {"1"}}
			for _, path := range []string{"query", "query_range"} {
				resp, err := http.PostForm(address+path, form)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode == http.StatusInternalServerError {
					t.Errorf("%s: %s: %v", name, resp.Status, err)
				}
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("%s: an answer after %s", name, took)
				}
				t.Logf("%s, %s: %s, %d bytes, after %s", name, path, resp.Status, n, time.Since(began).Round(time.Millisecond))
			}
		})
	}
	all.Wait()
	runtime.ReadMemStats(&after)
	t.Logf("%d MiB of the system before, %d MiB after", before.Sys>>20, after.Sys>>20)
	if after.Sys-before.Sys > 1<<30 {
		t.Errorf("%d MiB were needed", (after.Sys-before.Sys)>>20)
	}
	for range 2 {
		p.slots <- struct{}{}
	}
	if code, got := get(t, address+"query?query=1&timeout=0.1"); code != 503 || !strings.Contains(got.Error, "2 queries run already") {
		t.Errorf("a third query: %d %+v", code, got)
	}
	for range 2 {
		<-p.slots
	}
	if code, got := get(t, address+"query?query=count(testbed_guest_test)"); code != 200 || !strings.Contains(string(got.Data), `"1000"`) {
		t.Errorf("afterwards: %d %+v", code, got)
	}
}

// TestSlowReaders: clients that do not read their answers do not keep this
// program itself from asking.
func TestSlowReaders(t *testing.T) {
	p := begin(t, t.TempDir(), Options{MaxQueries: 1})
	now := time.Now().Truncate(time.Second)
	p.push(lines(600, now.Add(-time.Second), now, time.Second))
	address := p.serve()
	c, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The answer has 30 MiB, which no buffers between the two hold.
	if _, err := fmt.Fprintf(c, "GET /api/v1/query_range?query=last_over_time(testbed_guest_test[1d])&start=%s&end=%s&step=1 HTTP/1.1\r\nHost: h\r\n\r\n",
		stamp(now), stamp(now.Add(2000*time.Second))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := p.Ask(ctx, "1", now, now, time.Second); err != nil {
		t.Errorf("while a client does not read its answer: %v", err)
	}
}

// TestClosed: without a database and without a history the answers say so.
func TestClosed(t *testing.T) {
	p := unopened(t, t.TempDir(), Options{})
	if code, got := get(t, p.serve()+"/api/v1/query?query=up"); code != 503 || !strings.Contains(got.Error, "read from the disk") {
		t.Errorf("not open yet: %d %+v", code, got)
	}
	mux := http.NewServeMux()
	MountOff(mux)
	address := serve(t, mux)
	for _, path := range []string{"query?query=up", "labels", "label/a/values", "status/buildinfo"} {
		code, got := get(t, address+"/api/v1/"+path)
		if code != 404 || !strings.Contains(got.Error, "--history.path") {
			t.Errorf("%s without a history: %d %+v", path, code, got)
		}
	}
}

// TestUntimed: what a page carries without a time is stored as by a Prometheus
// that scrapes, the gateway's own metrics are, and what is gone ends.
func TestUntimed(t *testing.T) {
	family := sample.NewGauge("testbed_guest_up", "", "A test.")
	up := func(reason string) []sample.Point {
		return []sample.Point{{Series: sample.New(family, sample.Label{Name: "reason", Value: reason}), V: 1}}
	}
	var now []sample.Point
	registry := prometheus.NewRegistry()
	timing := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "fanin_test_seconds", Help: "A test.\nOf two lines.", Buckets: []float64{0.5, 2}})
	counts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "fanin_test_total", Help: "A test."}, []string{"what"})
	registry.MustRegister(timing, counts)
	timing.Observe(1)
	counts.WithLabelValues("x").Add(3)
	p := begin(t, t.TempDir(), Options{Now: func() []sample.Point { return now }, Own: registry, Instance: "here"})
	at := time.Now().Truncate(time.Second)
	now = up("")
	p.scrape(at)
	now = up("stopped")
	p.scrape(at.Add(5 * time.Second))
	address := p.serve()
	for query, want := range map[string]string{
		"testbed_guest_up":                                   `{"__name__":"testbed_guest_up","reason":"stopped"}`,
		`testbed_guest_up offset 1s`:                         `{"__name__":"testbed_guest_up"}`,
		`up{job="gateway",instance="here"} == 1`:             `"job":"gateway"`,
		`fanin_test_total{what="x"} == 3`:                    `"instance":"here"`,
		`fanin_test_seconds_bucket{le="0.5"} == 0`:           `"le":"0.5"`,
		`fanin_test_seconds_bucket{le="2"} == 1`:             `"le":"2"`,
		`fanin_test_seconds_bucket{le="+Inf"} == 1`:          `"le":"+Inf"`,
		`fanin_test_seconds_sum == fanin_test_seconds_count`: `"1"`,
	} {
		_, got := get(t, address+"/api/v1/query?time="+fmt.Sprint(at.Add(5*time.Second).Unix())+"&query="+url.QueryEscape(query))
		if strings.Count(string(got.Data), `"metric"`) != 1 || !strings.Contains(string(got.Data), want) {
			t.Errorf("%s: %s %s", query, got.Data, got.Error)
		}
	}
	if _, got := get(t, address+"/api/v1/metadata?metric=fanin_test_seconds"); !strings.Contains(string(got.Data), `"type":"histogram","help":"A test. Of two lines."`) {
		t.Errorf("metadata: %s", got.Data)
	}
	p.endUntimed(at.Add(7 * time.Second))
	if _, got := get(t, address+"/api/v1/query?time="+fmt.Sprint(at.Add(8*time.Second).Unix())+`&query={__name__=~".%2b"}`); strings.Contains(string(got.Data), `"metric"`) {
		t.Errorf("after the end: %s", got.Data)
	}
}
