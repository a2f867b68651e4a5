package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// What this machine's kernel, with control groups of version 1, and guests
// without a disk do not have: the test says it as another host would.
func elsewhere(at time.Time) (all []told) {
	x := float64(at.UnixMilli()) / 1000
	for _, metric := range []string{
		"testbed_guest_pressure_cpu_waiting_seconds_total", "testbed_guest_pressure_memory_waiting_seconds_total", "testbed_guest_pressure_memory_stalled_seconds_total",
		"testbed_guest_pressure_io_waiting_seconds_total", "testbed_guest_pressure_io_stalled_seconds_total", "testbed_guest_vcpu_wait_seconds_total",
	} {
		all = append(all, told{"signal-far", metric, "", 0.1 * x})
	}
	for _, metric := range []string{
		"testbed_guest_disk_read_bytes_total", "testbed_guest_disk_written_bytes_total", "testbed_guest_disk_reads_total", "testbed_guest_disk_writes_total",
	} {
		all = append(all, told{"signal-far", metric, "vda", 1000 * x})
	}
	return append(all, told{"signal-far", "testbed_guest_up", "", 1}, told{"signal-far", "testbed_guest_memory_swap_bytes", "", 4096}, told{"signal-far", "testbed_guest_oom_kills_total", "", 0}, told{"signal-far", "testbed_guest_restarts_total", "", 0})
}

// TestBoards: every query of every panel, variable and annotation of the
// provisioned dashboards shows something, in a Prometheus with the shipped
// configuration that scrapes real guests.
func TestBoards(t *testing.T) {
	rig.NeedRoot(t)
	docker := rig.Dockerd(t)
	docker.Network(t, "net")
	docker.Run(t, "signal-busy", rig.Container{CPUs: 0.2, Memory: 64 << 20, Network: "net", Labels: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}},
		"metrics", ":8000", "10", "3")
	libvirt := rig.Libvirtd(t)
	libvirt.Define(rig.Domain{Name: "signal-machine", MemoryMiB: 160, VCPUs: 1, Init: "echo booted; while :; do :; done"}).Start()

	b := newTestbed(t, "--history.path="+t.TempDir())
	b.deploy("signal", "up", "busy docker main-host", "machine libvirt main-host", "far docker client-1")
	b.pusher(mainHost, "--docker.host=unix://"+docker.Socket, "--libvirt.uri="+libvirt.URI)
	far := &pageLab{t: t, url: b.url, token: b.token(otherHost)}
	stop := make(chan struct{})
	var speaking sync.WaitGroup
	speaking.Go(func() {
		for {
			select {
			case <-stop:
				return
			case at := <-time.After(time.Second):
				far.tell(otherHost, at, elsewhere(at)...)
			}
		}
	})
	defer speaking.Wait()
	defer close(stop)

	shipped, err := os.ReadFile(filepath.Join(rig.Root(t), "stack", "prometheus", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	server := rig.Prometheus(t, rig.Prometheus3, strings.ReplaceAll(string(shipped), "gateway:9370", strings.TrimPrefix(b.url, "http://")))
	rig.Eventually(t, 20*time.Second, func() error {
		resp, err := http.Post(b.url+"/api/v1/runs", "application/json", strings.NewReader(`{"project": "signal", "name": "boards"}`))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			text, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("start a run: %s %s", resp.Status, text)
		}
		return nil
	})

	// What is empty for a good reason.
	empty := map[string]string{
		"testbed_guest_memory_cache_bytes": "no guest has cached a file",
	}
	fill := strings.NewReplacer("$__rate_interval", "20s", `="$project"`, `="signal"`, `="$proj_n"`, `="signal"`, `="$guest"`, `=~".+"`, `="$guest_n"`, `=~".+"`, `="$host_n"`, `=~".+"`,
		"$project", "signal", "$host", ".+", "$type", ".+", "$guest", ".+")
	labels := regexp.MustCompile(`^label_values\((.*), ?([a-z_]+)\)$`)
	asked := 0
	shows := func(where, expr string) {
		t.Helper()
		asked++
		expr = fill.Replace(expr)
		for metric := range empty {
			if strings.Contains(expr, metric) {
				return
			}
		}
		rig.Eventually(t, 60*time.Second, func() error {
			got, err := server.TryQuery(expr)
			if err == nil && len(got) == 0 {
				err = fmt.Errorf("%s: nothing to show for %s", where, expr)
			}
			return err
		})
	}
	files, err := filepath.Glob(filepath.Join(rig.Root(t), "stack/grafana/dashboards/*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == "inference.json" { // TestInferenceExample has its workers
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			Title       string
			Panels      []dashboardPanel
			Annotations struct{ List []struct{ Name, Expr string } }
			Templating  struct {
				List []struct{ Name, Definition string }
			}
		}
		if err := json.Unmarshal(content, &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, p := range board.Panels {
			if p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s, %s: no query", board.Title, p.Title)
			}
			for _, target := range p.Targets {
				shows(board.Title+", "+p.Title, target.Expr)
			}
		}
		for _, v := range board.Templating.List {
			m := labels.FindStringSubmatch(v.Definition)
			if m == nil {
				t.Errorf("%s, variable %s: %q", board.Title, v.Name, v.Definition)
				continue
			}
			shows(board.Title+", variable "+v.Name, "count by ("+m[2]+") ("+m[1]+`)`)
		}
		for _, a := range board.Annotations.List {
			if a.Expr != "" {
				shows(board.Title+", annotation "+a.Name, a.Expr)
			}
		}
	}
	if asked < 100 {
		t.Errorf("%d queries were asked, want 100 at least", asked)
	}
	t.Logf("%d queries of %d dashboards", asked, len(files)-1)
}
