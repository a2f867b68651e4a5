package e2e

import (
	"archive/tar"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// ran is a run as the API shows it.
type ran struct {
	ID      string
	Name    string
	Started float64
	Ended   *float64
	Marks   []struct {
		At   float64
		Text string
	}
}

// asked is a request about runs that must be answered with a code.
func (c *cluster) asked(code int, method, path string, body any) (run ran) {
	c.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := http.NewRequest(method, c.url+"/api/v1/runs"+path, strings.NewReader(string(text)))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != code {
		c.t.Fatalf("%s %s: %s %s %v, want %d", method, path, answer.Status, got, err, code)
	}
	if err := json.Unmarshal(got, &run); err != nil && len(got) > 0 {
		c.t.Fatalf("%s: %v", got, err)
	}
	return run
}

func (c *cluster) killed() {
	c.t.Helper()
	c.gateway.kill()
	c.gateway.start()
	rig.Eventually(c.t, 10*time.Second, func() error { _, err := c.get("/readyz"); return err })
}

// archived are the files of a run's archive.
func (c *cluster) archived(id string) (map[string]string, error) {
	answer, err := http.Get(c.url + "/api/v1/runs/" + id + "/archive")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		return nil, fmt.Errorf("%s: %s", answer.Status, text)
	}
	zip, err := gzip.NewReader(answer.Body)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, err
		}
		files[strings.TrimPrefix(header.Name, "run-"+id+"/")] = string(content)
	}
}

var (
	requestsInside = sample.NewCounter("inside_requests_total", "", "Requests: \"all\" of \\ them.")
	latencyInside  = &sample.Family{Name: "inside_latency_seconds", Type: sample.Histogram, Unit: "seconds", Help: "How long."}
	evilText       = []string{`a"b\c`, "two\nlines", "=cmd|' /C calc'!A0", "<script>alert(1)</script>", "../../../etc/passwd", "Überlast 🚀", "a,b;c"}
)

// inside pushes what a guest's own page has, once.
func (c *cluster) inside(n int) {
	c.t.Helper()
	guest := sample.Label{Name: "guest", Value: "lab-web"}
	now := time.Now().UnixMilli()
	var points []sample.Point
	for i, text := range evilText {
		points = append(points, sample.Point{Series: sample.New(requestsInside, guest, sample.Label{Name: "text", Value: text}), T: now, V: float64(n*(i+1)) / 3})
	}
	for i, le := range []string{"0.5", "+Inf"} {
		points = append(points, sample.Point{Series: sample.NewNamed(latencyInside, latencyInside.Name+"_bucket", guest, sample.Label{Name: "le", Value: le}), T: now, V: float64(n * (i + 1))})
	}
	points = append(points, sample.Point{Series: sample.NewNamed(latencyInside, latencyInside.Name+"_sum", guest), T: now, V: float64(n) / 7},
		sample.Point{Series: sample.NewNamed(latencyInside, latencyInside.Name+"_count", guest), T: now, V: float64(2 * n)})
	if code, err := send(c.url, "h", points); err != nil || code != http.StatusNoContent {
		c.t.Fatalf("push: %d, %v", code, err)
	}
}

