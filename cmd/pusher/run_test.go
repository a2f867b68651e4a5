package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/spool"
	"fanin/internal/wire"
)

// receiver takes pushes apart as a gateway does. Its fields are guarded by mu.
type receiver struct {
	mu      sync.Mutex
	token   string // that senders must have, "" for any
	away    bool   // answers 503
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
	if r.away {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	var d wire.Decoder
	var got *wire.Request
	if err == nil {
		version, _ := wire.ParseProto(strings.TrimPrefix(request.Header.Get("Content-Type"), wire.MediaType+";proto="))
		got, err = d.Decode(body, &wire.Memory{Version: version})
	}
	if err != nil {
		r.problem = err
		return
	}
	r.header = request.Header
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(got.Samples))
	got.EachSeries(func(s *wire.Series) {
		var name strings.Builder
		labels, _ := s.Labels()
		for _, l := range labels {
			fmt.Fprintf(&name, "%s=%s ", l.Name, l.Value)
		}
		for _, p := range s.Points {
			r.times[name.String()] = append(r.times[name.String()], p.T)
			r.samples++
		}
	})
	w.WriteHeader(http.StatusNoContent)
}

// answer changes how it answers from now on.
func (r *receiver) answer(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
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
	all, err := readMetrics(port)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readMetrics(port int) (map[string]float64, error) {
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	all := make(map[string]float64)
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && strings.HasPrefix(name, "fanin_") {
			if all[name], err = strconv.ParseFloat(value, 64); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
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
	p := rig.Start(t, "pusher", "--push.url="+address, "--node.name=main-host", "--sample.interval=200ms", "--spool.path="+t.TempDir(),
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
	r.answer(func() { r.token = "right" })
	token := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("right")
	port := rig.FreePort(t)
	p := rig.Start(t, "pusher", "--push.url="+address, "--push.bearer-token-file="+token, "--sample.interval=100ms", "--spool.path="+t.TempDir(),
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

// TestNothingLost: what a pusher has committed reaches the receiver, in order,
// though it was killed and stopped before anybody listened.
func TestNothingLost(t *testing.T) {
	r, address := receive(t)
	r.answer(func() { r.away = true })
	dir := t.TempDir()
	port := rig.FreePort(t)
	life := func() *rig.Process {
		return rig.Start(t, "pusher", "--push.url="+address, "--sample.interval=100ms", "--spool.path="+dir,
			"--no-docker", "--no-libvirt", fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	}
	waiting := func(records float64) {
		t.Helper()
		rig.Eventually(t, 10*time.Second, func() error {
			m, err := readMetrics(port)
			if err != nil {
				return err
			}
			if balance(t, m); m["fanin_spool_records"] < records {
				return fmt.Errorf("%v records wait, want %v", m["fanin_spool_records"], records)
			}
			return nil
		})
	}
	p := life()
	waiting(5)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait(5 * time.Second)
	first, records := onDisk(t, dir)
	if records < 5 {
		t.Fatalf("%d records are on disk after kill -9, want 5 or more", records)
	}

	p = life()
	waiting(float64(records) + 5)
	start := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(10 * time.Second); err != nil || time.Since(start) > 5*time.Second {
		t.Errorf("ended after %s with %v, want 0 within 5 s", time.Since(start), err)
	}
	if said := p.Tail(4000); !strings.Contains(said, "samples that are not delivered yet stay on disk") {
		t.Errorf("it is not said where the samples are:\n%s", said)
	}
	second, more := onDisk(t, dir)
	if more < records+5 {
		t.Fatalf("%d records are on disk after SIGTERM, want %d or more", more, records+5)
	}

	r.answer(func() { r.away = false })
	life()
	rig.Eventually(t, 20*time.Second, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.times[load]) < len(second[load])+3 {
			return fmt.Errorf("%d ticks arrived, want %d", len(r.times[load]), len(second[load])+3)
		}
		return nil
	})
	if m := metrics(t, port); balance(t, m) == 0 || m[`fanin_samples_dropped_total{reason="damaged"}`] != 0 {
		t.Errorf("the ledger of the last one: %v", m)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, committed := range map[string]map[string][]int64{"killed": first, "stopped": second} {
		for series, times := range committed {
			got := r.times[series]
			for _, at := range times {
				if _, there := slices.BinarySearch(got, at); !there {
					t.Fatalf("%s: %s at %d is missing among %d that arrived", name, series, at, len(got))
				}
			}
		}
	}
	for series, times := range r.times {
		for i := 1; i < len(times); i++ {
			if times[i] <= times[i-1] {
				t.Fatalf("%s: %d arrived after %d", series, times[i], times[i-1])
			}
		}
	}
}

const load = "__name__=testbed_host_load1 "

// onDisk are the samples that wait in a spool, and in how many records.
func onDisk(t *testing.T, dir string) (times map[string][]int64, records int) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	queue, err := spool.Open(spool.Options{Dir: copied})
	if err != nil {
		t.Fatal(err)
	}
	defer queue.Close()
	queue.Finish()
	all := &receiver{times: make(map[string][]int64)}
	for last := uint64(0); ; records++ {
		record, err := queue.Next(t.Context(), last)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = record.Number
		all.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(record.Body)))
	}
	if all.problem != nil || queue.Ledger().Dropped[spool.Damaged] != 0 {
		t.Errorf("%d records of the spool: %v, %v", records, all.problem, queue.Ledger())
	}
	return all.times, records
}

// TestSecondPusher: it can not have the first one's spool, and says whose it
// is at once.
func TestSecondPusher(t *testing.T) {
	r, address := receive(t)
	dir := t.TempDir()
	args := []string{"--push.url=" + address, "--no-docker", "--no-libvirt", "--spool.path=" + dir, "--web.listen-address=127.0.0.1:0"}
	first := rig.Start(t, "pusher", args...)
	rig.Eventually(t, 10*time.Second, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.samples == 0 {
			return errors.New("the first one does not deliver")
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	said, err := exec.CommandContext(ctx, "pusher", args...).CombinedOutput()
	want := fmt.Sprintf("pusher: --spool.path: spool %s: in use by another process (pid %d)", dir, first.Cmd.Process.Pid)
	if err == nil || !strings.Contains(string(said), want) {
		t.Errorf("the second one ended with %v and says\n%s\nwant an error with %q", err, said, want)
	}
}
