package peers

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

var historyFor = flag.Duration("history", time.Minute, "how long the load on the history lasts, at most 10m")

// The load on the history: 20 nodes of 20 guests of 50 series, each of which
// gets a sample a second.
const (
	historyNodes  = 20
	historyGuests = 20
	historyRate   = historyNodes * historyGuests * 50
)

// BenchmarkHistory puts the same samples, paced as pushers would, into the
// gateway with its history, into the gateway without, into a Prometheus 3 as a
// receiver of remote write 2.0, and into a gateway that a Prometheus 3 scrapes
// as a named reader every 5 s. `make bench-history` runs it.
func BenchmarkHistory(b *testing.B) {
	rig.Need(b, "go")
	once(b)
	y := newYard(b)
	states := b.TempDir()
	fleet := []string{fmt.Sprint("--nodes=", historyNodes), fmt.Sprint("--guests=", historyGuests), "--series=50"}
	if out, err := exec.Command(y.load, append([]string{"roster", states}, fleet...)...).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	gateway := func(address string, more ...string) (string, *rig.Process) {
		return "http://" + address, rig.Start(b, y.gateway, append([]string{
			"--web.listen-address=" + address, "--testbedos.settings=", "--state.glob=" + states + "/*-state.json",
		}, more...)...)
	}
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b)) }
	fmt.Printf("\n%d samples/s of as many series for %s; processor time and memory of the program alone\n\n", historyRate, *historyFor)
	fmt.Println("| | CPU, s a minute | memory at the end, MiB | peak, MiB | on disk, MiB | samples stored |")
	fmt.Println("|---|---|---|---|---|---|")
	run := func(name, to string, dir string, stored string, of ...*rig.Process) {
		before := make([]float64, len(of))
		for i, p := range of {
			before[i] = processorSeconds(b, p.Cmd.Process.Pid)
		}
		d, err := tryDrive(y.load, append([]string{
			"push", to + "/api/v1/write", "--protocol=2", "--pusher", fmt.Sprint("--rate=", historyRate),
			fmt.Sprint("--duration=", *historyFor), "--senders=4",
		}, fleet...)...)
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(6 * time.Second) // the last page
		cpu, rss, peak := 0.0, 0.0, 0.0
		for i, p := range of {
			cpu += processorSeconds(b, p.Cmd.Process.Pid) - before[i]
			rss += resident(b, p.Cmd.Process.Pid)
			peak += inStatus(b, p.Cmd.Process.Pid, "VmHWM")
		}
		n := "-"
		if stored != "" {
			v := 0.0
			for _, name := range names(b, stored) {
				v += value(b, stored, "sum(count_over_time("+name+"[15m]))")
			}
			n = fmt.Sprintf("%.0f of %d", v, d.Samples)
			if math.Abs(v-float64(d.Samples)) > 0.5 {
				b.Errorf("%s: %.0f samples are stored of %d", name, v, d.Samples)
			}
		}
		fmt.Printf("| %s | %.2f | %.0f | %.0f | %.1f | %s |\n", name, cpu/historyFor.Minutes(), rss/(1<<20), peak/(1<<20), onDisk(dir)/(1<<20), n)
	}

	dir := b.TempDir()
	at, p := gateway(address(), "--history.path="+dir)
	await(b, at+"/api/v1/query?query=1")
	run("gateway with history", at, dir, at, p)
	p.Stop(stopGrace)

	at, p = gateway(address())
	await(b, at+"/healthz")
	run("gateway without", at, b.TempDir(), "", p)
	p.Stop(stopGrace)

	receiver := rig.Prometheus(b, rig.Prometheus3, "storage: {tsdb: {out_of_order_time_window: 3h}}\n", "--web.enable-remote-write-receiver")
	run("Prometheus 3, remote write", receiver.URL, filepath.Join(receiver.Dir, "data"), receiver.URL, receiver.Process)
	receiver.Stop(stopGrace)

	at, _ = gateway(address(), "--scrape.reader=prometheus")
	await(b, at+"/healthz")
	scraper := rig.Prometheus(b, rig.Prometheus3, fmt.Sprintf(`global: {scrape_interval: 5s, scrape_timeout: 5s}
scrape_configs:
  - {job_name: testbed, metrics_path: /metrics/testbed, params: {scraper: [prometheus]}, honor_labels: true,
     scrape_protocols: [PrometheusProto, PrometheusText0.0.4], static_configs: [{targets: ['%s']}]}
storage: {tsdb: {out_of_order_time_window: 3h}}
`, at[len("http://"):]))
	run("Prometheus 3, scraping", at, filepath.Join(scraper.Dir, "data"), scraper.URL, scraper.Process)
	fmt.Println()
}

// await waits for an answer of 200.
func await(b *testing.B, url string) {
	b.Helper()
	rig.Eventually(b, 20*time.Second, func() error { _, err := get(url); return err })
}

// names are those of what the nodes send.
func names(b *testing.B, url string) (names []string) {
	b.Helper()
	for _, name := range answer[[]string](b, url+"/api/v1/label/__name__/values") {
		if strings.HasPrefix(name, "testbed_guest_") && name != "testbed_guest_up" {
			names = append(names, name)
		}
	}
	return names
}

// value is that of a query with one result.
func value(b *testing.B, api, query string) (v float64) {
	b.Helper()
	result := answer[struct {
		Result []struct{ Value [2]any }
	}](b, api+"/api/v1/query?query="+url.QueryEscape(query)).Result
	if len(result) != 1 {
		b.Fatalf("%s: %v", query, result)
	}
	if _, err := fmt.Sscan(fmt.Sprint(result[0].Value[1]), &v); err != nil {
		b.Fatal(err)
	}
	return v
}

func answer[T any](b *testing.B, url string) T {
	b.Helper()
	page, err := get(url)
	if err != nil {
		b.Fatal(err)
	}
	var body struct{ Data T }
	if err := json.Unmarshal([]byte(page), &body); err != nil {
		b.Fatal(err)
	}
	return body.Data
}

func onDisk(dir string) (bytes float64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += float64(info.Size())
			}
		}
		return nil
	})
	return bytes
}
