// Package charts owns what is drawn of the past: which charts a page has, and
// the lines on them, out of the gateway's history. It answers with numbers for
// the page's script, and with pictures for those who run none.
package charts

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"fanin/internal/history"
)

// Limits on one request.
const (
	maxLines  = 10  // on a chart, beside those that are asked for by name
	points    = 300 // at the most, on a chart
	fresh     = time.Second
	onItsWay  = time.Second // from the node to the history, beside its own interval
	slowest   = time.Minute // between a host's samples: no pusher takes more
	maxShared = 64          // answers that are kept
	// maxValues are on those answers together, some 2 MB: five pages of twelve
	// charts with ten lines each.
	maxValues = 200_000
	lineIs    = 8 // values, beside its own: what else a line takes
)

// Scope is whose charts are wanted.
type Scope struct {
	Deployment string // "" for all hosts
	Hosts      []string
	Interval   time.Duration // between the samples of its slowest host; 0 for a second
	Heard      time.Duration // the same of those hosts that are heard from now
}

// Charts answers out of a history. Its methods may be called from any
// goroutine.
type Charts struct {
	ask func(ctx context.Context, query string, start, end time.Time, step time.Duration) ([]history.Curve, error)
	now func() time.Time

	mu      sync.Mutex // guards these
	answers map[string]*answer
	kept    []*answer // those of answers that are made, the oldest first
	values  int       // of kept
}

// New returns the charts of a history.
func New(h *history.History) *Charts {
	return &Charts{ask: h.Ask, now: time.Now, answers: map[string]*answer{}}
}

// Answer is what one request gets. All lines share the times start,
// start+step, ... in seconds since 1970; a value is null where there is none.
type Answer struct {
	Start     float64 `json:"start"`
	Step      float64 `json:"step"`
	Count     int     `json:"count"`
	Panels    []Drawn `json:"panels"`
	Disturbed []Value `json:"disturbed,omitempty"` // share of the deployment's time that the testbed disturbed, 0 to 1
}

// Drawn is one panel's lines, those with the largest mean first.
type Drawn struct {
	ID      string    `json:"id"`
	Lines   []Drawing `json:"lines"`
	LeftOut int       `json:"left_out"` // lines with a smaller mean
}

// Drawing is one line.
type Drawing struct {
	Name   string  `json:"name"`
	Values []Value `json:"values"`
}

// Value is a number, or NaN where there is none.
type Value float64

// MarshalJSON is part of json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) { return v.append(nil), nil }

// Request is what to draw.
type Request struct {
	Scope

	Start, End time.Time
	Over       time.Duration // up to the end, in place of Start
	Step       time.Duration // zero: what suits
	Names      []string      // beside the largest; with Only nothing else
	Only       bool
	Panel      string // the only one; "" for all
}

var steps = []time.Duration{
	time.Second, 2 * time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour,
}

// StepFor is the distance of the points of a chart over so much time.
func StepFor(over time.Duration) time.Duration {
	for _, s := range steps {
		if over/s <= points {
			return s
		}
	}
	return steps[len(steps)-1]
}

// Draw answers a request. Who asks for the same within a second gets the same
// answer, as far as answers are kept.
func (c *Charts) Draw(ctx context.Context, r Request) (*Answer, error) {
	r.Interval, r.Heard = min(max(r.Interval, time.Second), slowest), min(max(r.Heard, time.Second), slowest)
	// What is on its way would be missing at the end: a rate over half of its
	// samples is too small.
	if latest := c.now().Add(-onItsWay - 2*r.Heard); r.End.After(latest) {
		r.End = latest
	}
	if r.Over > 0 {
		r.Start = r.End.Add(-r.Over)
	}
	if r.Step <= 0 {
		r.Step = StepFor(r.End.Sub(r.Start))
	}
	key := fmt.Sprintf("%q %q %v %q %v %s %d %d %s", r.Deployment, r.Hosts, r.Interval, r.Names, r.Only, r.Panel,
		r.Start.UnixNano()/int64(r.Step), r.End.UnixNano()/int64(r.Step), r.Step)
	shared := c.enter(key)
	defer c.leave(shared)
	select {
	case shared.turn <- struct{}{}:
		defer func() { <-shared.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if shared.a == nil {
		a, err := c.draw(ctx, r)
		if err != nil {
			return nil, err
		}
		c.keep(shared, a)
	}
	return shared.a, nil
}

// answer is one that several may get.
type answer struct {
	key  string
	turn chan struct{} // holds a token while it is made; guards a

	// guarded by Charts.mu
	a      *Answer // written with a turn too
	at     time.Time
	asking int // requests
	kept   bool
}

// enter is the answer under a key, for a request that leaves it.
func (c *Charts) enter(key string) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.answers[key]
	if s != nil && s.a != nil && c.now().Sub(s.at) >= fresh {
		c.forget(s)
		s = nil
	}
	if s == nil {
		s = &answer{key: key, turn: make(chan struct{}, 1)}
		c.answers[key] = s
	}
	s.asking++
	return s
}

// leave forgets an answer that nobody waits for and that is not kept.
func (c *Charts) leave(s *answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.asking--; s.asking == 0 && !s.kept {
		c.forget(s)
	}
}

// keep has an answer stay while it is fresh, in place of older ones. One with
// too many values is there only for those who wait for it.
func (c *Charts) keep(s *answer, a *Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.a, s.at = a, c.now()
	if a.size() > maxValues {
		return
	}
	for len(c.kept) >= maxShared || c.values+a.size() > maxValues {
		c.forget(c.kept[0])
	}
	s.kept = true
	c.kept = append(c.kept, s)
	c.values += a.size()
	time.AfterFunc(fresh, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(s)
	})
}

