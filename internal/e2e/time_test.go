package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fanin/internal/admission"
	"fanin/internal/e2e/rig"
	"fanin/internal/ingest"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// arrival is a point that a reader has been given, and when.
type arrival struct {
	t    int64
	real time.Time
}

// collector is a named reader of a gateway that keeps all it is given.
type collector struct {
	address string
	client  http.Client

	mu  sync.Mutex
	got map[string][]arrival // by series, as they come
}

// collect reads until the test ends.
func collect(t *testing.T, gateway string) *collector {
	t.Helper()
	c := &collector{
		address: gateway + "/metrics/testbed?scraper=time",
		client:  http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}},
		got:     map[string][]arrival{},
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			c.once() // one that fails is given again
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped; c.client.CloseIdleConnections() })
	return c
}

func (c *collector) once() {
	answer, err := c.client.Get(c.address)
	if err != nil {
		return
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		value := strings.LastIndexByte(line[:max(at, 0)], ' ')
		t, err := strconv.ParseInt(line[at+1:], 10, 64)
		if strings.HasPrefix(line, "#") || value < 0 || err != nil || strings.LastIndexByte(line, '}') > value {
			continue // without a time of its own
		}
		c.got[line[:value]] = append(c.got[line[:value]], arrival{t, now})
	}
}

// all is a copy of what has been collected.
func (c *collector) all() map[string][]arrival {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string][]arrival, len(c.got))
	for series, got := range c.got {
		all[series] = slices.Clone(got)
	}
	return all
}

// of is what has been collected of a series since then.
func (c *collector) of(series string, since time.Time) []arrival {
	got := c.all()[series]
	return slices.DeleteFunc(got, func(a arrival) bool { return a.real.Before(since) })
}

const hostLoad = `testbed_host_load1{host_name="main-host"}`

// TestStoppedPusher: a pusher that does not run for 5 s has one gap. Its ticks
// are on the grid before and after, and it makes up for nothing.
func TestStoppedPusher(t *testing.T) {
	rig.Need(t)
	const interval = 100 * time.Millisecond
	b := newTestbed(t)
	c := collect(t, b.url)
	pusher := b.pusher(mainHost, "--sample.interval="+interval.String(), "--no-docker", "--no-libvirt")
	rig.Eventually(t, 20*time.Second, func() error {
		if n := len(c.of(hostLoad, time.Time{})); n < 20 {
			return fmt.Errorf("%d ticks have been collected", n)
		}
		return nil
	})
	signal := func(s syscall.Signal) time.Time {
		now := time.Now() // between two ticks
		time.Sleep(now.Truncate(interval).Add(3 * interval / 2).Sub(now))
		if err := pusher.Signal(s); err != nil {
			t.Fatal(err)
		}
		return time.Now()
	}
	stopped := signal(syscall.SIGSTOP)
	time.Sleep(5 * time.Second)
	continued := signal(syscall.SIGCONT)
	time.Sleep(3 * time.Second)

	all := c.all()
	if len(all) < 50 {
		t.Fatalf("%d series have been collected, want those of a host", len(all))
	}
	for series, got := range all {
		gaps := 0
		for i, a := range got[1:] {
			switch step := time.Duration(a.t-got[i].t) * time.Millisecond; {
			case step <= 0:
				t.Errorf("%s: %d comes after %d", series, a.t, got[i].t)
			case step > time.Second:
				gaps++
				if away := continued.Sub(stopped); step < away-2*interval || step > away+10*interval {
					t.Errorf("%s: a gap of %s, the pusher was stopped for %s", series, step, away)
				}
			}
		}
		// Other work on this machine may make a device, or remove one.
		if throughout := got[0].t < stopped.UnixMilli() && got[len(got)-1].t > continued.UnixMilli(); throughout && gaps != 1 {
			t.Errorf("%s has %d gaps, want 1", series, gaps)
		}
	}
	var off []int64 // the grid, by milliseconds
	after := 0
	for _, a := range all[hostLoad] {
		at := time.UnixMilli(a.t)
		if at.After(stopped) && at.Before(continued) {
			t.Errorf("a reading is of %s, when the pusher was stopped", at)
		}
		phase := a.t % interval.Milliseconds()
		if off = append(off, phase); after == 0 && at.After(continued) && phase >= 48 && phase < 70 {
			t.Errorf("the first reading after it was continued is %d ms off the grid, when it was continued", phase)
		}
		if at.After(continued) && at.Before(continued.Add(2*time.Second)) {
			after++
		}
	}
	slices.Sort(off)
	t.Logf("readings are off the grid by a median of %d ms and at most %d ms; %d in the 2 s after it was continued", off[len(off)/2], off[len(off)-1], after)
	if off[len(off)*3/4] > 30 { // the signals came at 50; a machine with other work is late at times
		t.Errorf("readings are off the grid by %v ms", off)
	}
	if most := int(2*time.Second/interval) + 1; after > most || after < most/2 {
		t.Errorf("%d readings in the 2 s after it was continued, want at most %d", after, most)
	}
	if got := b.refused(); len(got) > 0 {
		t.Errorf("samples were refused: %v", got)
	}
}

