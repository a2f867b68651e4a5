package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// cluster is a gateway, pushers that keep a journal, and a diary.
type cluster struct {
	*testbed
	*diary
	address string
	gateway *program
	pushers []*sender
	wanted  []*expectation // of the hosts, once the sampling has ended
}

// program is started again and again in the same place: one port, one folder.
type program struct {
	*rig.Process
	t       *testing.T
	diary   *diary
	name    string
	command func() *exec.Cmd
	down    bool
}

// sender is a pusher with what it has committed.
type sender struct {
	*program
	host    string
	metrics string // address of its own page
	spool   string
	journal *spoolJournal
	ended   time.Time // when it stopped sampling for good

	interval time.Duration
	args     []string
}

// newCluster starts a gateway for these hosts; the first is the main one.
func newCluster(t *testing.T, hosts []string, args ...string) *cluster {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t))
	c := &cluster{testbed: &testbed{t: t, dir: t.TempDir(), url: "http://" + address}, diary: newDiary(t), address: address}
	of := map[string]any{}
	for i, host := range hosts {
		of[host] = map[string]any{"username": "ubuntu", "ip": fmt.Sprint("10.50.0.", i+1), "testbed_nic": "enp5s0", "is_main_host": i == 0}
	}
	c.write("config/kvm-compose-config.json", map[string]any{"testbed_host_ssh_config": of})
	c.gateway = c.program("gateway", func() *exec.Cmd {
		return exec.Command(filepath.Join(programs(t), "gateway"), append([]string{
			"--web.listen-address=" + address, "--testbedos.settings=" + c.dir,
		}, args...)...)
	})
	c.gateway.start()
	c.ready(c.url)
	return c
}

func (c *cluster) program(name string, command func() *exec.Cmd) *program {
	return &program{t: c.t, diary: c.diary, name: name, command: command}
}

func (c *cluster) ready(url string) {
	c.t.Helper()
	up := &testbed{t: c.t, url: url}
	rig.Eventually(c.t, 10*time.Second, func() error { _, err := up.get("/healthz"); return err })
}

// pusher starts a pusher that speaks for host and goes by way of an address;
// it samples this machine, without guests that others may run on it, unless the
// arguments say otherwise.
func (c *cluster) pusher(host, way string, interval time.Duration, args ...string) *sender {
	c.t.Helper()
	n := &sender{
		host: host, spool: c.t.TempDir(), interval: interval, args: args,
		metrics: fmt.Sprintf("127.0.0.1:%d", rig.FreePort(c.t)),
	}
	n.program = c.program("pusher of "+host, func() *exec.Cmd {
		return exec.Command(filepath.Join(programs(c.t), "pusher"), append([]string{
			"--push.url=http://" + way + "/api/v1/write", "--node.name=" + host, "--sample.interval=" + n.interval.String(),
			"--spool.path=" + n.spool, "--web.listen-address=" + n.metrics, "--no-docker", "--no-libvirt", "--no-android",
		}, n.args...)...)
	})
	n.journal = keepJournal(c.t, n.spool, c.t.TempDir())
	n.start()
	c.ready("http://" + n.metrics)
	c.pushers = append(c.pushers, n)
	return n
}

func (p *program) start() {
	p.t.Helper()
	p.Process = rig.StartCmd(p.t, p.command())
	p.down = false
	p.diary.note("%s started, pid %d", p.name, p.Cmd.Process.Pid)
}

