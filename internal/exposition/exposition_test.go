package exposition

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"fanin/internal/sample"
	"fanin/internal/window"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const at = 1_700_000_000_123

func label(n, v string) sample.Label { return sample.Label{Name: n, Value: v} }

// contents has one of everything that a page can carry.
func contents() (now, points []sample.Point) {
	up := sample.NewGauge("testbed_host_up", "", "1 while heard.")
	now = []sample.Point{{Series: sample.New(up, label("host_name", "main")), V: 1}}
	hist := &sample.Family{Name: "lat_seconds", Type: sample.Histogram, Unit: "seconds", Help: "Back\\slash,\nnew line and \"quote\"."}
	total := sample.NewCounter("jobs_seconds_total", "seconds", "Work done.")
	odd := sample.NewCounter("odd_counter", "", "A counter that does not end in _total.")
	values := sample.NewGauge("values", "", "")
	points = []sample.Point{
		{Series: sample.New(total, label("task", "a")), T: at, V: 1e21},
		{Series: sample.New(total, label("task", "b")), T: at + 1, V: 0.1},
		{Series: sample.NewNamed(hist, "lat_seconds_bucket", label("le", "+Inf")), T: at, V: 3},
		{Series: sample.NewNamed(hist, "lat_seconds_count"), T: at, V: 3},
		{Series: sample.NewNamed(hist, "lat_seconds_sum"), T: at, V: 0.25},
		{Series: sample.New(odd), T: 1500, V: 7},
		{Series: sample.New(values, label("v", "nan")), T: at, V: math.NaN()},
		{Series: sample.New(values, label("v", "inf")), T: at, V: math.Inf(1)},
		{Series: sample.New(values, label("v", "minus")), T: at, V: math.Inf(-1)},
		{Series: sample.New(values, label("v", "\"\\\n{},=\t\r\x00é#")), T: at, V: -0.5},
		{Series: sample.New(&sample.Family{Name: "who_info", Type: sample.Info}), T: at, V: 1},
		{Series: sample.New(&sample.Family{Name: "what"}), T: at, V: 1},
	}
	return now, points
}

func TestGoldenPages(t *testing.T) {
	now, points := contents()
	for file, format := range map[string]Format{"testdata/page.txt": Text, "testdata/page.openmetrics": OpenMetrics} {
		got := written(format, now, points)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s\n(-update rewrites it)", file, got, want)
		}
	}
}

// Prometheus' own parsers read from both formats exactly what was put in.
func TestParsersReadWhatWasWritten(t *testing.T) {
	t.Run("all kinds", func(t *testing.T) { parsersRead(t, contents) })
	t.Run("many", func(t *testing.T) { parsersRead(t, many) })
}

// many fill several pieces, with more sets of labels than are remembered from
// family to family.
func many() (now, points []sample.Point) {
	var sets []*sample.Labels
	for i := range 12_000 {
		sets = append(sets, sample.NewLabels(label("guest_name", fmt.Sprint("web-", i)), label("host_name", fmt.Sprint("node-", i/40))))
	}
	for _, f := range []*sample.Family{sample.NewGauge("a", "", "A."), sample.NewCounter("b_total", "", "B.")} {
		for i, set := range sets {
			points = append(points, sample.Point{Series: set.Of(f, f.Name), T: at + int64(i), V: float64(i)})
		}
	}
	return nil, points
}

