package rig_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// Both versions scrape a page that holds several points of one series, keep
// them all under the page's timestamps, and find them again after a kill.
func TestPrometheus(t *testing.T) {
	for _, version := range []string{rig.PrometheusDebian, rig.Prometheus3} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			base := time.Now().Add(-2 * time.Second).UnixMilli()
			page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain; version=0.0.4")
				fmt.Fprintf(w, "# TYPE probe gauge\nprobe{a=\"b\"} 1 %d\nprobe{a=\"b\"} 2 %d\n", base, base+250)
			}))
			defer page.Close()
			config := "global: {scrape_interval: 1s}\nscrape_configs: [{job_name: page, static_configs: [{targets: ['" +
				strings.TrimPrefix(page.URL, "http://") + "']}]}]\n"

			p := rig.Prometheus(t, version, config, "--web.external-url=/prometheus/")
			want := fmt.Sprint([]rig.Point{{T: base, V: 1}, {T: base + 250, V: 2}})
			stored := func() error {
				series, err := p.TryQuery(`probe{a="b"}[5m]`)
				if err != nil {
					return err
				}
				if len(series) != 1 || fmt.Sprint(series[0].Points) != want {
					return fmt.Errorf("got %v, want one series with %s", series, want)
				}
				return nil
			}
			rig.Eventually(t, 20*time.Second, stored)

			scrapes, err := p.Scrapes()
			if err != nil || len(scrapes) != 1 || scrapes[0].Health != "up" {
				t.Errorf("targets: got %+v, %v, want one that is up", scrapes, err)
			}
			if v, err := p.Value("1 + 1"); err != nil || v != 2 {
				t.Errorf("1 + 1: got %v, %v", v, err)
			}
			if _, err := p.TryQuery("1 +"); err == nil {
				t.Error("a query with an error in it: got no error")
			}

			if err := p.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			p.Restart(t)
			if err := stored(); err != nil {
				t.Errorf("after a kill and a restart: %v", err)
			}
			if got := p.QueryRange(t, "vector(1)", time.Now().Add(-time.Minute), time.Now(), 10*time.Second); len(got) != 1 || len(got[0].Points) < 6 {
				t.Errorf("vector(1) over a minute in steps of 10 s: got %v", got)
			}
		})
	}
}

func TestPromtool(t *testing.T) {
	for _, version := range []string{rig.PrometheusDebian, rig.Prometheus3} {
		cmd := rig.Promtool(t, version, "check", "metrics")
		cmd.Stdin = strings.NewReader("# HELP a_total A.\n# TYPE a_total counter\na_total 1\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: a clean page: %v\n%s", version, err, out)
		}
		cmd = rig.Promtool(t, version, "check", "metrics")
		cmd.Stdin = strings.NewReader("a{ 1\n")
		var exit *exec.ExitError
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%s: a broken page: got no error (%v)\n%s", version, exit, out)
		}
	}
}
