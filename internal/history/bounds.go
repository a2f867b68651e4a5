package history

import (
	"fmt"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/strutil"
)

// What the engine itself does not bound.
const (
	maxSubquerySteps = 1_000_000
	maxLabelGrowth   = 16     // how often a label's value may be repeated in another's
	maxLabelText     = 512    // that a query puts into a label
	maxInstructions  = 20_000 // of all regular expressions of a request
	maxClasses       = 100    // of Unicode in one of them; each takes some KiB before it is weighed
)

// bounded refuses what costs more memory than the number of samples tells:
// subqueries of many steps, for each of which the engine takes some without
// looking at the time, and labels that are made of labels again and again.
func (h *History) bounded(query string, span time.Duration) error {
	if err := boundedPatterns(query); err != nil {
		return invalid("query", err)
	}
	expr, err := h.parser.ParseExpr(query)
	if err != nil {
		return invalid("query", err)
	}
	return boundedBelow(expr, span, 1)
}

// boundedPatterns refuses texts whose regular expressions would together take
// more than some MiB. They are read as tokens, as the parser compiles each
// pattern that it comes to.
func boundedPatterns(texts ...string) error {
	weight := 0
	for _, text := range texts {
		// A call's pattern is one of several strings, and not compiled here.
		all := strings.Contains(text, "label_replace")
		lexer := parser.Lex(text)
		var item parser.Item
		for before := parser.ItemType(0); ; {
			lexer.NextItem(&item)
			if item.Typ == parser.EOF || item.Typ == parser.ERROR {
				break
			}
			if item.Typ == parser.COMMENT {
				continue
			}
			if item.Typ == parser.STRING && (all || before == parser.EQL_REGEX || before == parser.NEQ_REGEX) {
				if weight += patternWeight(item.Val); weight > maxInstructions {
					return fmt.Errorf("regular expressions of more than %d instructions together: repeat less in them", maxInstructions)
				}
			}
			before = item.Typ
		}
	}
	return nil
}

// patternWeight is about how many instructions the pattern in a quoted string
// is compiled to; none when it is refused later.
func patternWeight(quoted string) int {
	pattern, err := strutil.Unquote(quoted)
	if err != nil {
		return 0
	}
	if strings.Count(pattern, `\p`)+strings.Count(pattern, `\P`) > maxClasses {
		return maxInstructions + 1
	}
	tree, err := syntax.Parse(pattern, syntax.Perl|syntax.DotNL)
	if err != nil {
		return 0
	}
	return treeWeight(tree)
}

func treeWeight(of *syntax.Regexp) int {
	weight := 1
	switch of.Op {
	case syntax.OpLiteral:
		weight = len(of.Rune)
	case syntax.OpCharClass:
		weight += len(of.Rune) / 10 // an instruction is as large as ten runes
	}
	for _, sub := range of.Sub {
		weight += treeWeight(sub)
	}
	if of.Op == syntax.OpRepeat {
		weight = (weight - 1) * max(of.Min+1, of.Max)
	}
	return weight
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
