package peers

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// peer is a program that takes samples, or serves pages, or both.
type peer struct {
	name  string
	note  string // what a reader of the table should know
	path  string // "": it is not installed
	lacks string // the Debian package that would bring it

	protocols []string // of remote write; text: pages of text, a group for each node
	page      string   // "": it has none
	formats   []string // of the page
	named     string   // the page of a reader that must have every sample
	dear      bool     // it is driven for a shorter time
	floor     bool     // it only takes, and is no program that anybody uses

	arguments func(address, dir string) []string
	versionBy string // what makes it say its version
}

const gatewayName = "fanin"

// windowBytes is the gateway's window. It is full soon, and what is written into it
// then is memory that it has had before, as in any gateway that runs for long.
const windowBytes = 64 << 20

const text = "text"

// Everything that the nodes say, and nothing that the program says of itself.
var everything = "/federate?match[]=" + url.QueryEscape(`{__name__=~"testbed_guest_.+"}`)

// peers lists what can be measured. Programs are found in PATH; Prometheus 3 is
// the one that the tests run.
func (y *yard) peers(b *testing.B) []*peer {
	prometheus := func(name, path string, protocols ...string) *peer {
		return &peer{
			name: name, path: path, lacks: "prometheus", protocols: protocols, dear: true, versionBy: "--version",
			page: everything, formats: []string{"plain", "gzip", "protobuf"},
			arguments: func(address, dir string) []string {
				config := filepath.Join(dir, "prometheus.yml")
				if err := os.WriteFile(config, []byte("global: {}\n"), 0o600); err != nil {
					b.Fatal(err)
				}
				return []string{
					"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
					"--web.listen-address=" + address, "--web.enable-remote-write-receiver",
				}
			},
		}
	}
	return []*peer{
		{
			name: gatewayName, path: y.gateway, protocols: []string{"1", "2"},
			page: "/metrics/testbed", formats: []string{"plain", "gzip", "protobuf"}, named: "/metrics/testbed?scraper=peers",
			arguments: func(address, dir string) []string {
				return []string{
					"--web.listen-address=" + address, "--testbedos.settings=", "--state.glob=" + dir + "/*-state.json",
					"--window.grace=0s", fmt.Sprint("--window.max-bytes=", windowBytes),
				}
			},
		},
		{
			name: "HTTP and snappy alone", note: "reads, decompresses and forgets", path: y.load, protocols: []string{"1", "2"}, floor: true,
			arguments: func(address, _ string) []string { return []string{"sink", "--decompress", address} },
		},
		prometheus("prometheus-3", rig.Prometheus3Binary(b), "1", "2"),
		prometheus("prometheus-2", found("prometheus"), "1"),
		{
			name: "victoria-metrics", path: found("victoria-metrics"), lacks: "victoria-metrics", protocols: []string{"1"}, dear: true, versionBy: "-version",
			page: everything, formats: []string{"plain", "gzip"},
			arguments: func(address, dir string) []string {
				return []string{"-httpListenAddr=" + address, "-storageDataPath=" + filepath.Join(dir, "data"), "-retentionPeriod=1y"}
			},
		},
		{
			name: "vmagent", note: "forwards and keeps nothing", path: found("vmagent"), lacks: "victoria-metrics", protocols: []string{"1"}, versionBy: "-version",
			arguments: func(address, dir string) []string {
				return []string{"-httpListenAddr=" + address, "-remoteWrite.url=http://" + y.sink, "-remoteWrite.tmpDataPath=" + filepath.Join(dir, "queue")}
			},
		},
		{
			name: "pushgateway", path: found("prometheus-pushgateway"), lacks: "prometheus-pushgateway", protocols: []string{text}, dear: true, versionBy: "--version",
			page: "/metrics", formats: []string{"plain", "gzip", "protobuf"},
			arguments: func(address, _ string) []string {
				return []string{"--web.listen-address=" + address, "--push.disable-consistency-check", "--persistence.file="}
			},
		},
	}
}

func found(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+`)

// version is what the program says of itself, "" when it says nothing.
func (p *peer) version() string {
	if p.versionBy == "" {
		return ""
	}
	out, _ := exec.Command(p.path, p.versionBy).CombinedOutput() // some say it and fail
	return versionNumber.FindString(string(out))
}

// running is a peer that has been started.
type running struct {
	*peer
	*rig.Process
	y    *yard
	size size
	url  string
	tick int // the next one that is sent
}

// start starts a peer that is to be driven by a fleet of some size. It ends with
// the benchmark.
func (y *yard) start(b *testing.B, p *peer, s size) *running {
	b.Helper()
	dir, address := b.TempDir(), fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b))
	if p.name == gatewayName {
		if out, err := exec.Command(y.load, append([]string{"roster", dir}, s.flags()...)...).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	}
	r := &running{peer: p, y: y, size: s, url: "http://" + address}
	r.Process = rig.Start(b, p.path, p.arguments(address, dir)...)
	rig.Eventually(b, 30*time.Second, func() error {
		if err := r.Wait(0); !errors.Is(err, rig.ErrStillRunning) {
			b.Fatalf("%s has ended: %v\n%s", p.name, err, r.Tail(2000))
		}
		_, err := get(r.url + "/metrics")
		return err
	})
	if p.name == gatewayName { // it takes nothing before it has read the roster
		rig.Eventually(b, 30*time.Second, func() error { _, err := get(r.url + "/readyz"); return err })
	}
	return r
}

func (r *running) pid() int { return r.Cmd.Process.Pid }

// send has the whole fleet speak so many times, and returns what it cost the
// peer, in processor seconds. Where nothing says at which rate, what the peer
// leaves for the two seconds afterwards is counted in.
func (r *running) send(b *testing.B, protocol string, ticks int, flags ...string) (done, float64) {
	b.Helper()
	args := []string{"push", r.url + "/api/v1/write", "--protocol=" + protocol}
	if protocol == text {
		args = []string{text, r.url}
	}
	args = append(append(args, r.size.flags()...), fmt.Sprint("--first-tick=", r.tick), fmt.Sprint("--requests=", ticks*r.size.nodes), "--duration=2m")
	before := processorSeconds(b, r.pid())
	d := drive(b, r.y.load, append(args, flags...)...)
	if len(flags) == 0 { // what it does later of it
		time.Sleep(2 * time.Second)
	}
	cost := processorSeconds(b, r.pid()) - before
	r.tick += ticks
	if d.Samples == 0 || r.name == gatewayName && d.Written != d.Samples {
		b.Fatalf("%s: %d samples sent, %d written", r.name, d.Samples, d.Written)
	}
	return d, cost
}
