// Package wire owns the remote-write protocol: the bytes of a body, both
// ways. It knows nothing of HTTP, of who sends, or of what series mean.
//
// Bodies are those of Prometheus Remote-Write 1.0: a prometheus.WriteRequest
// in protobuf, compressed as one snappy block.
package wire

import (
	"errors"
	"fmt"
)

// Headers of a body in remote-write 1.0.
const (
	ContentType     = "application/x-protobuf"
	ContentEncoding = "snappy"
	Version         = "0.1.0" // X-Prometheus-Remote-Write-Version
)

// Errors of [Decoder.Decode]. A body over a limit can be sent again in parts;
// a malformed one never becomes right.
var (
	ErrTooLarge  = errors.New("body exceeds a limit")
	ErrMalformed = errors.New("body is malformed")
)

// Limits bound what one body may hold. A zero field means the default.
type Limits struct {
	Decoded int // bytes after decompression, 8 MiB
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
	// Key is the encoded labels, one after the other: equal keys mean equal
	// labels in the same order.
	Key        []byte
	Labels     []Label // as sent, the metric name (__name__) among them
	Overfull   bool    // there were more labels than the limit; the rest is not in Labels
	Points     []Point
	Histograms int // native histograms in the series, which are not decoded
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
