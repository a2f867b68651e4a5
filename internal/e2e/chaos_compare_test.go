package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/presence"
	"fanin/internal/verdict"
)

// comparison is what Prometheus has of one host against what was committed.
type comparison struct {
	host                      string
	samples, series           int
	missing, extra, different []difference
	records                   []record
}

type difference struct {
	series string
	want   rig.Point
	got    *float64 // where it is another value
}

func (c *comparison) faults() int { return len(c.missing) + len(c.extra) + len(c.different) }

// compare reads everything that Prometheus has of each pusher's host up to the
// end of its sampling, and compares it with the journal: every series, every
// time, every value to the bit. (All NaNs look alike in an answer, so they are
// one value here.)
func (c *cluster) compare(p *rig.PrometheusServer) (all []comparison, err error) {
	for _, want := range c.expected() {
		got, err := c.storedOf(p, want)
		if err != nil {
			return nil, err
		}
		all = append(all, want.against(got))
	}
	strangers, err := p.TryQuery(fmt.Sprintf(`count by (host_name) (last_over_time({job=~"|testbed",host_name!="",host_name!~%q}[%s]))`, c.hostPattern(), c.age()))
	if err == nil && len(strangers) > 0 {
		err = fmt.Errorf("there are samples of hosts that have no pusher: %v", strangers)
	}
	return all, err
}

// expectation is what was committed for a host until its pushers ended.
type expectation struct {
	host    string
	ended   int64
	history history
	records []record
}

// expected reads the journals, once.
func (c *cluster) expected() []*expectation {
	if c.wanted != nil {
		return c.wanted
	}
	of := map[string]*expectation{}
	for _, n := range c.pushers {
		committed, records := n.journal.read(n.host)
		e := of[n.host]
		if e == nil {
			e = &expectation{host: n.host, history: history{}}
			of[n.host] = e
			c.wanted = append(c.wanted, e)
		}
		for series, points := range committed {
			e.history[series] = append(e.history[series], points...)
		}
		e.records = append(e.records, records...)
		e.ended = max(e.ended, n.ended.UnixMilli())
	}
	for _, e := range of {
		for series, points := range e.history { // of several pushers, perhaps
			slices.SortFunc(points, func(a, b rig.Point) int { return cmp.Compare(a.T, b.T) })
			for i := 1; i < len(points); i++ {
				if points[i].T == points[i-1].T {
					c.t.Errorf("%s was committed twice for %d", series, points[i].T)
				}
			}
		}
	}
	return c.wanted
}

// age is a span of time that reaches behind the beginning.
func (c *cluster) age() string {
	return fmt.Sprintf("%ds", int(time.Since(c.began).Seconds())+60)
}

// storedOf is what Prometheus has of a host's pushers: all its series but what
// the gateway says for itself.
func (c *cluster) storedOf(p *rig.PrometheusServer, e *expectation) (history, error) {
	own := []string{presence.HostUp.Name, presence.ClockOffset.Name, verdict.HostDisturbed.Name}
	query := fmt.Sprintf(`{job=~"|testbed",host_name=%q,__name__!~%q}[%s]`, e.host, strings.Join(own, "|"), c.age())
	answer, err := p.TryQuery(query)
	if err != nil {
		return nil, err
	}
	all := history{}
	for _, series := range answer {
		text := stored(series.Labels)
		if _, twice := all[text]; twice {
			return nil, fmt.Errorf("%s is there twice", text)
		}
		points := series.Points
		for len(points) > 0 && points[len(points)-1].T > e.ended {
			points = points[:len(points)-1] // of a later life
		}
		if len(points) > 0 {
			all[text] = points
		}
	}
	return all, nil
}

