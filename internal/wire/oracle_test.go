package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

var (
	mutations = flag.Int("mutations", 50_000, "how many mutated bodies of each version are held against prompb")
	seed      = flag.Uint64("seed", 1, "of the mutations; 0: another one each time")
)

// said is what a body says, as the one or the other reader understood it.
type said struct {
	series   []byte            // labels, samples, how many histograms; in version 2 the metadata too
	metadata map[string]string // of version 1: by family, the last word
	repeated bool              // a family stands twice in the metadata
	unknown  bool              // it has fields that are in no version
	refs     bool              // a number of a symbol is not one of the table
	odd      bool              // a label has no value
	symbol   bool              // the first symbol is not empty
}

func appendText[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendPoint(b []byte, t int64, v float64) []byte {
	b = binary.LittleEndian.AppendUint64(append(b, 'p'), uint64(t))
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}

func (s *said) tell(family, word string) {
	_, again := s.metadata[family]
	s.repeated = s.repeated || again
	s.metadata[family] = word
}

func oracle(v Version, raw []byte) (*said, error) {
	if v == V2 {
		return oracle2(raw)
	}
	return oracle1(raw)
}

func oracle1(raw []byte) (*said, error) {
	var w prompb.WriteRequest
	if err := w.Unmarshal(raw); err != nil {
		return nil, err
	}
	s := &said{metadata: map[string]string{}, unknown: len(w.XXX_unrecognized) > 0}
	unknown := func(b []byte) { s.unknown = s.unknown || len(b) > 0 }
	for _, ts := range w.Timeseries {
		unknown(ts.XXX_unrecognized)
		for _, l := range ts.Labels {
			unknown(l.XXX_unrecognized)
			s.series = appendText(appendText(append(s.series, 'l'), l.Name), l.Value)
		}
		for _, p := range ts.Samples {
			unknown(p.XXX_unrecognized)
			s.series = appendPoint(s.series, p.Timestamp, p.Value)
		}
		s.series = append(s.series, 'h', byte(len(ts.Histograms)))
	}
	for _, m := range w.Metadata {
		unknown(m.XXX_unrecognized)
		s.tell(m.MetricFamilyName, fmt.Sprintf("%d %q %q", m.Type, m.Help, m.Unit))
	}
	return s, nil
}

func oracle2(raw []byte) (*said, error) {
	var w writev2.Request
	if err := w.Unmarshal(raw); err != nil {
		return nil, err
	}
	s := &said{unknown: len(w.XXX_unrecognized) > 0, symbol: len(w.Symbols) > 0 && w.Symbols[0] != ""}
	symbol := func(ref uint32) string {
		if int(ref) >= len(w.Symbols) {
			s.refs = true
			return ""
		}
		return w.Symbols[ref]
	}
	for _, ts := range w.Timeseries {
		s.unknown = s.unknown || len(ts.XXX_unrecognized)+len(ts.Metadata.XXX_unrecognized) > 0
		s.odd = s.odd || len(ts.LabelsRefs)%2 != 0
		for _, ref := range ts.LabelsRefs {
			symbol(ref)
		}
		named := false
		for i := 1; i < len(ts.LabelsRefs); i += 2 {
			name, value := symbol(ts.LabelsRefs[i-1]), symbol(ts.LabelsRefs[i])
			named = named || name == nameLabel && value != ""
			s.series = appendText(appendText(append(s.series, 'l'), name), value)
		}
		for _, p := range ts.Samples {
			s.unknown = s.unknown || len(p.XXX_unrecognized) > 0
			s.series = appendPoint(s.series, p.Timestamp, p.Value)
		}
		s.series = append(s.series, 'h', byte(len(ts.Histograms)))
		m := ts.Metadata
		if help, unit := symbol(m.HelpRef), symbol(m.UnitRef); named && (m.Type != 0 || m.HelpRef != 0 || m.UnitRef != 0) {
			s.series = appendText(appendText(append(s.series, 'm', byte(m.Type)), help), unit)
		}
	}
	s.refs = s.refs && len(w.Timeseries) > 0 && (len(w.Symbols) > 0 || slices.ContainsFunc(w.Timeseries, func(ts writev2.TimeSeries) bool {
		return len(ts.LabelsRefs) > 0 || ts.Metadata.HelpRef|ts.Metadata.UnitRef != 0
	}))
	return s, nil
}

// understood is what the decoder under test makes of a body.
func understood(v Version, d *Decoder, raw []byte, m *Memory, fn func(*Series, []byte)) (*said, error) {
	r, err := d.Decode(snappy.Encode(nil, raw), m)
	if err != nil {
		return nil, err
	}
	s := &said{metadata: map[string]string{}}
	r.EachSeries(func(claim *Series) {
		from := len(s.series)
		labels, _ := claim.Labels()
		for _, l := range labels {
			s.series = appendText(appendText(append(s.series, 'l'), l.Name), l.Value)
		}
		to := len(s.series)
		for _, p := range claim.Points {
			s.series = appendPoint(s.series, p.T, p.V)
		}
		s.series = append(s.series, 'h', byte(claim.Histograms))
		if fn != nil {
			fn(claim, s.series[from:to])
		}
		if md, ok := claim.Metadata(); ok && (md.Type != 0 || len(md.Help) > 0 || len(md.Unit) > 0) {
			s.series = appendText(appendText(append(s.series, 'm', byte(md.Type)), md.Help), md.Unit)
		}
	})
	if v == V1 {
		r.EachMetadata(func(m Metadata) { s.tell(string(m.Family), fmt.Sprintf("%d %q %q", m.Type, m.Help, m.Unit)) })
	}
	return s, nil
}

// The reasons for which a body is refused that prompb reads, and the other way
// round. TestDeliberateExceptions has one body for each.
const (
	aGroup        = "a group, which no message of the protocol has"
	aLongNumber   = "a number of more than 64 bits, or a field of a number that protobuf does not have"
	otherVersion  = "fields 1 to 3 in version 2, which are reserved: it is a body of version 1"
	firstSymbol   = "a table of symbols that does not begin with an empty one, as the protocol wants it, in its shortest form"
	noSuchSymbol  = "a number that is not one of the table of symbols"
	lateSymbol    = "a symbol that stands behind the series that it is in"
	noValue       = "an odd count of symbols in a series' labels"
	runsOver      = "packed numbers that run over their end"
	notLookedInto = "a native histogram or exemplar that is malformed: these are counted and not read"
)

// exception finds out why we refuse what prompb reads, "" for no good reason.
// What our error says is checked against what prompb found.
func exception(err error, raw []byte, want *said) string {
	says := func(pattern string) bool { return regexp.MustCompile(pattern).MatchString(err.Error()) }
	long := continued(raw) >= 4 // more than 28 bits
	switch {
	case says("has wire type 3") && want.unknown:
		return aGroup
	case says("bad number in|bad field tag|is cut off") && long:
		return aLongNumber
	case says("symbol [0-9]+ of") && !want.refs && late(raw):
		return lateSymbol
	case says("belongs to another version") && want.unknown:
		return otherVersion
	case says("does not begin with an empty one") && (want.symbol || raw[1] == 0x80):
		return firstSymbol
	case says("symbol [0-9]+ of") && (want.refs || long):
		return noSuchSymbol
	case says("label without a value") && want.odd:
		return noValue
	case says("bad number of a symbol"):
		return runsOver
	}
	return ""
}

// continued is the longest run of bytes after which a number goes on.
func continued(raw []byte) (longest int) {
	run := 0
	for _, b := range raw {
		if run++; b < 0x80 {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}

// late reports whether there is a symbol behind a series.
func late(raw []byte) bool {
	series := false
	return fields(raw, func(f field) error {
		series = series || f.is(request2Timeseries)
		if f.is(request2Symbols) && series {
			return ErrIndivisible
		}
		return nil
	}) != nil
}

// bare is a body that we have read, without what stands in its native
// histograms and exemplars.
func bare(t *testing.T, v Version, raw []byte) (out []byte) {
	t.Helper()
	series, empty := requestTimeseries, []int{seriesExemplar, seriesHistogram}
	if v == V2 {
		series, empty = request2Timeseries, []int{series2Exemplar, series2Histogram}
	}
	if err := fields(raw, func(f field) error {
		if !f.is(series) {
			out = append(out, raw[f.from:f.to]...)
			return nil
		}
		var message []byte
		err := fields(f.bytes, func(in field) error {
			if slices.Contains(empty, in.number) {
				message = appendMessage(message, in.number, nil)
			} else {
				message = append(message, f.bytes[in.from:in.to]...)
			}
			return nil
		})
		out = appendMessage(out, series, message)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// judge holds one body against prompb: read and refused alike, but for the
// exceptions, and understood alike.
func judge(t *testing.T, v Version, d *Decoder, raw []byte) (got *said, why string) {
	t.Helper()
	want, wantErr := oracle(v, raw)
	got, err := understood(v, d, raw, &Memory{Version: v}, nil)
	switch {
	case err != nil && !errors.Is(err, ErrMalformed):
		t.Fatalf("version %s: %v\n%x", v, err, raw)
	case err != nil && wantErr == nil:
		if why = exception(err, raw, want); why == "" {
			t.Fatalf("version %s: refused with %v, and prompb reads it as %+v\n%x", v, err, want, raw)
		}
	case err == nil && wantErr != nil:
		if want, wantErr = oracle(v, bare(t, v, raw)); wantErr != nil {
			t.Fatalf("version %s: prompb refuses it with %v, and we read it as %+v\n%x", v, wantErr, got, raw)
		}
		why = notLookedInto
	}
	if err == nil && wantErr == nil {
		if want.symbol || want.odd || want.refs {
			t.Fatalf("version %s: read, and should not be: %+v\n%x", v, want, raw)
		}
		if !bytes.Equal(got.series, want.series) || v == V1 && !maps.Equal(got.metadata, want.metadata) {
			t.Fatalf("version %s: read\n%q %v\nwant\n%q %v\n%x", v, got.series, got.metadata, want.series, want.metadata, raw)
		}
	}
	return got, why
}

// TestDecodersAgreeWithPrompb mutates bodies of both versions, as bytes and as
// trees of fields. A body is understood as prompb understands it, and a memory
// of what its sender said before never changes that.
func TestDecodersAgreeWithPrompb(t *testing.T) {
	from := *seed
	if from == 0 {
		from = uint64(time.Now().UnixNano())
	}
	for _, v := range []Version{V1, V2} {
		t.Run(v.String(), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(from, uint64(v)))
			bodies := seedBodies(t, v)
			d := Decoder{Limits: Limits{Labels: 1 << 20}}
			long := recollection{v: v, m: Memory{Version: v, Max: 60}}
			read, known, exceptions := 0, 0, map[string]int{}
			for n := range *mutations {
				base := bodies[n/64%len(bodies)] // for a while, as a sender's bodies are alike
				if n%8 == 0 {
					got, _ := judge(t, v, &d, base)
					known += long.decode(t, &d, base, got)
				}
				raw := mutate(rng, v, base, bodies[rng.IntN(len(bodies))])
				got, why := judge(t, v, &d, raw)
				if exceptions[why]++; got != nil {
					read++
				}
				known += long.decode(t, &d, raw, got)
				if t.Failed() {
					t.Fatalf("seed %d, mutation %d", from, n)
				}
			}
			delete(exceptions, "")
			t.Logf("seed %d: %d bodies, %d read, %d series known from the memory", from, *mutations, read, known)
			for _, why := range slices.Sorted(maps.Keys(exceptions)) {
				t.Logf("%7d: %s", exceptions[why], why)
			}
			if read < *mutations/10 || known < *mutations/10 {
				t.Errorf("only %d of %d bodies were read and %d series known: the mutations are too coarse to show anything", read, *mutations, known)
			}
		})
	}
}

// recollection is a memory that many bodies are decoded with, and what it must
// stand by.
type recollection struct {
	v     Version
	m     Memory
	epoch int
	ids   map[int]string    // what is known of each ID
	told  map[string]string // metadata learned with the memory
	want  map[string]string // and without
}

// decode returns how many series were known. want is what the body says without
// a memory, or nil when it has faults.
func (c *recollection) decode(t *testing.T, d *Decoder, raw []byte, want *said) (known int) {
	t.Helper()
	c.m.Now++
	got, err := understood(c.v, d, raw, &c.m, func(s *Series, labels []byte) {
		if c.epoch != c.m.Epoch || c.ids == nil {
			c.epoch, c.ids = c.m.Epoch, map[int]string{}
		}
		if s.ID < 0 {
			return
		}
		if said, ok := c.ids[s.ID]; ok && said != string(labels) {
			t.Errorf("version %s: series %d was %q and is %q\n%x", c.v, s.ID, said, labels, raw)
		} else if ok {
			known++
		}
		c.ids[s.ID] = string(labels)
	})
	if (err == nil) != (want != nil) {
		t.Errorf("version %s: with a memory: %v, without: %v\n%x", c.v, err, want, raw)
		return 0
	}
	if err != nil {
		return 0
	}
	if !bytes.Equal(got.series, want.series) {
		t.Errorf("version %s: with a memory\n%q\nwithout\n%q\n%x", c.v, got.series, want.series, raw)
	}
	c.learn(t, got, want, raw)
	if c.m.Now%97 == 0 {
		c.m.Forget(c.m.Now-2, func(id int) { delete(c.ids, id) })
	}
	return known
}

// learn holds against each other what is known of the families when only the
// news of each body is told, and when everything is. Where a family stands twice
// in a body they may differ, and both begin anew.
func (c *recollection) learn(t *testing.T, got, want *said, raw []byte) {
	t.Helper()
	if c.told == nil || want.repeated {
		c.told, c.want, c.m.metadata = map[string]string{}, map[string]string{}, nil
		return
	}
	maps.Copy(c.told, got.metadata)
	maps.Copy(c.want, want.metadata)
	if !maps.Equal(c.told, c.want) {
		t.Errorf("metadata learned with a memory %v, without %v\n%x", c.told, c.want, raw)
	}
}

// seedBodies are bodies without faults, of the kinds that senders make.
func seedBodies(t *testing.T, v Version) (all [][]byte) {
	add := func(raw []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw)
	}
	for _, n := range []int{1, 3, 8} {
		add(snappy.Decode(nil, encode(t, v, points(n))))
	}
	all = append(all, nil)
	if v == V1 {
		add((&prompb.WriteRequest{
			Timeseries: []prompb.TimeSeries{
				{
					Labels:    []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "a\"b\n"}},
					Samples:   []prompb.Sample{{Timestamp: 1, Value: math.Inf(1)}, {Timestamp: -5, Value: -0.5}},
					Exemplars: []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace", Value: "x"}}, Value: 2, Timestamp: 3}},
				},
				{Labels: []prompb.Label{{Name: "__name__", Value: "h"}}, Histograms: []prompb.Histogram{{Sum: 3, PositiveDeltas: []int64{1, -1}}, {}}},
				{},
				{Labels: []prompb.Label{{Name: "__name__", Value: "up"}}, Samples: []prompb.Sample{{Timestamp: 1_700_000_000_000, Value: 7}}},
			},
			Metadata: []prompb.MetricMetadata{
				{Type: prompb.MetricMetadata_SUMMARY, MetricFamilyName: "up", Help: "h", Unit: "u"},
				{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: "h"},
			},
		}).Marshal())
		return all
	}
	add((&writev2.Request{
		Symbols: []string{"", "__name__", "up", "job", "a\"b\n", "h", "the help", "bytes", "__name__"},
		Timeseries: []writev2.TimeSeries{
			{
				LabelsRefs: []uint32{1, 2, 3, 4}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: 6, UnitRef: 7},
				Samples:   []writev2.Sample{{Timestamp: 1, Value: math.Inf(1), StartTimestamp: 1}, {Timestamp: -5, Value: -0.5}},
				Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{3, 4}, Value: 2, Timestamp: 3}},
			},
			{LabelsRefs: []uint32{1, 5}, Histograms: []writev2.Histogram{{Sum: 3, PositiveDeltas: []int64{1, -1}}, {}}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_HISTOGRAM}},
			{},
			{LabelsRefs: []uint32{8, 2}, Samples: []writev2.Sample{{Timestamp: 1_700_000_000_000, Value: 7}}},
		},
	}).Marshal())
	// Symbols that stand behind the series that uses them, and numbers that are
	// not packed.
	all = append(all, slices.Concat([]byte{0x22, 0, 0x22, 2, 'u', 'p', 0x2a, 6, 0x08, 2, 0x08, 1, 0x12, 0}, []byte{0x22, 8}, []byte(nameLabel)))
	return all
}

