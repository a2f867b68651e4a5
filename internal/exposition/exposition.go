// Package exposition owns the scrape pages: the text format 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats/) and
// OpenMetrics 1.0. What stands on them comes from the window and from
// presence; it has been validated before.
package exposition

import (
	"bytes"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/common/expfmt"

	"fanin/internal/sample"
	"fanin/internal/window"
)

// Content types of the two formats.
const (
	TextType        = "text/plain; version=0.0.4; charset=utf-8"
	OpenMetricsType = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// Format is how a page is written.
type Format uint8

// The formats.
const (
	Text Format = iota
	OpenMetrics
)

// Pages serves what the window holds, each point with its own timestamp.
type Pages struct {
	Window *window.Store

	// Now returns points that stand for the moment of the scrape and carry
	// no timestamp. None of their families is in the window.
	Now func() []sample.Point

	buffers sync.Pool // of *[]byte
	zippers sync.Pool // of *gzip.Writer
}

// Handler serves the newest point of every series whose owner match accepts
// (nil: all), to whoever asks: nothing is consumed by it.
func (p *Pages) Handler(match func(sample.Owner) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		format, contentType := negotiate(r.Header)
		page := p.buffer()
		defer p.buffers.Put(page)
		var now []sample.Point
		for _, point := range p.Now() {
			if match == nil || match(point.Series.Owner()) {
				now = append(now, point)
			}
		}
		body := Write((*page)[:0], format, now, p.Window.Newest(nil, match))
		*page = body
		header := w.Header()
		header.Set("Content-Type", contentType)
		header.Set("Vary", "Accept, Accept-Encoding")
		if acceptsGzip(r.Header) {
			packed := p.buffer()
			defer p.buffers.Put(packed)
			body = p.compress(packed, body)
			header.Set("Content-Encoding", "gzip")
		}
		header.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the scraper is gone: nothing to tell it
	})
}

func (p *Pages) buffer() *[]byte {
	if b, _ := p.buffers.Get().(*[]byte); b != nil {
		return b
	}
	return new([]byte)
}

func (p *Pages) compress(into *[]byte, page []byte) []byte {
	z, _ := p.zippers.Get().(*gzip.Writer)
	if z == nil {
		z, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	}
	defer p.zippers.Put(z)
	packed := bytes.NewBuffer((*into)[:0])
	z.Reset(packed)
	_, _ = z.Write(page) // a bytes.Buffer takes everything
	_ = z.Close()
	*into = packed.Bytes()
	return *into
}

// negotiate takes what the scraper likes best of what there is. A scraper
// that prefers protobuf gets text.
func negotiate(header http.Header) (Format, string) {
	if expfmt.NegotiateAccept(header, TextType, OpenMetricsType).FormatType() == expfmt.TypeOpenMetrics {
		return OpenMetrics, OpenMetricsType
	}
	return Text, TextType
}

func acceptsGzip(header http.Header) bool {
	for _, part := range strings.Split(header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && strings.ReplaceAll(params, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// Write appends one page to dst: first the points without timestamps, then
// those with. In each list the series of a family stand together, and no family
// is in both.
func Write(dst []byte, format Format, now, points []sample.Point) []byte {
	at := appender{format: format, b: dst}
	at.points(now, false)
	at.points(points, true)
	at.end()
	return at.b
}

type appender struct {
	format Format
	b      []byte
}

func (a *appender) points(points []sample.Point, timed bool) {
	family := ""
	for _, p := range points {
		if f := p.Series.Family(); f.Name != family {
			family = f.Name
			a.head(f)
		}
		a.b = append(a.b, p.Series.Text()...)
		a.b = append(a.b, ' ')
		a.b = appendValue(a.b, p.V)
		if timed {
			a.b = append(a.b, ' ')
			a.timestamp(p.T)
		}
		a.b = append(a.b, '\n')
	}
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

func appendValue(b []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(b, "NaN"...)
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case math.IsInf(v, -1):
		return append(b, "-Inf"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// timestamp is in milliseconds in the text format, in seconds in OpenMetrics.
// It is not negative: the parsers of the text format would refuse the page.
func (a *appender) timestamp(t int64) {
	if a.format == Text {
		a.b = strconv.AppendInt(a.b, t, 10)
		return
	}
	a.b = strconv.AppendInt(a.b, t/1000, 10)
	a.b = append(a.b, '.', byte('0'+t/100%10), byte('0'+t/10%10), byte('0'+t%10))
}

func (a *appender) end() {
	if a.format == OpenMetrics {
		a.b = append(a.b, "# EOF\n"...)
	}
}
