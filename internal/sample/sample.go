// Package sample owns what a measurement is called: families, series, points
// and the canonical text of a series. It knows nothing of where numbers come
// from, how they travel or who reads them.
package sample

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Type is the kind of a metric family, as in the Prometheus exposition formats.
type Type uint8

// The types of a family. Unknown is the zero value.
const (
	Unknown Type = iota
	Counter
	Gauge
	Histogram
	Summary
	Info
	StateSet
	GaugeHistogram
)

var typeNames = [...]string{"unknown", "counter", "gauge", "histogram", "summary", "info", "stateset", "gaugehistogram"}

// String is the type's name in OpenMetrics; the text format 0.0.4 writes
// "untyped" for what it does not know.
func (t Type) String() string { return typeNames[t] }

// Family is a set of series that share a name, a type, a unit and a meaning.
// On a node it is a package variable of its source; only those of pages inside
// guests are built at run time, one for each name.
type Family struct {
	Name string // as on the page, unit and _total included
	Type Type
	Unit string // "seconds", "bytes", "ratio", "percent"; "" for plain counts
	Help string // one sentence, no line break
}

// NewCounter declares a family of counters; see [Family] for what the words
// mean.
func NewCounter(name, unit, help string) *Family {
	return &Family{Name: name, Type: Counter, Unit: unit, Help: help}
}

// NewGauge declares a family of gauges.
func NewGauge(name, unit, help string) *Family {
	return &Family{Name: name, Type: Gauge, Unit: unit, Help: help}
}

// Label is one name and value.
type Label struct{ Name, Value string }

// Series is one time series. It is immutable and safe to share; two series
// with the same Text are the same series.
type Series struct {
	family *Family
	text   string // holds name and labels, too: there may be a million of these
}

// New returns the series of f with these labels. Labels are copied and sorted
// by name; a label with an empty value is left out, as it means the same to
// Prometheus; bytes of a value that are not UTF-8 become U+FFFD.
//
// New panics when a label name is malformed or stands twice, or the family's
// name is malformed: whoever takes names from outside checks them first with
// [ValidMetricName] and [ValidLabelName].
func New(f *Family, labels ...Label) *Series { return NewNamed(f, f.Name, labels...) }

// NewNamed is [New] for a series whose name is not its family's, such as
// name_bucket, name_sum and name_count of a histogram.
func NewNamed(f *Family, name string, labels ...Label) *Series {
	if !ValidMetricName(name) {
		panic("sample: malformed metric name " + name)
	}
	own := make([]Label, 0, len(labels))
	for _, l := range labels {
		if l.Value == "" {
			continue
		}
		if !utf8.ValidString(l.Value) {
			l.Value = strings.ToValidUTF8(l.Value, "\uFFFD")
		}
		own = append(own, l)
	}
	slices.SortFunc(own, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	for i, l := range own {
		if !ValidLabelName(l.Name) || i > 0 && own[i-1].Name == l.Name {
			panic("sample: malformed or repeated label " + l.Name + " on " + name)
		}
	}
	return &Series{family: f, text: text(name, own)}
}

// Family is what the series belongs to.
func (s *Series) Family() *Family { return s.family }

// Name is the metric name, the family's own but for histograms and summaries.
func (s *Series) Name() string {
	if name := s.family.Name; len(s.text) == len(name) || len(s.text) > len(name) && s.text[len(name)] == '{' {
		return s.text[:len(name)] // no other name is as long
	}
	name, _, _ := strings.Cut(s.text, "{")
	return name
}

// Each calls yield for every label, sorted by name, without the metric name.
// It allocates only for values with a backslash, a quote or a line break.
func (s *Series) Each(yield func(name, value string) bool) {
	rest := s.text[len(s.Name()):]
	for len(rest) > 1 { // {name="value",name="value"}
		rest = rest[1:]
		equals := strings.IndexByte(rest, '=')
		if equals < 0 {
			return
		}
		name, value := rest[:equals], rest[equals+2:]
		end := strings.IndexByte(value, '"')
		if escaped := strings.IndexByte(value[:end], '\\') >= 0; escaped {
			end = closing(value)
			rest = value[end+1:]
			value = unescaper.Replace(value[:end])
		} else {
			rest = value[end+1:]
			value = value[:end]
		}
		if !yield(name, value) {
			return
		}
	}
}

// closing is where the quote is that ends an escaped value.
func closing(s string) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(s)
}

// Labels are sorted by name, without the metric name.
func (s *Series) Labels() []Label {
	var all []Label
	for name, value := range s.Each {
		all = append(all, Label{name, value})
	}
	return all
}

// Label is the value of the label called name, "" when the series has none.
func (s *Series) Label(name string) string {
	for n, value := range s.Each {
		if n == name {
			return value
		}
	}
	return ""
}

// Text is the canonical form name{a="b",c="d"} (without braces when there are
// no labels), escaped as in the exposition formats: the series' identity and
// the beginning of its line on a page.
func (s *Series) Text() string { return s.text }

// Point is one value of a series at T, in milliseconds since 1970, the moment
// the value was read.
type Point struct {
	Series *Series
	T      int64
	V      float64
}

// Batch collects the points of one tick. The zero value is ready; it is owned
// by one goroutine at a time.
type Batch struct{ Points []Point }

// Add appends one point, read at t (milliseconds since 1970).
func (b *Batch) Add(s *Series, t int64, v float64) {
	b.Points = append(b.Points, Point{Series: s, T: t, V: v})
}

// ValidMetricName reports whether name is [a-zA-Z_:][a-zA-Z0-9_:]*, the set
// that every version of Prometheus and every page format takes.
func ValidMetricName(name string) bool { return validName(name, true) }

// ValidLabelName reports whether name is [a-zA-Z_][a-zA-Z0-9_]*. The names
// that begin with two underscores, which Prometheus keeps for itself, are not
// valid here either.
func ValidLabelName(name string) bool {
	return validName(name, false) && !strings.HasPrefix(name, "__")
}

func validName(name string, colon bool) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', colon && c == ':', i > 0 && c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return name != ""
}

var (
	escaper   = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	unescaper = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\"`, `"`)
)

func text(name string, labels []Label) string {
	if len(labels) == 0 {
		return name
	}
	size := len(name) + 1
	for _, l := range labels {
		size += len(l.Name) + len(l.Value) + 4
	}
	var b strings.Builder
	b.Grow(size) // exactly, but for escapes
	b.WriteString(name)
	for i, l := range labels {
		if i == 0 {
			b.WriteByte('{')
		} else {
			b.WriteByte(',')
		}
		b.WriteString(l.Name)
		b.WriteString(`="`)
		_, _ = escaper.WriteString(&b, l.Value)
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}
