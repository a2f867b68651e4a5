package wire

import (
	"encoding/binary"
	"math"
)

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
	var f field
	for at := 0; at < len(message); at = f.to {
		if err := f.read(message, at); err != nil {
			return err
		}
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// read takes the field that begins at a place in the message.
func (f *field) read(message []byte, at int) error {
	f.from, f.bytes = at, nil
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
	f.to = at + n
	return nil
}

// shape is the wire type that each field number of a message must have,
// plus 1; 0 for any.
type shape [8]int

func (s *shape) check(f *field) error {
	if f.number < len(s) && s[f.number] != 0 && s[f.number] != f.wire+1 {
		return malformed("field %d has wire type %d, want %d", f.number, f.wire, s[f.number]-1)
	}
	return nil
}

// checked is fields for a message whose known fields must have their shape.
func checked(message []byte, want *shape, fn func(field) error) error {
	return fields(message, func(f field) error {
		if err := want.check(&f); err != nil {
			return err
		}
		return fn(f)
	})
}

func nothing(field) error { return nil }

// short reads a number of one or two bytes, as nearly all lengths and field
// tags are; n is 0 for any other.
func short(b []byte) (v, n int) {
	switch {
	case len(b) > 0 && b[0] < 0x80:
		return int(b[0]), 1
	case len(b) > 1 && b[1] < 0x80:
		return int(b[0]&0x7f) | int(b[1])<<7, 2
	}
	return 0, 0
}

// onePoint reads the rest of a message, raw[from:to], that is one sample, its
// value (left out when it is 0) and its time in this order and no more, as every
// encoder writes it; and what follows it.
func onePoint(raw []byte, from, to int) (p Point, rest []byte, ok bool) {
	// 0x12 length 0x09 value(8) 0x10 time
	b := raw[from:to]
	if len(b) < 4 || b[0] != seriesSample<<3|wireBytes || b[1] >= 0x80 {
		return p, nil, false
	}
	end, time := 2+int(b[1]), 3
	if end > len(b) {
		return p, nil, false
	}
	if b[2] == sampleValue<<3|wire64 && end > 12 {
		p.V = math.Float64frombits(binary.LittleEndian.Uint64(b[3:]))
		time = 12
	}
	if b[time-1] != sampleTimestamp<<3|wireVarint || end <= time {
		return p, nil, false
	}
	if end == time+6 && from+time+8 <= len(raw) { // as all times from 2004 to 2109 are
		const more, all = 0x80_80_80_80_80, 0x80_80_80_80_80_80
		if x := binary.LittleEndian.Uint64(raw[from+time:]); x&all == more {
			p.T = int64(x&0x7f | x>>1&(0x7f<<7) | x>>2&(0x7f<<14) | x>>3&(0x7f<<21) | x>>4&(0x7f<<28) | x>>5&(0x7f<<35))
			return p, b[end:], true
		}
	}
	t, n := binary.Uvarint(b[time:end])
	p.T = int64(t)
	return p, b[end:], n > 0 && time+n == end
}
