package charts

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"fanin/internal/history"
)

var begin = time.Unix(1_700_000_000, 0)

func line(name string, start time.Time, step time.Duration, values ...float64) history.Curve {
	l := history.Curve{Label: func(string) string { return name }}
	for i, v := range values {
		if !math.IsNaN(v) {
			l.Times = append(l.Times, start.Add(time.Duration(i)*step).UnixMilli())
			l.Values = append(l.Values, v)
		}
	}
	return l
}

func TestStepFor(t *testing.T) {
	for over, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, 5 * time.Minute: time.Second, 15 * time.Minute: 3 * time.Second, time.Hour: 15 * time.Second,
		24 * time.Hour: 5 * time.Minute, 400 * 24 * time.Hour: 48 * time.Hour,
	} {
		if got := StepFor(over); got != want {
			t.Errorf("over %v: a step of %v, want %v", over, got, want)
		}
		if over/StepFor(over) > points {
			t.Errorf("over %v: %d points", over, over/StepFor(over))
		}
	}
}

// The largest lines are drawn, those that are asked for too, and where there is
// no sample there is no value.
func TestChoose(t *testing.T) {
	var lines []history.Curve
	for i := range 15 {
		lines = append(lines, line(string(rune('a'+i)), begin, time.Second, float64(i), math.NaN(), float64(i+2)))
	}
	p := &guestPanels[0]
	d := p.choose(lines, []string{"b", "nobody"}, begin, time.Second, 3)
	var names []string
	for _, l := range d.Lines {
		names = append(names, l.Name)
	}
	if want := []string{"o", "n", "m", "l", "k", "j", "i", "h", "g", "f", "b"}; !slices.Equal(names, want) {
		t.Errorf("drawn: %v, want %v", names, want)
	}
	if d.LeftOut != 4 {
		t.Errorf("%d are left out, want 4", d.LeftOut)
	}
	got, err := json.Marshal(d.Lines[0].Values)
	if err != nil || string(got) != "[14,null,16]" {
		t.Errorf("%s, %v, want [14,null,16]", got, err)
	}
}

func TestValue(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 12: "12", 12.34567: "12.346", 1.0 / 3: "0.33333", 123456789: "1.2346e+08", -3: "-3",
		math.NaN(): "null", math.Inf(1): "null", 1e-9: "1e-09",
	} {
		got, err := json.Marshal(Value(v))
		if err != nil || string(got) != want {
			t.Errorf("%v is written %s, %v, want %s", v, got, err, want)
		}
	}
}

// Whatever the names, a query is about one deployment's guests or hosts; of a
// deployment without hosts there are none.
func TestQueries(t *testing.T) {
	p := parser.NewParser(parser.Options{})
	for _, hosts := range [][]string{nil, {"a.b", "c"}} {
		for _, names := range [][]string{nil, {"web"}, {"d", "c", "web"}, {`"})or(up{a="`, `.*`, "\\", "\n", "ü", "\xff"}} {
			for _, panel := range Of("lab") {
				query := panel.query(Scope{Deployment: "lab", Hosts: hosts}, 4*time.Second, names)
				expr, err := p.ParseExpr(query)
				if err != nil {
					t.Errorf("%s: %v", query, err)
					continue
				}
				for _, selector := range parser.ExtractSelectors(expr) {
					matches := func(label, value string) bool {
						return !slices.ContainsFunc(selector, func(m *labels.Matcher) bool { return m.Name == label && !m.Matches(value) })
					}
					if !panel.hosts {
						if !matches("project", "lab") || matches("project", "lab2") {
							t.Errorf("%s is about other deployments", query)
						}
						for _, guest := range []string{"web", ".*", "anything"} {
							if got, want := matches("guest_name", guest), slices.Contains(names, guest); names != nil && got != want {
								t.Errorf("%s: guest %q is in it: %v, want %v", query, guest, got, want)
							}
						}
						continue
					}
					for _, host := range []string{"a.b", "c", "aXb", "d", "web", ".*", "anything"} {
						want := slices.Contains(hosts, host) && (names == nil || slices.Contains(names, host))
						if got := matches("host_name", host); got != want {
							t.Errorf("%s: host %q is in it: %v, want %v", query, host, got, want)
						}
					}
				}
			}
		}
	}
}

