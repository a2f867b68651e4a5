package fleet

import (
	"bytes"
	"slices"
	"strings"
)

// Page is what one node would show in the text format 0.0.4, without
// timestamps, for receivers that take no remote write. Like a [Body] it is made
// once, with room for the digits of each value.
type Page struct {
	raw    []byte
	series []series
	values []int
}

const valueDigits = 16

// Page prepares a node's page. The labels job and instance are left out: they
// are in the address that it is sent to.
func (f Fleet) Page(node int) *Page {
	p := &Page{series: f.of(node, "eth")}
	slices.SortStableFunc(p.series, func(a, b series) int { return strings.Compare(a.name, b.name) })
	var b bytes.Buffer
	name := ""
	for _, s := range p.series {
		if s.name != name {
			name = s.name
			kind := "gauge"
			if s.counter {
				kind = "counter"
			}
			b.WriteString("# HELP " + name + " " + s.help + "\n# TYPE " + name + " " + kind + "\n")
		}
		separator := "{"
		b.WriteString(name)
		for _, l := range s.labels[:2] {
			b.WriteString(separator + l.name + `="` + l.value + `"`)
			separator = ","
		}
		b.WriteString("} ")
		p.values = append(p.values, b.Len())
		b.WriteString(strings.Repeat("0", valueDigits) + "\n")
	}
	p.raw = b.Bytes()
	return p
}

// Series is how many series, and samples, a page has.
func (p *Page) Series() int { return len(p.series) }

// At is the page of a tick. It is lent until the next call.
func (p *Page) At(tick int) []byte {
	for i, at := range p.values {
		s := &p.series[i]
		n := uint64(s.value(s.from, float64(tick)))
		for d := valueDigits - 1; d >= 0; d-- {
			p.raw[at+d] = byte('0' + n%10)
			n /= 10
		}
	}
	return p.raw
}
