package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// ownLabels are those that Prometheus adds, in promtool's form.
var ownLabels = regexp.MustCompile(`(, )?(instance|job)="[^"]*"`)

// past is the gateway's own history, asked as a Prometheus.
func (c *cluster) past() *rig.PrometheusServer { return &rig.PrometheusServer{URL: c.url} }

// TestHistoryBesidePrometheus: a Prometheus 3 that scrapes as a named reader
// and the gateway's history have the same of everything, the ends of series
// included, and Prometheus' own tool finds no difference between the two.
func TestHistoryBesidePrometheus(t *testing.T) {
	t.Parallel()
	rig.Need(t, "go")
	hosts := []string{"stays", "leaves"}
	c := newCluster(t, hosts, "--history.path="+t.TempDir(), "--scrape.reader=prometheus")
	prometheus := c.prometheus3("prometheus", time.Second)
	c.pusher(hosts[0], c.address, 200*time.Millisecond)
	c.pusher(hosts[1], c.address, time.Second)
	c.has(prometheus, hosts)
	c.has(c.past(), hosts)
	began := time.Now()
	time.Sleep(5 * time.Second)
	leaves := c.pushers[1]
	leaves.terminate()()
	leaves.settle()
	// The series of a silent host end 15 s after its last word, and Prometheus
	// hears of it with its next page.
	for _, server := range []*rig.PrometheusServer{c.past(), prometheus} {
		rig.Eventually(t, 40*time.Second, func() error {
			n, err := server.TryQuery(`testbed_host_load1{host_name="leaves"}`)
			if err == nil && len(n) > 0 {
				err = fmt.Errorf("the series of the host that left go on: %v", n)
			}
			return err
		})
	}
	c.pushers[0].terminate()()
	c.pushers[0].settle()
	c.same(prometheus, 30*time.Second)
	c.same(c.past(), 30*time.Second)

	end := time.Now()
	for _, query := range []string{
		`{host_name!="",__name__!~"testbed_host_up|testbed_host_clock_offset_seconds|testbed_host_disturbed_ratio"}`,
		`sum by (host_name, mode) (rate(testbed_host_cpu_seconds_total[5s]))`,
		`count({host_name="leaves",__name__!~"testbed_host_up|testbed_host_clock_offset_seconds|testbed_host_disturbed_ratio"})`,
		`max_over_time(testbed_host_load1[4s:1s])`,
		`count_over_time(testbed_host_load1[10s])`,
		`absent(testbed_host_load1{host_name="leaves"})`,
	} {
		a, b := c.past().QueryRange(t, query, began, end, time.Second), prometheus.QueryRange(t, query, began, end, time.Second)
		compareRanges(t, query, a, b)
	}
	if n, err := c.past().Value(`sum(up{job="gateway"})`); err != nil || n != 1 {
		t.Errorf(`up{job="gateway"}: %v, %v`, n, err)
	}
	rig.Eventually(t, 20*time.Second, func() error { // it is stored every 5 s
		n, err := c.past().Value(`testbed_host_up{host_name="leaves"}`)
		if err == nil && n != 0 {
			err = fmt.Errorf(`testbed_host_up of the host that left is %v, want 0`, n)
		}
		return err
	})

	// promtool asks both.
	times := []string{"--start=" + began.Format(time.RFC3339), "--end=" + end.Format(time.RFC3339)}
	for _, form := range [][]string{
		{"instant", "--time=" + end.Add(-time.Second).Format(time.RFC3339), "URL", `sort(sum by (host_name) (count_over_time(testbed_host_load1[1m])))`},
		{"range", times[0], times[1], "--step=5s", "URL", `sum by (host_name) (testbed_host_load1)`},
		{"series", times[0], times[1], `--match={host_name="stays",__name__=~"testbed_host_load.+"}`, "URL"},
		{"labels", times[0], times[1], `--match={host_name="stays"}`, "URL", "mode"},
	} {
		var answers [2]string
		for i, url := range []string{c.url, prometheus.URL} {
			args := append([]string{"query"}, form...)
			for k := range args {
				args[k] = strings.Replace(args[k], "URL", url, 1)
			}
			out, err := rig.Promtool(t, rig.Prometheus3, args...).CombinedOutput()
			if err != nil {
				t.Errorf("promtool %v: %v\n%s", args, err, out)
			}
			answers[i] = ownLabels.ReplaceAllString(string(out), "")
		}
		if answers[0] != answers[1] || len(answers[0]) < 10 {
			t.Errorf("promtool query %v\nof the history:\n%s\nof Prometheus:\n%s", form, answers[0], answers[1])
		}
	}
	var stdout bytes.Buffer
	explain := rig.Promtool(t, rig.Prometheus3, "query", "instant", c.url, "sum(")
	explain.Stderr, explain.Stdout = &stdout, &stdout
	if err := explain.Run(); err == nil || !strings.Contains(stdout.String(), "parse error") {
		t.Errorf("promtool on a bad query: %v\n%s", err, stdout.String())
	}
}

