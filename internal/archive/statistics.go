package archive

import (
	"math"
	"slices"

	"fanin/internal/history"
)

// statistics are of one thing that was measured during one run.
type statistics struct {
	Mean    *float64 `json:"mean"`
	Max     *float64 `json:"max"`
	P95     *float64 `json:"p95"`
	Samples int      `json:"samples"`
}

// measure collects the values of a gauge, or the rates of a counter between
// two values, by the second. Of a guest that has moved there are several
// lines.
type measure struct {
	values  []float64
	sum     float64 // of values, or what a counter has grown by
	seconds float64 // over which it has; 0 for a gauge
	counter bool
}

// maxValues of one line that are kept for the percentile.
const maxValues = 4_000_000

// add takes a line; false says that there are too many values.
func (m *measure) add(points *history.Points) bool {
	var before float64
	var at int64
	known := false
	for points.Next() {
		t, v := points.At()
		switch {
		case points.Ends():
			known = false // what it did until it came back is not known
			continue
		case !m.counter:
			m.values = append(m.values, v)
			m.sum += v
		case known:
			grown := v - before
			if v < before { // it began again at 0
				grown = v
			}
			seconds := float64(t-at) / 1000
			m.values = append(m.values, grown/seconds)
			m.sum += grown
			m.seconds += seconds
		}
		before, at, known = v, t, true
		if len(m.values) > maxValues {
			return false
		}
	}
	return true
}

// statistics are nil when there are no values. What is no finite number is
// absent: JSON has no word for it.
func (m *measure) statistics() *statistics {
	n := len(m.values)
	if n == 0 {
		return nil
	}
	mean := m.sum / float64(n)
	if m.counter {
		mean = m.sum / m.seconds
	}
	slices.Sort(m.values)
	s := &statistics{Samples: n, Mean: finite(mean), Max: finite(m.values[n-1])}
	if math.IsNaN(m.values[0]) { // NaN sorts first; no percentile is known then
		return s
	}
	// As PromQL's quantile_over_time.
	rank := 0.95 * float64(n-1)
	low := int(rank)
	high := min(low+1, n-1)
	weight := rank - float64(low)
	s.P95 = finite(m.values[low]*(1-weight) + m.values[high]*weight)
	return s
}

func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// minus is a - b where both are known.
func minus(a, b *float64) *float64 {
	if a == nil || b == nil {
		return nil
	}
	return finite(*a - *b)
}

// difference is what the second run has more than the first.
type difference struct {
	Mean *float64 `json:"mean"`
	Max  *float64 `json:"max"`
	P95  *float64 `json:"p95"`
}

func differenceOf(a, b *statistics) *difference {
	if a == nil || b == nil {
		return nil
	}
	return &difference{minus(b.Mean, a.Mean), minus(b.Max, a.Max), minus(b.P95, a.P95)}
}
