package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"fanin/internal/exposition"
	"fanin/internal/runs"
	"fanin/internal/sample"
)

const (
	compareWithin = time.Minute
	maxRows       = 100_000
)

// row is one thing that was measured, in both runs or in one of them.
type row struct {
	Metric string            `json:"metric"`
	Unit   string            `json:"unit"`   // of the metric itself, "" for plain counts
	Rate   bool              `json:"rate"`   // by the second, of a counter
	Host   string            `json:"host"`   // "" for a guest's
	Guest  string            `json:"guest"`  // "" for a host's
	Kind   string            `json:"kind"`   // of the guest
	Labels map[string]string `json:"labels"` // the others

	A          *statistics `json:"a"`
	B          *statistics `json:"b"`
	Difference *difference `json:"difference"` // b - a
}

// comparison is all that can be said of two runs.
type comparison struct {
	ctx  context.Context
	rows map[string]*row
}

// compare serves the comparison of two runs, as JSON or, for ?format=csv or who
// accepts text/csv, as a table.
//
//	200  the comparison
//	400  a run is not named
//	404  no such run
//	422  there is too much of it
//	429  too many at once
//	503  the history is not open, or it takes longer than a minute
func (e *Exporter) compare(w http.ResponseWriter, r *http.Request) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(compareWithin + writeWithin))
	ctx, cancel := context.WithTimeout(r.Context(), compareWithin)
	defer cancel()
	query := r.URL.Query()
	both := [2]*runs.Run{}
	for i, name := range [...]string{"a", "b"} {
		if query.Get(name) == "" {
			return refuse(http.StatusBadRequest, "name both runs: ?a=ID&b=ID")
		}
		run, err := e.run(ctx, query.Get(name))
		if err != nil {
			return err
		}
		both[i] = run
	}
	asCSV := strings.Contains(r.Header.Get("Accept"), "text/csv")
	switch query.Get("format") {
	case "":
	case "json":
		asCSV = false
	case "csv":
		asCSV = true
	default:
		return refuse(http.StatusBadRequest, "format is json or csv")
	}
	c := &comparison{ctx: ctx, rows: map[string]*row{}}
	now := time.Now()
	for i, run := range both {
		if err := c.add(newSelection(e, run, now), i == 1); err != nil {
			if ctx.Err() != nil && r.Context().Err() == nil {
				return refuse(http.StatusServiceUnavailable, "the comparison takes longer than a minute: compare shorter runs")
			}
			return unavailable(err)
		}
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if asCSV {
		w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
		_, err := w.Write(c.csv())
		return err
	}
	rows := c.sorted()
	body, err := json.Marshal(struct {
		A    *runs.Run `json:"a"`
		B    *runs.Run `json:"b"`
		Rows []*row    `json:"rows"`
	}{both[0], both[1], rows})
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(body, '\n'))
	return err
}

// add takes one run in.
func (c *comparison) add(s *selection, second bool) error {
	groups, err := s.groups(c.ctx)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if g.family.Name == runs.Active.Name || g.family.Name == runs.MarkTime.Name {
			continue // they tell the runs apart, and nothing else
		}
		if err := c.group(s, g, second); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) group(s *selection, g group, second bool) error {
	past, err := s.History.Past(s.from, s.to)
	if err != nil {
		return err
	}
	defer past.Close()
	lines, err := s.lines(c.ctx, past, g)
	if err != nil {
		return err
	}
	measures := map[string]*measure{}
	for i := range lines {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		row, key := rowOf(g.family, lines[i].Name, lines[i].Labels)
		m := measures[key]
		if m == nil {
			m = &measure{counter: row.Rate}
			measures[key] = m
			if c.rows[key] == nil {
				c.rows[key] = row
			}
			if len(c.rows) > maxRows {
				return refuse(http.StatusUnprocessableEntity, fmt.Sprintf("there are more than %d series to compare", maxRows))
			}
		}
		points := lines[i].Points(nil)
		if !m.add(points) {
			return refuse(http.StatusUnprocessableEntity, fmt.Sprintf("a series has more than %d values: compare shorter runs", maxValues))
		}
		if err := points.Err(); err != nil {
			return err
		}
		if last := i == len(lines)-1; last || lines[i+1].Name != lines[i].Name {
			for key, m := range measures {
				if row := c.rows[key]; second {
					row.B = m.statistics()
				} else {
					row.A = m.statistics()
				}
			}
			clear(measures)
		}
	}
	return nil
}

// rowOf is what a series is the same as in another run: a guest may be on
// another host there, and the deployment may be another one.
func rowOf(f sample.Family, metric string, labels *sample.Labels) (r *row, key string) {
	r = &row{Metric: metric, Unit: f.Unit, Labels: map[string]string{}}
	switch f.Type {
	case sample.Counter:
		r.Rate = true
	case sample.Histogram, sample.Summary:
		r.Rate = metric != f.Name // what has a quantile is no counter
	case sample.Unknown:
		r.Rate = strings.HasSuffix(metric, "_total")
	}
	var rest []sample.Label
	for name, value := range labels.Each {
		switch name {
		case sample.Project:
		case sample.HostName:
			r.Host = value
		case sample.GuestName:
			r.Guest = value
		case sample.GuestType:
			r.Kind = value
		default:
			r.Labels[name] = value
			rest = append(rest, sample.Label{Name: name, Value: value})
		}
	}
	if r.Guest != "" {
		r.Host = ""
	}
	return r, strings.Join([]string{metric, r.Host, r.Guest, r.Kind, sample.NewLabels(rest...).Text()}, "\x00")
}

// sorted are the rows that have something, by metric, host and guest.
func (c *comparison) sorted() []*row {
	keys := make([]string, 0, len(c.rows))
	for key, r := range c.rows {
		if r.A != nil || r.B != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	all := make([]*row, len(keys))
	for i, key := range keys {
		all[i] = c.rows[key]
		all[i].Difference = differenceOf(all[i].A, all[i].B)
	}
	return all
}

func (c *comparison) csv() []byte {
	b := []byte("metric,unit,rate,host,guest,kind,labels,a_mean,b_mean,difference_mean,a_max,b_max,difference_max,a_p95,b_p95,difference_p95,a_samples,b_samples\n")
	for _, r := range c.sorted() {
		for _, text := range [...]string{r.Metric, r.Unit, strconv.FormatBool(r.Rate), r.Host, r.Guest, r.Kind} {
			b = append(appendField(b, text), ',')
		}
		var rest []sample.Label
		for name, value := range r.Labels {
			rest = append(rest, sample.Label{Name: name, Value: value})
		}
		b = appendField(b, strings.Trim(sample.NewLabels(rest...).Text(), "{}"))
		var first, second statistics
		var more difference
		if r.A != nil {
			first = *r.A
		}
		if r.B != nil {
			second = *r.B
		}
		if r.Difference != nil {
			more = *r.Difference
		}
		for _, v := range [...]*float64{
			first.Mean, second.Mean, more.Mean, first.Max, second.Max, more.Max, first.P95, second.P95, more.P95,
		} {
			b = append(b, ',')
			if v != nil {
				b = exposition.AppendValue(b, *v)
			}
		}
		b = fmt.Appendf(b, ",%d,%d\n", first.Samples, second.Samples)
	}
	return b
}
