package history

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"fanin/internal/sample"
)

// NameLabel is the label by which [Match] asks for a metric's name.
const NameLabel = model.MetricNameLabel

// Match is what a label must be: one of some values. A series without the
// label has "".
type Match struct {
	Label string
	OneOf []string
}

// Past is what is stored between two times. The database can not be closed,
// nor an old block be removed, before Close is called: do not wait for
// anybody meanwhile.
type Past struct {
	h        *History
	querier  storage.Querier
	from, to int64
}

// ErrNotOpen is returned while the database is not open.
var ErrNotOpen = errClosed

// Past opens the time between from and to, both included, in milliseconds
// since 1970.
func (h *History) Past(from, to int64) (*Past, error) {
	q, err := h.base.Querier(from, to)
	if err != nil {
		return nil, err
	}
	return &Past{h, q, from, to}, nil
}

// Close ends the use of the database.
func (p *Past) Close() { _ = p.querier.Close() }

// noted has a block looked at when an error may come from it.
func (p *Past) noted(err error) error {
	if err != nil && damages(err) {
		p.h.doubt.Store(true)
	}
	return err
}

func matchers(of []Match) []*labels.Matcher {
	var all []*labels.Matcher
	for _, m := range of {
		if len(m.OneOf) == 1 {
			all = append(all, labels.MustNewMatcher(labels.MatchEqual, m.Label, m.OneOf[0]))
			continue
		}
		quoted := make([]string, len(m.OneOf))
		for i, one := range m.OneOf {
			quoted[i] = regexp.QuoteMeta(one)
		}
		all = append(all, labels.MustNewMatcher(labels.MatchRegexp, m.Label, strings.Join(quoted, "|")))
	}
	return all
}

// Values are those of a label in the series that match, sorted. Some may have
// nothing stored at exactly these times.
func (p *Past) Values(ctx context.Context, label string, of ...Match) ([]string, error) {
	found, _, err := p.querier.LabelValues(ctx, label, nil, matchers(of)...)
	found = slices.Clone(found)
	slices.Sort(found)
	return found, p.noted(err)
}

// Line is one series of the past.
type Line struct {
	Name   string
	Labels *sample.Labels // without the name
	series storage.Series
	past   *Past
}

// Lines are the series that match, sorted by their labels. They are of use
// until the past is closed.
func (p *Past) Lines(ctx context.Context, of ...Match) (all []Line, err error) {
	set := p.querier.Select(ctx, true, &storage.SelectHints{Start: p.from, End: p.to}, matchers(of)...)
	var pairs []sample.Label
	for set.Next() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		line := Line{series: set.At(), past: p}
		pairs = pairs[:0]
		line.series.Labels().Range(func(l labels.Label) {
			switch {
			case l.Name == NameLabel:
				line.Name = l.Value
			case sample.ValidLabelName(l.Name):
				pairs = append(pairs, sample.Label{Name: l.Name, Value: l.Value})
			}
		})
		line.Labels = sample.NewLabels(pairs...)
		all = append(all, line)
	}
	return all, p.noted(set.Err())
}

// Points are the values of a line in order of time.
type Points struct {
	line *Line
	it   chunkenc.Iterator
	t    int64
	v    float64
}

// Points begins ahead of the first value. A Points that is given is used
// again.
func (l *Line) Points(again *Points) *Points {
	if again == nil {
		again = &Points{}
	}
	again.line, again.it = l, l.series.Iterator(again.it)
	return again
}

// Next goes to the next value.
func (p *Points) Next() bool {
	for {
		switch p.it.Next() {
		case chunkenc.ValNone:
			return false
		case chunkenc.ValFloat:
			p.t, p.v = p.it.At()
			return true
		}
	}
}

// At is the value with its time, in milliseconds since 1970.
func (p *Points) At() (t int64, v float64) { return p.t, p.v }

// Ends reports whether the value is none, but says that the series has ended
// just before.
func (p *Points) Ends() bool { return value.IsStaleNaN(p.v) }

// Err is why there is no next value, nil when there are no more.
func (p *Points) Err() error { return p.line.past.noted(p.it.Err()) }

// parts are what the series of a histogram or summary add to its name.
var parts = []string{"_bucket", "_count", "_sum"}

// Family is what is known of the family that a metric belongs to. Of one that
// has not come since the gateway was started the type is unknown, and it is
// called as the metric.
func (h *History) Family(metric string) sample.Family {
	h.words.mu.RLock()
	defer h.words.mu.RUnlock()
	if f := h.words.byName[metric]; f != nil {
		return *f
	}
	for _, part := range parts {
		if base, is := strings.CutSuffix(metric, part); is {
			f := h.words.byName[base]
			if f != nil && (f.Type == sample.Histogram || f.Type == sample.Summary || f.Type == sample.GaugeHistogram) {
				return *f
			}
		}
	}
	return sample.Family{Name: metric}
}
