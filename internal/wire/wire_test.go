package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"fanin/internal/sample"
)

var (
	cpu    = sample.NewCounter("testbed_guest_cpu_usage_seconds_total", "seconds", "Processor time.")
	memory = sample.NewGauge("testbed_guest_memory_usage_bytes", "bytes", "Memory.")
)

func points(n int) []sample.Point {
	ps := make([]sample.Point, 0, n)
	for i := range n {
		f := []*sample.Family{cpu, memory}[i%2]
		s := sample.New(f, sample.Label{Name: "guest", Value: fmt.Sprintf("signal-web-%d", i/2)}, sample.Label{Name: "Upper", Value: "x"})
		ps = append(ps, sample.Point{Series: s, T: 1_700_000_000_000 + int64(i), V: float64(i) * 1.5})
	}
	return ps
}

// encode is points in one version.
func encode(t testing.TB, v Version, ps []sample.Point) []byte {
	t.Helper()
	body := new(Encoder).Append(nil, ps)
	if v == V2 {
		return body
	}
	body, err := Downgrade(body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// The oracle of both directions is prompb: what it reads from our bodies and
// what we read from its.
func TestEncodedBodyIsARequest(t *testing.T) {
	ps := points(101)
	var e Encoder
	for range 3 { // buffers are kept: the later bodies must be like the first
		body := e.Append([]byte("before"), ps)
		raw, err := snappy.Decode(nil, bytes.TrimPrefix(body, []byte("before")))
		if err != nil {
			t.Fatal(err)
		}
		var got writev2.Request
		if err := got.Unmarshal(raw); err != nil {
			t.Fatal(err)
		}
		if len(got.Timeseries) != len(ps) || got.Symbols[0] != "" {
			t.Fatalf("got %d series and %q, want %d and an empty symbol", len(got.Timeseries), got.Symbols[0], len(ps))
		}
		for i, ts := range got.Timeseries {
			want := ps[i]
			if len(ts.Samples) != 1 || ts.Samples[0].Timestamp != want.T || ts.Samples[0].Value != want.V {
				t.Fatalf("series %d: got samples %v, want %v", i, ts.Samples, want)
			}
			var text []string
			for j := 0; j < len(ts.LabelsRefs); j += 2 {
				text = append(text, got.Symbols[ts.LabelsRefs[j]]+"="+got.Symbols[ts.LabelsRefs[j+1]])
			}
			if got, want := strings.Join(text, " "), fmt.Sprintf("Upper=x __name__=%s guest=signal-web-%d", want.Series.Name(), i/2); got != want {
				t.Fatalf("series %d: got labels %q, want %q", i, got, want)
			}
			if m := ts.Metadata; i%2 == 0 && (m.Type != writev2.Metadata_METRIC_TYPE_COUNTER || got.Symbols[m.HelpRef] != cpu.Help || got.Symbols[m.UnitRef] != cpu.Unit) {
				t.Fatalf("got metadata %v, want %v", m, cpu)
			}
		}
		raw, err = snappy.Decode(nil, encode(t, V1, ps))
		if err != nil {
			t.Fatal(err)
		}
		var old prompb.WriteRequest
		if err := old.Unmarshal(raw); err != nil || len(old.Timeseries) != len(ps) || len(old.Metadata) != 2 {
			t.Fatalf("version 1: %v, %d series, %d metadata; want %d and 2", err, len(old.Timeseries), len(old.Metadata), len(ps))
		}
		if m := old.Metadata[0]; m.MetricFamilyName != cpu.Name || m.Type != prompb.MetricMetadata_COUNTER || m.Help != cpu.Help || m.Unit != cpu.Unit {
			t.Fatalf("got metadata %v, want %v", m, cpu)
		}
	}
}

func TestDecodeWhatPrompbWrote(t *testing.T) {
	want := prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{
			{
				Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "a\"b\n"}},
				Samples: []prompb.Sample{{Timestamp: 1, Value: math.Inf(1)}, {Timestamp: -5, Value: -0.5}},
			},
			{Labels: []prompb.Label{{Name: "__name__", Value: "h"}}, Histograms: []prompb.Histogram{{}, {}}},
			{},
		},
		Metadata: []prompb.MetricMetadata{{Type: prompb.MetricMetadata_SUMMARY, MetricFamilyName: "up", Help: "h", Unit: "u"}},
	}
	raw, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var d Decoder
	r, err := d.Decode(snappy.Encode(nil, raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(r); got != contentOf(&want) {
		t.Fatalf("got\n%s\nwant\n%s", got, contentOf(&want))
	}
	if r.Series != 3 || r.Samples != 2 {
		t.Fatalf("got %d series and %d samples, want 3 and 2", r.Series, r.Samples)
	}
}

func content(r *Request) string {
	var b strings.Builder
	r.EachSeries(func(s *Series) {
		labels, _ := s.Labels()
		for _, l := range labels {
			fmt.Fprintf(&b, "%q=%q ", l.Name, l.Value)
		}
		for _, p := range s.Points {
			fmt.Fprintf(&b, "%d:%x ", p.T, math.Float64bits(p.V))
		}
		fmt.Fprintf(&b, "%d\n", s.Histograms)
	})
	r.EachMetadata(func(m Metadata) { fmt.Fprintf(&b, "%d %q %q %q\n", m.Type, m.Family, m.Help, m.Unit) })
	return b.String()
}

func contentOf(w *prompb.WriteRequest) string {
	var b strings.Builder
	for _, s := range w.Timeseries {
		for _, l := range s.Labels {
			fmt.Fprintf(&b, "%q=%q ", l.Name, l.Value)
		}
		for _, p := range s.Samples {
			fmt.Fprintf(&b, "%d:%x ", p.Timestamp, math.Float64bits(p.Value))
		}
		fmt.Fprintf(&b, "%d\n", len(s.Histograms))
	}
	for _, m := range w.Metadata {
		fmt.Fprintf(&b, "%d %q %q %q\n", m.Type, m.MetricFamilyName, m.Help, m.Unit)
	}
	return b.String()
}

func TestEqualLabelsHaveOneID(t *testing.T) {
	// The same labels, once side by side and once with a sample between.
	label := func(n, v string) []byte {
		raw, _ := (&prompb.Label{Name: n, Value: v}).Marshal()
		return append([]byte{1<<3 | wireBytes, byte(len(raw))}, raw...)
	}
	smp := []byte{2<<3 | wireBytes, 2, 2<<3 | wireVarint, 7}
	a, b := label("__name__", "up"), label("x", "y")
	m := Memory{Max: 10}
	var ids []int
	for range 2 {
		for _, series := range [][]byte{bytes.Join([][]byte{a, b, smp}, nil), bytes.Join([][]byte{a, smp, b}, nil)} {
			raw := append([]byte{1<<3 | wireBytes, byte(len(series))}, series...)
			var d Decoder
			r, err := d.Decode(snappy.Encode(nil, raw), &m)
			if err != nil {
				t.Fatal(err)
			}
			r.EachSeries(func(s *Series) {
				if labels, _ := s.Labels(); len(labels) != 2 || len(s.Points) != 1 || s.Points[0].T != 7 {
					t.Errorf("got %v %v", labels, s.Points)
				}
				ids = append(ids, s.ID)
			})
		}
	}
	if !slices.Equal(ids, []int{0, 0, 0, 0}) {
		t.Fatalf("got IDs %v, want one series", ids)
	}
}

func TestLimits(t *testing.T) {
	body := encode(t, V1, points(100))
	for _, c := range []struct {
		name   string
		limits Limits
		body   []byte
		want   error
	}{
		{"inside", Limits{Series: 100, Samples: 100}, body, nil},
		{"series", Limits{Series: 99}, body, ErrTooLarge},
		{"samples", Limits{Samples: 99}, body, ErrTooLarge},
		{"decoded", Limits{Decoded: 100}, body, ErrTooLarge},
		{"not snappy", Limits{}, []byte("{}"), ErrMalformed},
		{"empty", Limits{}, nil, ErrMalformed},
		{"cut off", Limits{}, body[:len(body)-1], ErrMalformed},
		{"not protobuf", Limits{}, snappy.Encode(nil, []byte("hello")), ErrMalformed},
		{"series of the wrong wire type", Limits{}, snappy.Encode(nil, []byte{1<<3 | wireVarint, 1}), ErrMalformed},
		{"declares 4 GiB in 7 bytes", Limits{}, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}, ErrTooLarge},
		{"4 M empty series", Limits{}, snappy.Encode(nil, bytes.Repeat([]byte{0x0a, 0}, 4<<20)), ErrTooLarge},
		{"32 MiB of empty series", Limits{}, snappy.Encode(nil, bytes.Repeat([]byte{0x0a, 0}, 16<<20)), ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Decoder{Limits: c.limits}
			_, err := d.Decode(c.body, nil)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestMoreLabelsThanTheLimit(t *testing.T) {
	ts := prompb.TimeSeries{}
	for i := range 31 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: fmt.Sprintf("l%02d", i), Value: "v"})
	}
	raw, _ := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}).Marshal()
	var d Decoder
	r, err := d.Decode(snappy.Encode(nil, raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.EachSeries(func(s *Series) {
		if labels, overfull := s.Labels(); !overfull || len(labels) != 30 {
			t.Fatalf("got %d labels, overfull %v, want 30 and true", len(labels), overfull)
		}
	})
}

func TestDecodingAllocatesNothing(t *testing.T) {
	body := encode(t, V1, points(1000))
	var d Decoder
	sum := 0.0
	got := testing.AllocsPerRun(20, func() {
		r, err := d.Decode(body, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.EachSeries(func(s *Series) { sum += s.Points[0].V })
	})
	if got > 10 { // the request and a few closures a body, nothing a series
		t.Fatalf("got %v allocations a body, want at most 10", got)
	}
}

// Whatever prompb reads we read alike; and nothing makes us panic.
func FuzzDecode(f *testing.F) {
	f.Add(encode(f, V1, points(3)))
	f.Add([]byte{})
	f.Add(snappy.Encode(nil, []byte{0x0a, 0}))
	f.Fuzz(func(t *testing.T, body []byte) {
		var d Decoder
		r, err := d.Decode(body, nil)
		raw, snappyErr := snappy.Decode(nil, body[:min(len(body), 1<<16)])
		var want prompb.WriteRequest
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("unexpected kind of error %v", err)
			}
			return
		}
		overfull := false
		r.EachSeries(func(s *Series) {
			_, more := s.Labels()
			overfull = overfull || more
		})
		got := content(r)
		if snappyErr == nil && want.Unmarshal(raw) == nil && !overfull && got != contentOf(&want) {
			t.Fatalf("got\n%s\nwant\n%s", got, contentOf(&want))
		}
	})
}

