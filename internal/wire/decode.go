package wire

import (
	"bytes"
	"math"
	"slices"

	"github.com/golang/snappy"
)

// Decoder takes bodies apart. The zero value is ready; it keeps its buffers
// and is used by one goroutine at a time.
type Decoder struct {
	Limits Limits

	raw      []byte
	lent     []lent
	metadata []span // of version 1
	symbols  [][]byte
	refs     []uint32
	series   Series
}

type span struct{ from, to int }

// lent is a series of a body that has been checked.
type lent struct {
	id       int32 // in the memory, none when it is not known
	from, to int32 // of the message
	single   bool  // it came where it was expected, with point and nothing else beside its labels
	point    Point
}

// lend notes a series that came where it was expected. Fields are set one by
// one, as a value that is put together elsewhere and then copied takes the
// processor longer than all the rest.
func (d *Decoder) lend(id int32, from, to int, p Point) {
	n := len(d.lent)
	if n == cap(d.lent) {
		d.lent = slices.Grow(d.lent, max(256, n))
	}
	d.lent = d.lent[:n+1]
	l := &d.lent[n]
	l.id, l.from, l.to, l.single = id, int32(from), int32(to), true
	l.point.T, l.point.V = p.T, p.V
}

// Request is a decoded body that has passed its limits. It is borrowed from
// the decoder until its next Decode.
type Request struct {
	d       *Decoder
	m       *Memory // nil: nothing is remembered
	version Version
	limits  Limits
	raw     []byte

	// Of version 2: how many symbols there are, where they end, and whether
	// they have been taken apart.
	symbols    int
	symbolsEnd int
	listed     bool

	Series  int // in the body
	Samples int // in the body
}

// Decode decompresses a body and walks over it once, without keeping or
// allocating anything for what it holds. It returns [ErrTooLarge] when a
// limit is passed, and that before memory is taken, and [ErrMalformed] when
// it is not snappy or not protobuf throughout. The version of the body is the
// memory's; nil is version 1 without a memory.
func (d *Decoder) Decode(body []byte, m *Memory) (*Request, error) {
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
	if m != nil {
		r.version = m.Version
		if m.Max > 0 {
			r.m = m
		}
	}
	d.lent, d.metadata = d.lent[:0], d.metadata[:0]
	if r.version == V2 {
		err = r.walk2()
	} else {
		err = r.walk1()
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// count notes one more series with so many samples.
func (r *Request) count(samples int) error {
	if r.Series++; r.Series > r.limits.Series {
		return tooLarge("more than %d series", r.limits.Series)
	}
	if r.Samples += samples; r.Samples > r.limits.Samples {
		return tooLarge("more than %d samples", r.limits.Samples)
	}
	return nil
}

// EachSeries calls fn for every series of the body, in its order.
func (r *Request) EachSeries(fn func(*Series)) {
	r.Each(func(int, Point) bool { return false }, fn)
}

// Each is EachSeries with a short way for those that are nearly all: of a series
// that is known by its ID, and has one point and nothing else, plain may take
// that point. If it returns false, fn is called for the series.
func (r *Request) Each(plain func(id int, p Point) bool, fn func(*Series)) {
	d, m := r.d, r.m
	s := &d.series
	s.r = r
	last := int32(none)
	if m != nil {
		last = m.at
	}
	for i := range d.lent {
		l := &d.lent[i]
		if l.single { // it came where it was expected
			last = l.id
			if plain(int(l.id), l.point) {
				continue
			}
		}
		s.at, s.labelled, s.Histograms = l, false, 0
		s.ID = int(l.id)
		if l.single {
			s.Points = append(s.Points[:0], l.point)
			fn(s)
			continue
		}
		if m != nil {
			if s.ID < 0 {
				s.ID = int(r.learn(s.message()))
			}
			if s.ID >= 0 {
				m.came(last, int32(s.ID))
				last = int32(s.ID)
			}
		}
		s.Points = s.Points[:0]
		s.read()
		fn(s)
	}
	if m != nil {
		m.at = last
	}
}

func (r *Request) learn(message []byte) int32 {
	labels, metadata := r.key(message)
	id := r.m.find(labels, metadata)
	if id < 0 {
		id = r.m.learn(labels, metadata)
	}
	return id
}

func (s *Series) message() []byte { return s.r.raw[s.at.from:s.at.to] }

func (s *Series) read() {
	_ = fields(s.message(), func(f field) error {
		switch {
		case f.is(seriesSample):
			s.Points = append(s.Points, readPoint(f.bytes))
		case f.number == s.r.histograms() && f.wire == wireBytes:
			s.Histograms++
		}
		return nil
	})
}

func (r *Request) histograms() int {
	if r.version == V2 {
		return series2Histogram
	}
	return seriesHistogram
}

// Labels are the labels as sent, the metric name (__name__) among them;
// overfull: there were more than the limit, and the rest is left out.
func (s *Series) Labels() (labels []Label, overfull bool) {
	if !s.labelled {
		s.labelled, s.labels, s.overfull = true, s.labels[:0], false
		if s.r.version == V2 {
			s.labels2()
		} else {
			s.labels1()
		}
	}
	return s.labels, s.overfull
}

func (s *Series) addLabel(l Label) {
	if len(s.labels) == s.r.limits.Labels {
		s.overfull = true
		return
	}
	s.labels = append(s.labels, l)
}

// familyOf is the name of the family that a series of this name and type
// belongs to.
func familyOf(name []byte, t Type) []byte {
	var suffixes []string
	switch t {
	case Histogram, GaugeHistogram:
		suffixes = []string{"_bucket", "_count", "_sum"}
	case Summary:
		suffixes = []string{"_count", "_sum"}
	}
	for _, suffix := range suffixes {
		if base, has := bytes.CutSuffix(name, []byte(suffix)); has && len(base) > 0 {
			return base
		}
	}
	return name
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
