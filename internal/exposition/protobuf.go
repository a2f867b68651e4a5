package exposition

import (
	"encoding/binary"
	"math"

	"fanin/internal/sample"
)

// The messages of
// https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto,
// as tags: field number times eight plus wire type.
const (
	familyName   = 1<<3 | 2
	familyHelp   = 2<<3 | 2
	familyType   = 3 << 3
	familyMetric = 4<<3 | 2

	metricLabel     = 1<<3 | 2
	metricGauge     = 2<<3 | 2
	metricCounter   = 3<<3 | 2
	metricUntyped   = 5<<3 | 2
	metricTimestamp = 6 << 3

	labelName  = 1<<3 | 2
	labelValue = 2<<3 | 2

	value = 1<<3 | 1 // of a gauge, a counter and an untyped one alike

	protoCounter = 0
	protoGauge   = 1
	protoUntyped = 3
)

// protobuf writes delimited messages of io.prometheus.client.MetricFamily. A
// series with several points is several metrics with the same labels. The
// parts of a histogram or summary come without the whole that the message
// wants, so each is an untyped family of its own name; Prometheus stores the
// same series either way.
type protobuf struct {
	page   []byte
	family []byte // the message under way
	metric []byte // the one under way
	labels []byte // of the series under way
	name   string // of the family under way
}

func (p *protobuf) points(points []sample.Point, timed bool) {
	var series *sample.Series
	var tag byte
	for _, point := range points {
		if point.Series != series {
			series = point.Series
			if series.Name() != p.name {
				p.end()
				p.name = series.Name()
				tag = p.head(series)
			}
			labels := p.labels[:0]
			for name, value := range series.Each {
				size := 2 + sizeVarint(len(name)) + len(name) + sizeVarint(len(value)) + len(value)
				labels = append(labels, metricLabel)
				labels = binary.AppendUvarint(labels, uint64(size))
				labels = appendString(labels, labelName, name)
				labels = appendString(labels, labelValue, value)
			}
			p.labels = labels
		}
		p.metric = append(p.metric[:0], tag, 9, value)
		p.metric = binary.LittleEndian.AppendUint64(p.metric, math.Float64bits(point.V))
		if timed {
			p.metric = append(p.metric, metricTimestamp)
			p.metric = binary.AppendUvarint(p.metric, uint64(point.T))
		}
		p.family = append(p.family, familyMetric)
		p.family = binary.AppendUvarint(p.family, uint64(len(p.labels)+len(p.metric)))
		p.family = append(p.family, p.labels...)
		p.family = append(p.family, p.metric...)
	}
}

// head begins a family; tag is that of its values.
func (p *protobuf) head(s *sample.Series) (tag byte) {
	kind, tag := protoType(s)
	p.family = appendString(p.family, familyName, s.Name())
	if f := s.Family(); f.Help != "" {
		p.family = appendString(p.family, familyHelp, f.Help)
	}
	p.family = append(p.family, familyType)
	p.family = binary.AppendUvarint(p.family, kind)
	return tag
}

// end closes the family under way.
func (p *protobuf) end() {
	if p.name == "" {
		return
	}
	p.page = binary.AppendUvarint(p.page, uint64(len(p.family)))
	p.page = append(p.page, p.family...)
	p.family, p.name = p.family[:0], ""
}

func protoType(s *sample.Series) (kind uint64, tag byte) {
	switch f := s.Family(); f.Type {
	case sample.Counter:
		return protoCounter, metricCounter
	case sample.Gauge, sample.Info, sample.StateSet:
		return protoGauge, metricGauge
	default:
		return protoUntyped, metricUntyped
	}
}

func appendString(b []byte, tag byte, s string) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func sizeVarint(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
