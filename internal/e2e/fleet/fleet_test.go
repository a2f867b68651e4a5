package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// said is one sample of a body.
type said struct {
	labels string
	t      int64
	v      float64
}

func read(t *testing.T, v Version, body []byte) (all []said) {
	t.Helper()
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	if v == 2 {
		var w writev2.Request
		if err := w.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		for _, ts := range w.Timeseries {
			var text strings.Builder
			for i := 0; i < len(ts.LabelsRefs); i += 2 {
				fmt.Fprintf(&text, "%s=%q ", w.Symbols[ts.LabelsRefs[i]], w.Symbols[ts.LabelsRefs[i+1]])
			}
			all = append(all, said{text.String(), ts.Samples[0].Timestamp, ts.Samples[0].Value})
		}
		return all
	}
	var w prompb.WriteRequest
	if err := w.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	for _, ts := range w.Timeseries {
		var text strings.Builder
		for _, l := range ts.Labels {
			fmt.Fprintf(&text, "%s=%q ", l.Name, l.Value)
		}
		all = append(all, said{text.String(), ts.Samples[0].Timestamp, ts.Samples[0].Value})
	}
	return all
}

// Both versions say the same, tick after tick.
func TestBodiesSayWhatTheyShould(t *testing.T) {
	f := Fleet{Nodes: 3, Guests: 4, Series: 60}
	const now = 1_799_999_999_990
	for _, v := range []Version{1, 2} {
		b, err := f.Body(2, v, false)
		if err != nil {
			t.Fatal(err)
		}
		var first []said
		for tick := range 3 {
			got := read(t, v, b.At(tick, now+int64(tick)))
			if len(got) != 240 || b.Series() != 240 {
				t.Fatalf("version %d: got %d series, want 240", v, len(got))
			}
			seen := map[string]bool{}
			for i, s := range b.series {
				want := said{t: now + int64(tick) + int64(s.guest), v: s.value(s.from, float64(tick))}
				want.labels = fmt.Sprintf(`__name__=%q device="eth%d" guest="lab0-web-%06d" instance="node-00002.testbed.lan:9371" job="testbed-guests" `, s.name, s.device, 8+i/60)
				if got[i] != want {
					t.Fatalf("version %d, tick %d, series %d: got %v, want %v", v, tick, i, got[i], want)
				}
				if tick > 0 && got[i].v == first[i].v {
					t.Fatalf("version %d, tick %d: %v stands still", v, tick, got[i])
				}
				seen[got[i].labels] = true
			}
			if len(seen) != 240 {
				t.Fatalf("version %d: %d different series, want 240", v, len(seen))
			}
			if tick == 0 {
				first = got
			}
		}
	}
}

func TestChurnNeverSaysASeriesTwice(t *testing.T) {
	for _, v := range []Version{1, 2} {
		f := Fleet{Nodes: 2, Guests: 2, Series: 30}
		seen := map[string]bool{}
		for node := range 2 {
			b, err := f.Body(node, v, true)
			if err != nil {
				t.Fatal(err)
			}
			for tick := range 11 {
				for _, s := range read(t, v, b.At(tick, 1_700_000_000_000)) {
					if seen[s.labels] {
						t.Fatalf("version %d: %s again", v, s.labels)
					}
					seen[s.labels] = true
				}
			}
		}
		if len(seen) != 2*11*60 {
			t.Fatalf("version %d: %d series, want %d", v, len(seen), 2*11*60)
		}
	}
}

// A measurement is worth little when the load is not of the usual size.
func TestSizes(t *testing.T) {
	f := Fleet{Nodes: 50, Guests: 40, Series: 50}
	for v, want := range map[Version][2]float64{1: {175, 21.7}, 2: {40, 12.5}} {
		b, err := f.Body(17, v, false)
		if err != nil {
			t.Fatal(err)
		}
		n := float64(b.Series())
		raw, packed := float64(b.Raw())/n, float64(len(b.At(100, 1_700_000_000_000)))/n
		if math.Abs(raw-want[0]) > 0.1*want[0] || math.Abs(packed-want[1]) > 0.1*want[1] {
			t.Errorf("version %d: %.1f B a sample and %.1f after compression, want about %v", v, raw, packed, want)
		}
	}
}

func TestPageIsText(t *testing.T) {
	p := Fleet{Nodes: 3, Guests: 4, Series: 60}.Page(2)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	for tick := range 2 {
		page, err := parser.TextToMetricFamilies(bytes.NewReader(p.At(tick)))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, family := range page {
			n += len(family.Metric)
		}
		if n != 240 || len(page) != len(families) {
			t.Fatalf("got %d series of %d families, want 240 of %d", n, len(page), len(families))
		}
		s := p.series[0]
		if got, want := page[s.name].Metric[0].GetCounter().GetValue(), math.Floor(s.value(s.from, float64(tick))); got != want {
			t.Fatalf("tick %d: %s is %v, want %v", tick, s.name, got, want)
		}
	}
}

func TestStates(t *testing.T) {
	dir := t.TempDir()
	f := Fleet{Nodes: 300, Guests: 40}
	if err := f.WriteStates(dir); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*-state.json"))
	if err != nil {
		t.Fatal(err)
	}
	hosts, guests := map[string]bool{}, 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s struct {
			Project string         `json:"project_name"`
			Hosts   map[string]any `json:"testbed_hosts"`
			Guests  map[string]any `json:"testbed_guests"`
		}
		if err := json.Unmarshal(content, &s); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(file) != s.Project+"-state.json" || len(s.Guests) > deploymentGuests {
			t.Errorf("%s is of %s and has %d guests", file, s.Project, len(s.Guests))
		}
		guests += len(s.Guests)
		for host := range s.Hosts {
			hosts[host] = true
		}
	}
	if len(hosts) != f.Nodes || guests != f.Nodes*f.Guests || !hosts[Node(299)] {
		t.Errorf("got %d hosts and %d guests, want %d and %d", len(hosts), guests, f.Nodes, f.Nodes*f.Guests)
	}
}

func BenchmarkAt(b *testing.B) {
	for _, v := range []Version{1, 2} {
		b.Run(fmt.Sprintf("version=%d", v), func(b *testing.B) {
			body, err := Fleet{Nodes: 50, Guests: 40, Series: 50}.Body(17, v, false)
			if err != nil {
				b.Fatal(err)
			}
			tick := 0
			b.ReportAllocs()
			for b.Loop() {
				tick++
				body.At(tick, 1_700_000_000_000)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*body.Series()), "ns/sample")
		})
	}
}
