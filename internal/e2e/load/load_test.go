package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/fleet"
	"fanin/internal/e2e/rig"
)

func TestOnlyLoopback(t *testing.T) {
	for url, want := range map[string]bool{
		"http://127.0.0.1:9370/x": true, "http://[::1]:9370": true, "http://127.255.0.1:1": true, "http://[::ffff:127.0.0.1]:1": true,
		"http://localhost:9370": false, "http://127.0.0.1": false, "https://127.0.0.1:1": false, "http://10.0.0.1:9370": false,
		"http://0.0.0.0:9370": false, "http://[::]:1": false, "http://example.com:80": false, "http://127.0.0.1.example.com:80": false, "": false,
	} {
		if err := checkURL(url); (err == nil) != want {
			t.Errorf("%q: %v, want it to be driven: %v", url, err, want)
		}
	}
	if err := (&sink{address: "0.0.0.0:0"}).drain(t.Context()); err == nil {
		t.Error("the sink listens to everybody")
	}
}

func TestBounds(t *testing.T) {
	for _, b := range []bounds{{0, 0}, {time.Hour, 0}, {time.Second, -1}, {time.Second, maxRequests + 1}} {
		if b.check() == nil {
			t.Errorf("%+v passes", b)
		}
	}
	for _, p := range []pushing{{senders: 0}, {senders: 1, rate: -1}, {senders: 1, rate: maxRate + 1}, {senders: maxSenders + 1}, {senders: 1, first: -1}} {
		p.url = "http://127.0.0.1:1"
		if p.check() == nil {
			t.Errorf("%+v passes", p)
		}
	}
}

// program builds one of the module's.
func program(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), filepath.Base(name))
	if out, err := exec.Command("go", "build", "-o", file, name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

func run[T any](t *testing.T, load string, args ...string) (report T) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(load, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("load %v: %v\n%s", args, err, stderr.String())
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("load %v: %v\n%s", args, err, out)
	}
	return report
}

// What is sent arrives, at our gateway and at Prometheus, in both versions.
func TestEverythingArrives(t *testing.T) {
	rig.Need(t, "go")
	load, gateway := program(t, "fanin/internal/e2e/load"), program(t, "fanin/cmd/gateway")
	f := fleet.Fleet{Nodes: 5, Guests: 2, Series: 30} // more than there are connections
	sizes := []string{"--nodes=5", "--guests=2", "--series=30"}
	const ticks = 8
	for _, protocol := range []string{"1", "2"} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			states := t.TempDir()
			if out, err := exec.Command(load, append([]string{"roster", states}, sizes...)...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			address := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t))
			rig.Start(t, gateway, "--web.listen-address="+address, "--testbedos.settings=", "--state.glob="+states+"/*-state.json")
			rig.Eventually(t, 10*time.Second, func() error {
				return exec.Command(gateway, "healthcheck", "--url=http://"+address+"/readyz").Run()
			})

			push := append([]string{"push", "--protocol=" + protocol, fmt.Sprint("--requests=", ticks*f.Nodes)}, sizes...)
			got := run[pushed](t, load, append(push, "http://"+address+"/api/v1/write")...)
			if want := ticks * f.Total(); got.Samples != want || got.Written != want || got.Said != "" || got.Answers["204"] != ticks*f.Nodes {
				t.Errorf("gateway: got %+v, want %d samples written", got, want)
			}
			got = run[pushed](t, load, append(push, fmt.Sprint("--first-tick=", ticks), "http://"+address+"/api/v1/write")...)
			if want := ticks * f.Total(); got.Written != want || got.Said != "" {
				t.Errorf("going on: got %+v, want %d samples written", got, want)
			}
			for _, format := range []string{"plain", "gzip", "openmetrics", "protobuf"} {
				page := run[scraped](t, load, "scrape", "--format="+format, "--requests=3", "http://"+address+"/metrics/testbed")
				// The guests' and hosts' own word for whether they are up is there too.
				if want := f.Total() + f.Nodes*f.Guests + f.Nodes; page.Pages != 3 || format != "protobuf" && page.Samples < want || page.Bytes == 0 {
					t.Errorf("%s: got %+v, want at least %d samples", format, page, want)
				}
			}
			paced := run[pushed](t, load, append(push, "--rate=2000", "--duration=4s", "--first-tick=20", "--pusher", "http://"+address+"/api/v1/write")...)
			if want := ticks * f.Total(); paced.Samples != want || paced.Written != want || paced.Seconds < 0.3 {
				t.Errorf("paced: got %+v, want %d samples written in about 1.2 s", paced, want)
			}
			churn := run[pushed](t, load, append(push, "--churn", "http://"+address+"/api/v1/write")...)
			page := run[scraped](t, load, "scrape", "--requests=1", "http://"+address+"/metrics/testbed")
			if want := (1 + ticks) * f.Total(); churn.Written != ticks*f.Total() || page.Samples < want {
				t.Errorf("churn: got %+v and %d on the page, want at least %d", churn, page.Samples, want)
			}

			server := rig.Prometheus(t, rig.Prometheus3, "global: {}\n", "--web.enable-remote-write-receiver")
			got = run[pushed](t, load, append(push, server.URL+"/api/v1/write")...)
			if want := ticks * f.Total(); got.Samples != want || protocol == "2" && got.Written != want {
				t.Errorf("prometheus: got %+v, want %d samples", got, want)
			}
			stored, err := server.TryQuery(`{__name__=~"testbed_guest_.+"}[1h]`)
			n := 0
			for _, series := range stored {
				n += len(series.Points)
			}
			if err != nil || len(stored) != f.Total() || n != ticks*f.Total() {
				t.Errorf("prometheus has %d samples of %d series, %v; want %d of %d", n, len(stored), err, ticks*f.Total(), f.Total())
			}
		})
	}
}

func TestSinkTakesEverything(t *testing.T) {
	rig.Need(t, "go")
	load := program(t, "fanin/internal/e2e/load")
	address := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t))
	rig.Start(t, load, "sink", address)
	rig.Eventually(t, 5*time.Second, func() error {
		got := run[pushed](t, load, "text", "--nodes=2", "--guests=1", "--series=25", "--requests=4", "http://"+address)
		if got.Kind != "text" || got.Samples != 100 {
			return fmt.Errorf("got %+v, want 100 samples", got)
		}
		return nil
	})
	address = fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t))
	rig.Start(t, load, "sink", "--decompress", address)
	rig.Eventually(t, 5*time.Second, func() error {
		got := run[pushed](t, load, "push", "--nodes=2", "--guests=1", "--series=25", "--requests=4", "http://"+address)
		if got.Samples != 100 || got.Answers["204"] != 4 {
			return fmt.Errorf("got %+v, want 100 samples", got)
		}
		return nil
	})
	answer, err := http.Post("http://"+address, "text/plain", strings.NewReader("text"))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusBadRequest {
		t.Errorf("text passes for what is compressed: %s", answer.Status)
	}
	if out, err := exec.Command(load, "push", "http://10.0.0.1:9090/api/v1/write").CombinedOutput(); err == nil || !strings.Contains(string(out), "loopback") {
		t.Errorf("another machine is driven: %v %s", err, out)
	}
}