// tick is what a node of 40 guests says at once: 50 series of each.
func tick() []sample.Point {
	var families []*sample.Family
	for i := range 25 {
		families = append(families, sample.NewCounter(fmt.Sprintf("testbed_guest_network_receive_%c_bytes_total", 'a'+i), "bytes", "Bytes received by the guest on one of its interfaces."))
	}
	var ps []sample.Point
	for guest := range 40 {
		for i := range 50 {
			s := sample.New(families[i/2], sample.Label{Name: "guest", Value: fmt.Sprintf("signal-web-%d", guest)}, sample.Label{Name: "device", Value: fmt.Sprint("eth", i%2)})
			ps = append(ps, sample.Point{Series: s, T: 1_700_000_000_000 + int64(guest), V: float64(i*guest) * 1.37})
		}
	}
	return ps
}

func BenchmarkEncode(b *testing.B) {
	ps := tick()
	var e Encoder
	var body []byte
	b.ReportAllocs()
	for b.Loop() {
		body = e.Append(body[:0], ps)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ps)), "ns/sample")
	b.ReportMetric(float64(len(body))/float64(len(ps)), "B/sample")
}

// BenchmarkDecode is a body of 2,000 series: of a sender that is not known, and
// of one whose body before was alike. The bodies of 50 senders come in turns,
// so that what is remembered of them is not in the nearest cache.
func BenchmarkDecode(b *testing.B) {
	ps := tick()
	for _, v := range []Version{V1, V2} {
		body := encode(b, v, ps)
		for _, known := range []bool{false, true} {
			b.Run(fmt.Sprintf("version=%s/known=%v", v, known), func(b *testing.B) {
				memories := make([]Memory, 50)
				for i := range memories {
					memories[i].Version = v
					if known {
						memories[i].Max = 10_000
					}
				}
				var d Decoder
				n := 0
				one := func() {
					n++
					r, err := d.Decode(body, &memories[n%len(memories)])
					if err != nil {
						b.Fatal(err)
					}
					r.EachSeries(func(*Series) {})
				}
				for range 2 * len(memories) {
					one()
				}
				b.ReportAllocs()
				for b.Loop() {
					one()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ps)), "ns/sample")
			})
		}
	}
}

