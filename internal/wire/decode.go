package wire

import (
	"encoding/binary"
	"math"

	"github.com/golang/snappy"
)

// Field numbers of prometheus.WriteRequest and the messages in it.
const (
	requestTimeseries = 1
	requestMetadata   = 3

	seriesLabel     = 1
	seriesSample    = 2
	seriesExemplar  = 3
	seriesHistogram = 4

	labelName  = 1
	labelValue = 2

	sampleValue     = 1
	sampleTimestamp = 2

	metadataKind   = 1
	metadataFamily = 2
	metadataHelp   = 4
	metadataUnit   = 5
)

// Decoder takes bodies apart. The zero value is ready; it keeps its buffers
// and is used by one goroutine at a time.
type Decoder struct {
	Limits Limits

	raw    []byte
	series Series
	key    []byte // for labels that do not lie side by side
}

// Request is a decoded body that has passed its limits. It is borrowed from
// the decoder until its next Decode.
type Request struct {
	d       *Decoder
	limits  Limits
	raw     []byte
	Series  int // in the body
	Samples int // in the body
}

// Decode decompresses a body and walks over it once, without keeping or
// allocating anything for what it holds. It returns [ErrTooLarge] when a
// limit is passed, and that before memory is taken, and [ErrMalformed] when
// it is not snappy or not protobuf throughout.
func (d *Decoder) Decode(body []byte) (*Request, error) {
	limits := d.Limits.withDefaults()
	size, err := snappy.DecodedLen(body)
	if err != nil {
		return nil, malformed("not a snappy block: %v", err)
	}
	if size > limits.Decoded {
		return nil, tooLarge("%d bytes after decompression, at most %d are taken", size, limits.Decoded)
	}
	if cap(d.raw) < size {
		d.raw = make([]byte, size)
	}
	raw, err := snappy.Decode(d.raw[:cap(d.raw)], body)
	if err != nil {
		return nil, malformed("not a snappy block: %v", err)
	}
	r := &Request{d: d, limits: limits, raw: raw}
	if err := r.check(); err != nil {
		return nil, err
	}
	return r, nil
}

// check walks over every field that will be read later, so that the later
// walks cannot fail.
func (r *Request) check() error {
	return checked(r.raw, requestShape, func(f field) error {
		switch f.number {
		case requestTimeseries:
			if r.Series++; r.Series > r.limits.Series {
				return tooLarge("more than %d series", r.limits.Series)
			}
			return checked(f.bytes, seriesShape, func(f field) error {
				switch f.number {
				case seriesLabel:
					return checked(f.bytes, labelShape, nothing)
				case seriesSample:
					if r.Samples++; r.Samples > r.limits.Samples {
						return tooLarge("more than %d samples", r.limits.Samples)
					}
					return checked(f.bytes, sampleShape, nothing)
				}
				return nil
			})
		case requestMetadata:
			return checked(f.bytes, metadataShape, nothing)
		}
		return nil
	})
}

func nothing(field) error { return nil }

// shape is the wire type that each field number of a message must have,
// plus 1; 0 for any.
type shape [6]int

var (
	requestShape  = shape{requestTimeseries: wireBytes + 1, requestMetadata: wireBytes + 1}
	seriesShape   = shape{seriesLabel: wireBytes + 1, seriesSample: wireBytes + 1, seriesExemplar: wireBytes + 1, seriesHistogram: wireBytes + 1}
	labelShape    = shape{labelName: wireBytes + 1, labelValue: wireBytes + 1}
	sampleShape   = shape{sampleValue: wire64 + 1, sampleTimestamp: wireVarint + 1}
	metadataShape = shape{metadataKind: wireVarint + 1, metadataFamily: wireBytes + 1, metadataHelp: wireBytes + 1, metadataUnit: wireBytes + 1}
)

// checked is fields for a message whose known fields must have their shape.
func checked(message []byte, want shape, fn func(field) error) error {
	return fields(message, func(f field) error {
		if f.number < len(want) && want[f.number] != 0 && want[f.number] != f.wire+1 {
			return malformed("field %d has wire type %d, want %d", f.number, f.wire, want[f.number]-1)
		}
		return fn(f)
	})
}

