package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/wire"
)

// receiver takes pushes apart as a gateway does. Its fields are guarded by mu.
type receiver struct {
	mu      sync.Mutex
	token   string // that senders must have, "" for any
	times   map[string][]int64
	samples int
	header  http.Header
	problem error
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token != "" && request.Header.Get("Authorization") != "Bearer "+r.token {
		http.Error(w, "no such token", http.StatusUnauthorized)
		return
	}
	var d wire.Decoder
	var got *wire.Request
	if err == nil {
		got, err = d.Decode(body)
	}
	if err != nil {
		r.problem = err
		return
	}
	r.header = request.Header
	got.EachSeries(func(s *wire.Series) {
		var name strings.Builder
		for _, l := range s.Labels {
			fmt.Fprintf(&name, "%s=%s ", l.Name, l.Value)
		}
		for _, p := range s.Points {
			r.times[name.String()] = append(r.times[name.String()], p.T)
			r.samples++
		}
	})
	w.WriteHeader(http.StatusNoContent)
}

func receive(t *testing.T) (*receiver, string) {
	t.Helper()
	r := &receiver{times: make(map[string][]int64)}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.URL
}

// metrics are the pusher's own, by name and labels.
func metrics(t *testing.T, port int) map[string]float64 {
	t.Helper()
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	all := make(map[string]float64)
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && strings.HasPrefix(name, "fanin_") {
			if all[name], err = strconv.ParseFloat(value, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// balance checks the ledger on a page and returns what was committed.
func balance(t *testing.T, m map[string]float64) float64 {
	t.Helper()
	sum := m["fanin_samples_delivered_total"] + m["fanin_samples_pending"]
	for name, v := range m {
		if strings.HasPrefix(name, "fanin_samples_dropped_total{") || strings.HasPrefix(name, "fanin_samples_refused_total{") {
			sum += v
		}
	}
	committed, ok := m["fanin_samples_committed_total"]
	if !ok || sum != committed {
		t.Errorf("committed %v (there: %v), the rest of the ledger makes %v", committed, ok, sum)
	}
	return committed
}

// TestRun is the life of a pusher: it pushes on the grid, is stopped for two
// seconds, goes on without a burst, and leaves nothing behind at the end.
func TestRun(t *testing.T) {
	r, address := receive(t)
	port := rig.FreePort(t)
	p := rig.Start(t, "pusher", "--push.url="+address, "--node.name=main-host", "--sample.interval=200ms",
		"--no-docker", "--no-libvirt", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	arrived := func(n int) func() error {
		return func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if got := len(r.times["__name__=testbed_host_load1 "]); got < n {
				return fmt.Errorf("%d samples of the load, want %d", got, n)
			}
			return nil
		}
	}
	rig.Eventually(t, 10*time.Second, arrived(5))
	balance(t, metrics(t, port))
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/": 200, "/nothing": 404} {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, response.StatusCode, want)
		}
	}

	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 10*time.Second, arrived(15))
	if missed := metrics(t, port)["fanin_sampler_ticks_missed_total"]; missed < 8 {
		t.Errorf("%v ticks were missed in two seconds, want 9 or 10", missed)
	}
	committed := balance(t, metrics(t, port))
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(5 * time.Second); err != nil {
		t.Fatalf("after SIGTERM: %v\n%s", err, p.Tail(1000))
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.problem != nil {
		t.Errorf("a body could not be read: %v", r.problem)
	}
	if float64(r.samples) < committed {
		t.Errorf("%d samples arrived, want all of the %v that were committed before the end", r.samples, committed)
	}
	if got := r.header.Get("X-Fanin-Node") + " " + r.header.Get("X-Fanin-Interval"); got != "main-host 0.2" {
		t.Errorf("node and interval: got %q, want main-host 0.2", got)
	}
	gaps := 0
	for _, name := range slices.Sorted(maps.Keys(r.times)) {
		for i, at := range r.times[name] {
			if i == 0 {
				continue
			}
			gap := at - r.times[name][i-1]
			if gap <= 0 {
				t.Errorf("%s: sample %d is %d ms after the one before", name, i, gap)
			}
			if name == "__name__=testbed_host_load1 " && gap > 1500 {
				gaps++
			}
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps, want one: %v", gaps, r.times["__name__=testbed_host_load1 "])
	}
	for _, name := range []string{"testbed_host_cpu ", "fanin_source_up source=host ", "fanin_samples_committed_total ", "fanin_samples_dropped_total reason=full "} {
		if len(r.times["__name__="+name]) == 0 {
			t.Errorf("%s is missing among %q", name, slices.Sorted(maps.Keys(r.times)))
		}
	}
}

// TestLostCredentials: credentials that stop being right while the pusher runs
// cost nothing. It says so, keeps the samples and delivers them when the file
// is right again.
func TestLostCredentials(t *testing.T) {
	r, address := receive(t)
	r.token = "right"
	token := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("right")
	port := rig.FreePort(t)
	p := rig.Start(t, "pusher", "--push.url="+address, "--push.bearer-token-file="+token, "--sample.interval=100ms",
		"--no-docker", "--no-libvirt", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	received := func(more int) func() error {
		return func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if got := len(r.times["__name__=testbed_host_load1 "]); got < more {
				return fmt.Errorf("%d ticks arrived, want %d", got, more)
			}
			return nil
		}
	}
	rig.Eventually(t, 5*time.Second, received(3))
	write("wrong")
	rig.Eventually(t, 5*time.Second, func() error {
		if said := p.Tail(4000); !strings.Contains(said, "reason=unauthorized") || !strings.Contains(said, `401 Unauthorized: \"no such token\"`) {
			return errors.New("the log does not name the refused credentials")
		}
		if m := metrics(t, port); m["fanin_samples_pending"] == 0 {
			return errors.New("nothing is pending")
		}
		return nil
	})
	write("right")
	r.mu.Lock()
	before := len(r.times["__name__=testbed_host_load1 "])
	r.mu.Unlock()
	rig.Eventually(t, 10*time.Second, received(before+10))
	rig.Eventually(t, 10*time.Second, func() error {
		m := metrics(t, port)
		if balance(t, m); m["fanin_samples_dropped_total"] > 0 {
			t.Fatal("samples were dropped")
		}
		if m["fanin_samples_pending"] > m["fanin_samples_delivered_total"] {
			return errors.New("the backlog is not delivered")
		}
		return nil
	})
}

// TestStopWithoutReceiver: nobody to deliver to does not hold up the end.
func TestStopWithoutReceiver(t *testing.T) {
	port := rig.FreePort(t)
	p := rig.Start(t, "pusher", fmt.Sprintf("--push.url=http://127.0.0.1:%d/", rig.FreePort(t)), "--sample.interval=100ms",
		"--no-docker", "--no-libvirt", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	rig.Eventually(t, 5*time.Second, func() error {
		if said := p.Tail(4000); !strings.Contains(said, "reason=network") {
			return errors.New("the log does not say that nobody answers")
		}
		return nil
	})
	balance(t, metrics(t, port))
	start := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(10 * time.Second); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("ended after %s with %v, want 0 within 5 s", time.Since(start), err)
	}
	if said := p.Tail(4000); !strings.Contains(said, "samples that were not delivered are lost") {
		t.Errorf("the loss is not said:\n%s", said)
	}
}
