package wire

import (
	"encoding/binary"
	"errors"

	"github.com/golang/snappy"
)

// ErrIndivisible is what [Split] returns for a body that holds no more than
// one sample.
var ErrIndivisible = errors.New("body can not be divided further")

// Part is one of the bodies that a body was divided into.
type Part struct {
	Body    []byte
	Samples int
}

// maxSplit bounds what Split decompresses. A spool takes no larger bodies.
const maxSplit = 64 << 20

// Split divides a body into two of about half the series each, in their
// order; a body of one series into two of its samples, or, when it has one
// sample, into its metadata and that. Metadata goes with the first. It returns
// [ErrIndivisible] or [ErrMalformed] when there is nothing to divide. The parts
// of a body of version 2 are of version 1.
func Split(body []byte) (first, second Part, err error) {
	if VersionOf(body) == V2 {
		if body, err = Downgrade(body); err != nil {
			return first, second, err
		}
	}
	switch size, err := snappy.DecodedLen(body); {
	case err != nil:
		return first, second, malformed("not a snappy block: %v", err)
	case size > maxSplit:
		return first, second, tooLarge("%d bytes after decompression", size)
	}
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		return first, second, malformed("not a snappy block: %v", err)
	}
	var series, rest []field
	if err := fields(raw, func(f field) error {
		if f.is(requestTimeseries) {
			series = append(series, f)
		} else {
			rest = append(rest, f)
		}
		return nil
	}); err != nil {
		return first, second, err
	}
	var before, after []byte
	for _, f := range rest {
		before = append(before, raw[f.from:f.to]...)
	}
	switch {
	case len(series) > 1:
		for i, f := range series {
			if i < len(series)/2 {
				before = append(before, raw[f.from:f.to]...)
			} else {
				after = append(after, raw[f.from:f.to]...)
			}
		}
	case len(series) == 0:
		return first, second, ErrIndivisible
	default:
		one, other, err := splitSeries(series[0].bytes)
		switch {
		case err == nil:
			before = appendMessage(before, requestTimeseries, one)
			after = appendMessage(nil, requestTimeseries, other)
		case errors.Is(err, ErrIndivisible) && len(rest) > 0:
			after = raw[series[0].from:series[0].to]
		default:
			return first, second, err
		}
	}
	if first, err = pack(before); err == nil {
		second, err = pack(after)
	}
	return first, second, err
}

// splitSeries divides the samples of one series. What is neither label nor
// sample goes with the first.
func splitSeries(message []byte) (one, other []byte, err error) {
	samples := 0
	if err := fields(message, func(f field) error {
		if f.is(seriesSample) {
			samples++
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	if samples < 2 {
		return nil, nil, ErrIndivisible
	}
	seen := 0
	err = fields(message, func(f field) error {
		bytes := message[f.from:f.to]
		switch {
		case f.is(seriesLabel):
			one, other = append(one, bytes...), append(other, bytes...)
		case f.is(seriesSample):
			if seen++; seen <= samples/2 {
				one = append(one, bytes...)
			} else {
				other = append(other, bytes...)
			}
		default:
			one = append(one, bytes...)
		}
		return nil
	})
	return one, other, err
}

func appendMessage(to []byte, number int, message []byte) []byte {
	to = binary.AppendUvarint(to, uint64(number)<<3|wireBytes)
	to = binary.AppendUvarint(to, uint64(len(message)))
	return append(to, message...)
}

func pack(raw []byte) (p Part, err error) {
	r := Request{d: new(Decoder), raw: raw, limits: Limits{Series: len(raw), Samples: len(raw)}}
	if err := r.walk1(); err != nil {
		return p, err
	}
	return Part{Body: snappy.Encode(nil, raw), Samples: r.Samples}, nil
}
