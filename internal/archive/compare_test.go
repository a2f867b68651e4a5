package archive

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"fanin/internal/sample"
)

type answered struct {
	Rows []*row `json:"rows"`
}

func (l *lab) compared(query string) (all answered) {
	l.t.Helper()
	code, text := l.text("/api/v1/runs/compare?" + query)
	if code != 200 {
		l.t.Fatalf("%d %s", code, text)
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		l.t.Fatalf("%v in %s", err, text)
	}
	return all
}

func (a answered) row(t *testing.T, metric, label string) *row {
	t.Helper()
	for _, r := range a.Rows {
		if r.Metric == metric && (label == "" || strings.Contains(fmt.Sprint(r.Labels), label)) {
			return r
		}
	}
	t.Fatalf("there is no row of %s %s", metric, label)
	return nil
}

// query is one value by PromQL.
func (l *lab) query(query string, at int64) float64 {
	l.t.Helper()
	_, text := l.text("/api/v1/query?" + url.Values{"query": {query}, "time": {fmt.Sprint(float64(at) / 1000)}}.Encode())
	var answer struct {
		Data struct{ Result []struct{ Value []any } }
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Data.Result) != 1 {
		l.t.Fatalf("%s: %s", query, text)
	}
	v, err := strconv.ParseFloat(answer.Data.Result[0].Value[1].(string), 64)
	if err != nil {
		l.t.Fatal(err)
	}
	return v
}

func close2(a *float64, b float64) bool {
	return a != nil && math.Abs(*a-b) <= 1e-9*math.Max(1, math.Abs(b))
}

// The figures of gauges are PromQL's.
func TestCompareGauges(t *testing.T) {
	l := newLab(t)
	now := time.Now().UnixMilli()
	l.measure(world(now)...)
	first, second := l.ran("a", now-55_000, now-40_000), l.ran("b", now-39_000, now-20_000)
	got := l.compared("a=" + first.ID + "&b=" + second.ID)
	for metric, label := range map[string]string{"testbed_host_load1": "", "guest_level": "time_:3", "guest:ratio:sum": "", "guest_size": "quantile"} {
		r := got.row(t, metric, label)
		selector := metric + `{host_name="h1",project!="other",text=""}`
		if r.Rate || r.A == nil || r.B == nil {
			t.Fatalf("%s is %+v", metric, r)
		}
		for i, run := range []struct {
			from, to int64
			got      *statistics
		}{{now - 55_000, now - 40_000, r.A}, {now - 39_000, now - 20_000, r.B}} {
			over := fmt.Sprintf("%s[%dms]", selector, run.to-run.from+1)
			for f, v := range map[string]*float64{"avg_over_time(": run.got.Mean, "max_over_time(": run.got.Max, "quantile_over_time(0.95, ": run.got.P95} {
				if want := l.query(f+over+")", run.to); !close2(v, want) {
					t.Errorf("%s%s) of run %d is %v, want %v", f, over, i, v, want)
				}
			}
			if want := l.query("count_over_time("+over+")", run.to); int(want) != run.got.Samples {
				t.Errorf("%s has %d samples, want %v", over, run.got.Samples, want)
			}
		}
		if !close2(r.Difference.Mean, *r.B.Mean-*r.A.Mean) || !close2(r.Difference.P95, *r.B.P95-*r.A.P95) {
			t.Errorf("the difference of %s is %+v", metric, r.Difference)
		}
	}
	// A value that is no number makes no figure, and no JSON that can not be read.
	if r := got.row(t, "guest_level", "script"); r.A.Samples == 0 || r.A.P95 != nil || r.A.Mean != nil {
		t.Errorf("with NaN and Inf it is %+v", r.A)
	}
	for _, r := range got.Rows {
		if strings.HasPrefix(r.Metric, "testbed_run_") {
			t.Errorf("%s is compared", r.Metric)
		}
	}

	code, text := l.text("/api/v1/runs/compare?format=csv&a=" + first.ID + "&b=" + second.ID)
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if code != 200 || err != nil || len(rows) != len(got.Rows)+1 {
		t.Fatalf("as a table: %d, %v, %d rows, want %d", code, err, len(rows), len(got.Rows)+1)
	}
	for i, r := range got.Rows {
		if cell := rows[i+1]; cell[0] != r.Metric || cell[4] != r.Guest {
			t.Fatalf("row %d is of %s", i, cell[0])
		} else if v, _ := strconv.ParseFloat(cell[7], 64); r.A != nil && r.A.Mean != nil && v != *r.A.Mean {
			t.Errorf("row %d has the mean %v, want %v", i, v, *r.A.Mean)
		} else if (r.A == nil || r.A.Mean == nil) != (cell[7] == "") {
			t.Errorf("row %d has the mean %q", i, cell[7])
		}
	}
}

// Rates of counters: over a reset, over a gap, on another host.
func TestCompareCounters(t *testing.T) {
	l := newLab(t)
	now := time.Now().Truncate(time.Second).UnixMilli()
	c := sample.New(counter, of()...)
	moved := sample.New(counter, label(sample.Project, "lab"), label(sample.HostName, "h2"), label(sample.GuestName, "web"), label(sample.GuestType, "docker"))
	at := func(s *sample.Series, seconds int64, v float64) sample.Point {
		return sample.Point{Series: s, T: now - 100_000 + seconds*1000, V: v}
	}
	l.measure(
		// 100/s for 2 s, a reset and 30 in 1 s, then 10 in 10 s.
		at(c, 0, 1000), at(c, 1, 1100), at(c, 2, 1200), at(c, 3, 30), at(c, 13, 40),
		// The second run: 5/s, and on another host from 0 on.
		at(c, 20, 0), at(c, 22, 10), at(moved, 30, 500), at(moved, 32, 560),
		at(sample.New(gauge, of()...), 1, 7),
	)
	// It ends, and comes back: what it did meanwhile is not known.
	l.store.Sweep(time.Now(), func(sample.Owner) bool { return false })
	l.measure(at(moved, 35, 9000), at(moved, 36, 9030))
	first, second := l.ran("a", now-100_000, now-86_000), l.ran("b", now-80_000, now-60_000)
	got := l.compared("a=" + first.ID + "&b=" + second.ID)
	r := got.row(t, counter.Name, "")
	if !r.Rate || r.Unit != "bytes" || r.Guest != "web" || r.Host != "" {
		t.Errorf("the row is %+v", r)
	}
	if !close2(r.A.Mean, 240.0/13) || !close2(r.A.Max, 100) || !close2(r.A.P95, 100) || r.A.Samples != 4 {
		t.Errorf("the first run: mean %v, max %v, p95 %v of %d", *r.A.Mean, *r.A.Max, *r.A.P95, r.A.Samples)
	}
	if !close2(r.B.Mean, 100.0/5) || !close2(r.B.Max, 30) || r.B.Samples != 3 {
		t.Errorf("the second run: mean %v, max %v of %d", *r.B.Mean, *r.B.Max, r.B.Samples)
	}
	if !close2(r.Difference.Mean, 100.0/5-240.0/13) {
		t.Errorf("the difference is %v", *r.Difference.Mean)
	}
	if r := got.row(t, gauge.Name, ""); r.A == nil || r.B != nil || r.Difference != nil {
		t.Errorf("what only one run has is %+v", r)
	}
}