// kill is kill -9.
func (p *program) kill() {
	p.t.Helper()
	if err := p.Wait(0); !errors.Is(err, rig.ErrStillRunning) {
		p.t.Fatalf("%s ended by itself: %v\n%s", p.name, err, p.Tail(4096))
	}
	p.diary.note("kill -9 %s", p.name)
	if err := p.Signal(syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	p.Stop(10 * time.Second) // waits for its end
	p.down = true
}

// terminate asks a program to end, as an administrator does; ended waits until
// it has, in time and without an error.
func (p *program) terminate() (ended func()) {
	p.t.Helper()
	start := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return func() { p.waitEnd(start) }
}

func (p *program) waitEnd(start time.Time) {
	p.t.Helper()
	if err := p.Wait(10 * time.Second); err != nil || time.Since(start) > 5*time.Second {
		p.t.Errorf("%s: after SIGTERM it ended after %s with %v, want no error within 5 s\n%s", p.name, time.Since(start), err, p.Tail(4096))
	}
	p.diary.note("%s ended after SIGTERM, within %s", p.name, time.Since(start).Round(time.Millisecond))
	p.down = true
}

var outOfOrderWindow = regexp.MustCompile(`out_of_order_time_window: \S+`)

// prometheus3 and prometheusDebian scrape this cluster's page as the stack's
// does, the first in protobuf, the second in text.
func (c *cluster) prometheus3(reader string, every time.Duration) *rig.PrometheusServer {
	c.t.Helper()
	return c.prometheus(rig.Prometheus3, reader, every, "scrape_protocols: [PrometheusProto, PrometheusText0.0.4]")
}

func (c *cluster) prometheusDebian(reader string, every time.Duration) *rig.PrometheusServer {
	c.t.Helper()
	return c.prometheus(rig.PrometheusDebian, reader, every, "honor_timestamps: true")
}

func (c *cluster) prometheus(version, reader string, every time.Duration, more string) *rig.PrometheusServer {
	c.t.Helper()
	shipped, err := os.ReadFile(filepath.Join(rig.Root(c.t), "stack", "prometheus", "prometheus.yml"))
	if err != nil {
		c.t.Fatal(err)
	}
	return rig.Prometheus(c.t, version, fmt.Sprintf(`global: {scrape_interval: %[1]s, scrape_timeout: %[1]s}
scrape_configs:
  - {job_name: testbed, metrics_path: /metrics/testbed, params: {scraper: [%[2]s]}, honor_labels: true, static_configs: [{targets: ['%[3]s']}], %[4]s}
storage: {tsdb: {%[5]s}}
`, every, reader, c.address, more, outOfOrderWindow.Find(shipped)))
}

// leave ends a Prometheus with a signal.
func (c *cluster) leave(p *rig.PrometheusServer, signal syscall.Signal) {
	c.t.Helper()
	c.note("Prometheus gets %s", signal)
	if err := p.Signal(signal); err != nil {
		c.t.Fatal(err)
	}
	if err := p.Wait(time.Minute); errors.Is(err, rig.ErrStillRunning) {
		c.t.Fatalf("Prometheus did not end after %s\n%s", signal, p.Tail(4096))
	}
}

func (c *cluster) comeBack(p *rig.PrometheusServer) {
	c.t.Helper()
	p.Restart(c.t)
	c.note("Prometheus is back, pid %d", p.Cmd.Process.Pid)
}

// stopSampling ends the sampling, as far as the comparison goes. What is not
// collected stays in the spools.
func (c *cluster) stopSampling() {
	c.t.Helper()
	var ends []func()
	for _, n := range c.pushers {
		ends = append(ends, n.terminate())
	}
	for i, n := range c.pushers {
		ends[i]()
		n.settle()
	}
}

// settle ends the journal of a pusher that has ended.
func (n *sender) settle() {
	n.ended = time.Now()
	n.journal.close()
}

// deliver starts the pushers again and waits until each one's ledger says that
// all it had before has been collected. They sample meanwhile, as what has been
// collected is said in the answers to pushes.
func (c *cluster) deliver(d time.Duration) {
	c.t.Helper()
	c.resume()
	before, done := map[*sender]float64{}, map[*sender]bool{}
	rig.Eventually(c.t, d, func() error {
		var left error
		for _, n := range c.pushers {
			l, err := readLedger(n.metrics)
			if err != nil {
				left = err
				continue
			}
			if before[n] == 0 {
				before[n] = l.committed
			}
			switch {
			case l.delivered < before[n]:
				left = fmt.Errorf("%s: of %v samples from before %v are collected", n.host, before[n], l.delivered)
			case !done[n]:
				done[n] = true
				c.note("everything of %s is collected", n.host)
			}
		}
		return left
	})
}

// resume starts the pushers again.
func (c *cluster) resume() {
	c.t.Helper()
	for _, n := range c.pushers {
		n.interval = time.Second
		n.start()
	}
}

// hosts as a pattern.
func (c *cluster) hostPattern() string {
	var hosts []string
	for _, n := range c.pushers {
		hosts = append(hosts, n.host)
	}
	return strings.Join(hosts, "|")
}
