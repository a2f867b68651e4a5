package sample

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Labels are the labels of a series without its name. They are immutable, and
// all series of a guest that differ by name only can share them: there may be a
// million series.
type Labels struct {
	text  string // {a="b",c="d"}, "" when there are none
	owner *Owner // nil: it is read out of the text
}

// NewLabels makes a set of labels as [New] does.
func NewLabels(labels ...Label) *Labels {
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
	var text []byte
	for i, l := range own {
		if !ValidLabelName(l.Name) || i > 0 && own[i-1].Name == l.Name {
			panic("sample: malformed or repeated label " + l.Name)
		}
		text = appendLabel(text, l.Name, l.Value)
	}
	return &Labels{text: closed(text)}
}

// Of is the series of a family with these labels. name is the family's or, for
// a part of a histogram or summary, begins with it.
func (l *Labels) Of(f *Family, name string) *Series {
	return &Series{family: f, name: name, labels: l}
}

// Text is {a="b",c="d"}, sorted by name and escaped as in the exposition
// formats; "" when there are no labels.
func (l *Labels) Text() string { return l.text }

// Each calls yield for every label, sorted by name. It allocates only for
// values with a backslash, a quote or a line break.
func (l *Labels) Each(yield func(name, value string) bool) {
	rest := l.text
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

// All are the labels, sorted by name.
func (l *Labels) All() []Label {
	var all []Label
	for name, value := range l.Each {
		all = append(all, Label{name, value})
	}
	return all
}

// Value is that of the label called name, "" when there is none.
func (l *Labels) Value(name string) string {
	for n, value := range l.Each {
		if n == name {
			return value
		}
	}
	return ""
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

var unescaper = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\"`, `"`)

// appendLabel appends one label to the text of a set, which closed ends.
func appendLabel[T string | []byte](text []byte, name, value T) []byte {
	if len(text) == 0 {
		text = append(text, '{')
	} else {
		text = append(text, ',')
	}
	text = append(text, name...)
	text = append(text, `="`...)
	from := 0
	for i := range len(value) {
		var escaped string
		switch value[i] {
		case '\\':
			escaped = `\\`
		case '\n':
			escaped = `\n`
		case '"':
			escaped = `\"`
		default:
			continue
		}
		text = append(append(text, value[from:i]...), escaped...)
		from = i + 1
	}
	return append(append(text, value[from:]...), '"')
}

func closed(text []byte) string {
	if len(text) == 0 {
		return ""
	}
	return string(append(text, '}'))
}
