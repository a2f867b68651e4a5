package admission

import (
	"fmt"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"fanin/internal/deployment"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

const benchSeries = 2000

// body is what one node says: 2,000 series of its guest web, and what is
// known of their families.
func body(b *testing.B, v wire.Version) []byte {
	b.Helper()
	if v == wire.V2 {
		points := make([]sample.Point, benchSeries)
		for i := range points {
			family := sample.NewCounter(fmt.Sprintf("testbed_guest_network_receive_%c_bytes_total", 'a'+i%25), "bytes", "Bytes received by the guest on one of its interfaces.")
			points[i] = sample.Point{Series: sample.New(family, sample.Label{Name: "device", Value: fmt.Sprint("eth", i/25)}, sample.Label{Name: "guest", Value: "signal-web"}), T: 1_700_000_000_000, V: float64(i)}
		}
		return new(wire.Encoder).Append(nil, points)
	}
	var w prompb.WriteRequest
	for i := range benchSeries {
		name := fmt.Sprintf("testbed_guest_network_receive_%c_bytes_total", 'a'+i%25)
		w.Timeseries = append(w.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "device", Value: fmt.Sprint("eth", i/25)}, {Name: "guest", Value: "signal-web"}},
			Samples: []prompb.Sample{{Timestamp: 1_700_000_000_000, Value: float64(i)}},
		})
		if i < 25 {
			w.Metadata = append(w.Metadata, prompb.MetricMetadata{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: name, Unit: "bytes", Help: "Bytes received by the guest on one of its interfaces."})
		}
	}
	raw, err := w.Marshal()
	if err != nil {
		b.Fatal(err)
	}
	return snappy.Encode(nil, raw)
}

// BenchmarkAdmit is a body of 2,000 claims: of a sender that has said the same
// before, and of one that is new. Decoding is not counted.
func BenchmarkAdmit(b *testing.B) {
	roster := settings(b)
	for _, v := range []wire.Version{wire.V1, wire.V2} {
		body := body(b, v)
		for _, known := range []bool{true, false} {
			b.Run(fmt.Sprintf("version=%s/known=%v", v, known), func(b *testing.B) {
				g := newGate(roster)
				var decoder wire.Decoder
				now, admitted, spent := time.Now(), 0, time.Duration(0)
				one := func() {
					s := g.Begin("client-1", now)
					defer s.End()
					request, err := decoder.Decode(body, s.Memory(v))
					if err != nil {
						b.Fatal(err)
					}
					begin := time.Now()
					request.EachMetadata(s.Learn)
					request.EachSeries(func(claim *wire.Series) {
						if s.Admit(claim, v).Series != nil {
							admitted++
						}
					})
					spent += time.Since(begin)
				}
				one()
				if admitted != benchSeries {
					b.Fatalf("%d of %d admitted", admitted, benchSeries)
				}
				spent = 0
				b.ReportAllocs()
				for b.Loop() {
					if !known {
						g = newGate(roster)
					}
					one()
				}
				b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N*benchSeries), "ns/claim")
			})
		}
	}
}

// BenchmarkBegin is what a body of nothing costs: one of many senders.
func BenchmarkBegin(b *testing.B) {
	g := newGate(settings(b))
	hosts := make([]string, 10_000)
	for i := range hosts {
		hosts[i] = fmt.Sprint("client-", i)
	}
	now, n := time.Now(), 0
	b.ReportAllocs()
	for b.Loop() {
		g.Begin(hosts[n%len(hosts)], now).End()
		n++
	}
}

func newGate(roster *deployment.Roster) *Gate {
	return &Gate{Roster: func() *deployment.Roster { return roster }}
}
