package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fanin/internal/sample"
)

var (
	gauge     = sample.NewGauge("guest_level", "", "A level: \\ \"quoted\".")
	counter   = sample.NewCounter("guest_bytes_total", "bytes", "Bytes.")
	sameName  = sample.NewGauge("guest_bytes", "bytes", "A gauge that is called as the counter without _total.")
	odd       = &sample.Family{Name: "guest_odd", Type: sample.Counter, Help: "A counter without _total."}
	colon     = sample.NewGauge("guest:ratio:sum", "", "A name with colons.")
	histogram = &sample.Family{Name: "guest_latency_seconds", Type: sample.Histogram, Unit: "seconds", Help: "How long."}
	summary   = &sample.Family{Name: "guest_size", Type: sample.Summary, Help: "How large."}
	hosts     = sample.NewGauge("testbed_host_load1", "", "Load.")
)

// hostile are what a label may have in it.
var hostile = []string{
	`a"b\c`, "two\nlines", "=cmd|' /C calc'!A0", "+1+2", "-5", "@SUM(A1)", "<script>alert(1)</script>", "../../etc/passwd",
	"comma,semi;tab\t", "\r\n=1", `\.`, " space", "Überlast 🚀", "'quoted'", "+Inf",
}

// world has all kinds of series at odd times, and some that do not belong to
// the run.
func world(now int64) (points []sample.Point) {
	r := rand.New(rand.NewPCG(1, 2))
	times := make([]int64, 40)
	for i := range times {
		times[i] = now - 60_000 + int64(i)*1000 + r.Int64N(900)
	}
	values := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1), math.SmallestNonzeroFloat64, math.MaxFloat64, 0.1 + 0.2, 1e-7, 1 << 53, 123456.789}
	for i, t := range times {
		add := func(s *sample.Series, v float64) { points = append(points, sample.Point{Series: s, T: t, V: v}) }
		for k, text := range hostile {
			add(sample.New(gauge, of(label("text", text))...), values[(i+k)%len(values)])
		}
		add(sample.New(gauge, of(label("time", "1"), label("value", "2"), label("time_", "3"))...), r.NormFloat64())
		add(sample.New(counter, of(label("device", "eth0"))...), float64(i%15)*1234.5)
		add(sample.New(sameName, of()...), float64(i))
		add(sample.New(odd, of()...), float64(i))
		add(sample.New(colon, of()...), 1/float64(i+3))
		for _, path := range []string{"/", `/"x"`} {
			for _, le := range []string{"0.1", "+Inf", "2.5", "10.0"} {
				if le == "0.1" && i%20 < 10 {
					continue // it is not there all the time
				}
				add(sample.NewNamed(histogram, histogram.Name+"_bucket", of(label("le", le), label("path", path))...), float64(i*len(le)))
			}
			add(sample.NewNamed(histogram, histogram.Name+"_sum", of(label("path", path))...), float64(i)*0.37)
			add(sample.NewNamed(histogram, histogram.Name+"_count", of(label("path", path))...), float64(4*i))
		}
		add(sample.New(summary, of(label("quantile", "0.99"))...), r.Float64())
		add(sample.NewNamed(summary, summary.Name+"_sum", of()...), float64(i))
		add(sample.NewNamed(summary, summary.Name+"_count", of()...), float64(i))
		add(sample.New(hosts, label(sample.HostName, "h1")), r.Float64())
		add(sample.New(hosts, label(sample.HostName, "stranger")), r.Float64())
		add(sample.New(gauge, label(sample.Project, "other"), label(sample.HostName, "h1"), label(sample.GuestName, "web")), 1)
	}
	return points
}

// belongs to the run from one time to another.
func (l *lab) belonging(from, to int64) map[string]map[int64]float64 {
	all := map[string]map[int64]float64{}
	for text, values := range l.wrote {
		if strings.Contains(text, "stranger") || strings.Contains(text, `"other"`) {
			continue
		}
		all[text] = map[int64]float64{}
		for t, v := range values {
			if t >= from && t <= to {
				all[text][t] = v
			}
		}
	}
	return all
}

// Everything of the run is in the archive, in both forms, to the bit and the
// millisecond, and nothing else.
func TestArchiveHasAll(t *testing.T) {
	l := newLab(t)
	now := time.Now().UnixMilli()
	l.measure(world(now)...)
	l.store.Sweep(time.Now(), func(o sample.Owner) bool { return o.IsHost() }) // the guests end
	l.collected()
	from, to := now-50_000, now-30_000
	run := l.ran("r", from, to)
	files := l.files(run)
	want := l.belonging(from, to)
	n := 0
	for _, values := range want {
		n += len(values)
	}
	if n < 500 {
		t.Fatalf("only %d values belong to the run", n)
	}
	differ(t, "metrics.om", openMetricsOf(t, files["metrics.om"]), want)
	differ(t, "csv", tablesOf(t, files), want)
	names := slices.Sorted(maps.Keys(files))
	wanted := []string{
		"README.txt", "csv/guest-ratio-sum.csv", "csv/guest_bytes.csv", "csv/guest_bytes_total.csv", "csv/guest_latency_seconds_bucket.csv",
		"csv/guest_latency_seconds_count.csv", "csv/guest_latency_seconds_sum.csv", "csv/guest_level.csv", "csv/guest_odd.csv", "csv/guest_size.csv",
		"csv/guest_size_count.csv", "csv/guest_size_sum.csv", "csv/testbed_host_load1.csv", "metrics.om", "run.json", "state.json", "versions.json",
	}
	if !slices.Equal(names, wanted) {
		t.Errorf("the archive has %q\nwant %q", names, wanted)
	}
	var record struct {
		ID    string
		Hosts []string
		To    float64
	}
	if err := json.Unmarshal([]byte(files["run.json"]), &record); err != nil || record.ID != run.ID || !slices.Equal(record.Hosts, []string{"h1"}) || record.To != float64(to)/1000 {
		t.Errorf("run.json is %s: %v", files["run.json"], err)
	}
	// The ends of series are no values.
	all := l.ran("all", now-70_000, time.Now().UnixMilli())
	if err := l.ended(now - 70_000); err != nil {
		t.Fatal(err)
	}
	files = l.files(all)
	differ(t, "metrics.om of all", openMetricsOf(t, files["metrics.om"]), l.belonging(0, math.MaxInt64))
	differ(t, "csv of all", tablesOf(t, files), l.belonging(0, math.MaxInt64))
	for _, cell := range []string{`=cmd`, `+1+`, `@SUM`} {
		if strings.Contains(files["csv/guest_level.csv"], ","+cell) || strings.Contains(files["csv/guest_level.csv"], `"`+cell) {
			t.Errorf("a spreadsheet would take %s for a formula", cell)
		}
	}
}