// sendAs pushes points as a node whose clock is ahead by so much.
func (b *testbed) sendAs(host string, ahead time.Duration, points []sample.Point) (status int, refused string) {
	b.t.Helper()
	var enc wire.Encoder
	body := enc.Append(nil, points)
	request, err := http.NewRequest(http.MethodPost, b.url+"/api/v1/write", bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Content-Type", wire.V2.ContentType())
	request.Header.Set("Content-Encoding", wire.ContentEncoding)
	request.Header.Set("Authorization", "Bearer "+b.token(host))
	request.Header.Set(admission.NodeHeader, host)
	request.Header.Set(ingest.IntervalHeader, "0.2")
	request.Header.Set(ingest.TimeHeader, strconv.FormatFloat(float64(time.Now().Add(ahead).UnixMicro())/1e6, 'f', -1, 64))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Header.Get(ingest.RefusedHeader)
}

// offset is what the gateway says of a node's clock.
func (b *testbed) offset(host string) (float64, error) {
	page, err := b.get("/metrics/testbed")
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^testbed_host_clock_offset_seconds\{host_name="` + host + `"\} (\S+)$`).FindStringSubmatch(page)
	if m == nil {
		return 0, fmt.Errorf("no clock offset of %s", host)
	}
	return strconv.ParseFloat(m[1], 64)
}

// refused are the samples of main-host that the gateway has refused, by reason.
func (b *testbed) refused() map[string]float64 {
	all := map[string]float64{}
	own, err := b.get("/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^fanin_ingest_refused_samples_total\{node="main-host",reason="(\w+)"\} (\S+)$`).FindAllStringSubmatch(own, -1) {
		if v, _ := strconv.ParseFloat(m[2], 64); v > 0 {
			all[m[1]] = v
		}
	}
	return all
}

// TestClockOfAnotherNode: a node whose clock is two hours ahead is refused,
// counted and shown, and costs its neighbour nothing.
func TestClockOfAnotherNode(t *testing.T) {
	const ahead, rounds, width = 2 * time.Hour, 40, 20
	b := newTestbed(t)
	p := rig.Prometheus(t, rig.PrometheusDebian, fmt.Sprintf(
		"global: {scrape_interval: 1s}\nscrape_configs:\n  - {job_name: g, metrics_path: /metrics/testbed, params: {scraper: [p]}, honor_labels: true, static_configs: [{targets: ['%s']}]}\n",
		strings.TrimPrefix(b.url, "http://")))
	series := make([]*sample.Series, width)
	for i := range series {
		series[i] = sample.New(counted, sample.Label{Name: "i", Value: strconv.Itoa(i)})
	}
	sent := map[key]float64{}
	for n := range rounds {
		time.Sleep(200 * time.Millisecond)
		for _, host := range []string{mainHost, otherHost} {
			shift, want := time.Duration(0), ""
			if host == otherHost {
				shift, want = ahead, fmt.Sprintf("future=%d", width)
			}
			at := time.Now().Add(shift).UnixMilli()
			points := make([]sample.Point, width)
			for i := range points {
				points[i] = sample.Point{Series: series[i], T: at, V: float64(n)}
				if host == mainHost {
					sent[key{host, strconv.Itoa(i), at}] = float64(n)
				}
			}
			if status, refused := b.sendAs(host, shift, points); status != http.StatusNoContent || refused != want {
				t.Fatalf("%s: %d, refused %q, want %q", host, status, refused, want)
			}
		}
	}
	b.shows("/metrics", time.Second, fmt.Sprintf(`fanin_ingest_refused_samples_total{node="client-1",reason="future"} %d`, rounds*width))
	for host, want := range map[string]float64{mainHost: 0, otherHost: ahead.Seconds()} {
		if got, err := b.offset(host); err != nil || math.Abs(got-want) > 1 {
			t.Errorf("the clock offset of %s is %v, %v; want %v", host, got, err, want)
		}
	}
	rig.Eventually(t, 10*time.Second, func() error {
		got, err := p.TryQuery("lossless_total[5m]")
		if err != nil {
			return err
		}
		stored := 0
		for _, s := range got {
			for _, one := range s.Points {
				if v, ok := sent[key{s.Labels["host_name"], s.Labels["i"], one.T}]; !ok || v != one.V {
					return fmt.Errorf("%v has %v at %d", s.Labels, one.V, one.T)
				}
				stored++
			}
		}
		if stored != len(sent) {
			return fmt.Errorf("%d samples of the right node are stored, want %d", stored, len(sent))
		}
		v, err := p.Value(`testbed_host_clock_offset_seconds{host_name="client-1"}`)
		if err == nil && math.Abs(v-ahead.Seconds()) > 1 {
			err = fmt.Errorf("a clock offset of %v is stored", v)
		}
		return err
	})
}