// mutate makes one to three changes; in version 2 mostly behind the table of
// symbols, as with another one everything is new.
func mutate(rng *rand.Rand, v Version, raw, other []byte) []byte {
	table := 0
	if v == V2 && rng.IntN(4) > 0 {
		_ = fields(raw, func(f field) error {
			if f.is(request2Symbols) {
				table = f.to
			}
			return nil
		})
	}
	head, raw := raw[:table], slices.Clone(raw[table:])
	for range 1 + rng.IntN(3) {
		if rng.IntN(2) == 0 {
			raw = mutateBytes(rng, raw, other)
			continue
		}
		tree := grow(raw, 3)
		mutateTree(rng, &tree, grow(other, 3))
		raw = tree.append(nil)
	}
	return slices.Concat(head, raw)
}

var interesting = []byte{0, 1, 2, 4, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x12, 0x1a, 0x22, 0x2a, 0x7f, 0x80, 0x81, 0xfe, 0xff}

func mutateBytes(rng *rand.Rand, raw, other []byte) []byte {
	if len(raw) == 0 {
		return []byte{interesting[rng.IntN(len(interesting))]}
	}
	cut := func(b []byte) (from, to int) {
		from = rng.IntN(len(b) + 1)
		return from, min(len(b), from+rng.IntN(12))
	}
	at, end := cut(raw)
	switch rng.IntN(7) {
	case 0:
		raw[rng.IntN(len(raw))] ^= 1 << rng.IntN(8)
	case 1:
		raw[rng.IntN(len(raw))] = interesting[rng.IntN(len(interesting))]
	case 2:
		return slices.Insert(raw, at, interesting[rng.IntN(len(interesting))])
	case 3:
		return slices.Delete(raw, at, end)
	case 4:
		return slices.Insert(raw, rng.IntN(len(raw)+1), slices.Clone(raw[at:end])...)
	case 5:
		from, to := cut(other)
		return slices.Insert(raw, at, other[from:to]...)
	default:
		return raw[:at]
	}
	return raw
}