// forget is called with mu held.
func (c *Charts) forget(s *answer) {
	if c.answers[s.key] == s {
		delete(c.answers, s.key)
	}
	if s.kept {
		s.kept = false
		c.kept = slices.DeleteFunc(c.kept, func(other *answer) bool { return other == s })
		c.values -= s.a.size()
	}
}

// size is how much an answer takes, in values.
func (a *Answer) size() int {
	n := len(a.Disturbed)
	for _, p := range a.Panels {
		for _, l := range p.Lines {
			n += lineIs + len(l.Values)
		}
	}
	return n
}

func (c *Charts) draw(ctx context.Context, r Request) (*Answer, error) {
	start, end := r.Start.Truncate(r.Step), r.End.Truncate(r.Step)
	if start.Before(r.Start) {
		start = start.Add(r.Step)
	}
	a := &Answer{Start: float64(start.UnixMilli()) / 1000, Step: r.Step.Seconds(), Panels: []Drawn{}}
	if end.Before(start) {
		return a, nil
	}
	a.Count = int(end.Sub(start)/r.Step) + 1
	look := max(r.Step, 4*r.Interval)
	for _, p := range Of(r.Deployment) {
		if r.Panel != "" && r.Panel != p.ID {
			continue
		}
		var names []string
		if r.Only && len(r.Names) > 0 {
			names = r.Names
		}
		lines, err := c.ask(ctx, p.query(r.Scope, look, names), start, end, r.Step)
		if err != nil {
			return nil, err
		}
		a.Panels = append(a.Panels, p.choose(lines, r.Names, start, r.Step, a.Count))
	}
	if r.Deployment != "" && r.Panel == "" {
		disturbed, err := c.ask(ctx, disturbedQuery(r.Deployment, look), start, end, r.Step)
		if err != nil {
			return nil, err
		}
		if len(disturbed) > 0 {
			a.Disturbed = onGrid(disturbed[0], start, r.Step, a.Count)
		}
	}
	return a, nil
}

// choose puts the largest lines on the chart, and those with these names.
func (p *Panel) choose(lines []history.Curve, names []string, start time.Time, step time.Duration, count int) Drawn {
	type weighed struct {
		line   history.Curve
		name   string
		asked  bool
		weight float64
	}
	all := make([]weighed, 0, len(lines))
	for _, l := range lines {
		w := weighed{line: l, name: l.Label(p.label())}
		w.asked = slices.Contains(names, w.name)
		n := 0
		for _, v := range l.Values {
			if !math.IsNaN(v) {
				w.weight += v
				n++
			}
		}
		if n > 0 {
			w.weight /= float64(n)
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b weighed) int {
		return cmp.Or(-cmp.Compare(a.weight, b.weight), cmp.Compare(a.name, b.name))
	})
	d := Drawn{ID: p.ID, Lines: []Drawing{}}
	largest := 0
	for _, w := range all {
		if !w.asked {
			if largest >= maxLines {
				d.LeftOut++
				continue
			}
			largest++
		}
		d.Lines = append(d.Lines, Drawing{Name: w.name, Values: onGrid(w.line, start, step, count)})
	}
	return d
}

func onGrid(l history.Curve, start time.Time, step time.Duration, count int) []Value {
	values := make([]Value, count)
	for i := range values {
		values[i] = Value(math.NaN())
	}
	for i, t := range l.Times {
		if k := (t - start.UnixMilli()) / step.Milliseconds(); k >= 0 && k < int64(count) {
			values[k] = Value(l.Values[i])
		}
	}
	return values
}
