package archive

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"fanin/internal/exposition"
	"fanin/internal/history"
	"fanin/internal/sample"
)

// openMetrics writes a page in OpenMetrics 1.0 with all values of all times:
// families one after another, in them the series, in these the times. Of a
// histogram or summary all series of one set of labels go together, time by
// time.
type openMetrics struct {
	w     io.Writer
	b     []byte
	names map[string]bool // of families, as OpenMetrics calls them
}

const pieceBytes = 64 << 10

func (o *openMetrics) flush(at int) error {
	if len(o.b) < at {
		return nil
	}
	_, err := o.w.Write(o.b)
	o.b = o.b[:0]
	return err
}

func (o *openMetrics) end() error {
	o.b = append(o.b, "# EOF\n"...)
	return o.flush(0)
}

// family writes the values of all lines, which are sorted by their names.
func (o *openMetrics) family(f sample.Family, lines []history.Line) error {
	f = o.unlike(f)
	headed := false
	write := func(l *history.Line, t int64, v float64) error {
		if !headed {
			o.b, headed = exposition.AppendHead(o.b, &f), true
		}
		o.b = append(o.b, l.Name...)
		o.b = append(o.b, l.Labels.Text()...)
		o.b = append(o.b, ' ')
		o.b = exposition.AppendValue(o.b, v)
		o.b = append(o.b, ' ')
		o.b = append(appendSeconds(o.b, t), '\n')
		return o.flush(pieceBytes)
	}
	switch f.Type {
	case sample.Histogram, sample.GaugeHistogram, sample.Summary:
		for _, together := range metricsOf(lines) {
			if err := merged(together, write); err != nil {
				return err
			}
		}
		return nil
	default:
		var points *history.Points
		for i := range lines {
			points = lines[i].Points(points)
			for points.Next() {
				if points.Ends() {
					continue
				}
				t, v := points.At()
				if err := write(&lines[i], t, v); err != nil {
					return err
				}
			}
			if err := points.Err(); err != nil {
				return err
			}
		}
		return nil
	}
}

// unlike makes sure that no two families have one name: OpenMetrics calls a
// counter without its _total, and there may be a gauge of that name.
func (o *openMetrics) unlike(f sample.Family) sample.Family {
	if o.names == nil {
		o.names = map[string]bool{}
	}
	name := f.Name
	if f.Type == sample.Counter {
		name = strings.TrimSuffix(name, "_total")
	}
	if o.names[name] {
		f.Type, name = sample.Unknown, f.Name
	}
	o.names[name] = true
	return f
}

// appendSeconds writes milliseconds as seconds.
func appendSeconds(b []byte, ms int64) []byte {
	b = strconv.AppendInt(b, ms/1000, 10)
	return append(b, '.', byte('0'+ms%1000/100), byte('0'+ms%100/10), byte('0'+ms%10))
}

// metricsOf puts the lines of one metric together, those that differ by le or
// quantile only, or are its _sum and _count.
func metricsOf(lines []history.Line) (all [][]*history.Line) {
	at := map[string]int{}
	for i := range lines {
		l := &lines[i]
		var rest []sample.Label
		for name, value := range l.Labels.Each {
			if name != "le" && name != "quantile" {
				rest = append(rest, sample.Label{Name: name, Value: value})
			}
		}
		key := sample.NewLabels(rest...).Text()
		n, known := at[key]
		if !known {
			n = len(all)
			at[key] = n
			all = append(all, nil)
		}
		all[n] = append(all[n], l)
	}
	for _, together := range all {
		slices.SortStableFunc(together, func(a, b *history.Line) int {
			x, y := edge(a), edge(b)
			switch {
			case x < y:
				return -1
			case x > y:
				return 1
			}
			return strings.Compare(a.Name, b.Name)
		})
	}
	return all
}

// edge is where a line stands among those of its metric: the buckets and
// quantiles from below, _count and _sum behind them.
func edge(l *history.Line) float64 {
	for _, label := range [...]string{"le", "quantile"} {
		if text := l.Labels.Value(label); text != "" {
			if v, err := strconv.ParseFloat(text, 64); err == nil {
				return min(v, 1e308)
			}
		}
	}
	return 1.5e308
}

// merged goes through several lines at once, time by time.
func merged(lines []*history.Line, yield func(l *history.Line, t int64, v float64) error) error {
	all := make([]*history.Points, len(lines))
	more := make([]bool, len(lines))
	for i, l := range lines {
		all[i] = l.Points(nil)
		more[i] = all[i].Next()
	}
	for {
		first, found := int64(0), false
		for i, p := range all {
			if t, _ := p.At(); more[i] && (!found || t < first) {
				first, found = t, true
			}
		}
		if !found {
			break
		}
		for i, p := range all {
			t, v := p.At()
			if !more[i] || t != first {
				continue
			}
			if !p.Ends() {
				if err := yield(lines[i], t, v); err != nil {
					return err
				}
			}
			more[i] = p.Next()
		}
	}
	for _, p := range all {
		if err := p.Err(); err != nil {
			return err
		}
	}
	return nil
}
