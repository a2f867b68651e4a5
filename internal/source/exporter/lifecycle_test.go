package exporter

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// crowd are the targets that there are at the moment.
type crowd struct {
	mu  sync.Mutex
	all []Target
}

func (c *crowd) set(all ...Target) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = all
}

func (c *crowd) get() []Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// following is a source with Run at work, sampled every 50 ms.
type following struct {
	t      *testing.T
	mu     sync.Mutex
	points []sample.Point
	paused bool
}

func follow(t *testing.T, s *Source) *following {
	t.Helper()
	f := &following{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			f.mu.Lock()
			if !f.paused {
				var b sample.Batch
				if err := s.Sample(ctx, &b); err != nil {
					t.Error(err)
				}
				f.points = append(f.points, b.Points...)
			}
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		f.check()
	})
	return f
}

// check is what holds of every series: times rise.
func (f *following) check() {
	last := map[string]int64{}
	for _, p := range f.points {
		text := p.Series.Text()
		if p.T <= last[text] {
			f.t.Errorf("%s: %d after %d", text, p.T, last[text])
		}
		last[text] = p.T
	}
}

func (f *following) pause(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = on
}

// of are the points of one series so far, markers as "end".
func (f *following) of(text string) (got []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.points {
		if p.Series.Text() == text {
			if isMarker(p.V) {
				got = append(got, "end")
			} else {
				got = append(got, fmt.Sprint(p.V))
			}
		}
	}
	return got
}

// soon waits until the newest of a series is want.
func (f *following) soon(text, want string) time.Duration {
	f.t.Helper()
	began := time.Now()
	rig.Eventually(f.t, 20*time.Second, func() error {
		if got := f.of(text); len(got) == 0 || got[len(got)-1] != want {
			return fmt.Errorf("%s: got %v, want %s at the end", text, got, want)
		}
		return nil
	})
	return time.Since(began)
}

func named(name, guest, port string, labels ...string) string {
	return name + `{guest="` + guest + `",port="` + port + `"` + strings.Join(labels, "") + `}`
}

func TestComeAndGo(t *testing.T) {
	n := newInside(t)
	var who crowd
	f := follow(t, &Source{Targets: []func() []Target{who.get}})
	port := n.page("a 1\nb 2\n")

	who.set(n.target("web", port))
	found := f.soon(named("a", "web", port), "1")
	f.soon(named("testbed_guest_exporter_up", "web", port), "1")
	f.soon(named("testbed_guest_exporter_series", "web", port), "2")

	who.set()
	ended := f.soon(named("a", "web", port), "end")
	for _, name := range []string{"b", "testbed_guest_exporter_up", "testbed_guest_exporter_series", "testbed_guest_exporter_scrape_duration_seconds"} {
		f.soon(named(name, "web", port), "end")
	}
	t.Logf("found after %s, ended after %s", found.Round(time.Millisecond), ended.Round(time.Millisecond))
	if most := 2 * time.Second; found > most || ended > most {
		t.Errorf("found after %s, ended after %s: want two intervals at the most", found, ended)
	}
	n1 := len(f.of(named("a", "web", port)))
	time.Sleep(1500 * time.Millisecond)
	if got := f.of(named("a", "web", port)); len(got) != n1 {
		t.Errorf("a target that is gone: got %v", got)
	}

	// Another one of the same name, on the same port.
	who.set(n.target("web", port))
	f.soon(named("a", "web", port), "1")
	again := n.target("web", port)
	again.Instance = "2"
	who.set(again)
	f.soon(named("a", "web", port), "1")
}

// While it fails, one series says why, and when it is well again, that one
// ends at once.
func TestReasonsEnd(t *testing.T) {
	n := newInside(t)
	var mu sync.Mutex
	broken := true
	l, port := n.listen()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "a 1\n")
	})}
	go server.Serve(l)
	defer server.Close()
	set := func(to bool) { mu.Lock(); broken = to; mu.Unlock() }

	f := follow(t, &Source{Targets: these(n.target("web", port))})
	up, down := named("testbed_guest_exporter_up", "web", port), named("testbed_guest_exporter_up", "web", port, `,reason="status"`)
	f.soon(down, "0")
	if got := f.of(named("testbed_guest_exporter_series", "web", port)); len(got) > 0 {
		t.Errorf("series of a page that was not taken: got %v", got)
	}
	set(false)
	f.soon(down, "end")
	f.soon(up, "1")
	set(true)
	f.soon(up, "end")
	f.soon(down, "0")
	f.soon(named("testbed_guest_exporter_series", "web", port), "end")
	if got := f.of(named("a", "web", port)); len(got) == 0 || got[len(got)-1] != "1" {
		t.Errorf("a page that fails once ends its series: got %v", got)
	}
}

