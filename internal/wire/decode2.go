package wire

import (
	"bytes"
	"encoding/binary"
)

// Field numbers of io.prometheus.write.v2.Request and the messages in it.
const (
	request2Symbols    = 4
	request2Timeseries = 5

	series2Refs      = 1
	series2Sample    = 2
	series2Histogram = 3
	series2Exemplar  = 4
	series2Metadata  = 5

	sample2Start = 3

	metadata2Kind = 1
	metadata2Help = 3
	metadata2Unit = 4
)

var (
	request2Shape  = shape{request2Symbols: wireBytes + 1, request2Timeseries: wireBytes + 1}
	series2Shape   = shape{series2Sample: wireBytes + 1, series2Histogram: wireBytes + 1, series2Exemplar: wireBytes + 1, series2Metadata: wireBytes + 1}
	sample2Shape   = shape{sampleValue: wire64 + 1, sampleTimestamp: wireVarint + 1, sample2Start: wireVarint + 1}
	metadata2Shape = shape{metadata2Kind: wireVarint + 1, metadata2Help: wireVarint + 1, metadata2Unit: wireVarint + 1}
)

// walk2 checks every field that will be read later. Series are known again by
// the numbers of their symbols, for as long as the sender's table of symbols
// only grows.
func (r *Request) walk2() error {
	if err := r.table(); err != nil {
		return err
	}
	return r.walkSeries2()
}

func (r *Request) walkSeries2() error {
	d, m, raw := r.d, r.m, r.raw
	last := int32(none)
	if m != nil {
		last = m.at
	}
	var f field
	for at := r.symbolsEnd; at < len(raw); at = f.to {
		if raw[at] == request2Timeseries<<3|wireBytes {
			if size, n := short(raw[at+1:]); n > 0 && size <= len(raw)-at-1-n {
				from, to := at+1+n, at+1+n+size
				if id, head := m.guess(last); head > 0 && head <= size {
					if p, tail, ok := onePoint(raw, from+head, to); ok && m.is(id, raw[from:from+head], tail) {
						if err := r.count(1); err != nil {
							return err
						}
						d.lend(id, from, to, p)
						last, f.to = id, to
						continue
					}
				}
			}
		}
		if err := f.read(raw, at); err != nil {
			return err
		}
		if err := request2Shape.check(&f); err != nil {
			return err
		}
		switch {
		case f.number < request2Symbols:
			return malformed("field %d belongs to another version", f.number) // they are reserved
		case f.number == request2Symbols && !r.listed:
			return r.walkScattered2()
		case f.number != request2Timeseries:
			continue
		}
		l := lent{id: none, from: int32(f.to - len(f.bytes)), to: int32(f.to)}
		if err := r.check2(f.bytes); err != nil {
			return err
		}
		if m != nil {
			if l.id = m.find(r.key(f.bytes)); l.id >= 0 {
				last = l.id
			}
		}
		d.lent = append(d.lent, l)
	}
	return nil
}

// table finds the symbols, which stand before the series.
func (r *Request) table() error {
	m, raw := r.m, r.raw
	at := 0
	if m != nil && len(m.symbols) > 0 && bytes.HasPrefix(raw, m.symbols) {
		at, r.symbols = len(m.symbols), m.count
	}
	var f field
	for at < len(raw) && raw[at] == request2Symbols<<3|wireBytes {
		if err := f.read(raw, at); err != nil {
			return err
		}
		if r.symbols++; r.symbols > r.maxSymbols() {
			return tooLarge("more than %d symbols", r.maxSymbols())
		}
		at = f.to
	}
	r.symbolsEnd = at
	switch {
	case len(raw) > 0 && r.symbols == 0:
		r.m = nil // there may be some later
		return nil
	case len(raw) > 0 && raw[1] != 0:
		return malformed("the table of symbols does not begin with an empty one")
	}
	if m == nil {
		return nil
	}
	if !bytes.HasPrefix(raw[:r.symbolsEnd], m.symbols) {
		m.reset()
	}
	if string(m.symbols) != string(raw[:r.symbolsEnd]) {
		m.symbols = append(m.symbols[:0], raw[:r.symbolsEnd]...)
	}
	m.count = r.symbols
	return nil
}

func (r *Request) maxSymbols() int { return 10*r.limits.Series + 1000 }

// walkScattered2 walks over a body whose symbols stand all over it, which
// protobuf allows; nothing of it is remembered.
func (r *Request) walkScattered2() error {
	d := r.d
	r.m, r.symbols, r.symbolsEnd, r.listed = nil, 0, 0, true
	r.Series, r.Samples = 0, 0
	d.symbols, d.lent = d.symbols[:0], d.lent[:0]
	if err := fields(r.raw, func(f field) error {
		if f.is(request2Symbols) {
			if r.symbols++; r.symbols > r.maxSymbols() {
				return tooLarge("more than %d symbols", r.maxSymbols())
			}
			d.symbols = append(d.symbols, f.bytes)
		}
		return nil
	}); err != nil {
		return err
	}
	if len(d.symbols[0]) > 0 {
		return malformed("the table of symbols does not begin with an empty one")
	}
	return r.walkSeries2()
}

