package docker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
	"fanin/internal/sampler"
	"fanin/internal/source/docker"
)

func TestMain(m *testing.M) {
	if os.Getenv(deniedHost) != "" {
		os.Exit(sampleDenied())
	}
	goleak.VerifyTestMain(m)
}

var _ sampler.Source = (*docker.Source)(nil)

// patience is how long anything may take on a machine that is busy with other
// tests.
const patience = 60 * time.Second

// A container that makes interfaces does not use up the node's series.
func TestManyInterfaces(t *testing.T) {
	t.Parallel()
	rig.Need(t, "ip", "nsenter")
	engine := rig.Dockerd(t)
	engine.Run(t, "router", rig.Container{}, "idle")
	var bridges strings.Builder
	for i := range 300 {
		fmt.Fprintf(&bridges, "link add name b%d type bridge\n", i)
	}
	add := exec.Command("nsenter", "--net", "--target", fmt.Sprint(engine.PID(t, "router")), "ip", "-batch", "-")
	add.Stdin = strings.NewReader(bridges.String())
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := &docker.Source{Host: engine.Host()}
	defer s.Close()
	metrics := prometheus.NewRegistry()
	if err := s.Register(metrics); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p, err := take(s)
		if err != nil {
			t.Fatal(err)
		}
		devices := 0
		for text := range p {
			if strings.HasPrefix(text, "testbed_guest_network_receive_bytes_total{") {
				devices++
			}
		}
		if devices != 256 || p[series("testbed_guest_up", "router")] != 1 {
			t.Errorf("got %d interfaces and up %v, want 256 and 1", devices, p[series("testbed_guest_up", "router")])
		}
	}
	all, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := 0.0
	for _, f := range all {
		for _, m := range f.Metric {
			if f.GetName() == "fanin_docker_skipped_total" && m.Label[0].GetValue() == "devices" {
				counted += m.Counter.GetValue()
			}
		}
	}
	if counted != 2 {
		t.Errorf("counted as left out: got %v times, want once for each sample", counted)
	}
}

// page is one sample by the text of its series.
type page map[string]float64

func take(s *docker.Source) (page, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var b sample.Batch
	err := s.Sample(ctx, &b)
	p := page{}
	for _, point := range b.Points {
		text := point.Series.Text()
		if _, twice := p[text]; twice {
			err = errors.Join(err, fmt.Errorf("%s twice in one sample", text))
		}
		p[text] = point.V
	}
	return p, err
}

// of is what the page says of one guest.
func (p page) of(name string) []string {
	var got []string
	for text := range p {
		if strings.Contains(text, `guest="`+name+`"`) {
			got = append(got, text)
		}
	}
	return got
}

// id is the container id that the page gives for a guest.
func (p page) id(name string) string {
	for _, text := range p.of(name) {
		if _, rest, ok := strings.Cut(text, `backend_id="`); ok {
			return rest[:strings.IndexByte(rest, '"')]
		}
	}
	return ""
}

func series(name, guest string, labels ...string) string {
	text := name + "{"
	for _, l := range labels {
		if l < "guest" {
			text += l + ","
		}
	}
	text += `guest="` + guest + `"`
	for _, l := range labels {
		if l > "guest" {
			text += "," + l
		}
	}
	return text + "}"
}

// follow runs the source until the test ends.
func follow(t testing.TB, s *docker.Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: got %v, want nil", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end with its context")
		}
		_ = s.Close()
	})
}

// watch samples every 20 ms while the test goes on.
type watch struct {
	t *testing.T

	mu   sync.Mutex
	last page
	n    int
	errs []error
}

// watching starts a watch, beside which nobody else may sample: Sample is one
// goroutine's. An error of any of its samples fails the test at its end.
func watching(t *testing.T, s *docker.Source) *watch {
	t.Helper()
	w := &watch{t: t}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			p, err := take(s)
			w.mu.Lock()
			w.last, w.n = p, w.n+1
			if err != nil {
				w.errs = append(w.errs, err)
			}
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		if len(w.errs) > 0 {
			t.Errorf("%d of %d samples failed, the first with: %v", len(w.errs), w.n, w.errs[0])
		}
	})
	return w
}

// soon waits for a sample that satisfies want.
func (w *watch) soon(want func(page) error) page {
	w.t.Helper()
	var p page
	rig.Eventually(w.t, patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		p = w.last
		return want(p)
	})
	return p
}