// against goes through both histories side by side.
func (e *expectation) against(got history) comparison {
	c := comparison{host: e.host, samples: e.history.samples(), series: len(e.history), records: e.records}
	for _, series := range slices.Sorted(maps.Keys(e.history)) {
		want, have := e.history[series], got[series]
		for len(want) > 0 || len(have) > 0 {
			switch {
			case len(have) == 0 || len(want) > 0 && want[0].T < have[0].T:
				c.missing = append(c.missing, difference{series, want[0], nil})
				want = want[1:]
			case len(want) == 0 || have[0].T < want[0].T:
				c.extra = append(c.extra, difference{series, have[0], nil})
				have = have[1:]
			default:
				if math.Float64bits(want[0].V) != math.Float64bits(have[0].V) && !(math.IsNaN(want[0].V) && math.IsNaN(have[0].V)) {
					c.different = append(c.different, difference{series, want[0], &have[0].V})
				}
				want, have = want[1:], have[1:]
			}
		}
	}
	for series, have := range got {
		if _, known := e.history[series]; !known {
			for _, p := range have {
				c.extra = append(c.extra, difference{series, p, nil})
			}
		}
	}
	return c
}

// same wants Prometheus to have exactly what was committed, within a time, and
// says how much that is. Otherwise it says what is wrong, and what was done
// around that time.
func (c *cluster) same(p *rig.PrometheusServer, within time.Duration) (samples, series int) {
	c.t.Helper()
	var all []comparison
	var err error
	for deadline := time.Now().Add(within); ; time.Sleep(time.Second) {
		all, err = c.compare(p)
		faults := 0
		for _, one := range all {
			faults += one.faults()
		}
		if err == nil && faults == 0 || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		c.t.Fatal(err)
	}
	for _, one := range all {
		samples, series = samples+one.samples, series+one.series
		if one.samples == 0 {
			c.t.Errorf("%s has committed nothing", one.host)
		}
		c.tell(c.t, one)
	}
	return samples, series
}

// tell says what is wrong with one host, and what was done around that time.
func (d *diary) tell(t *testing.T, one comparison) {
	t.Helper()
	if one.faults() == 0 {
		t.Logf("%s: %d samples of %d series in %d records; none is missing, different or too many", one.host, one.samples, one.series, len(one.records))
		return
	}
	t.Errorf("%s: of %d samples of %d series %d are missing, %d are different, %d are too many", one.host, one.samples, one.series,
		len(one.missing), len(one.different), len(one.extra))
	for _, kind := range []struct {
		what string
		all  []difference
	}{{"missing", one.missing}, {"different", one.different}, {"too many", one.extra}} {
		for _, spell := range spells(kind.all) {
			t.Errorf("%s, %s: %s\n%s", one.host, kind.what, spell.describe(one.records),
				d.between(time.UnixMilli(spell.from).Add(-5*time.Second), time.UnixMilli(spell.to).Add(20*time.Second)))
		}
	}
}

// spell is differences that follow each other closely.
type spell struct {
	from, to int64
	all      []difference
}

// spells groups differences by time; of very many it shows the first few.
func spells(all []difference) (grouped []spell) {
	const apart, most = 3000, 8
	slices.SortStableFunc(all, func(a, b difference) int { return cmp.Compare(a.want.T, b.want.T) })
	for _, d := range all {
		if n := len(grouped); n > 0 && d.want.T-grouped[n-1].to < apart {
			grouped[n-1].to = d.want.T
			grouped[n-1].all = append(grouped[n-1].all, d)
			continue
		}
		if len(grouped) == most {
			break
		}
		grouped = append(grouped, spell{d.want.T, d.want.T, []difference{d}})
	}
	return grouped
}

func (s spell) describe(records []record) string {
	series := map[string]bool{}
	for _, d := range s.all {
		series[d.series] = true
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d samples of %d series from %s to %s", len(s.all), len(series), at(s.from), at(s.to))
	var numbers []uint64
	for _, r := range records {
		if r.last >= s.from && r.first <= s.to {
			numbers = append(numbers, r.number)
		}
	}
	if len(numbers) > 0 {
		fmt.Fprintf(&text, ", records %d to %d", numbers[0], numbers[len(numbers)-1])
	}
	for _, d := range s.all[:min(3, len(s.all))] {
		fmt.Fprintf(&text, "\n    %s at %s (%d): %v", d.series, at(d.want.T), d.want.T, d.want.V)
		if d.got != nil {
			fmt.Fprintf(&text, ", got %v", *d.got)
		}
	}
	return text.String()
}
