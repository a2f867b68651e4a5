package wire

import (
	"encoding/binary"
	"math"

	"github.com/golang/snappy"

	"fanin/internal/sample"
)

// Encoder makes bodies of version 2. The zero value is ready; it keeps its
// buffers and is used by one goroutine at a time.
//
// Its table of symbols only grows, from body to body, so that a receiver that
// remembers knows the series by their numbers; and each body holds the whole
// table, so that one that does not can read it too. When most of the series it
// was made for are gone, the table is made anew.
type Encoder struct {
	numbers map[string]uint32
	table   []byte // the symbols as they stand in a body

	known map[*sample.Series]*prepared
	last  *prepared // of the body before: what came after it is a good guess
	tick  uint32
	swept uint32
	gone  int // series that the table was made for, too

	batch  []*prepared
	raw    []byte
	packed []byte
}

// prepared is the bytes of a series in front of and behind its sample.
type prepared struct {
	series     *sample.Series
	head, tail []byte
	next       *prepared
	used       uint32 // tick
}

const nameLabel = "__name__"

const (
	sweepTicks  = 64  // how often series that are gone are looked for
	forgetTicks = 256 // how long one is away before it is
)

// Append appends one body with all points, in their order, and the metadata of
// each, and returns the longer dst. Each body stands for itself: a receiver
// that has seen no other can read it.
func (e *Encoder) Append(dst []byte, points []sample.Point) []byte {
	if e.tick++; e.tick-e.swept >= sweepTicks {
		e.sweep()
	}
	if e.numbers == nil {
		e.begin()
	}
	e.batch = e.batch[:0]
	for _, p := range points {
		e.batch = append(e.batch, e.prepare(p.Series))
	}
	raw := append(e.raw[:0], e.table...)
	for i, p := range points {
		s := e.batch[i]
		raw = append(raw, request2Timeseries<<3|wireBytes)
		time := uint64(p.T)
		sampleSize := 10 + uvarintSize(time)
		raw = binary.AppendUvarint(raw, uint64(len(s.head)+2+sampleSize+len(s.tail)))
		raw = append(raw, s.head...)
		raw = append(raw, series2Sample<<3|wireBytes, byte(sampleSize), sampleValue<<3|wire64)
		raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(p.V))
		raw = append(raw, sampleTimestamp<<3|wireVarint)
		raw = binary.AppendUvarint(raw, time)
		raw = append(raw, s.tail...)
	}
	e.raw = raw
	e.packed = snappy.Encode(e.packed[:cap(e.packed)], raw)
	return append(dst, e.packed...)
}

func uvarintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func (e *Encoder) begin() {
	e.numbers, e.known = map[string]uint32{}, map[*sample.Series]*prepared{}
	e.table, e.last, e.gone = e.table[:0], nil, 0
	e.symbol("") // which the protocol wants first
}

func (e *Encoder) symbol(s string) uint64 {
	n, known := e.numbers[s]
	if !known {
		n = uint32(len(e.numbers))
		e.numbers[s] = n
		e.table = append(e.table, request2Symbols<<3|wireBytes)
		e.table = binary.AppendUvarint(e.table, uint64(len(s)))
		e.table = append(e.table, s...)
	}
	return uint64(n)
}

func (e *Encoder) prepare(series *sample.Series) *prepared {
	var s *prepared
	if e.last != nil {
		s = e.last.next
	}
	if s == nil || s.series != series {
		if s = e.known[series]; s == nil {
			s = e.add(series)
		}
		if e.last != nil {
			e.last.next = s
		}
	}
	e.last, s.used = s, e.tick
	return s
}

func (e *Encoder) add(series *sample.Series) *prepared {
	var refs, metadata []byte
	label := func(name, value string) {
		refs = binary.AppendUvarint(refs, e.symbol(name))
		refs = binary.AppendUvarint(refs, e.symbol(value))
	}
	// Sorted by name, the metric name among them: an upper-case label stands
	// before __name__.
	named := false
	for _, l := range series.Labels().All() {
		if !named && l.Name > nameLabel {
			label(nameLabel, series.Name())
			named = true
		}
		label(l.Name, l.Value)
	}
	if !named {
		label(nameLabel, series.Name())
	}
	family := series.Family()
	if t := typeOf(family.Type); t != Unknown {
		metadata = append(metadata, metadata2Kind<<3|wireVarint, byte(t))
	}
	if family.Help != "" {
		metadata = append(metadata, metadata2Help<<3|wireVarint)
		metadata = binary.AppendUvarint(metadata, e.symbol(family.Help))
	}
	if family.Unit != "" {
		metadata = append(metadata, metadata2Unit<<3|wireVarint)
		metadata = binary.AppendUvarint(metadata, e.symbol(family.Unit))
	}
	s := &prepared{series: series, head: appendMessage(nil, series2Refs, refs)}
	if len(metadata) > 0 {
		s.tail = appendMessage(nil, series2Metadata, metadata)
	}
	e.known[series] = s
	return s
}

// sweep lets go of series that are gone, and of a table that was made for
// more of them than there are.
func (e *Encoder) sweep() {
	e.swept = e.tick
	for series, s := range e.known {
		if e.tick-s.used > forgetTicks {
			delete(e.known, series)
			e.gone++
		}
	}
	for _, s := range e.known {
		if s.next != nil && e.known[s.next.series] != s.next {
			s.next = nil
		}
	}
	if e.gone > len(e.known) {
		e.numbers = nil
	}
}

func typeOf(t sample.Type) Type {
	switch t {
	case sample.Counter:
		return Counter
	case sample.Gauge:
		return Gauge
	case sample.Histogram:
		return Histogram
	case sample.GaugeHistogram:
		return GaugeHistogram
	case sample.Summary:
		return Summary
	case sample.Info:
		return Info
	case sample.StateSet:
		return StateSet
	default:
		return Unknown
	}
}
