package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// The configuration that TestbedOS ships, but for the address: four jobs, 5 s.
func testbedosConfig(address string) string {
	config := "global: {scrape_interval: 5s}\nscrape_configs:\n"
	for _, kind := range []string{"hosts", "libvirt", "docker", "android"} {
		config += fmt.Sprintf("  - job_name: %s\n    metrics_path: /api/metrics/prometheus/%s\n    static_configs: [{targets: ['%s']}]\n", kind, kind, address)
	}
	return config
}

// From guests to PromQL: real containers and domains, the pusher, the gateway
// and two versions of Prometheus, one with the configuration of the stack and
// one with that of TestbedOS.
func TestPipeline(t *testing.T) {
	rig.NeedRoot(t)
	docker := rig.Dockerd(t)
	docker.Run(t, "signal-busy", rig.Container{CPUs: 0.5, Memory: 64 << 20}, "busy")
	docker.Run(t, "signal-idle", rig.Container{}, "idle")
	docker.Run(t, "signal-ended", rig.Container{}, "exit", "0")
	docker.Run(t, "asleep-web", rig.Container{}, "idle")
	docker.Run(t, "stranger", rig.Container{}, "idle")
	docker.Run(t, "signal-elsewhere", rig.Container{}, "idle")
	libvirt := rig.Libvirtd(t)
	libvirt.Define(rig.Domain{Name: "signal-vm", MemoryMiB: 160, VCPUs: 1, Init: "echo booted; while :; do :; done"}).Start()
	quiet := libvirt.Define(rig.Domain{Name: "signal-quiet", MemoryMiB: 160, VCPUs: 1, Init: "echo booted; sleep 100000", Balloon: "<memballoon model='none'/>"}).Start()

	b := newTestbed(t)
	b.deploy("signal", "up",
		"busy docker main-host", "idle docker main-host", "ended docker main-host", "missing docker main-host",
		"elsewhere docker client-1", "later docker -", "vm libvirt main-host", "quiet libvirt main-host", "phone android main-host")
	b.deploy("asleep", "down", "web docker main-host")
	b.deploy("other", "up", "x docker client-1")
	pusher := b.pusher(mainHost, "--docker.host=unix://"+docker.Socket, "--libvirt.uri="+libvirt.URI)

	address := strings.TrimPrefix(b.url, "http://")
	shipped, err := os.ReadFile(filepath.Join(rig.Root(t), "stack", "prometheus", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	three := rig.Prometheus(t, rig.Prometheus3, strings.ReplaceAll(string(shipped), "gateway:9370", address))
	debian := rig.Prometheus(t, rig.PrometheusDebian, testbedosConfig(address))

	quiet.WaitFor("booted", time.Minute)
	guest := func(metric, name, kind string) string {
		return fmt.Sprintf(`%s{guest_name=%q,guest_type=%q,host_name="main-host",project="signal"}`, metric, name, kind)
	}
	b.shows("/metrics/testbed", 30*time.Second,
		guest("testbed_guest_cpu", "busy", "docker"), guest("testbed_guest_cpu", "idle", "docker"),
		guest("testbed_guest_cpu", "vm", "libvirt"), guest("testbed_guest_memory_usage_bytes", "quiet", "libvirt"),
		`testbed_host_cpu{host_name="main-host"}`, `testbed_host_up{host_name="main-host"} 1`, `testbed_host_up{host_name="client-1"} 0`)

	t.Run("expected against observed", func(t *testing.T) {
		got := map[string]string{}
		up := regexp.MustCompile(`(?m)^testbed_guest_up\{guest_name="([^"]+)".*?(?:reason="([a-z_]+)")?\} ([01])$`)
		for _, m := range up.FindAllStringSubmatch(b.page("/metrics/testbed"), -1) {
			got[m[1]] = m[3] + m[2]
		}
		want := map[string]string{
			"busy": "1", "idle": "1", "vm": "1", "quiet": "1", "ended": "0stopped", "missing": "0not_seen",
			"elsewhere": "0host_silent", "later": "0not_placed", "phone": "0not_seen", "x": "0host_silent",
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	})

	// What the demo does: a deployment out of the guests that are there.
	t.Run("discover", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "signal-state.json")
		out, err := exec.Command(filepath.Join(programs(t), "pusher"), "discover", "--project=signal", "--host=main-host",
			"--docker.host=unix://"+docker.Socket, "--libvirt.uri="+libvirt.URI).Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, out, 0o600); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.Command(filepath.Join(programs(t), "gateway"), "check", "state", file).CombinedOutput(); err != nil {
			t.Fatalf("the gateway does not take it: %v\n%s\n%s", err, said, out)
		}
		var state struct {
			Guests map[string]struct {
				Docker, Libvirt *struct{}
				RuntimeName     string `json:"runtime_name"`
			} `json:"testbed_guests"`
		}
		if err := json.Unmarshal(out, &state); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"busy": "docker", "idle": "docker", "vm": "libvirt", "quiet": "libvirt", "stranger": "docker stranger",
		} {
			g, got := state.Guests[name], ""
			if g.Docker != nil {
				got = "docker"
			}
			if g.Libvirt != nil {
				got += "libvirt"
			}
			if g.RuntimeName != "" {
				got += " " + g.RuntimeName
			}
			if got != want {
				t.Errorf("%s: got %q, want %q in\n%s", name, got, want, out)
			}
		}
	})

	t.Run("what is not there is absent", func(t *testing.T) {
		page := b.page("/metrics/testbed")
		for _, unwanted := range []string{
			"stranger", "asleep", `guest_name="elsewhere",guest_type="docker",host_name="main-host"`, "exported_",
			`testbed_guest_memory{guest_name="quiet"`, // it has no balloon driver
		} {
			if strings.Contains(page, unwanted) {
				t.Errorf("the page has %s", unwanted)
			}
		}
		for _, line := range strings.Split(page, "\n") {
			if strings.Contains(line, `guest_name="ended"`) && !strings.HasPrefix(line, "testbed_guest_up{") {
				t.Errorf("a guest that has stopped has a value: %s", line)
			}
		}
		own := b.page("/metrics")
		for _, reason := range []string{"unknown_guest", "not_active", "wrong_host"} {
			if !regexp.MustCompile(`fanin_ingest_refused_samples_total\{node="main-host",reason="` + reason + `"\} [1-9]`).MatchString(own) {
				t.Errorf("refusals as %s are not counted:\n%s", reason, excerpt(own, "fanin_ingest_refused"))
			}
		}
	})

	t.Run("promtool finds no fault", func(t *testing.T) {
		for _, path := range append([]string{"/metrics/testbed", "/metrics"}, testbedosPaths...) {
			check := rig.Promtool(t, rig.PrometheusDebian, "check", "metrics", "--extended")
			check.Stdin = strings.NewReader(b.page(path))
			out, err := check.CombinedOutput()
			if err != nil && !onlyNaming(string(out)) {
				t.Errorf("%s: %v\n%s", path, err, out)
			}
		}
	})

	t.Run("the pages", func(t *testing.T) {
		for _, path := range []string{"/dashboard/", "/dashboard/signal", "/api/metrics/dashboard/signal", "/api/v1/deployments/signal", "/"} {
			if body := b.page(path); path != "/" && !strings.Contains(body, "signal") {
				t.Errorf("%s does not speak of the deployment:\n%s", path, body)
			}
		}
		page := b.page("/dashboard/signal")
		for _, want := range []string{"busy", "quiet", "main-host", "client-1"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %s", want)
			}
		}
	})

	// Busy and idle, as PromQL sees them in both Prometheis. On a machine
	// that is short of processors the busy ones get less than their limit for
	// a while; a wrong number never comes right.
	t.Run("busy is 100 and idle is 0", func(t *testing.T) {
		for name, p := range map[string]*rig.PrometheusServer{"3": three, "debian": debian} {
			for _, c := range []struct {
				guest       string
				least, most float64
			}{{"busy", 95, 105}, {"vm", 95, 105}, {"idle", 0, 3}, {"quiet", 0, 3}} {
				rig.Eventually(t, 2*time.Minute, func() error {
					// Weighted by time: what the guest used over its limit.
					got, err := p.TryQuery(fmt.Sprintf(
						`avg_over_time(testbed_guest_cpu{project="signal",guest_name=%q}[30s]) and count_over_time(testbed_guest_cpu{project="signal",guest_name=%q}[30s]) >= 5`, c.guest, c.guest))
					if err != nil {
						return err
					}
					if len(got) != 1 || got[0].Points[0].V < c.least || got[0].Points[0].V > c.most {
						return fmt.Errorf("prometheus %s, guest %s: got %v, want %v to %v", name, c.guest, got, c.least, c.most)
					}
					return nil
				})
			}
		}
	})

	t.Run("a stopped pusher does not slow the scrape", func(t *testing.T) {
		before := scrapeTimes(t, b, 40)
		if err := pusher.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		during := scrapeTimes(t, b, 40)
		b.shows("/metrics/testbed", 30*time.Second, `testbed_host_up{host_name="main-host"} 0`)
		silent := scrapeTimes(t, b, 40)
		t.Logf("median of 40 scrapes: %s with the pusher, %s while it is stopped, %s when it counts as silent", before, during, silent)
		// One order of magnitude is far below any time limit on the way, and
		// above what noise does to a median.
		if most := 10*before + 20*time.Millisecond; during > most || silent > most {
			t.Errorf("got %s and %s, want at most %s", during, silent, most)
		}
		rig.Eventually(t, 10*time.Second, func() error {
			if page := b.page("/metrics/testbed"); strings.Contains(page, "testbed_guest_cpu{") {
				return fmt.Errorf("the series of a silent host are still there:\n%s", excerpt(page, "testbed_guest_cpu{"))
			}
			return nil
		})
		if err := pusher.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		b.shows("/metrics/testbed", 10*time.Second, `testbed_host_up{host_name="main-host"} 1`, guest("testbed_guest_cpu", "busy", "docker"))
	})

	t.Run("a guest taken out ends, and no other", func(t *testing.T) {
		b.deploy("signal", "up", "idle docker main-host")
		rig.Eventually(t, 5*time.Second, func() error {
			if page := b.page("/metrics/testbed"); strings.Contains(page, `guest_name="busy"`) {
				return fmt.Errorf("the page still has\n%s", excerpt(page, "testbed_guest_cpu{"))
			}
			return nil
		})
		b.shows("/metrics/testbed", time.Second, guest("testbed_guest_cpu", "idle", "docker"), `testbed_guest_up{guest_name="x"`)
		b.deploy("signal", "down", "idle docker main-host")
		rig.Eventually(t, 5*time.Second, func() error {
			if page := b.page("/metrics/testbed"); strings.Contains(page, `project="signal"`) {
				return fmt.Errorf("the page still has series of the deployment:\n%s", excerpt(page, "testbed_guest_cpu{"))
			}
			return nil
		})
	})
}

// onlyNaming reports whether promtool's complaints are about the names that
// TestbedOS has given, or about other programs' metrics.
func onlyNaming(out string) bool {
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "go_"), strings.HasPrefix(line, "process_"), strings.TrimSpace(line) == "":
		case strings.Contains(line, "linting"), strings.Contains(line, "Metric"), strings.Contains(line, "Total"), regexp.MustCompile(`^\S+ +\d+ +\d+%?`).MatchString(line):
		default:
			return false
		}
	}
	return true
}

// scrapeTimes is the median duration of n scrapes.
func scrapeTimes(t *testing.T, b *testbed, n int) time.Duration {
	t.Helper()
	var took []time.Duration
	for range n {
		start := time.Now()
		b.page("/metrics/testbed")
		took = append(took, time.Since(start))
		time.Sleep(25 * time.Millisecond)
	}
	slices.Sort(took)
	return took[n/2]
}
