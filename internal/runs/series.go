package runs

import (
	"fmt"
	"slices"
	"time"

	"fanin/internal/sample"
)

// What the gateway says of runs, as of now.
var (
	Active   = sample.NewGauge("testbed_run_active", "", "1 while the run goes on; absent before and after.")
	MarkTime = sample.NewGauge("testbed_run_mark_timestamp_seconds", "seconds", "When the moment of a run was, in seconds since 1970: its start, its stop and what was marked; shown while the run goes on and for an hour after its end.")
)

const (
	shownFor  = time.Hour // after its end
	maxPoints = 2_000     // of marks, those of the newest runs
)

// series are those of one run: made once, as a page shows them every second.
type series struct {
	active *sample.Series
	marks  []sample.Point
}

func seriesOf(run *Run) (s series) {
	project, id := sample.Label{Name: sample.Project, Value: run.Project}, sample.Label{Name: "run", Value: run.ID}
	s.active = sample.New(Active, project, id, sample.Label{Name: "name", Value: run.Name})
	seen := map[string]bool{}
	add := func(text string, at Time) {
		name := text
		for i := 2; seen[name]; i++ {
			name = fmt.Sprintf("%s (%d)", text, i)
		}
		seen[name] = true
		s.marks = append(s.marks, sample.Point{
			Series: sample.New(MarkTime, project, id, sample.Label{Name: "mark", Value: name}),
			V:      float64(at) / 1000,
		})
	}
	add("start", run.Started)
	seen["stop"] = true
	for _, m := range run.Marks {
		add(m.Text, m.At)
	}
	if run.Ended != nil {
		delete(seen, "stop")
		add("stop", *run.Ended)
	}
	return s
}

// Points are what a scrape page shows of runs now, without a time of their own
// (T is 0), family by family; nothing for no records.
func (r *Records) Points(now time.Time) []sample.Point {
	if r == nil {
		return nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	var active, marks []sample.Point
	for _, e := range r.sorted {
		if e.Ended == nil {
			active = append(active, sample.Point{Series: e.series.active, V: 1})
		}
		recent := e.Ended == nil || int64(*e.Ended) > now.Add(-shownFor).UnixMilli()
		if recent && len(marks) < maxPoints {
			marks = append(marks, e.series.marks[:min(len(e.series.marks), maxPoints-len(marks))]...)
		}
	}
	return slices.Concat(active, marks)
}
