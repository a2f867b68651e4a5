// Package exposition owns the scrape pages and who may turn them: the text
// format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/),
// OpenMetrics 1.0 and delimited protobuf; pages of the newest points for
// whoever asks, and for named readers pages of all that has come since their
// last. What stands on them comes from the window and from presence; it has
// been validated before.
package exposition

import (
	"io"
	"strings"
	"sync"

	"fanin/internal/sample"
)

// Content types of the formats.
const (
	TextType        = "text/plain; version=0.0.4; charset=utf-8"
	OpenMetricsType = "application/openmetrics-text; version=1.0.0; charset=utf-8"
	ProtobufType    = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)

// Format is how a page is written.
type Format uint8

// The formats.
const (
	Text Format = iota
	OpenMetrics
	Protobuf // the only one that can carry stale markers
)

// Write writes one page, a piece at a time: first the points without
// timestamps, then those with. In each list the series of a family stand
// together, and the points of a series; no family is in both.
func Write(w io.Writer, format Format, now, points []sample.Point) error {
	if format == Protobuf {
		p, _ := protobufs.Get().(*protobuf)
		if p == nil {
			p = &protobuf{}
		}
		defer protobufs.Put(p)
		p.begin(w)
		p.points(now, false)
		p.points(points, true)
		p.end()
		return p.finish()
	}
	at, _ := appenders.Get().(*appender)
	if at == nil {
		at = &appender{}
	}
	defer appenders.Put(at)
	at.format = format
	at.begin(w)
	at.points(now, false)
	at.points(points, true)
	at.end()
	return at.finish()
}

var appenders, protobufs sync.Pool

// pieces is a page on its way. It leaves in pieces that fit the processor's
// cache, so that no page is ever whole in memory.
type pieces struct {
	w   io.Writer
	b   []byte
	err error // the first one; nothing is written after it
}

const pieceSize = 256 << 10

func (p *pieces) begin(w io.Writer) { p.w, p.b, p.err = w, p.b[:0], nil }

func (p *pieces) write(b []byte) {
	if p.err == nil && len(b) > 0 {
		_, p.err = p.w.Write(b)
	}
}

func (p *pieces) spill() {
	p.write(p.b)
	p.b = p.b[:0]
}

func (p *pieces) finish() error {
	p.spill()
	p.w = nil
	return p.err
}

type appender struct {
	pieces
	format  Format
	clock   clock
	fetched int
}

func (a *appender) points(points []sample.Point, timed bool) {
	var family *sample.Family
	for i := range points {
		if i%ahead == 0 {
			a.fetched += fetch(points[i:min(i+ahead, len(points))])
			if len(a.b) >= pieceSize {
				if a.spill(); a.err != nil {
					return
				}
			}
		}
		p := &points[i]
		if f := p.Series.Family(); f != family {
			if family == nil || f.Name != family.Name {
				a.head(f)
			}
			family = f
		}
		b := append(a.b, p.Series.Name()...)
		b = append(b, p.Series.Labels().Text()...)
		b = append(b, ' ')
		b = appendValue(b, p.V)
		if timed {
			b = append(b, ' ')
			b = a.clock.append(b, p.T, a.format == OpenMetrics)
		}
		a.b = append(b, '\n')
	}
}

// ahead is how many series are fetched at once.
const ahead = 32

// fetch touches the series that come next on a page. They lie all over the
// memory, and asked for together, with nothing between them that waits, they
// come in a tenth of the time that they take one after another.
func fetch(points []sample.Point) (n int) {
	for i := range points {
		n += len(points[i].Series.Labels().Text())
	}
	return n
}

// head writes what is known of a family. In OpenMetrics a counter is called
// without its _total, and one that does not end so is of unknown type.
func (a *appender) head(f *sample.Family) {
	name, kind := f.Name, f.Type.String()
	if a.format == OpenMetrics {
		base, total := strings.CutSuffix(name, "_total")
		switch {
		case f.Type == sample.Counter && total:
			name = base
		case f.Type == sample.Counter:
			kind = sample.Unknown.String()
		case f.Type == sample.Info:
			name = strings.TrimSuffix(name, "_info")
		}
	} else {
		kind = textType(f.Type)
	}
	if f.Help != "" {
		a.line("# HELP ", name, a.escape(f.Help))
	}
	a.line("# TYPE ", name, kind)
	if a.format == OpenMetrics && f.Unit != "" && strings.HasSuffix(name, "_"+f.Unit) {
		a.line("# UNIT ", name, f.Unit)
	}
}

// AppendHead appends what OpenMetrics says of a family ahead of its samples.
func AppendHead(b []byte, f *sample.Family) []byte {
	a := appender{format: OpenMetrics}
	a.b = b
	a.head(f)
	return a.b
}

// AppendValue appends a value as all pages have it; it reads back as the same
// bits, but for the payload of a NaN.
func AppendValue(b []byte, v float64) []byte { return appendValue(b, v) }

func (a *appender) line(what, name, rest string) {
	a.b = append(a.b, what...)
	a.b = append(a.b, name...)
	a.b = append(a.b, ' ')
	a.b = append(a.b, rest...)
	a.b = append(a.b, '\n')
}

var (
	textHelp        = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	openMetricsHelp = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func (a *appender) escape(help string) string {
	if a.format == OpenMetrics {
		return openMetricsHelp.Replace(help)
	}
	return textHelp.Replace(help)
}

// textType is the type's name in the text format, which knows five.
func textType(t sample.Type) string {
	switch t {
	case sample.Counter, sample.Gauge, sample.Histogram, sample.Summary:
		return t.String()
	case sample.Info, sample.StateSet:
		return sample.Gauge.String()
	case sample.GaugeHistogram:
		return sample.Histogram.String()
	default:
		return "untyped"
	}
}

func (a *appender) end() {
	if a.format == OpenMetrics {
		a.b = append(a.b, "# EOF\n"...)
	}
}
