package history

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"fanin/internal/sample"
	"fanin/internal/window"
)

// past is a history that the test drives step by step.
type past struct {
	*History
	t     testing.TB
	store *window.Store
	log   *text
}

type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (t *text) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

// begin opens a history in a folder.
func begin(t testing.TB, dir string, o Options) *past {
	t.Helper()
	p := unopened(t, dir, o)
	if err := p.open(nil, nil); err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}
	return p
}

func unopened(t testing.TB, dir string, o Options) *past {
	t.Helper()
	p := &past{t: t, store: &window.Store{Expected: []window.ReaderID{Reader}}, log: &text{}}
	o.Path, o.Window, o.Log = dir, p.store, slog.New(slog.NewTextHandler(p.log, nil))
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.History = h
	t.Cleanup(p.stop)
	return p
}

// push has the window take points and the history collect them.
func (p *past) push(points []sample.Point) {
	p.t.Helper()
	now := time.Now()
	if _, _, err := p.store.Append(points, now, time.Minute, func(i int, o window.Outcome) {
		if o != window.Ended {
			p.t.Errorf("point %d of the window is not stored: %d", i, o)
		}
	}); err != nil {
		p.t.Fatal(err)
	}
	p.collect(p.t.Context(), now)
}

// waiting is how much the window holds for the history.
func (p *past) waiting() uint64 {
	for _, r := range p.store.Readers() {
		if r.ReaderID == Reader {
			return r.Lag
		}
	}
	p.t.Fatal("the window does not know the reader")
	return 0
}

// upkeep is what Run does once a minute.
func (p *past) compact() {
	p.t.Helper()
	if err := p.maintain(context.Background()); err != nil {
		p.t.Fatal(err)
	}
}

func (p *past) damages(part string) int {
	return int(testutil.ToFloat64(p.counts.damaged.WithLabelValues(part)))
}

// serve is the API over HTTP.
func (p *past) serve() string {
	mux := http.NewServeMux()
	p.Mount(mux)
	return serve(p.t, mux)
}

func serve(t testing.TB, mux *http.ServeMux) string {
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// points are all that is stored: by series, then by time.
type points map[string]map[int64]float64

func (p *past) all() points {
	p.t.Helper()
	found, err := p.everything()
	if err != nil {
		p.t.Fatal(err)
	}
	return found
}

func (p *past) everything() (points, error) {
	q, err := p.base.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	found := points{}
	set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, model.MetricNameLabel, ".+"))
	for set.Next() {
		name := set.At().Labels().String()
		if found[name] == nil {
			found[name] = map[int64]float64{}
		}
		it := set.At().Iterator(nil)
		for it.Next() == chunkenc.ValFloat {
			t, v := it.At()
			found[name][t] = v
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	return found, set.Err()
}

// of are those of one metric.
func (p points) of(name string) points {
	some := points{}
	for series, values := range p {
		if strings.HasPrefix(series, `{__name__="`+name+`"`) {
			some[series] = values
		}
	}
	return some
}

func (p points) count() (n int) {
	for _, of := range p {
		n += len(of)
	}
	return n
}

// lost counts what is in p and not in got, and ends the test when got has
// something that p has not.
func (p points) lost(t *testing.T, got points) (n int) {
	t.Helper()
	for name, of := range p {
		for at, v := range of {
			switch have, there := got[name][at]; {
			case !there:
				n++
			case math.Float64bits(have) != math.Float64bits(v):
				t.Fatalf("%s at %d is %v, was %v", name, at, have, v)
			}
		}
	}
	for name, of := range got {
		for at := range of {
			if _, known := p[name][at]; !known {
				t.Fatalf("%s has a point at %d that nobody wrote", name, at)
			}
		}
	}
	return n
}

// add takes note of points that are written.
func (p points) add(all []sample.Point) {
	for _, one := range all {
		var b labels.ScratchBuilder
		name := labelsOf(one.Series, &b).String()
		if p[name] == nil {
			p[name] = map[int64]float64{}
		}
		p[name][one.T] = one.V
	}
}

var testFamily = sample.NewGauge("testbed_guest_test", "", "A test.")

func testSeries(i int) *sample.Series {
	return sample.New(testFamily, sample.Label{Name: sample.GuestName, Value: fmt.Sprint("g", i)},
		sample.Label{Name: sample.GuestType, Value: "docker"}, sample.Label{Name: sample.HostName, Value: "h"})
}

// lines are points of some series from one time to another. A value tells its
// series and time.
func lines(series int, from, to time.Time, step time.Duration) (all []sample.Point) {
	for i := range series {
		s := testSeries(i)
		for t := from; t.Before(to); t = t.Add(step) {
			all = append(all, sample.Point{Series: s, T: t.UnixMilli(), V: float64(i) + float64(t.UnixMilli()%1e9)/1e9})
		}
	}
	return all
}

// copyOf is a folder as kill -9 leaves it: what was written is there, and
// nothing was closed.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "history")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func counted(t *testing.T, of *prometheus.CounterVec, label string) float64 {
	t.Helper()
	return testutil.ToFloat64(of.WithLabelValues(label))
}

func nobody(sample.Owner) bool { return false }

func stamp(t time.Time) string { return fmt.Sprintf("%.3f", float64(t.UnixMilli())/1000) }
