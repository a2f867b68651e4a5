package fleet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// Version is that of remote write: 1 or 2.
type Version int

// Header sets what the protocol wants in front of a body.
func (v Version) Header(set func(name, value string)) {
	set("Content-Encoding", "snappy")
	if v == 2 {
		set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		set("X-Prometheus-Remote-Write-Version", "2.0.0")
		return
	}
	set("Content-Type", "application/x-protobuf")
	set("X-Prometheus-Remote-Write-Version", "0.1.0")
}

// Body is what one node says: all of its series, one sample each. It is made
// once, by the protocol's own types; then each tick only writes values and
// times over those of the tick before, and compresses, so that sending costs
// little beside receiving.
type Body struct {
	raw     []byte
	series  []series
	samples []int // where each one's value stands
	devices []int // where the number of new series is written, when they are new with each body
	packed  []byte
}

const (
	// A mark is what the value of a sample is found by: no byte of it is
	// elsewhere in a body.
	mark       = 0x7fe1_d2c3_b4a5_0000
	timeBytes  = 6 // of any time from 2004 to 2109
	valueBytes = 8
	anyTime    = 1_700_000_000_000

	churnDigits = 10
)

// Body prepares a node's body. With churn, every one has other series than the
// one before.
func (f Fleet) Body(node int, v Version, churn bool) (*Body, error) {
	device, zeros := "eth", strings.Repeat("0", churnDigits)
	if churn {
		device = "veth" + zeros + "-"
	}
	b := &Body{series: f.of(node, device)}
	var err error
	if v == 2 {
		b.raw, err = b.request2().OptimizedMarshal(nil)
	} else {
		b.raw, err = b.request1().Marshal()
	}
	if err != nil {
		return nil, err
	}
	at := 0
	for i := range b.series {
		var want [valueBytes]byte
		binary.LittleEndian.PutUint64(want[:], math.Float64bits(marked(i)))
		found := bytes.Index(b.raw[at:], want[:])
		if found < 0 {
			return nil, fmt.Errorf("body of version %d: series %d is not in its place", v, i)
		}
		at += found
		if end := at + valueBytes + 1 + timeBytes; end > len(b.raw) || b.raw[end-1] >= 0x80 || b.raw[end-2] < 0x80 {
			return nil, fmt.Errorf("body of version %d: the time of series %d does not have %d bytes", v, i, timeBytes)
		}
		b.samples = append(b.samples, at)
	}
	for at := 0; churn; {
		found := bytes.Index(b.raw[at:], []byte(device))
		if found < 0 {
			break
		}
		b.devices = append(b.devices, at+found+len("veth"))
		at += found + len(device)
	}
	return b, nil
}

func marked(i int) float64 { return math.Float64frombits(mark + uint64(i)) }

func (b *Body) request1() *prompb.WriteRequest {
	w := &prompb.WriteRequest{}
	told := map[string]bool{}
	for i, s := range b.series {
		labels := []prompb.Label{{Name: "__name__", Value: s.name}}
		for _, l := range s.labels {
			labels = append(labels, prompb.Label{Name: l.name, Value: l.value})
		}
		w.Timeseries = append(w.Timeseries, prompb.TimeSeries{Labels: labels, Samples: []prompb.Sample{{Value: marked(i), Timestamp: anyTime}}})
		if told[s.name] {
			continue
		}
		told[s.name] = true
		kind := prompb.MetricMetadata_GAUGE
		if s.counter {
			kind = prompb.MetricMetadata_COUNTER
		}
		w.Metadata = append(w.Metadata, prompb.MetricMetadata{Type: kind, MetricFamilyName: s.name, Help: s.help, Unit: s.unit})
	}
	return w
}

func (b *Body) request2() *writev2.Request {
	table := writev2.NewSymbolTable()
	w := &writev2.Request{}
	for i, s := range b.series {
		refs := []uint32{table.Symbolize("__name__"), table.Symbolize(s.name)}
		for _, l := range s.labels {
			refs = append(refs, table.Symbolize(l.name), table.Symbolize(l.value))
		}
		kind := writev2.Metadata_METRIC_TYPE_GAUGE
		if s.counter {
			kind = writev2.Metadata_METRIC_TYPE_COUNTER
		}
		w.Timeseries = append(w.Timeseries, writev2.TimeSeries{
			LabelsRefs: refs, Samples: []writev2.Sample{{Value: marked(i), Timestamp: anyTime}},
			Metadata: writev2.Metadata{Type: kind, HelpRef: table.Symbolize(s.help), UnitRef: table.Symbolize(s.unit)},
		})
	}
	w.Symbols = table.Symbols()
	return w
}

// Series is how many series, and samples, a body has.
func (b *Body) Series() int { return len(b.series) }

// Raw is how large a body is before it is compressed.
func (b *Body) Raw() int { return len(b.raw) }

// At is the body of a tick that is read at t, in milliseconds since 1970: each
// guest a millisecond after the one before. It is lent until the next call.
func (b *Body) At(tick int, t int64) []byte {
	var now [timeBytes]byte
	guest := -1
	for i := range b.series {
		s, at := &b.series[i], b.samples[i]
		if s.guest != guest {
			guest = s.guest
			binary.PutUvarint(now[:], uint64(t)+uint64(guest))
		}
		binary.LittleEndian.PutUint64(b.raw[at:], math.Float64bits(s.value(s.from, float64(tick))))
		copy(b.raw[at+valueBytes+1:], now[:])
	}
	for _, at := range b.devices {
		n := tick
		for i := churnDigits - 1; i >= 0; i-- {
			b.raw[at+i] = byte('0' + n%10)
			n /= 10
		}
	}
	b.packed = snappy.Encode(b.packed[:cap(b.packed)], b.raw)
	return b.packed
}
