package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"fanin/internal/e2e/rig"
	"fanin/internal/guest"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// pageLab is a gateway with a history and one deployment, "lab", for which the
// test itself speaks as its hosts.
type pageLab struct {
	t       testing.TB
	url     string
	hosts   []string
	guests  []string // guest i is on host i modulo their number
	encoder map[string]*wire.Encoder
	series  map[string]*sample.Series
	refused bool // pushes may be
	token   string

	interval time.Duration // that the hosts say they have
}

// needScript fails when the gateway under test has no script for its charts.
func needScript(t testing.TB) {
	t.Helper()
	rig.Need(t, "go", "chromium")
	if _, err := os.Stat(filepath.Join(rig.Root(t), "internal/dashboard/assets/built/charts.js")); err != nil {
		t.Fatalf("the charts' script is not built: `make page` builds it: %v", err)
	}
}

func newPageLab(t testing.TB, hosts, guests []string, args ...string) *pageLab {
	t.Helper()
	dir := t.TempDir()
	l := &pageLab{t: t, hosts: hosts, guests: guests}
	l.write(filepath.Join(dir, "lab-state.json"))
	l.url = fmt.Sprintf("http://127.0.0.1:%d", rig.FreePort(t))
	return l.start(dir, buildStatic(t, "gateway"), args...)
}

func (l *pageLab) start(dir, program string, args ...string) *pageLab {
	t := l.t
	t.Helper()
	gateway := rig.Start(t, program, append([]string{
		"--web.listen-address=" + strings.TrimPrefix(l.url, "http://"), "--testbedos.settings=", "--state.glob=" + filepath.Join(dir, "*-state.json"),
		"--history.path=" + filepath.Join(dir, "history"),
	}, args...)...)
	rig.Eventually(t, 15*time.Second, func() error {
		resp, err := http.Get(l.url + "/api/v1/deployments/lab")
		if err != nil {
			return fmt.Errorf("%w: %s", err, gateway.Tail(1024))
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the deployment: %s", resp.Status)
		}
		return nil
	})
	return l
}

