package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanin/internal/admission"
	"fanin/internal/e2e/rig"
	"fanin/internal/ingest"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

var counted = sample.NewCounter("lossless_total", "", "Counts up.")

// key is a stored sample: a series of the test and a time.
type key struct {
	host, i string
	t       int64
}

// journal is what the gateway has taken.
type journal struct {
	mu    sync.Mutex
	taken map[key]float64
}

func (j *journal) note(host string, points []sample.Point) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range points {
		j.taken[key{host, p.Series.Label("i"), p.T}] = p.V
	}
}

// send pushes points as host's and returns the status code.
func send(url, host string, points []sample.Point) (int, error) {
	answer, err := post(url, host, points, nil)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.Header.Get(ingest.RefusedHeader) != "" {
		err = fmt.Errorf("refused: %s %s", answer.Header.Get(ingest.RefusedHeader), text)
	}
	return answer.StatusCode, err
}

// post pushes points as host's, with more headers.
func post(url, host string, points []sample.Point, more map[string]string) (*http.Response, error) {
	var enc wire.Encoder
	r, err := http.NewRequest(http.MethodPost, url+"/api/v1/write", bytes.NewReader(enc.Append(nil, points)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", wire.V2.ContentType())
	r.Header.Set("Content-Encoding", wire.ContentEncoding)
	r.Header.Set(admission.NodeHeader, host)
	r.Header.Set(ingest.IntervalHeader, "0.1")
	for name, value := range more {
		r.Header.Set(name, value)
	}
	return http.DefaultClient.Do(r)
}

// node samples 20 series every 100 ms until stop is closed. While it is cut
// off it keeps what it samples, and sends it in order afterwards.
func node(t *testing.T, url, host string, j *journal, cutOff *atomic.Bool, stop <-chan struct{}) {
	series := make([]*sample.Series, 20)
	for i := range series {
		series[i] = sample.New(counted, sample.Label{Name: "i", Value: fmt.Sprint(i)})
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var queue [][]sample.Point
	for n := 0; ; n++ {
		ended := false
		select {
		case <-stop:
			ended = true
		case <-tick.C:
			points := make([]sample.Point, len(series))
			at := time.Now().UnixMilli()
			for i := range points {
				points[i] = sample.Point{Series: series[i], T: at, V: float64(n) + float64(i)/32}
			}
			queue = append(queue, points)
		}
		for len(queue) > 0 && !cutOff.Load() {
			code, err := send(url, host, queue[0])
			if code == http.StatusTooManyRequests {
				break // ten at once are many on two processors: with the next tick
			}
			if err != nil || code != http.StatusNoContent {
				t.Errorf("%s: %d, %v", host, code, err)
				return
			}
			j.note(host, queue[0])
			queue = queue[1:]
		}
		if ended && len(queue) == 0 {
			return
		}
	}
}

// abortingProxy hands requests on over one connection for each of its own,
// and spoils every fourth page: in turns it cuts it in half, and swallows it
// when the gateway has written it whole.
func abortingProxy(t *testing.T, to string) (address string, spoilt *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var pages atomic.Int64
	spoilt = &atomic.Int64{}
	serve := func(client net.Conn) {
		defer client.Close()
		gateway, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer gateway.Close()
		requests, answers := bufio.NewReader(client), bufio.NewReader(gateway)
		for {
			request, err := http.ReadRequest(requests)
			if err != nil || request.Write(gateway) != nil {
				return
			}
			answer, err := http.ReadResponse(answers, request)
			if err != nil {
				return
			}
			whole, err := httputil.DumpResponse(answer, true)
			if err != nil {
				return
			}
			if n := pages.Add(1); n%4 == 0 {
				if spoilt.Add(1); n%8 == 0 {
					_, _ = client.Write(whole[:len(whole)/2])
				}
				return
			}
			if _, err := client.Write(whole); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String(), spoilt
}

// Nothing is lost between the gateway and Prometheus: samples of every 100 ms
// through scrapes of every 5 s, by the oldest Prometheus in text and the
// newest in protobuf, one of them killed and away for 20 s, and over a way
// that spoils every fourth page.
func TestLossless(t *testing.T) {
	b := &testbed{t: t, dir: t.TempDir()}
	hosts := map[string]any{}
	for i := range 10 {
		hosts[fmt.Sprint("n", i)] = map[string]any{"username": "ubuntu", "ip": fmt.Sprint("10.50.0.", i+1), "testbed_nic": "enp5s0", "is_main_host": i == 0}
	}
	b.write("config/kvm-compose-config.json", map[string]any{"testbed_host_ssh_config": hosts})
	gateway := func(args ...string) (url string) {
		url = fmt.Sprintf("http://127.0.0.1:%d", rig.FreePort(t))
		rig.Start(t, filepath.Join(programs(t), "gateway"), append([]string{
			"--web.listen-address=" + strings.TrimPrefix(url, "http://"), "--testbedos.settings=" + b.dir,
		}, args...)...)
		up := &testbed{t: t, url: url}
		rig.Eventually(t, 10*time.Second, func() error { _, err := up.get("/readyz"); return err })
		return url
	}
	url := gateway()
	b.url = url
	address := strings.TrimPrefix(url, "http://")
	proxy, spoilt := abortingProxy(t, address)
	job := func(name, target, more string) string {
		return fmt.Sprintf("  - {job_name: %s, metrics_path: /metrics/testbed, params: {scraper: [%s]}, honor_labels: true, static_configs: [{targets: ['%s']}]%s}\n", name, name, target, more)
	}
	const outOfOrder = "storage: {tsdb: {out_of_order_time_window: 1h}}\n"
	const protobuf = ", scrape_protocols: [PrometheusProto, PrometheusText0.0.4]"
	debian := rig.Prometheus(t, rig.PrometheusDebian, "global: {scrape_interval: 5s}\nscrape_configs:\n"+job("old", address, "")+outOfOrder)
	three := rig.Prometheus(t, rig.Prometheus3, "global: {scrape_interval: 5s}\nscrape_configs:\n"+
		job("new", address, protobuf)+job("spoilt", proxy, ", scrape_interval: 1s, scrape_timeout: 1s"+protobuf)+
		fmt.Sprintf("  - {job_name: nodes, honor_labels: true, http_sd_configs: [{url: '%s/api/v1/scrape-targets?scraper=nodes'}]%s}\n", url, protobuf)+outOfOrder)

	j := &journal{taken: map[key]float64{}}
	var nodes sync.WaitGroup
	stop, stopLast := make(chan struct{}), make(chan struct{})
	var never, cutOff atomic.Bool
	for i := range 10 {
		cut, until := &never, stop
		switch i {
		case 8:
			cut = &cutOff
		case 9:
			until = stopLast
		}
		nodes.Go(func() { node(t, url, fmt.Sprint("n", i), j, cut, until) })
	}
	t.Run("a stopped reader stops nobody", func(t *testing.T) { stoppedReader(t, gateway("--window.max-bytes=1048576")) })
	t.Run("readers without a name are waited for as long as is said", func(t *testing.T) {
		if got := collectedOfOne(t, gateway()); got != "0" {
			t.Errorf("in the time of grace collected up to record %s, want 0", got)
		}
		if got := collectedOfOne(t, gateway("--window.grace=1ms")); got != "1" {
			t.Errorf("after the time of grace collected up to record %s, want 1", got)
		}
	})
	rig.Eventually(t, 15*time.Second, func() error {
		_, err := debian.Value(`count(lossless_total) > 0`)
		return err
	})
	if err := debian.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	away := time.Now()
	close(stopLast)
	time.Sleep(2 * time.Second)
	cutOff.Store(true)
	time.Sleep(12 * time.Second)
	cutOff.Store(false)
	time.Sleep(time.Until(away.Add(20 * time.Second)))
	debian.Restart(t)
	time.Sleep(8 * time.Second)
	close(stop)
	nodes.Wait()

	for _, c := range []struct {
		job    string
		server *rig.PrometheusServer
	}{{"old", debian}, {"new", three}, {"spoilt", three}, {"nodes", three}} {
		var missing, different, extra int
		rig.Eventually(t, 20*time.Second, func() error {
			got, err := c.server.TryQuery(fmt.Sprintf("lossless_total{job=%q}[10m]", c.job))
			if err != nil {
				return err
			}
			stored := 0
			missing, different, extra = 0, 0, 0
			for _, series := range got {
				for _, p := range series.Points {
					stored++
					v, known := j.taken[key{series.Labels["host_name"], series.Labels["i"], p.T}]
					if !known {
						extra++
					} else if v != p.V {
						different++
					}
				}
			}
			if missing = len(j.taken) - (stored - extra); missing+different+extra > 0 {
				return fmt.Errorf("%s: of %d samples %d are missing, %d different, %d are too many", c.job, len(j.taken), missing, different, extra)
			}
			return nil
		})
		t.Logf("%s: %d samples, none missing, none different", c.job, len(j.taken))
	}
	if spoilt.Load() < 5 {
		t.Errorf("only %d pages were spoilt", spoilt.Load())
	}

	t.Run("a target for each node", func(t *testing.T) {
		rig.Eventually(t, 25*time.Second, func() error {
			silent, err := three.Value(`up{job="nodes",instance="n9"}`)
			if err == nil && silent != 0 {
				err = fmt.Errorf("the silent node is up")
			}
			return err
		})
		if got, err := three.Value(`count(max_over_time(up{job="nodes"}[30s]) == 1)`); err != nil || got < 9 {
			t.Errorf("got %v nodes that were up lately, %v; want 9", got, err)
		}
	})

	t.Run("ends stand at the right time", func(t *testing.T) {
		newest := map[string]int64{}
		for k := range j.taken {
			newest[k.host] = max(newest[k.host], k.t)
		}
		count := func(host string, at int64) int {
			got := three.QueryRange(t, fmt.Sprintf(`lossless_total{job="new",host_name=%q}`, host), time.UnixMilli(at), time.UnixMilli(at), time.Second)
			return len(got)
		}
		end := newest["n9"]
		if got := count("n9", end); got != 20 {
			t.Errorf("at its last sample the node has %d series, want 20", got)
		}
		if got := count("n9", end+1); got != 0 {
			t.Errorf("1 ms after its last sample the node has %d series, want none", got)
		}
		if got := count("n8", end+5000); got != 20 { // it was cut off then, and not for long enough to have ended
			t.Errorf("the node that was cut off has %d series, want 20", got)
		}
	})
}

// collectedOfOne hands over a record, has one reader collect it, and returns up to
// which record the gateway then says that all readers have.
func collectedOfOne(t *testing.T, url string) string {
	b := &testbed{t: t, url: url}
	series := sample.New(counted, sample.Label{Name: "i", Value: "0"})
	push := func(record string) string {
		answer, err := post(url, "n0", []sample.Point{{Series: series, T: time.Now().UnixMilli(), V: 1}},
			map[string]string{ingest.SpoolHeader: "one", ingest.RecordHeader: record})
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusNoContent {
			t.Fatalf("record %s: %s %s, %v", record, answer.Status, text, err)
		}
		return answer.Header.Get(ingest.CollectedHeader)
	}
	push("1")
	for range 2 { // the second says that the first has arrived
		b.page("/metrics/testbed?scraper=one")
	}
	time.Sleep(10 * time.Millisecond)
	return push("2")
}

// stoppedReader fills a small window: who reads on gets all, who has stopped
// loses what is counted, and memory stays inside its bound.
func stoppedReader(t *testing.T, url string) {
	b := &testbed{t: t, url: url}
	page := func(reader string) (n int) {
		return len(regexp.MustCompile(`(?m)^lossless_total`).FindAllString(b.page("/metrics/testbed?scraper="+reader), -1))
	}
	type status struct {
		Window  struct{ Bytes int64 }
		Readers []struct {
			Reader, Confirmation string
			Lost                 int `json:"lost_points"`
		}
	}
	readers := func() (s status) {
		if err := json.Unmarshal([]byte(b.page("/api/v1/readers")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	page("stopped")
	series := make([]*sample.Series, 500)
	for i := range series {
		series[i] = sample.New(counted, sample.Label{Name: "i", Value: strconv.Itoa(i)})
	}
	pushed, collected := 0, 0
	for n := range 40 { // 8 bytes a point are half as much again as the window
		var points []sample.Point
		for k := range 10 {
			for _, s := range series {
				points = append(points, sample.Point{Series: s, T: time.Now().UnixMilli() + int64(n*1000+k), V: float64(k)})
			}
		}
		if code, err := send(url, "n0", points); code != http.StatusNoContent || err != nil {
			t.Fatalf("push %d: %d, %v", n, code, err)
		}
		pushed += len(points)
		collected += page("reading")
		if s := readers(); s.Window.Bytes > 1<<20 {
			t.Fatalf("the window holds %d bytes", s.Window.Bytes)
		}
	}
	last := page("stopped")
	lost := 0
	for _, r := range readers().Readers {
		if r.Reader == "stopped" {
			lost = r.Lost
		}
		if r.Confirmation != "connection" {
			t.Errorf("%s is confirmed by %s", r.Reader, r.Confirmation)
		}
	}
	if collected != pushed || lost == 0 || last+lost != pushed {
		t.Fatalf("of %d points the reader got %d; the stopped one %d, with %d counted as lost", pushed, collected, last, lost)
	}
}