// What has not arrived yet is not drawn, and the same question gets the same
// answer for a second.
func TestDraw(t *testing.T) {
	asked := 0
	var until time.Time
	now := begin
	c := &Charts{
		now: func() time.Time { return now }, answers: map[string]*answer{},
		ask: func(_ context.Context, _ string, start, end time.Time, step time.Duration) ([]history.Curve, error) {
			asked++
			until = end
			return []history.Curve{line("web", start, step, 1, 2)}, nil
		},
	}
	r := Request{Scope: Scope{Deployment: "lab", Heard: 2 * time.Second}, End: now, Over: time.Minute}
	first, err := c.Draw(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Add(-5 * time.Second); !until.Equal(want) {
		t.Errorf("drawn until %v, want %v: one and two intervals before now", until, want)
	}
	if first.Count != 61 || first.Step != 1 || len(first.Panels) != 12 {
		t.Errorf("%d points of %v s on %d panels, want 61 of 1 s on 12", first.Count, first.Step, len(first.Panels))
	}
	before := asked
	if again, err := c.Draw(t.Context(), r); err != nil || again != first || asked != before {
		t.Errorf("the same request within a second: %v, %d more questions", err, asked-before)
	}
	now = now.Add(fresh)
	if _, err := c.Draw(t.Context(), r); err != nil || asked == before {
		t.Errorf("a second later: %v, %d questions", err, asked-before)
	}
	if a, err := c.Draw(t.Context(), Request{Scope: r.Scope, Start: now, End: now}); err != nil || a.Count != 0 {
		t.Errorf("of a time that has not come: %+v, %v", a, err)
	}
	// Who waits for another's answer may give up.
	asking, goOn := make(chan struct{}, 1), make(chan struct{})
	c.ask = func(context.Context, string, time.Time, time.Time, time.Duration) ([]history.Curve, error) {
		select {
		case asking <- struct{}{}:
		default:
		}
		<-goOn
		return nil, errors.New("no")
	}
	slow := Request{Scope: r.Scope, End: now, Over: time.Hour}
	answered := make(chan error, 1)
	go func() {
		_, err := c.Draw(t.Context(), slow)
		answered <- err
	}()
	<-asking
	impatient, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Draw(impatient, slow); !errors.Is(err, context.Canceled) {
		t.Errorf("who gives up gets %v, want that it was canceled", err)
	}
	close(goOn)
	if err := <-answered; err == nil {
		t.Error("no error from a history that does not answer, for the first")
	}
	if _, err := c.Draw(t.Context(), Request{Scope: r.Scope, End: now, Over: time.Hour}); err == nil {
		t.Error("no error from a history that does not answer")
	}
}

// Only a host that is heard from has samples on their way, and however seldom a
// host says that it samples, a page ends shortly before now.
func TestSlowHosts(t *testing.T) {
	for _, s := range []struct {
		interval, heard, late time.Duration
		look                  string
	}{
		{0, 0, 3 * time.Second, "[4s]"},
		{10 * time.Second, 10 * time.Second, 21 * time.Second, "[40s]"},
		{10 * time.Second, 0, 3 * time.Second, "[40s]"},
		{time.Hour, time.Hour, 121 * time.Second, "[4m]"},
	} {
		var until time.Time
		var asked string
		c := &Charts{
			now: func() time.Time { return begin }, answers: map[string]*answer{},
			ask: func(_ context.Context, query string, _, end time.Time, _ time.Duration) ([]history.Curve, error) {
				asked, until = query, end
				return nil, nil
			},
		}
		r := Request{Scope: Scope{Interval: s.interval, Heard: s.heard}, End: begin, Over: 5 * time.Minute, Panel: "host-cpu"}
		if _, err := c.Draw(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if late := begin.Sub(until); late != s.late || !strings.Contains(asked, s.look) {
			t.Errorf("every %v, %v of those that are heard: drawn until %v before now, want %v, and looked back by %s, want %s", s.interval, s.heard, late, s.late, asked, s.look)
		}
	}
}

// What is kept for others who ask the same is bounded in values, and gone when
// it is old, also when nobody asks any more.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := &Charts{
			now: time.Now, answers: map[string]*answer{},
			ask: func(_ context.Context, _ string, start, end time.Time, step time.Duration) (lines []history.Curve, err error) {
				asked++
				for i := range 5 {
					lines = append(lines, line(strconv.Itoa(i), start, step, make([]float64, end.Sub(start)/step+1)...))
				}
				return lines, nil
			},
		}
		draw := func(name string, over time.Duration) (questions int) {
			t.Helper()
			before := asked
			r := Request{Scope: Scope{Deployment: "lab", Hosts: []string{"a"}}, End: time.Now(), Over: over, Step: time.Second, Names: []string{name}}
			if _, err := c.Draw(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			held := 0
			for _, s := range c.answers {
				held += s.a.size()
			}
			if held > maxValues || held != c.values || len(c.answers) != len(c.kept) || len(c.kept) > maxShared {
				t.Errorf("%d values of %d answers are held, %d of %d counted, want the same and at most %d of %d", held, len(c.answers), c.values, len(c.kept), maxValues, maxShared)
			}
			return asked - before
		}
		draw("largest", 5000*time.Second)
		if n := draw("largest", 5000*time.Second); n == 0 {
			t.Error("an answer with more values than may be kept is kept")
		}
		for i := range 20 {
			draw(strconv.Itoa(i), 1000*time.Second)
		}
		if first, last := draw("0", 1000*time.Second), draw("19", 1000*time.Second); first == 0 || last != 0 {
			t.Errorf("%d and %d questions for the first and the last answer again, want that the oldest has gone", first, last)
		}
		for i := range 2 * maxShared {
			draw(strconv.Itoa(i), time.Second)
		}
		time.Sleep(fresh)
		synctest.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.answers) > 0 || len(c.kept) > 0 || c.values != 0 {
			t.Errorf("%d answers are held when none is fresh", len(c.answers))
		}
	})
}

