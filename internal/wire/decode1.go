package wire

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

var (
	requestShape  = shape{requestTimeseries: wireBytes + 1, requestMetadata: wireBytes + 1}
	seriesShape   = shape{seriesLabel: wireBytes + 1, seriesSample: wireBytes + 1, seriesExemplar: wireBytes + 1, seriesHistogram: wireBytes + 1}
	labelShape    = shape{labelName: wireBytes + 1, labelValue: wireBytes + 1}
	sampleShape   = shape{sampleValue: wire64 + 1, sampleTimestamp: wireVarint + 1}
	metadataShape = shape{metadataKind: wireVarint + 1, metadataFamily: wireBytes + 1, metadataHelp: wireBytes + 1, metadataUnit: wireBytes + 1}
)

// walk1 checks every field that will be read later, so that later reading
// can not fail. What stands where it stood last time needs no check.
func (r *Request) walk1() error {
	d, m, raw := r.d, r.m, r.raw
	last, told, same := int32(none), 0, true // metadata so far is that of the body before
	if m != nil {
		last = m.at
	}
	var f field
	for at := 0; at < len(raw); at = f.to {
		if raw[at] == requestTimeseries<<3|wireBytes {
			if size, n := short(raw[at+1:]); n > 0 && size <= len(raw)-at-1-n {
				from, to := at+1+n, at+1+n+size
				if id, head := m.guess(last); head > 0 && head <= size {
					if p, tail, ok := onePoint(raw, from+head, to); ok && len(tail) == 0 && m.is(id, raw[from:from+head], nil) {
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
		if err := requestShape.check(&f); err != nil {
			return err
		}
		switch f.number {
		case requestTimeseries:
			l := lent{id: none, from: int32(f.to - len(f.bytes)), to: int32(f.to)}
			if err := r.check1(f.bytes); err != nil {
				return err
			}
			if m != nil {
				if l.id = m.find(r.key(f.bytes)); l.id >= 0 {
					last = l.id
				}
			}
			d.lent = append(d.lent, l)
		case requestMetadata:
			told += f.to - at
			if same = same && m.remembers(raw[at:f.to], told); same {
				continue
			}
			if err := checked(f.bytes, &metadataShape, nothing); err != nil {
				return err
			}
			if len(d.metadata) >= r.limits.Series {
				return tooLarge("more than %d metadata entries", r.limits.Series)
			}
			d.metadata = append(d.metadata, span{at, f.to})
		}
	}
	if m != nil && len(d.metadata) > 0 {
		m.remember(r)
	}
	return nil
}

func (r *Request) check1(message []byte) error {
	samples := 0
	if err := checked(message, &seriesShape, func(f field) error {
		switch f.number {
		case seriesLabel:
			return checked(f.bytes, &labelShape, nothing)
		case seriesSample:
			samples++
			return checked(f.bytes, &sampleShape, nothing)
		}
		return nil
	}); err != nil {
		return err
	}
	return r.count(samples)
}

// key1 is the labels of a message, side by side.
func (r *Request) key1(message []byte) []byte {
	from, to, scattered := -1, 0, false
	key := r.m.scratch[:0]
	_ = fields(message, func(f field) error {
		if !f.is(seriesLabel) {
			return nil
		}
		switch {
		case from < 0:
			from = f.from
		case to != f.from && !scattered:
			scattered = true
			key = append(key, message[from:to]...)
		}
		to = f.to
		if scattered {
			key = append(key, message[f.from:f.to]...)
		}
		return nil
	})
	switch {
	case from < 0:
		return nil
	case !scattered:
		return message[from:to]
	}
	r.m.scratch = key
	return key
}

func (s *Series) labels1() {
	_ = fields(s.message(), func(f field) error {
		if f.is(seriesLabel) {
			s.addLabel(readLabel(f.bytes))
		}
		return nil
	})
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

// EachMetadata calls fn for the metadata entries of a body of version 1 that
// do not stand where they stood in the sender's last body.
func (r *Request) EachMetadata(fn func(Metadata)) {
	for _, at := range r.d.metadata {
		var entry field
		_ = entry.read(r.raw[:at.to], at.from)
		var m Metadata
		_ = fields(entry.bytes, func(f field) error {
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
	}
}
