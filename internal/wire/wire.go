// Package wire owns the remote-write protocol: the bytes of a body, both
// ways. It knows nothing of HTTP, of who sends, or of what series mean.
//
// Bodies are those of Prometheus Remote-Write 1.0 and 2.0, messages in
// protobuf, compressed as one snappy block
// (https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/).
package wire

import (
	"errors"
	"fmt"
)

// Version is that of the protocol: what a body is a message of.
type Version uint8

// The versions.
const (
	V1 Version = iota // prometheus.WriteRequest
	V2                // io.prometheus.write.v2.Request
)

// Headers of a body.
const (
	MediaType       = "application/x-protobuf"
	ContentEncoding = "snappy"

	proto1 = "prometheus.WriteRequest"
	proto2 = "io.prometheus.write.v2.Request"
)

// ContentType is what Content-Type says of a body.
func (v Version) ContentType() string {
	if v == V2 {
		return MediaType + ";proto=" + proto2
	}
	return MediaType
}

// String is what X-Prometheus-Remote-Write-Version says.
func (v Version) String() string {
	if v == V2 {
		return "2.0.0"
	}
	return "0.1.0"
}

// ParseProto finds the version by the proto parameter of a Content-Type; ""
// is version 1.
func ParseProto(proto string) (v Version, ok bool) {
	switch proto {
	case "", proto1:
		return V1, true
	case proto2:
		return V2, true
	}
	return V1, false
}

// Errors of [Decoder.Decode]. A body over a limit can be sent again in parts;
// a malformed one never becomes right.
var (
	ErrTooLarge  = errors.New("body exceeds a limit")
	ErrMalformed = errors.New("body is malformed")
)

// Limits bound what one body may hold. A zero field means the default.
type Limits struct {
	Decoded int // bytes after decompression, 8 MiB, at most 1 GiB
	Series  int // per body, 10,000
	Samples int // per body, 20,000
	Labels  int // per series, 30; a series with more is lent with Overfull set
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Decoded, 8<<20)
	l.Decoded = min(l.Decoded, 1<<30)
	def(&l.Series, 10_000)
	def(&l.Samples, 20_000)
	def(&l.Labels, 30)
	return l
}

// Label is a name and a value as they stand in the body.
type Label struct{ Name, Value []byte }

// Point is one sample: T in milliseconds since 1970.
type Point struct {
	T int64
	V float64
}

// Series is a claim: what a sender says, unchecked. Everything in it is
// borrowed from the decoder and valid only inside the callback that lends it.
type Series struct {
	// ID is the series' number in the sender's [Memory], where equal labels in
	// the same order have the same one, or -1 when it is not remembered.
	ID         int
	Points     []Point
	Histograms int // native histograms in the series, which are not decoded

	r        *Request
	at       *lent
	labels   []Label
	labelled bool // labels have been read
	overfull bool
}

// Metadata is what a sender says of a metric family. It is borrowed like a
// Series.
type Metadata struct {
	Family, Help, Unit []byte
	Type               Type
}

// Type is prometheus.MetricMetadata.MetricType.
type Type int32

// The values of the enumeration in the protocol.
const (
	Unknown Type = iota
	Counter
	Gauge
	Histogram
	GaugeHistogram
	Summary
	Info
	StateSet
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func tooLarge(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrTooLarge, fmt.Sprintf(format, args...))
}
