package history

import (
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/value"

	"fanin/internal/sample"
)

// untimed are the series that carry no timestamp, as they were stored last:
// those that are gone the next time end there, as in a Prometheus that
// scrapes.
type untimed struct {
	at    time.Time       // when
	known map[string]*ref // by their text
	live  map[string]bool
}

// scrape stores what carries no timestamp, as of now.
func (h *History) scrape(now time.Time) {
	h.untimed.at = now
	var points []sample.Point
	if h.Now != nil {
		points = h.Now()
	}
	if h.Own != nil {
		families, _ := h.Own.Gather() // what went wrong is not among them
		points = ownPoints(points, families, h.Instance)
	}
	h.store(points, now.UnixMilli())
}

// endUntimed ends them all.
func (h *History) endUntimed(now time.Time) { h.store(nil, now.UnixMilli()) }

func (h *History) store(points []sample.Point, t int64) {
	u := &h.untimed
	live := make(map[string]bool, len(points))
	err := h.write(func(a *appending) {
		for _, p := range points {
			text := p.Series.Text()
			r := u.of(p.Series)
			h.words.note(r.series)
			a.add(r, t, p.V)
			live[text] = true
		}
		for text := range u.live {
			if !live[text] {
				a.add(u.known[text], t, math.Float64frombits(value.StaleNaN))
			}
		}
	})
	if err != nil {
		return
	}
	for text := range u.live {
		if !live[text] {
			delete(u.known, text)
		}
	}
	u.live = live
}

func (u *untimed) of(s *sample.Series) *ref {
	known := u.known[s.Text()]
	if known == nil {
		if u.known == nil {
			u.known = map[string]*ref{}
		}
		known = &ref{series: s}
		u.known[s.Text()] = known
	}
	return known
}

func (u *untimed) clear() {
	for _, r := range u.known {
		r.ref = 0
	}
}

// up is what Prometheus adds to what it scrapes.
var up = sample.NewGauge("up", "", "1 while the gateway runs.")

var types = map[dto.MetricType]sample.Type{
	dto.MetricType_COUNTER: sample.Counter, dto.MetricType_GAUGE: sample.Gauge,
	dto.MetricType_SUMMARY: sample.Summary, dto.MetricType_HISTOGRAM: sample.Histogram,
}

// ownPoints appends the gateway's own metrics as a Prometheus would store them.
func ownPoints(to []sample.Point, families []*dto.MetricFamily, instance string) []sample.Point {
	target := []sample.Label{{Name: "job", Value: "gateway"}, {Name: "instance", Value: instance}}
	to = append(to, sample.Point{Series: sample.New(up, target...), V: 1})
	for _, f := range families {
		family := &sample.Family{Name: f.GetName(), Type: types[f.GetType()], Help: strings.ReplaceAll(f.GetHelp(), "\n", " ")}
		for _, m := range f.GetMetric() {
			labels := target[:len(target):len(target)]
			for _, l := range m.GetLabel() {
				labels = append(labels, sample.Label{Name: l.GetName(), Value: l.GetValue()})
			}
			add := func(suffix string, v float64, more ...sample.Label) {
				series := sample.NewNamed(family, family.Name+suffix, append(labels[:len(labels):len(labels)], more...)...)
				to = append(to, sample.Point{Series: series, V: v})
			}
			switch {
			case m.Counter != nil:
				add("", m.Counter.GetValue())
			case m.Gauge != nil:
				add("", m.Gauge.GetValue())
			case m.Untyped != nil:
				add("", m.Untyped.GetValue())
			case m.Summary != nil:
				for _, q := range m.Summary.GetQuantile() {
					add("", q.GetValue(), sample.Label{Name: "quantile", Value: short(q.GetQuantile())})
				}
				add("_sum", m.Summary.GetSampleSum())
				add("_count", float64(m.Summary.GetSampleCount()))
			case m.Histogram != nil:
				for _, b := range m.Histogram.GetBucket() {
					if !math.IsInf(b.GetUpperBound(), 1) {
						add("_bucket", float64(b.GetCumulativeCount()), sample.Label{Name: "le", Value: short(b.GetUpperBound())})
					}
				}
				add("_bucket", float64(m.Histogram.GetSampleCount()), sample.Label{Name: "le", Value: "+Inf"})
				add("_sum", m.Histogram.GetSampleSum())
				add("_count", float64(m.Histogram.GetSampleCount()))
			}
		}
	}
	return to
}
