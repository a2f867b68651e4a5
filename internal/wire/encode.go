package wire

import (
	"fmt"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"fanin/internal/sample"
)

const nameLabel = "__name__"

// Encoder makes bodies. The zero value is ready; it keeps its buffers and is
// used by one goroutine at a time.
type Encoder struct {
	request  prompb.WriteRequest
	labels   []prompb.Label
	samples  []prompb.Sample
	families map[*sample.Family]struct{}
	raw      []byte
	packed   []byte
}

// Append appends one body with all points, in their order, and the metadata
// of every family among them, and returns the longer dst. Each body stands
// for itself: a receiver that has seen no other knows types and help.
func (e *Encoder) Append(dst []byte, points []sample.Point) ([]byte, error) {
	e.fill(points)
	size := e.request.Size()
	if cap(e.raw) < size {
		e.raw = make([]byte, size+size/4)
	}
	n, err := e.request.MarshalToSizedBuffer(e.raw[:size])
	if err != nil {
		return dst, fmt.Errorf("encode remote-write body: %w", err)
	}
	e.packed = snappy.Encode(e.packed[:cap(e.packed)], e.raw[:n])
	return append(dst, e.packed...), nil
}

func (e *Encoder) fill(points []sample.Point) {
	if e.families == nil {
		e.families = map[*sample.Family]struct{}{}
	}
	clear(e.families)
	e.request.Timeseries = e.request.Timeseries[:0]
	e.request.Metadata = e.request.Metadata[:0]
	e.labels, e.samples = e.labels[:0], e.samples[:0]
	for _, p := range points {
		from := len(e.labels)
		e.labels = appendLabels(e.labels, p.Series)
		e.samples = append(e.samples, prompb.Sample{Timestamp: p.T, Value: p.V})
		// Full slices of what may still move: an append that moves the
		// arrays leaves these on the old ones, whose content stays.
		e.request.Timeseries = append(e.request.Timeseries, prompb.TimeSeries{
			Labels:  e.labels[from:len(e.labels):len(e.labels)],
			Samples: e.samples[len(e.samples)-1 : len(e.samples) : len(e.samples)],
		})
		family := p.Series.Family()
		if _, known := e.families[family]; !known {
			e.families[family] = struct{}{}
			e.request.Metadata = append(e.request.Metadata, prompb.MetricMetadata{
				Type:             metadataType(family.Type),
				MetricFamilyName: family.Name,
				Help:             family.Help,
				Unit:             family.Unit,
			})
		}
	}
}

// appendLabels writes the labels sorted by name, the metric name among them,
// as the protocol asks: an upper-case label stands before __name__.
func appendLabels(dst []prompb.Label, s *sample.Series) []prompb.Label {
	named := false
	for _, l := range s.Labels() {
		if !named && l.Name > nameLabel {
			dst = append(dst, prompb.Label{Name: nameLabel, Value: s.Name()})
			named = true
		}
		dst = append(dst, prompb.Label{Name: l.Name, Value: l.Value})
	}
	if !named {
		dst = append(dst, prompb.Label{Name: nameLabel, Value: s.Name()})
	}
	return dst
}

func metadataType(t sample.Type) prompb.MetricMetadata_MetricType {
	switch t {
	case sample.Counter:
		return prompb.MetricMetadata_COUNTER
	case sample.Gauge:
		return prompb.MetricMetadata_GAUGE
	case sample.Histogram:
		return prompb.MetricMetadata_HISTOGRAM
	case sample.GaugeHistogram:
		return prompb.MetricMetadata_GAUGEHISTOGRAM
	case sample.Summary:
		return prompb.MetricMetadata_SUMMARY
	case sample.Info:
		return prompb.MetricMetadata_INFO
	case sample.StateSet:
		return prompb.MetricMetadata_STATESET
	default:
		return prompb.MetricMetadata_UNKNOWN
	}
}