func parsersRead(t *testing.T, contents func() (now, points []sample.Point)) {
	now, points := contents()
	for _, c := range []struct {
		format      Format
		contentType string
	}{{Text, TextType}, {OpenMetrics, OpenMetricsType}, {Protobuf, ProtobufType}} {
		page := written(c.format, now, points)
		parser, err := textparse.New(page, c.contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			entry, err := parser.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v in\n%.2000s", c.contentType, err, page)
			}
			if entry != textparse.EntrySeries {
				continue
			}
			var l labels.Labels
			_, ts, v := parser.Series()
			parser.Labels(&l)
			when := "now"
			if ts != nil {
				when = fmt.Sprint(*ts)
			}
			got = append(got, fmt.Sprintf("%s %x %s", l.String(), math.Float64bits(v)&^1, when))
		}
		var want []string
		line := func(p sample.Point, when string) {
			b := labels.NewBuilder(labels.EmptyLabels())
			b.Set("__name__", p.Series.Name())
			for _, l := range p.Series.Labels().All() {
				b.Set(l.Name, l.Value)
			}
			// Two of the NaN's bits differ between formats of the parser.
			want = append(want, fmt.Sprintf("%s %x %s", b.Labels().String(), math.Float64bits(p.V)&^1, when))
		}
		for _, p := range now {
			line(p, "now")
		}
		for _, p := range points {
			line(p, fmt.Sprint(p.T))
		}
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || normal(got[i]) != normal(want[i]) {
				t.Fatalf("%s: got\n%s\nwant\n%s", c.contentType, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// normal makes every ordinary NaN the same one.
func normal(line string) string {
	return strings.ReplaceAll(line, "7ff8000000000000", "7ff8000000000001")
}

func TestHandler(t *testing.T) {
	var store window.Store
	gauge := sample.NewGauge("testbed_guest_cpu", "percent", "CPU.")
	host := sample.NewGauge("testbed_host_cpu", "percent", "CPU.")
	store.Append([]sample.Point{
		{Series: sample.New(gauge, label("guest_name", "a"), label("guest_type", "docker"), label("host_name", "h"), label("project", "p")), T: at, V: 1},
		{Series: sample.New(host, label("host_name", "h")), T: at, V: 2},
	}, time.Now(), time.Minute, nil)
	up := sample.NewGauge("testbed_host_up", "", "Up.")
	pages := &Pages{Window: &store, Now: func() []sample.Point {
		return []sample.Point{{Series: sample.New(up, label("host_name", "h")), V: 1}}
	}}
	all := httptest.NewServer(pages.Handler(nil))
	defer all.Close()
	guests := httptest.NewServer(pages.Handler(func(o sample.Owner) bool { return !o.IsHost() }))
	defer guests.Close()

	// get asks as a scraper does; with an Accept-Encoding of its own the
	// client leaves the answer packed.
	get := func(url, accept, encoding string) (contentType, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		r.Header.Set("Accept-Encoding", encoding)
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var from io.Reader = answer.Body
		if answer.Header.Get("Content-Encoding") == "gzip" {
			if from, err = gzip.NewReader(answer.Body); err != nil {
				t.Fatal(err)
			}
		} else if encoding == "gzip" {
			t.Fatal("asked for gzip, got a plain page")
		}
		b, err := io.ReadAll(from)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Header.Get("Content-Type"), string(b)
	}
	for range 2 { // buffers are kept: the second page must be like the first
		contentType, plain := get(all.URL, "*/*", "identity")
		want := "# HELP testbed_host_up Up.\n# TYPE testbed_host_up gauge\ntestbed_host_up{host_name=\"h\"} 1\n" +
			"# HELP testbed_guest_cpu CPU.\n# TYPE testbed_guest_cpu gauge\ntestbed_guest_cpu{guest_name=\"a\",guest_type=\"docker\",host_name=\"h\",project=\"p\"} 1 1700000000123\n" +
			"# HELP testbed_host_cpu CPU.\n# TYPE testbed_host_cpu gauge\ntestbed_host_cpu{host_name=\"h\"} 2 1700000000123\n"
		if contentType != TextType || plain != want {
			t.Fatalf("got %s\n%s\nwant\n%s", contentType, plain, want)
		}
		if _, packed := get(all.URL, "*/*", "gzip"); packed != plain {
			t.Fatalf("packed:\n%s\nwant\n%s", packed, plain)
		}
	}
	// What Prometheus 2.42, 3.15 and the shipped configuration ask for.
	for accept, want := range map[string]string{
		"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1":                           OpenMetricsType,
		"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1": OpenMetricsType,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1":                       ProtobufType,
		"": TextType,
	} {
		contentType, body := get(all.URL, accept, "identity")
		if contentType != want || strings.HasSuffix(body, "# EOF\n") != (want == OpenMetricsType) {
			t.Errorf("Accept %s: got %s\n%s\nwant %s", accept, contentType, body, want)
		}
	}
	if _, body := get(guests.URL, "*/*", "identity"); strings.Contains(body, "testbed_host") || !strings.Contains(body, "testbed_guest_cpu{") {
		t.Fatalf("the guests' page:\n%s", body)
	}
}

type counted int

func (c *counted) Write(b []byte) (int, error) {
	*c += counted(len(b))
	return len(b), nil
}

func written(format Format, now, points []sample.Point) []byte {
	var page bytes.Buffer
	if err := Write(&page, format, now, points); err != nil {
		panic(err) // a buffer takes everything
	}
	return page.Bytes()
}

// BenchmarkWrite is a page of 100,000 series with a point each, of 50 nodes
// with 40 guests each.
func BenchmarkWrite(b *testing.B) {
	var points []sample.Point
	for f := range 50 {
		family := sample.NewCounter(fmt.Sprintf("testbed_guest_%c%c_usage_seconds_total", 'a'+f/8, 'a'+f%8), "seconds", "Time the guest has used.")
		for i := range 2000 {
			s := sample.New(family, label("guest_name", fmt.Sprint("guest-", i)), label("guest_type", "docker"), label("host_name", fmt.Sprint("client-", i/40)), label("project", "signal"))
			// A third each are bytes, seconds counted in nanoseconds, and shares.
			v := [...]float64{float64(i) * 4096, float64(i*1234567) / 1e9, float64(i) / 3}[f%3]
			points = append(points, sample.Point{Series: s, T: at + int64(i/40), V: v})
		}
	}
	for name, format := range map[string]Format{"text": Text, "openmetrics": OpenMetrics, "protobuf": Protobuf} {
		b.Run(name, func(b *testing.B) {
			var page counted
			b.ReportAllocs()
			for b.Loop() {
				page = 0
				if err := Write(&page, format, nil, points); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(points)), "ns/sample")
			b.ReportMetric(float64(page)/float64(len(points)), "B/sample")
		})
	}
}
