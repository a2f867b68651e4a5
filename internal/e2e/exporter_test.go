package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// serving are the labels of a container that serves metrics.
func serving(path string) map[string]string {
	labels := map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
	if path != "" {
		labels["prometheus.io/path"] = path
	}
	return labels
}

// address gives a guest of a deployment an address, as TestbedOS writes it.
func (b *testbed) address(project, guest, address string) {
	b.t.Helper()
	name := project + "/" + project + "-state.json"
	content, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	var state map[string]any
	if err := json.Unmarshal(content, &state); err != nil {
		b.t.Fatal(err)
	}
	state["testbed_guests"].(map[string]any)[guest].(map[string]any)["network"] = []map[string]any{{"switch": "sw0", "ip": address}}
	b.write(name, state)
}

// Pages inside guests: by containers' labels and by the gateway's rules, from
// the guest to PromQL.
func TestExporters(t *testing.T) {
	rig.NeedRoot(t)
	docker := rig.Dockerd(t)
	docker.Network(t, "lab")
	rules := filepath.Join(t.TempDir(), "rules.yml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(rules, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("rules:\n- {project: lab, guest: 'ruled*', type: docker, port: 8000, interval: 2s}\n- {guest: ghost, port: 8000}\n")
	b := newTestbed(t, "--exporter.rules="+rules)
	guests := []string{"ruled docker main-host", "ruled-2 docker main-host", "alone docker main-host", "html docker main-host", "away docker main-host", "odd docker main-host", "ghost docker main-host"}
	for i := range 5 {
		guests = append(guests, fmt.Sprintf("worker-%d docker main-host", i))
	}
	b.deploy("lab", "up", guests...)
	pusher := b.pusher(mainHost, "--docker.host="+docker.Host(), "--no-libvirt", "--exporter.list-interval=1s")
	three := rig.Prometheus(t, rig.Prometheus3, fmt.Sprintf(`
scrape_configs:
  - job_name: testbed
    scrape_interval: 1s
    metrics_path: /metrics/testbed
    params: {scraper: [prometheus]}
    scrape_protocols: [PrometheusProto, PrometheusText0.0.4]
    honor_labels: true
    honor_timestamps: true
    static_configs: [{targets: ['%s']}]
`, strings.TrimPrefix(b.url, "http://")))

	const rate = 200
	app := func(name string, c rig.Container) {
		docker.Run(t, "lab-"+name, c, "metrics", ":8000", fmt.Sprint(rate))
	}
	of := func(metric, guest string, labels ...string) string {
		return fmt.Sprintf(`%s{guest_name=%q,guest_type="docker",host_name="main-host",port="8000",project="lab"%s}`, metric, guest, strings.Join(labels, ""))
	}
	up := func(guest, reason string) string {
		if reason != "" {
			reason = `,reason="` + reason + `"`
		}
		s := of("testbed_guest_exporter_up", guest, reason)
		if reason != "" {
			return s + " 0"
		}
		return s + " 1"
	}

	// The engine's first list, and all else that is slow the first time.
	app("worker-0", rig.Container{Labels: serving(""), Network: "lab"})
	b.shows("/metrics/testbed", 30*time.Second, up("worker-0", ""), of("inference_time_count", "worker-0", `,task="t0"`))

	t.Run("replicas are found and forgotten", func(t *testing.T) {
		for i := 1; i < 5; i++ {
			name := fmt.Sprint("worker-", i)
			app(name, rig.Container{Labels: serving("/metrics"), Network: "lab"})
			began := time.Now()
			var first float64
			rig.Eventually(t, 20*time.Second, func() (err error) {
				first, err = three.Value(fmt.Sprintf(`min_over_time(timestamp(inference_time_count{guest_name=%q,task="t0"})[1m:1s])`, name))
				return err
			})
			arrived := time.Since(began)
			scraped := time.UnixMilli(int64(first * 1000)).Sub(began)
			t.Logf("%s: scraped %s after its start, in Prometheus after %s", name, scraped.Round(time.Millisecond), arrived.Round(time.Millisecond))
			if scraped > 2*time.Second+500*time.Millisecond {
				t.Errorf("%s: the first sample is of %s after its start, want two intervals", name, scraped)
			}
		}
		docker.Do(t, "lab-worker-4", "kill")
		began := time.Now()
		rig.Eventually(t, 20*time.Second, func() error {
			if got, err := three.TryQuery(`inference_time_count{guest_name="worker-4"}`); err != nil || len(got) > 0 {
				return fmt.Errorf("got %v, %w", got, err)
			}
			return nil
		})
		t.Logf("worker-4: stale in Prometheus %s after its end", time.Since(began).Round(time.Millisecond))
	})

	t.Run("identity and families", func(t *testing.T) {
		b.shows("/metrics/testbed", 10*time.Second,
			"# TYPE inference_time summary", "# HELP inference_time How long an inference took.", "# TYPE inference_frame_count_total counter", "# TYPE wait_seconds histogram",
			`wait_seconds_bucket{guest_name="worker-0",guest_type="docker",host_name="main-host",le="+Inf",port="8000",project="lab"}`,
			`odd{exported_guest="other",exported_host_name="other",exported_project="other",guest_name="worker-0",guest_type="docker",host_name="main-host",port="8000",project="lab"} 1`,
			`odd{guest_name="worker-0",guest_type="docker",host_name="main-host",is="nan",port="8000",project="lab"} NaN`,
			`odd{guest_name="worker-0",guest_type="docker",host_name="main-host",is="inf",port="8000",project="lab"} +Inf`,
		)
		page := b.page("/metrics/testbed")
		if strings.Contains(page, `guest_name="other"`) || strings.Contains(page, `,project="other"`) {
			t.Errorf("a page speaks for another guest:\n%s", excerpt(page, "odd{"))
		}
		check := rig.Promtool(t, rig.PrometheusDebian, "check", "metrics")
		check.Stdin = strings.NewReader(page)
		if out, err := check.CombinedOutput(); err != nil && !onlyNaming(string(out)) {
			t.Errorf("promtool: %v\n%s", err, out)
		}
		if got := b.page("/metrics"); regexp.MustCompile(`fanin_ingest_refused_samples_total\{[^}]*reason="(bad|label|too_many|name)[^}]*\} [1-9]`).MatchString(got) {
			t.Errorf("the gateway refuses something for its form:\n%s", excerpt(got, "fanin_ingest_refused"))
		}
	})

	t.Run("once", func(t *testing.T) {
		out, err := exec.Command(filepath.Join(programs(t), "pusher"), "once", "--no-libvirt", "--docker.host="+docker.Host()).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`testbed_guest_exporter_up{guest="lab-worker-0",port="8000"} 1`, `inference_time_count{guest="lab-worker-0",port="8000",task="t0"} `} {
			if !strings.Contains("\n"+string(out), "\n"+want) {
				t.Errorf("no line begins with %s in\n%s", want, excerpt(string(out), "testbed_guest_exporter_up"))
			}
		}
	})

	t.Run("without a network", func(t *testing.T) {
		app("alone", rig.Container{Labels: serving("")})
		b.shows("/metrics/testbed", 20*time.Second, up("alone", ""), of("inference_time_count", "alone", `,task="t0"`))
	})

	t.Run("by the gateway's rules", func(t *testing.T) {
		app("ruled", rig.Container{Network: "lab"})
		app("ruled-2", rig.Container{}) // its interfaces are not the engine's matter
		b.address("lab", "ruled", docker.Address(t, "lab-ruled", "lab"))
		b.shows("/metrics/testbed", 20*time.Second, up("ruled", ""), of("inference_time_count", "ruled", `,task="t0"`))
		b.address("lab", "ruled-2", "10.213.250.77")
		b.shows("/metrics/testbed", 20*time.Second, up("ruled-2", ""), up("ruled", ""))
		// Nobody has this address: that a page can not be scraped is no sign of life.
		there := docker.Address(t, "lab-ruled", "lab")
		b.address("lab", "ghost", there[:strings.LastIndexByte(there, '.')]+".250")
		b.shows("/metrics/testbed", 20*time.Second,
			`testbed_guest_exporter_up{guest_name="ghost",guest_type="docker",host_name="main-host",port="8000",project="lab",reason="`,
			`testbed_guest_up{guest_name="ghost",guest_type="docker",host_name="main-host",project="lab",reason="not_seen"} 0`)
		rig.Eventually(t, 30*time.Second, func() error {
			got, err := three.TryQuery(`inference_time_count{guest_name="ruled",task="t0"}[8s]`)
			if err != nil {
				return err
			}
			if len(got) != 1 || len(got[0].Points) < 3 || len(got[0].Points) > 5 {
				return fmt.Errorf("in 8 s: got %v, want a sample every two", got)
			}
			return nil
		})
		write("rules: []\n")
		rig.Eventually(t, 20*time.Second, func() error {
			if page := b.page("/metrics/testbed"); strings.Contains(page, "inference_time_count{guest_name=\"ruled") {
				return fmt.Errorf("it is still there:\n%s", excerpt(page, "inference_time_count{"))
			}
			return nil
		})
	})

	t.Run("what can not be scraped says why", func(t *testing.T) {
		app("html", rig.Container{Labels: serving("/html"), Network: "lab"})
		app("away", rig.Container{Labels: serving("/elsewhere"), Network: "lab"})
		odd := serving("//169.254.169.254/")
		app("odd", rig.Container{Labels: odd, Network: "lab"})
		b.shows("/metrics/testbed", 20*time.Second, up("html", "content_type"), up("away", "redirect"), up("odd", "bad_path"))
	})

	t.Run("rates are exact, and survive a restart", func(t *testing.T) {
		time.Sleep(12 * time.Second)
		docker.Do(t, "lab-worker-1", "restart")
		restarted := time.Now()
		time.Sleep(15 * time.Second)
		now := time.Now().Add(-2 * time.Second)
		worst := 0.0
		for task, want := range []float64{rate, rate / 4} {
			for guest := range 4 {
				query := fmt.Sprintf(`rate(inference_time_count{guest_name="worker-%d",task="t%d"}[10s])`, guest, task)
				got := three.QueryRange(t, query, now.Add(-22*time.Second), now, time.Second)
				if len(got) != 1 || len(got[0].Points) < 15 {
					t.Fatalf("%s: got %v", query, got)
				}
				for _, p := range got[0].Points {
					off := math.Abs(p.V-want) / want
					if guest == 1 && time.UnixMilli(p.T).After(restarted.Add(-2*time.Second)) && time.UnixMilli(p.T).Before(restarted.Add(12*time.Second)) {
						if p.V < 0 || p.V > 1.1*want {
							t.Errorf("%s around the restart: got %v at %d, want 0 to %v", query, p.V, p.T, want)
						}
						continue
					}
					worst = max(worst, off)
					if off > 0.02 {
						t.Errorf("%s: got %v at %d, want %v", query, p.V, p.T, want)
					}
				}
			}
		}
		t.Logf("rates by task, guest and host over 22 s: at most %.2f %% off", 100*worst)
		total, err := three.Value(fmt.Sprintf(`sum by (host_name) (rate(inference_time_count{task="t0",guest_name=~"worker-[023]"}[10s] @ %d))`, now.Unix()))
		if err != nil || math.Abs(total-3*rate)/(3*rate) > 0.02 {
			t.Errorf("by host: got %v, %v, want %d", total, err, 3*rate)
		}
	})

	if t.Failed() {
		t.Logf("the pusher said:\n%s", pusher.Tail(4096))
	}
}
