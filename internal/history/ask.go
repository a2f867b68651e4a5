package history

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql"
)

// Curve is one series of an answer: times in milliseconds since 1970,
// ascending, and the values at them.
type Curve struct {
	Label  func(name string) string // "" when it has none of that name
	Times  []int64
	Values []float64
}

// Ask evaluates an expression at start, start+step, ... up to end, for this
// program itself. It waits for its turn among others of this program only, as
// a query from outside lasts until its client has read the answer, and takes no
// longer than such a one may. The error wraps [ErrNotOpen] while there is no
// database.
func (h *History) Ask(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]Curve, error) {
	ctx, cancel := context.WithTimeout(ctx, h.QueryTimeout)
	defer cancel()
	select {
	case h.own <- struct{}{}:
		defer func() { <-h.own }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	q, err := h.engine.NewRangeQuery(ctx, &h.base, promql.NewPrometheusQueryOpts(false, 0), query, start, end, step)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	result := q.Exec(ctx)
	matrix, err := result.Matrix()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	lines := make([]Curve, len(matrix))
	for i, s := range matrix {
		l := Curve{Label: s.Metric.Get, Times: make([]int64, len(s.Floats)), Values: make([]float64, len(s.Floats))}
		for k, p := range s.Floats {
			l.Times[k], l.Values[k] = p.T, p.F
		}
		lines[i] = l
	}
	return lines, nil
}
