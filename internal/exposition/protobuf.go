package exposition

import (
	"encoding/binary"
	"hash/maphash"
	"io"
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
	pieces
	family []byte // the message under way
	metric []byte // the one under way
	name   string // of the family under way

	sets  [rememberedSets]encodedSet
	arena []byte
	own   []byte // labels that found no place in the arena
}

// encodedSet is where in the arena a set of labels stands: families mostly
// have the same sets.
type encodedSet struct {
	labels   *sample.Labels
	from, to int32
}

const (
	rememberedSets = 1 << 13
	maxArena       = 2 << 20
)

func (p *protobuf) begin(w io.Writer) {
	p.pieces.begin(w)
	clear(p.sets[:])
	p.arena, p.family, p.name = p.arena[:0], p.family[:0], ""
}

func (p *protobuf) points(points []sample.Point, timed bool) {
	var series *sample.Series
	var labels []byte
	var tag byte
	for i := range points {
		point := &points[i]
		if point.Series != series {
			series = point.Series
			if series.Name() != p.name {
				if p.end(); p.err != nil {
					return
				}
				p.name = series.Name()
				tag = p.head(series)
			}
			labels = p.labels(series.Labels())
		}
		p.metric = append(p.metric[:0], tag, 9, value)
		p.metric = binary.LittleEndian.AppendUint64(p.metric, math.Float64bits(point.V))
		if timed {
			p.metric = append(p.metric, metricTimestamp)
			p.metric = binary.AppendUvarint(p.metric, uint64(point.T))
		}
		p.family = append(p.family, familyMetric)
		p.family = binary.AppendUvarint(p.family, uint64(len(labels)+len(p.metric)))
		p.family = append(p.family, labels...)
		p.family = append(p.family, p.metric...)
	}
}

// labels are those of a series as they stand in each of its metrics.
func (p *protobuf) labels(of *sample.Labels) []byte {
	at := &p.sets[maphash.Comparable(setSeed, of)%rememberedSets]
	if at.labels == of {
		return p.arena[at.from:at.to]
	}
	if len(p.arena) > maxArena {
		p.own = appendLabels(p.own[:0], of)
		return p.own
	}
	from := len(p.arena)
	p.arena = appendLabels(p.arena, of)
	*at = encodedSet{of, int32(from), int32(len(p.arena))}
	return p.arena[from:]
}

var setSeed = maphash.MakeSeed()

func appendLabels(b []byte, of *sample.Labels) []byte {
	for name, value := range of.Each {
		size := 2 + sizeVarint(len(name)) + len(name) + sizeVarint(len(value)) + len(value)
		b = append(b, metricLabel)
		b = binary.AppendUvarint(b, uint64(size))
		b = appendString(b, labelName, name)
		b = appendString(b, labelValue, value)
	}
	return b
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
	p.b = binary.AppendUvarint(p.b, uint64(len(p.family)))
	if len(p.b)+len(p.family) < pieceSize {
		p.b = append(p.b, p.family...)
	} else {
		p.spill()
		p.write(p.family)
	}
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