// tree is a message, or a field of one, whose lengths are right again when it
// is written.
type tree struct {
	number int
	wire   int
	value  uint64
	bytes  []byte
	fields []tree
	longer int // bytes more than the shortest form of its length or value
}

func grow(message []byte, depth int) (t tree) {
	t.wire = wireBytes
	if err := fields(message, func(f field) error {
		in := tree{number: f.number, wire: f.wire, value: f.value, bytes: f.bytes}
		if depth > 0 && f.wire == wireBytes {
			in = grow(f.bytes, depth-1)
			in.number = f.number
		}
		t.fields = append(t.fields, in)
		return nil
	}); err != nil {
		t.fields, t.bytes = nil, message
	}
	return t
}

func (t *tree) append(b []byte) []byte {
	for i := range t.fields {
		f := &t.fields[i]
		b = binary.AppendUvarint(b, uint64(f.number)<<3|uint64(f.wire))
		switch f.wire {
		case wireVarint:
			b = appendLonger(b, f.value, f.longer)
		case wire64:
			b = binary.LittleEndian.AppendUint64(b, f.value)
		case wire32:
			b = binary.LittleEndian.AppendUint32(b, uint32(f.value))
		case wireBytes:
			message := f.append(nil)
			b = append(appendLonger(b, uint64(len(message)), f.longer), message...)
		}
	}
	return append(b, t.bytes...)
}

