// Package sample owns what a measurement is called: families, series, points
// and the canonical text of a series. It knows nothing of where numbers come
// from, how they travel or who reads them.
package sample

import "strings"

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
// with the same name and the same labels are the same series.
type Series struct {
	family *Family
	name   string
	labels *Labels
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
	return NewLabels(labels...).Of(f, name)
}

// Family is what the series belongs to.
func (s *Series) Family() *Family { return s.family }

// Name is the metric name, the family's own but for histograms and summaries.
func (s *Series) Name() string { return s.name }

// Labels are those of the series, without the metric name.
func (s *Series) Labels() *Labels { return s.labels }

// Each calls yield for every label: see [Labels.Each].
func (s *Series) Each(yield func(name, value string) bool) { s.labels.Each(yield) }

// Label is the value of the label called name, "" when the series has none.
func (s *Series) Label(name string) string { return s.labels.Value(name) }

// Owner is whose measurement the series is.
func (s *Series) Owner() *Owner { return s.labels.Owner() }

// Text is the canonical form name{a="b",c="d"}, without braces when there are
// no labels, escaped as in the exposition formats: the beginning of the series'
// line on a page. Text is made anew with each call.
func (s *Series) Text() string { return s.name + s.labels.text }

// Key is what tells a series from all others.
type Key struct{ name, labels string }

// Key is that of the series.
func (s *Series) Key() Key { return Key{s.name, s.labels.text} }

// Compare orders series by the names of their families, then by their own
// names, then by their labels' text: the order of a page.
func (s *Series) Compare(other *Series) int {
	if s.family != other.family {
		if order := strings.Compare(s.family.Name, other.family.Name); order != 0 {
			return order
		}
	}
	if order := strings.Compare(s.name, other.name); order != 0 {
		return order
	}
	return strings.Compare(s.labels.text, other.labels.text)
}

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
func ValidMetricName[T string | []byte](name T) bool { return validName(name, true) }

// ValidLabelName reports whether name is [a-zA-Z_][a-zA-Z0-9_]*. The names
// that begin with two underscores, which Prometheus keeps for itself, are not
// valid here either.
func ValidLabelName[T string | []byte](name T) bool {
	return validName(name, false) && (len(name) < 2 || name[0] != '_' || name[1] != '_')
}

func validName[T string | []byte](name T, colon bool) bool {
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', colon && c == ':', i > 0 && c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return len(name) > 0
}