func up(name string) func(page) error {
	return func(p page) error {
		if p[series("testbed_guest_up", name)] != 1 || len(p.of(name)) < 15 {
			return fmt.Errorf("%s is not up with all it has: %q", name, p.of(name))
		}
		return nil
	}
}

// down wants testbed_guest_up 0 with this reason and nothing else.
func down(name, reason string) func(page) error {
	return func(p page) error {
		got := p.of(name)
		want := series("testbed_guest_up", name, `reason="`+reason+`"`)
		if v, ok := p[want]; !ok || v != 0 || len(got) != 1 {
			return fmt.Errorf("%s: got %q, want only %s 0", name, got, want)
		}
		return nil
	}
}

func absent(name string) func(page) error {
	return func(p page) error {
		if got := p.of(name); len(got) > 0 {
			return fmt.Errorf("%s is still there: %q", name, got)
		}
		return nil
	}
}

// syncLog is a log that can be read while it is written.
type syncLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *syncLog) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// kernel reads one of the kernel's own numbers of a container's group,
// independently of the code under test: the first of the files (with the
// group's path for ID) that is there, and in it the line that begins with key.
func kernel(t testing.TB, id, key string, files ...string) float64 {
	t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", strings.ReplaceAll(f, "ID", id)))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok {
				n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	t.Fatalf("no %q of %s in %v", key, id, files)
	return 0
}

// cpuSeconds is exact to the nanosecond on version 1.
func cpuSeconds(t testing.TB, id string) float64 {
	if _, err := os.Stat("/sys/fs/cgroup/cpuacct"); err == nil {
		return kernel(t, id, "", "cpuacct/ID/cpuacct.usage") / 1e9
	}
	return kernel(t, id, "usage_usec ", "ID/cpu.stat") / 1e6
}

