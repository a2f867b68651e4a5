package history

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// What the engine itself does not bound.
const (
	maxSubquerySteps = 1_000_000
	maxLabelGrowth   = 16  // how often a label's value may be repeated in another's
	maxLabelText     = 512 // that a query puts into a label
)

// bounded refuses what costs more memory than the number of samples tells:
// subqueries of many steps, for each of which the engine takes some without
// looking at the time, and labels that are made of labels again and again.
func (h *History) bounded(query string, span time.Duration) error {
	expr, err := h.parser.ParseExpr(query)
	if err != nil {
		return invalid("query", err)
	}
	return boundedBelow(expr, span, 1)
}

// boundedBelow looks at an expression that is evaluated over a span of time,
// and whose labels grow so many times above it.
func boundedBelow(node parser.Node, span time.Duration, growth int) error {
	switch n := node.(type) {
	case *parser.SubqueryExpr:
		step := n.Step
		if step <= 0 {
			step = scrapeEvery
		}
		span += n.Range
		if span < 0 || span/step > maxSubquerySteps {
			return badData(fmt.Errorf("the subquery %s has more than %d steps: choose a larger step", n, maxSubquerySteps))
		}
	case *parser.Call:
		switch n.Func.Name {
		case "label_replace": // (vector, to, replacement, from, pattern)
			text, _ := n.Args[2].(*parser.StringLiteral)
			if text == nil || len(text.Val) > maxLabelText {
				return badData(fmt.Errorf("the replacement of label_replace is no plain string of at most %d bytes", maxLabelText))
			}
			growth *= max(1, strings.Count(text.Val, "$"))
		case "label_join": // (vector, to, separator, from...)
			text, _ := n.Args[2].(*parser.StringLiteral)
			if text == nil || len(text.Val) > maxLabelText {
				return badData(fmt.Errorf("the separator of label_join is no plain string of at most %d bytes", maxLabelText))
			}
			growth *= max(1, len(n.Args)-3)
		}
		if growth > maxLabelGrowth {
			return badData(fmt.Errorf("label_replace and label_join repeat labels more than %d times", maxLabelGrowth))
		}
	}
	for child := range parser.ChildrenIter(node) {
		if err := boundedBelow(child, span, growth); err != nil {
			return err
		}
	}
	return nil
}