// What was scraped of a target that is gone by the time it would be handed
// out may be another guest's.
func TestGoneIsNotHandedOut(t *testing.T) {
	n := newInside(t)
	var who crowd
	s := &Source{Targets: []func() []Target{who.get}}
	f := follow(t, s)
	port := n.page("a 1\n")
	f.pause(true)
	who.set(n.target("web", port))
	s.Look()
	rig.Eventually(t, 10*time.Second, func() error {
		if s.counts.scrapes[fine].Load() == 0 {
			return fmt.Errorf("not scraped")
		}
		return nil
	})
	who.set()
	f.pause(false)
	rig.Eventually(t, 10*time.Second, func() error {
		if s.counts.omitted[gone].Load() == 0 {
			return fmt.Errorf("nothing was left out")
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond)
	for _, v := range f.of(named("a", "web", port)) {
		if v != "end" {
			t.Errorf("got %s of a target that was gone", v)
		}
	}
}

func TestIntervals(t *testing.T) {
	for _, c := range []struct{ own, source, want time.Duration }{
		{0, 0, time.Second},
		{0, 100 * time.Millisecond, time.Second},
		{0, 5 * time.Second, 5 * time.Second},
		{3 * time.Second, 0, 3 * time.Second},
		{time.Millisecond, 0, time.Second},
		{time.Hour, 0, LongestInterval},
		{3 * time.Second, 5 * time.Second, 5 * time.Second},
		{-1, 0, time.Second},
		{time.Hour, time.Minute, time.Minute},
	} {
		s := &Source{Interval: c.source}
		s.setup()
		w := newWorker(s, key{"web", "80"}, Target{Guest: "web", Port: "80", Interval: c.own})
		if w.interval != c.want {
			t.Errorf("%s of a target, %s of the source: got %s, want %s", c.own, c.source, w.interval, c.want)
		}
		// Always the same point of the interval, half an interval away at least.
		for now := noon; now.Before(noon.Add(time.Minute)); now = now.Add(777 * time.Millisecond) {
			at := w.next(now)
			if wait := at.Sub(now); wait < c.want/2 || wait > c.want*3/2 || at.Sub(w.next(noon))%c.want != 0 {
				t.Fatalf("interval %s: after %s it waits %s, until %s", c.want, now, wait, at)
			}
		}
	}
	n := newInside(t)
	port := n.page("a 1\n")
	slow := n.target("slow", port)
	slow.Interval = 3 * time.Second
	f := follow(t, &Source{Targets: these(n.target("usual", port), slow)})
	time.Sleep(7 * time.Second)
	usual, seldom := len(f.of(named("a", "usual", port))), len(f.of(named("a", "slow", port)))
	if usual < 6 || usual > 9 || seldom < 2 || seldom > 4 {
		t.Errorf("in 7 s: got %d scrapes each second, want about 8; %d every three, want about 3", usual, seldom)
	}
}

// Nobody takes the samples for a while.
func TestOverrun(t *testing.T) {
	n := newInside(t)
	port := n.page("a 1\n")
	s := &Source{Targets: these(n.target("web", port))}
	f := follow(t, s)
	f.soon(named("a", "web", port), "1")
	f.pause(true)
	before := len(f.of(named("a", "web", port)))
	rig.Eventually(t, 20*time.Second, func() error {
		if s.counts.omitted[overrun].Load() == 0 {
			return fmt.Errorf("nothing was dropped")
		}
		return nil
	})
	f.pause(false)
	time.Sleep(300 * time.Millisecond)
	if got := len(f.of(named("a", "web", port))) - before; got > maxReady+1 {
		t.Errorf("got %d samples after the pause, want at most %d", got, maxReady+1)
	}
}

// Whoever is named and can not be taken is counted once, and harms nobody.
func TestWhoCanNotBeTaken(t *testing.T) {
	n := newInside(t)
	port := n.page("a 1\n")
	other := n.target("web", port)
	other.Path = "/other"
	long := n.target(strings.Repeat("x", 128), port)
	s := &Source{Limit: 3, Targets: []func() []Target{
		func() []Target {
			return []Target{n.target("web", port), n.target("", port), n.target("a b", port), n.target("\"}\n", port), long, n.target("odd", "080")}
		},
		func() []Target {
			return []Target{n.target("web", port), other, n.target("two", port), n.target("three", port), n.target("four", port)}
		},
	}}
	registry := prometheus.NewPedanticRegistry()
	if err := s.Register(registry); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got := onePage(t, s)
		for guest, want := range map[string]string{"web": "1", "odd": "bad_port", "two": "1", "three": "nothing"} {
			if up := upOf(got, guest); up != want {
				t.Errorf("%s: got %s, want %s", guest, up, want)
			}
		}
		if got[`testbed_guest_exporter_up{guest="odd",reason="bad_port"}`] != 0 {
			t.Error("a port that is none has a label")
		}
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP fanin_exporter_targets_omitted_total Pages of metrics in guests that somebody named and that are not scraped, by reason.
# TYPE fanin_exporter_targets_omitted_total counter
fanin_exporter_targets_omitted_total{reason="bad_guest"} 4
fanin_exporter_targets_omitted_total{reason="duplicate"} 1
fanin_exporter_targets_omitted_total{reason="limit"} 2
# HELP fanin_exporter_targets Pages of metrics in guests that are being scraped.
# TYPE fanin_exporter_targets gauge
fanin_exporter_targets 3
`), "fanin_exporter_targets_omitted_total", "fanin_exporter_targets"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// A hundred guests that hang keep nobody waiting, from their first scrape on.
func TestThoseThatHangKeepNobodyWaiting(t *testing.T) {
	n := newInside(t)
	hang := n.hostile(hostile{what: "hangs in the body", answer: slowly(textHead+"\r\n", "# x\n")})
	port := n.page("a 1\n")
	var all []Target
	for i := range 100 {
		all = append(all, n.target(fmt.Sprint("h", i), hang))
	}
	f := follow(t, &Source{Targets: these(append(all, n.target("web", port))...)})
	if found := f.soon(named("a", "web", port), "1"); found > 1500*time.Millisecond {
		t.Errorf("found after %s", found)
	}
	time.Sleep(5 * time.Second)
	if got := f.of(named("a", "web", port)); len(got) < 5 {
		t.Errorf("got %d samples in 5 s", len(got))
	}
}

// Guests that come and go, and pages with ever new series, leave nothing.
func TestChurnLeavesNothing(t *testing.T) {
	n := newInside(t)
	l, port := n.listen()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "a{now=\"%d\"} 1\nb 1\n", time.Now().UnixNano())
	})}
	go server.Serve(l)
	defer server.Close()
	files := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	var who crowd
	s := &Source{Targets: []func() []Target{who.get}}
	f := follow(t, s)
	goroutines, fds := runtime.NumGoroutine(), files()
	for round := range 10 {
		var all []Target
		for i := range 100 {
			all = append(all, n.target(fmt.Sprintf("g%d-%d", round, i), port))
		}
		who.set(all...)
		time.Sleep(400 * time.Millisecond)
	}
	who.set()
	rig.Eventually(t, 20*time.Second, func() error {
		s.mu.Lock()
		workers := len(s.workers) + len(s.leaving) + len(s.ended)
		s.mu.Unlock()
		s.room.mu.Lock()
		used, families := s.room.used, len(s.room.families)
		s.room.mu.Unlock()
		if workers > 0 || used != (usage{}) || families > 0 || runtime.NumGoroutine() > goroutines+5 || files() > fds+5 {
			return fmt.Errorf("%d workers, %+v, %d families, %d goroutines (%d before), %d descriptors (%d before)",
				workers, used, families, runtime.NumGoroutine(), goroutines, files(), fds)
		}
		return nil
	})
	if n := s.counts.scrapes[fine].Load(); n < 500 {
		t.Errorf("only %d scrapes were made", n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	open := map[string]bool{}
	for _, p := range f.points {
		open[p.Series.Text()] = !isMarker(p.V)
	}
	for text, still := range open {
		if still {
			t.Errorf("%s has no end", text)
		}
	}
}
