package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The two versions of Prometheus that tests run against.
const (
	// PrometheusDebian is what `apt-get install prometheus` gives on Debian 12
	// (2.42): the oldest that is supported, text pages only.
	PrometheusDebian = "debian"
	// Prometheus3 is the release that tools/prometheus/go.mod names, the one
	// that the stack runs. It is built once, in about two minutes.
	Prometheus3 = "3"
)

// PrometheusServer is a running Prometheus with a storage of its own. Its
// methods may be called from one goroutine at a time.
type PrometheusServer struct {
	*Process
	URL string // where its API answers, with the route prefix and no slash at the end
	Dir string // holds prometheus.yml and data/

	command func() *exec.Cmd
}

// Series is one element of an answer: an instant vector has one point each, a
// matrix several, a scalar no labels.
type Series struct {
	Labels map[string]string // with __name__ where the answer has it
	Points []Point
}

// Point is one value at a time in milliseconds since 1970.
type Point struct {
	T int64
	V float64
}

// Prometheus starts a server of the given version ([PrometheusDebian] or
// [Prometheus3]) on a free port of loopback and waits until it is ready. More
// arguments are appended to its command line; a route prefix among them is
// followed. It ends with the test.
func Prometheus(t testing.TB, version, config string, args ...string) *PrometheusServer {
	t.Helper()
	binary := prometheusBinary(t, version, "prometheus")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	const tries = 3 // a port that was free may be taken by the time it is used
	for try := 1; ; try++ {
		address := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
		p := &PrometheusServer{
			URL: "http://" + address + routePrefix(args),
			Dir: dir,
			command: func() *exec.Cmd {
				return exec.Command(binary, append([]string{
					"--config.file=" + filepath.Join(dir, "prometheus.yml"),
					"--storage.tsdb.path=" + filepath.Join(dir, "data"),
					"--web.listen-address=" + address,
					"--web.enable-lifecycle",
				}, args...)...)
			},
		}
		p.Process = StartCmd(t, p.command())
		err := p.waitReady(30 * time.Second)
		if err == nil {
			return p
		}
		if try == tries || !strings.Contains(p.Tail(4096), "address already in use") {
			t.Fatalf("prometheus %s: %v\n%s", version, err, p.Tail(4096))
		}
	}
}

// Restart starts the server again on its old port and storage, after it has
// been stopped or killed, and waits until it is ready.
func (p *PrometheusServer) Restart(t testing.TB) {
	t.Helper()
	p.Stop(10 * time.Second)
	p.Process = StartCmd(t, p.command())
	if err := p.waitReady(30 * time.Second); err != nil {
		t.Fatalf("prometheus again: %v\n%s", err, p.Tail(4096))
	}
}

// Reload replaces the configuration and has the server read it.
func (p *PrometheusServer) Reload(t testing.TB, config string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.Dir, "prometheus.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(p.URL+"/-/reload", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("reload: %s: %s", resp.Status, body)
	}
}

// Query evaluates a PromQL expression now. A range selector (`x[5m]`) gives
// the stored samples themselves, with the timestamps they were stored under.
func (p *PrometheusServer) Query(t testing.TB, expr string) []Series {
	t.Helper()
	series, err := p.TryQuery(expr)
	if err != nil {
		t.Fatal(err)
	}
	return series
}

// TryQuery is [PrometheusServer.Query] for use inside [Eventually].
func (p *PrometheusServer) TryQuery(expr string) ([]Series, error) {
	return p.query("/api/v1/query", url.Values{"query": {expr}}, expr)
}

// QueryRange evaluates a PromQL expression at every step from start to end.
func (p *PrometheusServer) QueryRange(t testing.TB, expr string, start, end time.Time, step time.Duration) []Series {
	t.Helper()
	series, err := p.query("/api/v1/query_range", url.Values{
		"query": {expr},
		"start": {start.Format(time.RFC3339Nano)},
		"end":   {end.Format(time.RFC3339Nano)},
		"step":  {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)},
	}, expr)
	if err != nil {
		t.Fatal(err)
	}
	return series
}