// Readers multiply by 1000, and Prometheus' cuts what comes out: that must be
// the millisecond itself.
func TestSeconds(t *testing.T) {
	for ms := int64(1_795_738_840_000); ms < 1_795_738_940_000; ms++ {
		text := string(appendSeconds(nil, ms))
		if v, err := strconv.ParseFloat(text, 64); err != nil || int64(v*1000) != ms || text != fmt.Sprintf("%d.%03d", ms/1000, ms%1000) {
			t.Fatalf("%d is written as %s", ms, text)
		}
	}
}

func TestAtOnce(t *testing.T) {
	l := newLab(t)
	now := time.Now().UnixMilli()
	l.measure(world(now)...)
	run := l.ran("r", now-50_000, now-30_000)
	for range atOnce {
		l.slots <- struct{}{}
	}
	for _, path := range []string{"/api/v1/runs/" + run.ID + "/archive", "/api/v1/runs/compare?a=" + run.ID + "&b=" + run.ID} {
		if code, text := l.text(path); code != http.StatusTooManyRequests || !strings.Contains(text, "error") {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	<-l.slots
	<-l.slots
	if files := l.files(run); files["metrics.om"] == "" {
		t.Error("there is no archive when there is a slot again")
	}
	for path, code := range map[string]int{
		"/api/v1/runs/nothing/archive":                               404,
		"/api/v1/runs/compare":                                       400,
		"/api/v1/runs/compare?a=x&b=y":                               404,
		"/api/v1/runs/compare?format=x&a=" + run.ID + "&b=" + run.ID: 400,
	} {
		if got, text := l.text(path); got != code || !strings.Contains(text, `{"error":`) {
			t.Errorf("%s: %d %s, want %d", path, got, text, code)
		}
	}
}

// An archive that can not be finished does not look like a whole one.
func TestUnfinished(t *testing.T) {
	l := newLab(t)
	now := time.Now().UnixMilli()
	l.measure(world(now)...)
	run := l.ran("r", now-50_000, now-30_000)
	l.reserve = math.MaxInt64
	if code, text := l.text("/api/v1/runs/" + run.ID + "/archive"); code != http.StatusInsufficientStorage {
		t.Errorf("on a full disk: %d %s", code, text)
	}
	l.reserve = 0
	state := filepath.Join(l.Records.Path, run.ID+".state.json")
	if err := errors.Join(os.Remove(state), os.Mkdir(state, 0o755)); err != nil {
		t.Fatal(err)
	}
	got, err := l.get("/api/v1/runs/" + run.ID + "/archive")
	if err != nil {
		return // the connection was cut ahead of the first piece
	}
	defer got.Body.Close()
	if body, err := io.ReadAll(got.Body); err == nil {
		t.Errorf("%d bytes, and then an end as of a whole one", len(body))
	}
}

// A run that has just ended: what is still on its way is waited for, for longer
// than the server's limits on other answers.
func TestJustEnded(t *testing.T) {
	l := newLab(t)
	s := sample.New(gauge, of()...)
	l.measure(sample.Point{Series: s, T: time.Now().UnixMilli(), V: 1})
	now := time.Now().UnixMilli()
	run := l.ran("r", now-2000, now)
	late := time.AfterFunc(settle/2, func() { l.measure(sample.Point{Series: s, T: now, V: 2}) })
	defer late.Stop()
	if files := l.files(run); !strings.Contains(files["csv/guest_level.csv"], ",2\n") {
		t.Errorf("what came after the end is missing: %q", files)
	}
}

// A run that ended in the future, as the clock was set back since, is waited for
// no longer than one that has just ended.
func TestEndedInTheFuture(t *testing.T) {
	l := newLab(t)
	now := time.Now().UnixMilli()
	run := l.ran("r", now-2000, now)
	synctest.Test(t, func(t *testing.T) { // where it is the year 2000
		began := time.Now()
		if _, err := l.run(t.Context(), run.ID); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != settle {
			t.Errorf("it is waited for %v, want %v", waited, settle)
		}
	})
}

// A client that goes away frees its slot.
func TestClientGoesAway(t *testing.T) {
	l := newLab(t)
	now := time.Now().UnixMilli()
	run := l.ran("r", now-2000, now)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/api/v1/runs/"+run.ID+"/archive", nil)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, cancel)
	began := time.Now()
	if answer, err := http.DefaultClient.Do(r); err == nil {
		answer.Body.Close()
		t.Error("it was answered")
	}
	for len(l.slots) > 0 {
		if time.Since(began) > settle-500*time.Millisecond {
			t.Fatal("its slot is still taken")
		}
		time.Sleep(10 * time.Millisecond)
	}
}
