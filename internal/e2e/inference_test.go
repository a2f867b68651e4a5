package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// TestInferenceExample does what the example's README says: five replicas come
// by Compose, are found by their labels, go and come back; every panel of the
// dashboard has something to show.
func TestInferenceExample(t *testing.T) {
	rig.Need(t, "docker-compose")
	docker := rig.Dockerd(t)
	docker.Image(t, "worker:test", map[string]string{"worker": static(t, "fanin/stack/examples/inference/worker")}, "/worker")
	subnet, bridge := freeSubnet(t)
	network := filepath.Join(t.TempDir(), "network.yaml")
	if err := os.WriteFile(network, fmt.Appendf(nil, "networks: {default: {driver_opts: {com.docker.network.bridge.name: %s}, ipam: {config: [{subnet: %s}]}}}\n", bridge, subnet), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) error {
		cmd := exec.Command("docker-compose", append([]string{"-p", "inference", "-f", filepath.Join(rig.Root(t), "stack/examples/inference/compose.yaml"), "-f", network}, args...)...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+docker.Host(), "WORKER_IMAGE=worker:test")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("docker-compose %v: %w\n%s", args, err, out)
		}
		return nil
	}
	scale := func(n int) {
		t.Helper()
		if err := compose("up", "-d", "--scale", fmt.Sprint("worker=", n)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := compose("down", "-t", "1"); err != nil {
			t.Error(err)
		}
	})
	scale(5)

	// docker-compose 1.29 names replicas otherwise than the state file has
	// them: the README's way for that.
	state := filepath.Join(t.TempDir(), "inference-state.json")
	out, err := exec.Command(filepath.Join(programs(t), "pusher"), "discover", "--project=inference", "--host=main-host", "--no-libvirt", "--docker.host="+docker.Host()).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, out, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command(filepath.Join(programs(t), "gateway"), "check", "state", filepath.Join(rig.Root(t), "stack/examples/inference/inference-state.json")).CombinedOutput(); err != nil {
		t.Errorf("the example's state file: %v\n%s", err, said)
	}
	b := newTestbed(t, "--state.glob="+state)
	b.pusher(mainHost, "--no-libvirt", "--docker.host="+docker.Host())
	three := rig.Prometheus(t, rig.Prometheus3, "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n"+
		"  - {job_name: testbed, metrics_path: /metrics/testbed, params: {scraper: [inference]}, honor_labels: true, scrape_protocols: [PrometheusProto], static_configs: [{targets: ['"+strings.TrimPrefix(b.url, "http://")+"']}]}\n")
	workers := func(want float64, within time.Duration) {
		t.Helper()
		rig.Eventually(t, within, func() error {
			for _, expr := range []string{`count(count by (guest_name) (inference_frame_count_total{project="inference",host_name="main-host",guest_type="docker"}))`, `sum(testbed_guest_up{project="inference"})`} {
				if got, err := three.Value(expr); err != nil || got != want {
					return fmt.Errorf("%s is %v, %w; want %v", expr, got, err, want)
				}
			}
			return nil
		})
	}
	workers(5, 30*time.Second)
	scale(3)
	workers(3, 20*time.Second)
	scale(5)
	workers(5, 20*time.Second)
	if v, err := three.Value(`min(min_over_time(rate(inference_time_count{project="inference"}[10s])[5m:1s]))`); err != nil || v < 0 {
		t.Errorf("the lowest rate is %v, %v", v, err)
	}

	t.Run("every panel shows something", func(t *testing.T) {
		content, err := os.ReadFile(filepath.Join(rig.Root(t), "stack/grafana/dashboards/inference.json"))
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(content, &board); err != nil {
			t.Fatal(err)
		}
		fill := strings.NewReplacer("$project", "inference", "$host", ".*", "$__rate_interval", "20s")
		// On control groups of version 1 the kernel counts a disk's bytes only
		// where the disk is limited.
		disks := regexp.MustCompile(`testbed_guest_disk`)
		shown := 0
		for _, p := range board.Panels {
			for _, target := range p.Targets {
				if disks.MatchString(target.Expr) {
					if _, err := three.TryQuery(fill.Replace(target.Expr)); err != nil {
						t.Errorf("%s: %v", p.Title, err)
					}
					continue
				}
				shown++
				rig.Eventually(t, 25*time.Second, func() error {
					got, err := three.TryQuery(fill.Replace(target.Expr))
					if err == nil && len(got) == 0 {
						err = fmt.Errorf("%s: nothing to show for %s", p.Title, target.Expr)
					}
					return err
				})
			}
		}
		if shown < 12 {
			t.Errorf("%d queries were asked", shown)
		}
		// The two that came back have to have been there for as long as a rate
		// looks back.
		rig.Eventually(t, time.Minute, func() error {
			spread, err := three.Value(fill.Replace(board.Panels[2].Targets[0].Expr))
			if err == nil && !(spread >= 0 && spread < 0.3) {
				err = fmt.Errorf("workers of one rate have a spread of %v", spread)
			}
			return err
		})
	})
}