// plain is labels without what Prometheus adds.
func plain(labels map[string]string) string {
	labels = maps.Clone(labels)
	delete(labels, "job")
	delete(labels, "instance")
	return fmt.Sprint(labels)
}

// compareRanges wants the same series with the same values at the same times.
func compareRanges(t *testing.T, query string, a, b []rig.Series) {
	t.Helper()
	of := map[string][]rig.Point{}
	values := 0
	for _, s := range b {
		of[plain(s.Labels)] = s.Points
		values += len(s.Points)
	}
	if len(a) != len(b) || len(of) != len(b) || values == 0 {
		t.Errorf("%s: the history has %d series, Prometheus %d, with %d values", query, len(a), len(b), values)
	}
	for _, s := range a {
		name, wrong := plain(s.Labels), 0
		for i, p := range s.Points {
			if want := of[name]; len(want) != len(s.Points) || want[i].T != p.T || math.Float64bits(want[i].V) != math.Float64bits(p.V) {
				wrong++
			}
		}
		if wrong > 0 {
			t.Errorf("%s: %s has %d values, Prometheus %d; they differ at %d", query, name, len(s.Points), len(of[name]), wrong)
		}
	}
}

// TestChaosHistory: the gateway is killed, and stopped, again and again. The
// history has every sample that was committed, once. In the time of grace the
// pushers keep everything for a while; without it, and with a scraper that is
// always faster, a sample leaves them as soon as the history says that it has
// it.
func TestChaosHistory(t *testing.T) {
	t.Parallel()
	rig.Need(t)
	t.Run("grace", func(t *testing.T) {
		t.Parallel()
		chaosHistory(t)
	})
	t.Run("no grace", func(t *testing.T) {
		t.Parallel()
		chaosHistory(t, "--scrape.reader=fast")
	})
}

// fast scrapes without a pause.
func (c *cluster) fast(ctx context.Context) {
	for ctx.Err() == nil {
		answer, err := http.Get(c.url + "/metrics/testbed?scraper=fast")
		if err == nil {
			_, _ = io.Copy(io.Discard, answer.Body) // to its end, so that the connection is used again
			answer.Body.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func chaosHistory(t *testing.T, args ...string) {
	number := seed(t)
	t.Logf("%s=%d", seedVariable, number)
	r := rand.New(rand.NewPCG(number, 6))
	hosts := []string{"seconds", "tenths", "more-tenths"}
	c := newCluster(t, hosts, append(args, "--history.path="+t.TempDir())...)
	go c.fast(t.Context())
	c.pusher(hosts[0], c.address, time.Second)
	c.tenths(hosts[1:])
	a := c.audit(number)
	c.has(c.past(), hosts)
	for round := range 12 {
		if round%4 == 3 {
			c.gateway.terminate()()
		} else {
			c.gateway.kill()
		}
		time.Sleep(drawn(r, 20*time.Millisecond, 500*time.Millisecond))
		c.gateway.start()
		time.Sleep(drawn(r, 200*time.Millisecond, 3500*time.Millisecond))
	}
	c.stopSampling()
	c.resume()
	samples, _ := c.same(c.past(), 30*time.Second)
	a.end()
	c.gateway.kill()
	c.gateway.start()
	c.ready(c.url)
	rig.Eventually(t, 10*time.Second, func() error { _, err := c.past().TryQuery("1"); return err })
	c.same(c.past(), 10*time.Second)
	if faults := c.sum(c.address, "fanin_history_damaged_total"); faults != 0 {
		t.Errorf("%v parts of the history are damaged after kill -9", faults)
	}
	t.Logf("%d samples, each of them there after 13 ends of the gateway", samples)
}

// TestHistoryOfTwo: a second gateway on the same folder ends with a clear
// error, and the first is not disturbed.
func TestHistoryOfTwo(t *testing.T) {
	t.Parallel()
	rig.Need(t)
	dir := t.TempDir()
	c := newCluster(t, []string{"h"}, "--history.path="+dir)
	rig.Eventually(t, 10*time.Second, func() error { _, err := c.past().TryQuery("1"); return err })
	second := exec.Command(filepath.Join(programs(t), "gateway"), fmt.Sprintf("--web.listen-address=127.0.0.1:%d", rig.FreePort(t)),
		"--testbedos.settings="+c.dir, "--history.path="+dir)
	timer := time.AfterFunc(10*time.Second, func() { _ = second.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	out, err := second.CombinedOutput()
	if err == nil || second.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "another gateway keeps its history there") {
		t.Errorf("the second gateway: %v\n%s", err, out)
	}
	if _, err := c.past().TryQuery("1"); err != nil {
		t.Error(err)
	}
	c.gateway.terminate()()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