// A busy container with half a core, an idle one, one that holds memory and
// one that holds page cache, over 30 s against the kernel's own counters.
func TestUsage(t *testing.T) {
	d := rig.Dockerd(t)
	// Not in the group of all containers: its weight is this test's alone.
	own := fmt.Sprintf("fanin-usage-%d", os.Getpid())
	ids := map[string]string{
		"busy":   d.Run(t, "busy", rig.Container{CPUs: 0.5, Parent: own}, "busy"),
		"idle":   d.Run(t, "idle", rig.Container{}, "idle"),
		"memory": d.Run(t, "memory", rig.Container{Memory: 128 << 20}, "memory", strconv.Itoa(64<<20)),
		"cache":  d.Run(t, "cache", rig.Container{Memory: 128 << 20}, "cache", "/tmp/file", strconv.Itoa(32<<20)),
	}
	prefer(t, own)
	s := &docker.Source{Host: d.Host()}
	follow(t, s)
	rig.Eventually(t, patience, func() error {
		p, err := take(s)
		return errors.Join(err, up("busy")(p), up("cache")(p))
	})

	const usage = "testbed_guest_cpu_usage_seconds_total"
	window := func(length time.Duration) (share, kernelShare float64) {
		start := time.Now()
		before, err := take(s)
		kernelBefore := cpuSeconds(t, own+"/"+ids["busy"])
		if err != nil {
			t.Fatal(err)
		}
		var sum, n float64
		last := before
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for time.Since(start) < length {
			<-tick.C
			if last, err = take(s); err != nil {
				t.Fatal(err)
			}
			percent, ok := last[series("testbed_guest_cpu", "busy")]
			if !ok {
				t.Fatal("testbed_guest_cpu of the busy container is absent")
			}
			if idle := last[series("testbed_guest_cpu", "idle")]; idle >= 3 {
				t.Errorf("testbed_guest_cpu of the idle container: got %v, want below 3", idle)
			}
			sum, n = sum+percent, n+1
		}
		used, elapsed := cpuSeconds(t, own+"/"+ids["busy"])-kernelBefore, time.Since(start).Seconds()
		counted := last[series(usage, "busy")] - before[series(usage, "busy")]
		if counted < used*0.98-0.02 || counted > used*1.02+0.02 {
			t.Errorf("counter over %.0f s: got %v s, the kernel says %v s", elapsed, counted, used)
		}
		return sum / n, 100 * used / (elapsed * 0.5)
	}
	share, kernelShare := window(30 * time.Second)
	for range 2 {
		if kernelShare >= 96 {
			break
		}
		// Others on this machine took what the container may use.
		t.Logf("the kernel itself gave only %.1f %% of the limit; once more", kernelShare)
		share, kernelShare = window(10 * time.Second)
	}
	t.Logf("busy: %.2f %% of its limit, the kernel says %.2f %%", share, kernelShare)
	if share < 95 || share > 105 {
		t.Errorf("busy container: got %.2f %% of its limit on average, want 95 to 105 (the kernel's own: %.2f)", share, kernelShare)
	}
	if share < kernelShare*0.98 || share > kernelShare*1.02 {
		t.Errorf("busy container: got %.2f %%, the kernel says %.2f %%", share, kernelShare)
	}

	// The kernel counts pages in batches, and may finish one between the two
	// readings.
	var p map[string]float64
	rig.Eventually(t, 10*time.Second, func() (wrong error) {
		var err error
		if p, err = take(s); err != nil {
			return err
		}
		for _, name := range []string{"memory", "cache"} {
			id := "docker/" + ids[name]
			used := kernel(t, id, "", "memory/ID/memory.usage_in_bytes", "ID/memory.current")
			inactive := kernel(t, id, "total_inactive_file ", "memory/ID/memory.stat")
			for family, want := range map[string]float64{
				"testbed_guest_memory_usage_bytes":       used,
				"testbed_guest_memory_working_set_bytes": used - inactive,
				"testbed_guest_memory_limit_bytes":       128 << 20,
				"testbed_guest_memory":                   100 * (used - inactive) / (128 << 20),
			} {
				got, ok := p[series(family, name)]
				if !ok || got < want*0.98 || got > want*1.02 {
					wrong = errors.Join(wrong, fmt.Errorf("%s of %s: got %v, the kernel says %v", family, name, got, want))
				}
			}
		}
		return wrong
	})
	if got := p[series("testbed_guest_memory", "memory")]; got < 50 || got > 60 {
		t.Errorf("64 of 128 MiB held: got %v %%, want 50 to 60", got)
	}
	held := kernel(t, "docker/"+ids["cache"], "total_cache ", "memory/ID/memory.stat")
	if got := p[series("testbed_guest_memory_cache_bytes", "cache")]; got < held*0.98 || got > held*1.02 || held < 1<<20 {
		t.Errorf("page cache: got %v, the kernel says %v", got, held)
	}
	for text, want := range map[string]float64{
		series("testbed_guest_cpu_limit_cores", "busy"):            0.5,
		`testbed_host_guests{guest_type="docker",state="running"}`: 4,
		`testbed_host_guests{guest_type="docker",state="stopped"}`: 0,
		series("testbed_guest_oom_kills_total", "busy"):            0,
		series("testbed_guest_cpu_limit_cores", "idle"):            float64(cores(t)),
	} {
		if got, ok := p[text]; !ok || got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
	if got := p[series("testbed_guest_cpu_throttled_seconds_total", "busy")]; got < 10 {
		t.Errorf("throttled over 30 s at half of what it wants: got %v s, want over 10", got)
	}
}

// prefer lets the containers inside a group have what their quotas allow
// although other programs on this machine are busy.
func prefer(t testing.TB, parent string) {
	t.Helper()
	for file, weight := range map[string]string{"cpu/" + parent + "/cpu.shares": "262144", parent + "/cpu.weight": "10000"} {
		if err := os.WriteFile(filepath.Join("/sys/fs/cgroup", file), []byte(weight), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func cores(t testing.TB) (n int) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if len(line) > 3 && line[:3] == "cpu" && line[3] != ' ' {
			n++
		}
	}
	return n
}

// Two containers talk: one sends 1 MB and receives 5 MB.
func TestNetworkIsTheGuestsOwnView(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	d.Network(t, "net")
	const sent, received = 1_000_000, 5_000_000
	d.Run(t, "server", rig.Container{Network: "net"}, "serve", ":8000", strconv.Itoa(received))
	d.Run(t, "client", rig.Container{Network: "net"}, "fetch", d.Address(t, "server", "net")+":8000", strconv.Itoa(sent))
	d.Run(t, "beside", rig.Container{Network: "container:client"}, "idle")
	d.Run(t, "onhost", rig.Container{Network: "host"}, "idle")
	d.Run(t, "besidehost", rig.Container{Network: "container:onhost"}, "idle")
	d.Run(t, "alone", rig.Container{}, "idle")

	s := &docker.Source{Host: d.Host(), Interval: 30 * time.Second} // a late engine is TestHang's matter
	follow(t, s)
	w := watching(t, s)
	get := func(p page, direction, name string) float64 {
		return p[series("testbed_guest_network_"+direction+"_bytes_total", name, `device="eth0"`)]
	}
	p := w.soon(func(p page) error {
		if got := get(p, "receive", "client"); got < received {
			return fmt.Errorf("client received %v bytes so far", got)
		}
		return nil
	})
	for _, c := range []struct {
		name, direction string
		want            float64
	}{
		{"client", "receive", received},
		{"client", "transmit", sent},
		{"server", "receive", sent},
		{"server", "transmit", received},
		{"beside", "receive", received},
		{"beside", "transmit", sent},
	} {
		// Headers and acknowledgements come on top: at most a tenth of the larger direction.
		if got := get(p, c.direction, c.name); got < c.want || got > c.want*1.1+0.1*received {
			t.Errorf("%s %s: got %v bytes, want %v and a little", c.name, c.direction, got, c.want)
		}
	}
	for _, name := range []string{"onhost", "besidehost", "alone"} {
		if err := up(name)(p); err != nil {
			t.Error(err)
		}
		for _, text := range p.of(name) {
			if strings.Contains(text, "_network_") {
				t.Errorf("%s has no network of its own: got %s", name, text)
			}
		}
	}
	for text := range p {
		if strings.Contains(text, `device="lo"`) {
			t.Errorf("lo is left out: got %s", text)
		}
	}
}

// Whatever is done to a container shows within seconds, under the right name,
// and is no error at any tick in between.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	d := rig.Dockerd(t)
	d.Create(t, "unborn", rig.Container{}, "idle")
	first := d.Run(t, "web", rig.Container{CPUs: 1}, "busy")
	s := &docker.Source{Host: d.Host(), Interval: 30 * time.Second} // a late engine is TestHang's matter
	follow(t, s)
	w := watching(t, s)
	w.soon(up("web"))
	w.soon(down("unborn", "created"))

	d.Do(t, "web", "stop")
	w.soon(down("web", "stopped"))

	asked := time.Now()
	d.Do(t, "web", "start")
	p := w.soon(up("web"))
	if got, most := p[series("testbed_guest_cpu_usage_seconds_total", "web")], time.Since(asked).Seconds()+1; got > most {
		t.Errorf("processor time after a start: got %v, want that of the new run, at most %v", got, most)
	}
	started := p[series("testbed_guest_start_time_seconds", "web")]
	// The boot time that it is counted from is cut to a second.
	if from, to := float64(asked.Unix()-2), float64(time.Now().Unix()+2); started < from || started > to {
		t.Errorf("start time: got %v, want %v to %v", started, from, to)
	}

	d.Do(t, "web", "restart")
	w.soon(func(p page) error {
		if got := p[series("testbed_guest_start_time_seconds", "web")]; got <= started {
			return fmt.Errorf("start time after a restart: got %v, want above %v", got, started)
		}
		return up("web")(p)
	})

	d.Do(t, "web", "pause")
	w.soon(down("web", "paused"))
	d.Do(t, "web", "unpause")
	w.soon(up("web"))

	d.Rename(t, "web", "front")
	p = w.soon(up("front"))
	if err := absent("web")(p); err != nil {
		t.Error(err)
	}
	if got := p.id("front"); got != first {
		t.Errorf("id of the renamed container: got %s, want %s", got, first)
	}

	// Recreated under the same name, as compose does it.
	d.Remove(t, "front")
	second := d.Run(t, "front", rig.Container{}, "idle")
	w.soon(func(p page) error {
		if got := p.id("front"); got != second {
			return fmt.Errorf("id of the recreated container: got %s, want %s", got, second)
		}
		return nil
	})

	// A name moves from one to another that runs on.
	d.Rename(t, "front", "back")
	d.Do(t, "unborn", "start")
	d.Rename(t, "unborn", "front")
	w.soon(func(p page) error {
		if got := p.id("back"); got != second {
			return fmt.Errorf("id of back: got %s, want %s", got, second)
		}
		if p.id("front") == second {
			return errors.New("front is still the container that is now called back")
		}
		return up("front")(p)
	})

	d.Do(t, "back", "kill")
	w.soon(down("back", "stopped"))
	d.Remove(t, "back")
	w.soon(absent("back"))

	d.Run(t, "crash", rig.Container{Restart: "always"}, "exit", "1")
	w.soon(down("crash", "restarting"))
	d.Remove(t, "crash")
}