func (l *pageLab) write(file string) {
	l.t.Helper()
	hosts, guests := map[string]any{}, map[string]any{}
	for i, h := range l.hosts {
		hosts[h] = map[string]any{"ip": fmt.Sprintf("10.0.0.%d", i+1)}
	}
	for i, g := range l.guests {
		guests[g] = map[string]any{"name": g, "docker": map[string]any{"image": "web"}, "testbed_host": l.hosts[i%len(l.hosts)]}
	}
	b, err := json.Marshal(map[string]any{"project_name": "lab", "testbed_hosts": hosts, "testbed_guests": guests})
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// told is one number of a guest, or of a host when guest is "".
type told struct {
	guest  string
	metric string
	device string
	v      float64
}

// tell sends what a host says of one moment.
func (l *pageLab) tell(host string, at time.Time, all ...told) {
	l.t.Helper()
	if l.encoder == nil {
		l.encoder, l.series = map[string]*wire.Encoder{}, map[string]*sample.Series{}
	}
	points := make([]sample.Point, 0, len(all))
	for _, n := range all {
		key := host + "\x00" + n.guest + "\x00" + n.metric + "\x00" + n.device
		s := l.series[key]
		if s == nil {
			kind := sample.Gauge
			if strings.HasSuffix(n.metric, "_total") {
				kind = sample.Counter
			}
			var labels []sample.Label
			if n.guest != "" {
				labels = append(labels, guest.Named(n.guest))
			}
			if n.device != "" {
				labels = append(labels, sample.Label{Name: "device", Value: n.device})
			}
			s = sample.New(&sample.Family{Name: n.metric, Type: kind}, labels...)
			l.series[key] = s
		}
		points = append(points, sample.Point{Series: s, T: at.UnixMilli(), V: n.v})
	}
	e := l.encoder[host]
	if e == nil {
		e = &wire.Encoder{}
		l.encoder[host] = e
	}
	r, err := http.NewRequest(http.MethodPost, l.url+"/api/v1/write", strings.NewReader(string(e.Append(nil, points))))
	if err != nil {
		l.t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request", "Content-Encoding": "snappy",
		"X-Prometheus-Remote-Write-Version": "2.0.0", "X-Fanin-Node": host, "X-Fanin-Interval": fmt.Sprint(max(l.interval, time.Second).Seconds()),
	} {
		r.Header.Set(name, value)
	}
	if l.token != "" {
		r.Header.Set("Authorization", "Bearer "+l.token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 && !l.refused {
		l.t.Fatalf("a push of %s: %s", host, resp.Status)
	}
}

// tellOne sends one number, which may be refused.
func (l *pageLab) tellOne(host string, at time.Time, n told) {
	l.t.Helper()
	l.refused = true
	defer func() { l.refused = false }()
	l.tell(host, at, n)
}

// of is what a guest or a host does at a moment: curves that a person can tell
// apart, and the counters whose rates they are.
func (l *pageLab) of(i int, at time.Time) (all []told) {
	x := float64(at.UnixMilli())/1000 + float64(37*i)
	cpu := 30 + 25*math.Sin(x/60) + float64(i%7)*4
	name := "lab-" + l.guests[i]
	waits := 0.0
	if i == 0 {
		waits = 0.6 // of each second, for a core
	}
	return []told{
		{name, "testbed_guest_up", "", 1},
		{name, "testbed_guest_pressure_cpu_waiting_seconds_total", "", waits * x},
		{name, "testbed_guest_cpu", "", cpu},
		{name, "testbed_guest_memory_usage_bytes", "", float64(200+40*(i%5))*1e6 + 2e7*math.Sin(x/90)},
		{name, "testbed_guest_memory_limit_bytes", "", 1 << 30},
		{name, "testbed_guest_network_receive_bytes_total", "eth0", 1e9 + x*float64(1000*(i%10+1)) - 2e4*math.Cos(x/30)},
		{name, "testbed_guest_network_transmit_bytes_total", "eth0", 1e9 + x*float64(700*(i%10+1)) - 1e4*math.Cos(x/40)},
		{name, "testbed_guest_disk_read_bytes_total", "vda", 1e9 + x*float64(300*(i%4+1))},
		{name, "testbed_guest_disk_written_bytes_total", "vda", 1e9 + x*float64(500*(i%6+1))},
	}
}

func (l *pageLab) host(i int, at time.Time) []told {
	x := float64(at.UnixMilli())/1000 + float64(53*i)
	return []told{
		{"", "testbed_host_cpu", "", 45 + 20*math.Sin(x/80)},
		{"", "testbed_host_load1", "", 3 + math.Sin(x/80)},
		{"", "testbed_host_memory_total_bytes", "", 16 << 30},
		{"", "testbed_host_memory_available_bytes", "", (9 + math.Sin(x/120)) * (1 << 30)},
		{"", "testbed_host_network_receive_bytes_total", "eno1", 1e9 + x*2e5},
		{"", "testbed_host_network_transmit_bytes_total", "eno1", 1e9 + x*1e5},
		{"", "testbed_host_disk_read_bytes_total", "sda", 1e9 + x*5e4},
		{"", "testbed_host_disk_written_bytes_total", "sda", 1e9 + x*9e4},
	}
}

// tellAll sends what all say of one moment, but for what is replaced.
func (l *pageLab) tellAll(at time.Time, instead ...told) {
	l.t.Helper()
	for h, host := range l.hosts {
		all := l.host(h, at)
		for i := h; i < len(l.guests); i += len(l.hosts) {
			all = append(all, l.of(i, at)...)
		}
		for k := range all {
			for _, n := range instead {
				if all[k].guest == n.guest && all[k].metric == n.metric && all[k].device == n.device {
					all[k].v = n.v
				}
			}
		}
		l.tell(host, at, all...)
	}
}

// collected waits until the history has the newest of a series.
func (l *pageLab) collected(at time.Time) {
	l.t.Helper()
	past := &rig.PrometheusServer{URL: l.url}
	rig.Eventually(l.t, 40*time.Second, func() error {
		v, err := past.Value(`max(timestamp(testbed_host_load1))`)
		if err == nil && v < math.Floor(float64(at.UnixMilli())/1000) {
			err = fmt.Errorf("the history's newest sample is %v s old", float64(at.UnixMilli())/1000-v)
		}
		return err
	})
}

// setDark has a page shown to a reader who likes it dark.
func setDark(t testing.TB, tab *rig.Tab, dark bool) {
	t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	if _, err := chromedp.Call(tab.Context(), emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		t.Fatal(err)
	}
}