// symbol is the one of this number, which has been checked.
func (r *Request) symbol(ref uint32) []byte {
	if !r.listed {
		r.listed = true
		r.d.symbols = r.d.symbols[:0]
		_ = fields(r.raw[:r.symbolsEnd], func(f field) error {
			r.d.symbols = append(r.d.symbols, f.bytes)
			return nil
		})
	}
	return r.d.symbols[ref]
}

func (r *Request) check2(message []byte) error {
	samples, refs := 0, 0
	if err := checked(message, &series2Shape, func(f field) error {
		switch f.number {
		case series2Refs:
			return r.checkRefs(f, &refs)
		case series2Sample:
			samples++
			return checked(f.bytes, &sample2Shape, nothing)
		case series2Metadata:
			return checked(f.bytes, &metadata2Shape, func(f field) error {
				if (f.number == metadata2Help || f.number == metadata2Unit) && f.value >= uint64(r.symbols) {
					return malformed("symbol %d of %d", f.value, r.symbols)
				}
				return nil
			})
		}
		return nil
	}); err != nil {
		return err
	}
	if refs%2 != 0 {
		return malformed("a label without a value")
	}
	return r.count(samples)
}

// checkRefs takes numbers in both forms that protobuf has: packed, and one by
// one.
func (r *Request) checkRefs(f field, count *int) error {
	in := func(v uint64) error {
		*count++
		if v >= uint64(r.symbols) {
			return malformed("symbol %d of %d", v, r.symbols)
		}
		return nil
	}
	switch f.wire {
	case wireVarint:
		return in(f.value)
	case wireBytes:
		for b := f.bytes; len(b) > 0; {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return malformed("bad number of a symbol")
			}
			if err := in(v); err != nil {
				return err
			}
			b = b[n:]
		}
		return nil
	}
	return malformed("field %d has wire type %d", f.number, f.wire)
}

// readRefs collects the symbols' numbers of a checked message.
func (r *Request) readRefs(message []byte) {
	refs := r.d.refs[:0]
	most := 2*r.limits.Labels + 2
	_ = fields(message, func(f field) error {
		switch {
		case f.number != series2Refs || len(refs) >= most:
		case f.wire == wireVarint:
			refs = append(refs, uint32(f.value))
		default:
			for b := f.bytes; len(b) > 0 && len(refs) < most; {
				v, n := binary.Uvarint(b)
				refs, b = append(refs, uint32(v)), b[n:]
			}
		}
		return nil
	})
	r.d.refs = refs
}

// key2 is the numbers of a message's labels and its metadata, as they stand in
// one that an ordinary encoder wrote.
func (r *Request) key2(message []byte) (labels, metadata []byte) {
	var f field
	head := 0
	if len(message) > 0 && f.read(message, 0) == nil && f.is(series2Refs) {
		head = f.to
	}
	labels = message[:head]
	plain := head > 0
	scratch := r.m.scratch[:0]
	_ = fields(message[head:], func(f field) error {
		plain = plain && f.number != series2Refs
		if f.is(series2Metadata) {
			scratch = append(scratch, message[head+f.from:head+f.to]...)
		}
		return nil
	})
	metadata = scratch
	if !plain {
		r.readRefs(message)
		var packed []byte
		for _, ref := range r.d.refs {
			packed = binary.AppendUvarint(packed, uint64(ref))
		}
		labels = appendMessage(nil, series2Refs, packed)
	}
	r.m.scratch = scratch
	return labels, metadata
}

// key is what a series is known by in the memory.
func (r *Request) key(message []byte) (labels, metadata []byte) {
	if r.version == V2 {
		return r.key2(message)
	}
	return r.key1(message), nil
}

func (s *Series) labels2() {
	s.r.readRefs(s.message())
	for refs := s.r.d.refs; len(refs) > 1; refs = refs[2:] {
		s.addLabel(Label{s.r.symbol(refs[0]), s.r.symbol(refs[1])})
	}
}

// Metadata is what a body of version 2 says of the series' family.
func (s *Series) Metadata() (m Metadata, ok bool) {
	if s.r.version != V2 {
		return m, false
	}
	_ = fields(s.message(), func(f field) error {
		if !f.is(series2Metadata) {
			return nil
		}
		ok = true
		return fields(f.bytes, func(f field) error {
			switch f.number {
			case metadata2Kind:
				m.Type = Type(f.value)
			case metadata2Help:
				m.Help = s.r.symbol(uint32(f.value))
			case metadata2Unit:
				m.Unit = s.r.symbol(uint32(f.value))
			}
			return nil
		})
	})
	labels, _ := s.Labels()
	for _, l := range labels {
		if string(l.Name) == nameLabel && len(l.Value) > 0 {
			m.Family = familyOf(l.Value, m.Type)
		}
	}
	return m, ok && len(m.Family) > 0
}