func appendLonger(b []byte, v uint64, by int) []byte {
	b = binary.AppendUvarint(b, v)
	for range by {
		b[len(b)-1] |= 0x80
		b = append(b, 0)
	}
	return b
}

func mutateTree(rng *rand.Rand, t *tree, other tree) {
	for len(t.fields) > 0 && rng.IntN(3) > 0 { // down to some message
		in := &t.fields[rng.IntN(len(t.fields))]
		if in.wire != wireBytes || in.bytes != nil {
			break
		}
		t = in
	}
	for len(other.fields) > 0 && rng.IntN(2) == 0 {
		other = other.fields[rng.IntN(len(other.fields))]
	}
	if len(t.fields) == 0 {
		t.fields = append(t.fields, other)
		return
	}
	at := rng.IntN(len(t.fields))
	f := &t.fields[at]
	number := func() uint64 {
		return []uint64{0, 1, 2, 3, 7, 8, 127, 128, 1 << 31, 1 << 32, 1<<32 + 1, 1 << 63, math.MaxUint64, rng.Uint64()}[rng.IntN(14)]
	}
	switch rng.IntN(9) {
	case 0:
		t.fields = slices.Delete(t.fields, at, at+1)
	case 1:
		t.fields = slices.Insert(t.fields, rng.IntN(len(t.fields)+1), *f)
	case 2:
		i := rng.IntN(len(t.fields))
		t.fields[i], t.fields[at] = t.fields[at], t.fields[i]
	case 3:
		f.number = []int{1, 2, 3, 4, 5, 6, 9, 16, 1<<28 - 1, 1 << 28, 1 << 29}[rng.IntN(11)]
	case 4:
		f.wire = rng.IntN(8)
	case 5:
		f.value = number()
	case 6:
		f.fields, f.bytes = nil, []byte(strings.Repeat("\x80", rng.IntN(11)) + "\x01")[:1+rng.IntN(2)]
	case 7:
		t.fields = slices.Insert(t.fields, at, tree{number: 1 + rng.IntN(16), wire: rng.IntN(6), value: number()})
	default:
		f.longer = 1 + rng.IntN(9)
	}
	if rng.IntN(8) == 0 && other.number > 0 {
		t.fields = append(t.fields, other)
	}
}