// Value evaluates an expression that has exactly one element and returns its
// value.
func (p *PrometheusServer) Value(expr string) (float64, error) {
	series, err := p.TryQuery(expr)
	if err != nil {
		return 0, err
	}
	if len(series) != 1 || len(series[0].Points) != 1 {
		return 0, fmt.Errorf("%s: got %d series, want one with one point: %v", expr, len(series), series)
	}
	return series[0].Points[0].V, nil
}

// Scrape is what the server knows about one of its targets.
type Scrape struct {
	Job, URL  string
	Health    string // up, down or unknown
	LastError string
	Last      time.Time // zero: not scraped yet
}

// Scrapes lists the active targets.
func (p *PrometheusServer) Scrapes() ([]Scrape, error) {
	var data struct {
		ActiveTargets []struct {
			ScrapePool string    `json:"scrapePool"`
			ScrapeURL  string    `json:"scrapeUrl"`
			Health     string    `json:"health"`
			LastError  string    `json:"lastError"`
			LastScrape time.Time `json:"lastScrape"`
		} `json:"activeTargets"`
	}
	if err := p.get("/api/v1/targets?state=active", &data); err != nil {
		return nil, err
	}
	var scrapes []Scrape
	for _, a := range data.ActiveTargets {
		scrapes = append(scrapes, Scrape{Job: a.ScrapePool, URL: a.ScrapeURL, Health: a.Health, LastError: a.LastError, Last: a.LastScrape})
	}
	return scrapes, nil
}

func (p *PrometheusServer) query(path string, values url.Values, expr string) ([]Series, error) {
	var data struct {
		ResultType string          `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	}
	if err := p.get(path+"?"+values.Encode(), &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	series, err := decodeResult(data.ResultType, data.Result)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	return series, nil
}

// get decodes the data of an answer in the form that
// https://prometheus.io/docs/prometheus/latest/querying/api/ describes.
func (p *PrometheusServer) get(path string, data any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: %.200q is not an answer of the API: %w", resp.Status, body, err)
	}
	if answer.Status != "success" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

func decodeResult(kind string, result []byte) ([]Series, error) {
	switch kind {
	case "scalar":
		var p Point
		if err := json.Unmarshal(result, &p); err != nil {
			return nil, err
		}
		return []Series{{Points: []Point{p}}}, nil
	case "vector", "matrix":
		var elements []struct {
			Metric map[string]string `json:"metric"`
			Value  *Point            `json:"value"`
			Values []Point           `json:"values"`
		}
		if err := json.Unmarshal(result, &elements); err != nil {
			return nil, err
		}
		series := make([]Series, len(elements))
		for i, e := range elements {
			if e.Value != nil {
				e.Values = []Point{*e.Value}
			}
			series[i] = Series{Labels: e.Metric, Points: e.Values}
		}
		return series, nil
	}
	return nil, fmt.Errorf("a result of type %q", kind)
}

// UnmarshalJSON reads [seconds, "value"].
func (p *Point) UnmarshalJSON(b []byte) error {
	var seconds float64
	var value string
	if err := json.Unmarshal(b, &[]any{&seconds, &value}); err != nil {
		return err
	}
	v, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return err
	}
	p.T, p.V = int64(math.Round(seconds*1000)), v
	return nil
}

func (p *PrometheusServer) waitReady(d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		resp, err := http.Get(p.URL + "/-/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		switch end := p.Wait(50 * time.Millisecond); {
		case end == nil:
			return errors.New("ended by itself, with exit code 0")
		case !errors.Is(end, ErrStillRunning):
			return fmt.Errorf("ended by itself: %w", end)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %s: %w", d, err)
		}
	}
}

// routePrefix is the path under which a server with these arguments answers:
// --web.route-prefix, else the path of --web.external-url.
func routePrefix(args []string) string {
	prefix := ""
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "--web.external-url="); ok && prefix == "" {
			if u, err := url.Parse(v); err == nil {
				prefix = u.Path
			}
		}
		if v, ok := strings.CutPrefix(a, "--web.route-prefix="); ok {
			prefix = v
		}
	}
	return strings.TrimRight(prefix, "/")
}