// A picture is well-formed whatever the names are, and a gap is a gap.
func TestPicture(t *testing.T) {
	p := guestPanels[1]
	a := &Answer{Count: 5, Panels: []Drawn{{ID: p.ID, Lines: []Drawing{
		{`<script>"&'`, []Value{1 << 20, 2 << 20, Value(math.NaN()), 1 << 20, 2 << 20}},
		{strings.Repeat("ü", 40), []Value{0, 0, 0, 0, Value(math.NaN())}},
	}}}}
	b := Picture(p, a)
	d := xml.NewDecoder(strings.NewReader(string(b)))
	var paths []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if e, ok := token.(xml.StartElement); ok {
			if e.Name.Local == "script" {
				t.Errorf("a name has become an element: %s", b)
			}
			for _, at := range e.Attr {
				if e.Name.Local == "path" && at.Name.Local == "d" && strings.Count(at.Value, "L") > 0 {
					paths = append(paths, at.Value)
				}
			}
		}
	}
	if len(paths) != 2 || strings.Count(paths[0], "M") != 2 || strings.Count(paths[1], "M") != 1 {
		t.Errorf("the lines are %q, want two, of two pieces and of one", paths)
	}
	if !strings.Contains(string(b), "2.00 MiB") {
		t.Errorf("the largest value is not on it: %s", b)
	}
	if empty := string(Picture(p, &Answer{})); !strings.Contains(empty, "no samples") {
		t.Errorf("without lines: %s", empty)
	}
}