// TestDeliberateExceptions has what is refused though prompb reads it, and
// what is read though prompb refuses it.
func TestDeliberateExceptions(t *testing.T) {
	group := []byte{9<<3 | 3, 9<<3 | 4}
	table := []byte{0x22, 0, 0x22, 1, 'a'}
	series := func(message ...byte) []byte {
		return appendMessage(slices.Clone(table), request2Timeseries, message)
	}
	for _, c := range []struct {
		v    Version
		raw  []byte
		want string
	}{
		{V1, group, aGroup},
		{V2, slices.Concat(table, group), aGroup},
		{V1, append([]byte{9 << 3}, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"...), aLongNumber},
		{V1, append(binary.AppendUvarint(nil, 1<<32|9<<3), 1), aLongNumber},
		{V2, []byte{0x0a, 0}, otherVersion},
		{V2, append(slices.Clone(table), 0x10, 1), otherVersion},
		{V2, append(slices.Clone(table), 0x1a, 0), otherVersion},
		{V2, []byte{0x22, 1, 'a'}, firstSymbol},
		{V2, []byte{0x22, 0x80, 0}, firstSymbol},
		{V2, series(0x0a, 2, 1, 2), noSuchSymbol},
		{V2, series(0x08, 1, 0x08, 2), noSuchSymbol},
		{V2, series(0x2a, 2, 0x18, 2), noSuchSymbol},
		{V2, append(series(0x0a, 2, 1, 2), 0x22, 1, 'b'), lateSymbol},
		{V2, slices.Concat([]byte{0x2a, 4, 0x0a, 2, 1, 1}, table), lateSymbol},
		{V2, series(0x0a, 1, 1), noValue},
		{V2, series(0x0a, 2, 1, 0x81, 0), runsOver},
		{V1, appendMessage(nil, requestTimeseries, []byte{0x22, 1, 0xff}), notLookedInto},
		{V1, appendMessage(nil, requestTimeseries, []byte{0x1a, 1, 0xff}), notLookedInto},
		{V2, series(0x1a, 1, 0xff), notLookedInto},
		{V2, series(0x22, 1, 0xff), notLookedInto},
	} {
		var d Decoder
		if _, why := judge(t, c.v, &d, c.raw); why != c.want {
			t.Errorf("version %s, %x: got %q, want %q", c.v, c.raw, why, c.want)
		}
	}
}

// A pusher that starts again may name the same guests in another order: a
// table of symbols as long as the one before, in which every number means
// something else.
func TestAnotherTableOfTheSameLength(t *testing.T) {
	body := func(guest, other string) []byte {
		raw := []byte{0x22, 0}
		for _, symbol := range []string{nameLabel, "up", "guest", guest, other} {
			raw = appendMessage(raw, request2Symbols, []byte(symbol))
		}
		return appendMessage(raw, request2Timeseries, []byte{0x0a, 4, 1, 2, 3, 4, 0x12, 11, 0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 1})
	}
	c := recollection{v: V2, m: Memory{Version: V2, Max: 10}}
	var d Decoder
	for _, raw := range [][]byte{body("web-1", "web-2"), body("web-2", "web-1"), body("web-1", "web-2"), body("web-1", "web-2")} {
		want, why := judge(t, V2, &d, raw)
		if want == nil {
			t.Fatalf("refused: %s", why)
		}
		c.decode(t, &d, raw, want)
	}
}