// An entry that stands where the inside of another one stood is new.
func TestMetadataInsideOfMetadata(t *testing.T) {
	marshal := func(entries ...prompb.MetricMetadata) []byte {
		raw, err := (&prompb.WriteRequest{Metadata: entries}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	inner := prompb.MetricMetadata{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "inner", Help: "Inner."}
	outer := marshal(prompb.MetricMetadata{MetricFamilyName: "outer", Help: "Outer.", Unit: string(marshal(inner))})
	other := prompb.MetricMetadata{MetricFamilyName: "other"}
	for len(marshal(other, inner)) < len(outer) {
		other.Help += "."
	}
	body := marshal(other, inner)
	if len(body) != len(outer) {
		t.Fatalf("%d bytes, want %d: the entry stands elsewhere", len(body), len(outer))
	}
	var d Decoder
	m := &Memory{Version: V1, Max: 10}
	var learned []string
	for _, raw := range [][]byte{outer, body, body} {
		r, err := d.Decode(snappy.Encode(nil, raw), m)
		if err != nil {
			t.Fatal(err)
		}
		r.EachMetadata(func(m Metadata) { learned = append(learned, string(m.Family)) })
	}
	if want := "outer other inner"; strings.Join(learned, " ") != want {
		t.Fatalf("learned %q, want %s", learned, want)
	}
}

// A series with two names, the second one empty, still says what its family is.
func TestMetadataBesideAnEmptyName(t *testing.T) {
	w := writev2.Request{
		Symbols:    []string{"", "__name__", "up", "Help."},
		Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2, 1, 0}, Metadata: writev2.Metadata{HelpRef: 3}}},
	}
	raw, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, err := new(Decoder).Decode(snappy.Encode(nil, raw), &Memory{Version: V2})
	if err != nil {
		t.Fatal(err)
	}
	r.EachSeries(func(s *Series) {
		if m, ok := s.Metadata(); !ok || string(m.Family) != "up" || string(m.Help) != "Help." {
			t.Errorf("got %s %q %v", m.Family, m.Help, ok)
		}
	})
}