// EachMetadata calls fn for every metadata entry of the body.
func (r *Request) EachMetadata(fn func(Metadata)) {
	_ = fields(r.raw, func(f field) error {
		if !f.is(requestMetadata) {
			return nil
		}
		var m Metadata
		_ = fields(f.bytes, func(f field) error {
			switch {
			case f.number == metadataKind && f.wire == wireVarint:
				m.Type = Type(f.value)
			case f.is(metadataFamily):
				m.Family = f.bytes
			case f.is(metadataHelp):
				m.Help = f.bytes
			case f.is(metadataUnit):
				m.Unit = f.bytes
			}
			return nil
		})
		fn(m)
		return nil
	})
}

// EachSeries calls fn for every series of the body, in its order.
func (r *Request) EachSeries(fn func(*Series)) {
	_ = fields(r.raw, func(f field) error {
		if f.is(requestTimeseries) {
			r.d.read(f.bytes, r.limits.Labels)
			fn(&r.d.series)
		}
		return nil
	})
}

func (d *Decoder) read(message []byte, maxLabels int) {
	s := &d.series
	*s = Series{Labels: s.Labels[:0], Points: s.Points[:0]}
	d.key = d.key[:0]
	keyFrom, keyTo, scattered := -1, 0, false
	_ = fields(message, func(f field) error {
		switch {
		case f.is(seriesLabel):
			switch {
			case keyFrom < 0:
				keyFrom = f.from
			case keyTo != f.from && !scattered:
				scattered = true
				d.key = append(d.key, message[keyFrom:keyTo]...)
			}
			keyTo = f.to
			if scattered {
				d.key = append(d.key, message[f.from:f.to]...)
			}
			if len(s.Labels) == maxLabels {
				s.Overfull = true
				return nil
			}
			s.Labels = append(s.Labels, readLabel(f.bytes))
		case f.is(seriesSample):
			s.Points = append(s.Points, readPoint(f.bytes))
		case f.is(seriesHistogram):
			s.Histograms++
		}
		return nil
	})
	switch {
	case scattered:
		s.Key = d.key
	case keyFrom >= 0:
		s.Key = message[keyFrom:keyTo]
	}
}

func readLabel(message []byte) (l Label) {
	_ = fields(message, func(f field) error {
		switch {
		case f.is(labelName):
			l.Name = f.bytes
		case f.is(labelValue):
			l.Value = f.bytes
		}
		return nil
	})
	return l
}

func readPoint(message []byte) (p Point) {
	_ = fields(message, func(f field) error {
		switch {
		case f.number == sampleValue && f.wire == wire64:
			p.V = math.Float64frombits(f.value)
		case f.number == sampleTimestamp && f.wire == wireVarint:
			p.T = int64(f.value)
		}
		return nil
	})
	return p
}

// Wire types of the protobuf encoding
// (https://protobuf.dev/programming-guides/encoding/).
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// field is one field of a message: value for numbers, bytes for what has a
// length; from and to are its place in the message, tag included.
type field struct {
	number   int
	wire     int
	value    uint64
	bytes    []byte
	from, to int
}

func (f *field) is(number int) bool { return f.number == number && f.wire == wireBytes }

// fields calls fn for each field of a message until fn returns an error.
func fields(message []byte, fn func(field) error) error {
	for at := 0; at < len(message); {
		f := field{from: at}
		tag, n := binary.Uvarint(message[at:])
		if n <= 0 || tag>>3 == 0 || tag>>3 > math.MaxInt32>>2 {
			return malformed("bad field tag at byte %d of a message", at)
		}
		at += n
		f.number, f.wire = int(tag>>3), int(tag&7)
		switch f.wire {
		case wireVarint:
			if f.value, n = binary.Uvarint(message[at:]); n <= 0 {
				return malformed("bad number in field %d", f.number)
			}
		case wire64:
			if n = 8; len(message)-at < n {
				return malformed("field %d is cut off", f.number)
			}
			f.value = binary.LittleEndian.Uint64(message[at:])
		case wire32:
			if n = 4; len(message)-at < n {
				return malformed("field %d is cut off", f.number)
			}
			f.value = uint64(binary.LittleEndian.Uint32(message[at:]))
		case wireBytes:
			size, m := binary.Uvarint(message[at:])
			if m <= 0 || size > uint64(len(message)-at-m) {
				return malformed("field %d is cut off", f.number)
			}
			f.bytes = message[at+m : at+m+int(size)]
			n = m + int(size)
		default:
			return malformed("field %d has wire type %d", f.number, f.wire)
		}
		at += n
		f.to = at
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}
