package exporter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"fanin/internal/sample"
)

// format is that of a page.
type format uint8

const (
	text        format = iota // https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4
	openMetrics               // https://prometheus.io/docs/specs/om/open_metrics_spec/
)

// staleNaN marks the end of a series in remote write.
var staleNaN = math.Float64frombits(0x7ff0000000000002)

// tally counts what a page left out.
type tally [ofPages]uint64

// read takes a page apart and appends its points, all of the time at, to dst,
// with a stale marker for every series that was on the last good page and is
// not on this one. A page that can not be read to its end, or that has too
// many series, gives nothing. A series that breaks a limit is left out. page
// must have room for one more byte.
func (m *memory) read(dst []sample.Point, page []byte, f format, at time.Time) (points []sample.Point, left tally, failed *failure) {
	m.begin(at)
	before := len(dst)
	defer func() {
		if p := recover(); p != nil { // by whatever the parser does not foresee
			failed = &failure{reason: malformed, err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
		}
		if failed != nil {
			m.drop()
			points, left = dst[:before], tally{}
		}
	}()
	points, left, failed = m.parse(dst, page, f, at)
	if failed != nil {
		return points, left, failed
	}
	missing, ok := m.keep()
	if !ok {
		return points, left, &failure{reason: tooManySeries, err: errors.New("the node has no room for more series")}
	}
	for _, s := range missing {
		points = append(points, sample.Point{Series: s.Series, T: at.UnixMilli(), V: staleNaN})
	}
	return points, left, nil
}

func (m *memory) parse(dst []sample.Point, page []byte, f format, at time.Time) (points []sample.Point, left tally, failed *failure) {
	if bytes.IndexByte(page, 0) >= 0 { // the parser takes it for the end, and would not tell that there is more
		return dst, left, &failure{reason: malformed, err: errors.New("a null byte")}
	}
	symbols := labels.NewSymbolTable()
	var p textparse.Parser
	if f == openMetrics {
		p = textparse.NewOpenMetricsParser(page, symbols)
	} else {
		p = textparse.NewPromParser(page, symbols, false)
	}
	lines := 0
	for {
		entry, err := p.Next()
		switch {
		case errors.Is(err, io.EOF):
			return dst, left, nil
		case err != nil:
			return dst, left, &failure{reason: malformed, err: shortened(err)}
		}
		switch entry {
		case textparse.EntryType:
			m.typed(p.Type())
		case textparse.EntryHelp:
			m.helped(p.Help())
		case textparse.EntryUnit:
			m.measured(p.Unit())
		case textparse.EntrySeries:
			if lines++; lines > m.most {
				return dst, left, &failure{reason: tooManySeries, err: fmt.Errorf("more than %d series on the page", m.most)}
			}
			written, _, v := p.Series()
			l, full := m.find(written, p)
			switch {
			case full:
				return dst, left, &failure{reason: tooManySeries, err: fmt.Errorf("more than %d series within %s", m.most, unseenFor)}
			case l.series == nil:
				left[l.why]++
				continue
			}
			if math.IsNaN(v) { // whatever its bits are: one of them is a marker
				v = math.NaN()
			}
			dst = append(dst, sample.Point{Series: l.series.Series, T: at.UnixMilli(), V: v})
		}
	}
}

// shortened is an error that may repeat a whole page.
func shortened(err error) error {
	const most = 200
	said := err.Error()
	if len(said) <= most {
		return err
	}
	return errors.New(strconv.QuoteToASCII(said[:most]) + "...")
}
