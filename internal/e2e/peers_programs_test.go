package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// agent is a program that takes something once a second, keeps it and pushes
// it to a receiver of remote write.
type agent struct {
	name    string // and version
	command func(b berth) *exec.Cmd
	ours    bool
}

// berth is where an agent runs.
type berth struct {
	dir      string // of its own, for settings
	queue    string // directory for what waits
	target   string // address of the page that it scrapes
	receiver string // address
	own      string // address for itself
}

func (b berth) file(t *testing.T, name, content string) (path string) {
	t.Helper()
	path = filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+`)

// agents are those that can be run here, ours first, and the names of those
// that are not installed.
func agents(t *testing.T) (all []agent, left []string) {
	t.Helper()
	version := func(binary string, args ...string) string {
		said, err := exec.Command(binary, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", binary, args, err, said)
		}
		if number := versionNumber.FindString(string(said)); number != "" {
			return number
		}
		return "(does not say its version)"
	}
	pusher := filepath.Join(programs(t), "pusher")
	all = append(all, agent{"fanin pusher", func(b berth) *exec.Cmd {
		return exec.Command(pusher, "--push.url=http://"+b.receiver+"/api/v1/write", "--spool.path="+b.queue,
			"--web.listen-address="+b.own, "--no-docker", "--no-libvirt", "--no-android")
	}, true})

	prometheus := func(binary string, mode string) agent {
		return agent{"Prometheus agent " + version(binary, "--version"), func(b berth) *exec.Cmd {
			config := b.file(t, "prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: peer, static_configs: [{targets: ['%s']}]}]
remote_write: [{url: 'http://%s/api/v1/write'}]
`, b.target, b.receiver))
			return exec.Command(binary, mode, "--config.file="+config, "--storage.agent.path="+b.queue, "--web.listen-address="+b.own)
		}, false}
	}
	all = append(all, prometheus(rig.Prometheus3Binary(t), "--agent"))
	if debian, err := exec.LookPath("prometheus"); err == nil {
		all = append(all, prometheus(debian, "--enable-feature=agent"))
	} else {
		left = append(left, "Debian's Prometheus")
	}
	if vmagent, err := exec.LookPath("vmagent"); err == nil {
		all = append(all, agent{"vmagent " + version(vmagent, "--version"), func(b berth) *exec.Cmd {
			config := b.file(t, "vmagent.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: peer, static_configs: [{targets: ['%s']}]}]
`, b.target))
			return exec.Command(vmagent, "-promscrape.config="+config, "-remoteWrite.url=http://"+b.receiver+"/api/v1/write",
				"-remoteWrite.tmpDataPath="+b.queue, "-httpListenAddr="+b.own)
		}, false})
	} else {
		left = append(left, "vmagent")
	}
	if telegraf, err := exec.LookPath("telegraf"); err == nil {
		all = append(all, agent{"Telegraf " + version(telegraf, "--version"), func(b berth) *exec.Cmd {
			// Each measurement in a message of its own: of several in one, the
			// serializer keeps the newest of a series.
			return exec.Command(telegraf, "--config", b.file(t, "telegraf.conf", fmt.Sprintf(`
[agent]
  interval = "1s"
  flush_interval = "1s"
  precision = "1ms"
  metric_buffer_limit = 1000000
  buffer_strategy = "disk"
  buffer_directory = %q
  omit_hostname = true
[[inputs.prometheus]]
  urls = ["http://%s/metrics"]
  metric_version = 2
[[outputs.http]]
  url = "http://%s/api/v1/write"
  data_format = "prometheusremotewrite"
  use_batch_format = false
  non_retryable_statuscodes = [400]
  [outputs.http.headers]
    Content-Type = "application/x-protobuf"
    Content-Encoding = "snappy"
    X-Prometheus-Remote-Write-Version = "0.1.0"
`, b.queue, b.target, b.receiver)))
		}, false})
	} else {
		left = append(left, "Telegraf")
	}
	return all, left
}

// target is a page that an agent scrapes: it counts how often.
type target struct {
	address string

	mu     sync.Mutex // guards what follows
	pages  int
	served map[string]map[float64]bool // values by series
	newest time.Time
	over   bool
}

const seriesOnPage = 100

func newTarget(t *testing.T, name string) *target {
	t.Helper()
	s := &target{served: map[string]map[float64]bool{}}
	for i := range seriesOnPage {
		s.served[strconv.Itoa(i)] = map[float64]bool{}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.over {
			http.Error(w, "there is nothing more", http.StatusServiceUnavailable)
			return
		}
		var page strings.Builder
		page.WriteString("# TYPE peer_value gauge\n")
		for i := range seriesOnPage {
			v := rand.Float64() // which packs badly, as measurements do
			s.served[strconv.Itoa(i)][v] = true
			fmt.Fprintf(&page, "peer_value{i=\"%d\",peer=%q} %v\n", i, name, v)
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		if _, err := w.Write([]byte(page.String())); err == nil {
			s.pages++
			s.newest = time.Now()
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return s
}

// between waits for a moment between two scrapes: what was scraped has been
// stored by now, and nothing is under way.
func (s *target) between() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		s.mu.Lock()
		ago := time.Since(s.newest)
		s.mu.Unlock()
		if ago > 400*time.Millisecond && ago < 600*time.Millisecond {
			return
		}
	}
}

// sort tells samples with a value that was served from those with another one.
func (s *target) sort(found []rig.Series) (right, wrong int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, series := range found {
		for _, p := range series.Points {
			if s.served[series.Labels["i"]][p.V] {
				right++
			} else {
				wrong++
			}
		}
	}
	return right, wrong
}

// end stops the scraping and returns how many samples were scraped.
func (s *target) end() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return s.pages * seriesOnPage
}