// TestRuns: a run is started, marked and stopped while the gateway is killed
// again and again. Its archive, loaded into a Prometheus by Prometheus' own
// tool, answers as the gateway's history, and its tables have the same.
func TestRuns(t *testing.T) {
	t.Parallel()
	rig.Need(t, "go")
	c := newCluster(t, []string{"h"}, "--history.path="+t.TempDir())
	c.deploy("lab", "up", "web docker h")
	c.pusher("h", c.address, 200*time.Millisecond)
	rig.Eventually(t, 10*time.Second, func() error { _, err := c.past().Value(`testbed_host_load1{host_name="h"}`); return err })
	time.Sleep(2 * time.Second) // so that there is something from before the run

	name := `=1+1 "Überlast" \ <b>🚀</b> ../..`
	run := c.asked(http.StatusCreated, "POST", "", map[string]string{"project": "lab", "name": name})
	path := "/" + run.ID
	c.killed()
	c.asked(http.StatusConflict, "POST", "", map[string]string{"project": "lab", "name": "another"})
	c.asked(http.StatusOK, "POST", path+"/marks", map[string]string{"text": `attack "1" \`})
	c.killed()
	for n := range 100 {
		c.inside(n)
		time.Sleep(100 * time.Millisecond)
	}
	rig.Eventually(t, 15*time.Second, func() error { // shown every 5 s
		_, err := c.past().Value(`testbed_run_active{project="lab"}`)
		return err
	})
	c.shows("/metrics/testbed", time.Second, `testbed_run_active{name="=1+1 \"Überlast\" \\ <b>🚀</b> ../..",project="lab",run="`+run.ID+`"} 1`)
	c.asked(http.StatusOK, "POST", path+"/stop", nil)
	c.killed()
	run = c.asked(http.StatusOK, "GET", path, nil)
	if run.Ended == nil || len(run.Marks) != 1 || run.Marks[0].Text != `attack "1" \` || run.Name != name {
		t.Fatalf("after kill -9 the run is %+v", run)
	}
	rig.Eventually(t, 15*time.Second, func() error {
		for mark, at := range map[string]float64{"start": run.Started, `attack \"1\" \\`: run.Marks[0].At, "stop": *run.Ended} {
			if v, err := c.past().Value(`testbed_run_mark_timestamp_seconds{mark="` + mark + `"}`); err != nil || v != at {
				return fmt.Errorf("the mark %s is %v, %w, want %v", mark, v, err, at)
			}
		}
		return nil
	})
	// What waited at the pusher is collected, so that the archive has it.
	time.Sleep(5 * time.Second)

	var both [2]map[string]string
	var wait sync.WaitGroup
	for i := range both {
		wait.Go(func() {
			var err error
			if both[i], err = c.archived(run.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	files := both[0]
	if t.Failed() || files["metrics.om"] != both[1]["metrics.om"] {
		t.Fatal("two archives at once differ")
	}
	if !strings.Contains(files["versions.json"], `"kernel"`) || !strings.Contains(files["state.json"], `"web"`) {
		t.Errorf("versions.json is %s, state.json is %s", files["versions.json"], files["state.json"])
	}

	// The guest has not said what these are since the gateway was killed.
	for _, line := range []string{"# TYPE inside_requests counter", `# HELP inside_requests Requests: \"all\" of \\ them.`, "# TYPE inside_latency_seconds histogram", "# UNIT inside_latency_seconds seconds"} {
		if strings.Count(files["metrics.om"], line+"\n") != 1 {
			t.Errorf("metrics.om lacks %s", line)
		}
	}
	prometheus := rig.Prometheus(t, rig.Prometheus3, "global: {}")
	prometheus.Stop(10 * time.Second)
	om := filepath.Join(t.TempDir(), "metrics.om")
	if err := os.WriteFile(om, []byte(files["metrics.om"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := rig.Promtool(t, rig.Prometheus3, "tsdb", "create-blocks-from", "openmetrics", om, filepath.Join(prometheus.Dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	prometheus.Restart(t)

	// All that is stored, with its own times; a range is open at its begin.
	during := fmt.Sprintf("[%dms] @ %.3f", int64(math.Round((*run.Ended-run.Started)*1000)), *run.Ended)
	stored := map[string]map[int64]float64{}
	for _, selector := range []string{`{project="lab"}`, `{host_name="h",project=""}`} {
		want, got := c.past().Query(t, selector+during), prometheus.Query(t, selector+during)
		compareRanges(t, selector+during, got, want)
		for _, s := range want {
			metric := s.Labels["__name__"]
			if stored[metric] == nil {
				stored[metric] = map[int64]float64{}
			}
			for _, p := range s.Points {
				stored[metric][p.T] += p.V
			}
		}
	}
	began, ended := time.UnixMilli(int64(run.Started*1000)).Add(5*time.Second), time.UnixMilli(int64(*run.Ended*1000))
	for _, query := range []string{
		`sum by (mode) (rate(testbed_host_cpu_seconds_total{host_name="h"}[4s]))`,
		`sum by (text) (rate(inside_requests_total[2s]))`,
		`avg_over_time(testbed_host_load1[3s])`,
		`histogram_quantile(0.9, rate(inside_latency_seconds_bucket[2s]))`,
	} {
		compareRanges(t, query, prometheus.QueryRange(t, query, began, ended, time.Second), c.past().QueryRange(t, query, began, ended, time.Second))
	}

	// The tables: of each metric, at each time the same sum.
	if len(stored) < 50 {
		t.Errorf("only %d metrics are stored", len(stored))
	}
	for metric, want := range stored {
		rows, err := csv.NewReader(strings.NewReader(files["csv/"+metric+".csv"])).ReadAll()
		if err != nil || len(rows) == 0 {
			t.Errorf("the table of %s has %d rows, %v", metric, len(rows), err)
			continue
		}
		got := map[int64]float64{}
		for _, row := range rows[1:] {
			at, err := time.Parse(time.RFC3339, row[0])
			if err != nil {
				t.Fatal(err)
			}
			v, err := strconv.ParseFloat(row[len(row)-1], 64)
			if err != nil {
				t.Fatal(err)
			}
			got[at.UnixMilli()] += v
		}
		for at, v := range want {
			if have, is := got[at]; !is || math.Abs(have-v) > 1e-9*math.Abs(v) {
				t.Errorf("the table of %s at %d: %v (%v), want %v", metric, at, have, is, v)
				break
			}
		}
	}

	compared, err := c.get("/api/v1/runs/compare?a=" + run.ID + "&b=" + run.ID)
	if err != nil || !strings.Contains(compared, `"metric":"inside_requests_total","unit":"","rate":true,"host":"","guest":"web"`) {
		t.Errorf("the comparison: %.2000s, %v", compared, err)
	}
	c.asked(http.StatusNoContent, "DELETE", path, nil)
	c.asked(http.StatusNotFound, "GET", path, nil)
}
