package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// What a node's pusher takes of one core for 50 pages of 100 series each
// second, among 200 containers: with them and without. The containers that
// serve nothing have never been started, so that what is measured is the
// pages and not the containers' own numbers.
func BenchmarkExporterNode(b *testing.B) {
	const serve, all, series = 50, 200, 100
	docker := rig.Dockerd(b)
	docker.Network(b, "lab")
	for i := range all {
		name := fmt.Sprint("lab-", i)
		c := rig.Container{Labels: serving(""), Network: "lab"}
		if i < serve {
			docker.Run(b, name, c, "metrics", ":8000", "100", fmt.Sprint(series-14))
		} else {
			docker.Create(b, name, c)
		}
	}
	var bytes int64
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bytes += r.ContentLength
		w.WriteHeader(http.StatusNoContent)
	}))
	defer sink.Close()
	const warm, long = 8 * time.Second, 30 * time.Second
	for _, c := range []struct{ name, flag string }{{"without", "--no-exporter"}, {"with", "--exporter"}} {
		b.Run(c.name, func(b *testing.B) {
			listen := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b))
			p := rig.Start(b, filepath.Join(programs(b), "pusher"), "--push.url="+sink.URL, "--no-libvirt", "--docker.host="+docker.Host(),
				"--web.listen-address="+listen, "--spool.path="+b.TempDir(), c.flag)
			time.Sleep(warm)
			cpu, sent, scraped := processorTime(b, p.Cmd.Process.Pid), bytes, metric(b, listen, `fanin_exporter_scrapes_total{outcome="ok"}`)
			began := time.Now()
			time.Sleep(long)
			elapsed := time.Since(began).Seconds()
			b.ReportMetric(100*(processorTime(b, p.Cmd.Process.Pid)-cpu)/elapsed, "cpu-%")
			b.ReportMetric(float64(bytes-sent)/elapsed, "bytes/s")
			b.ReportMetric((metric(b, listen, `fanin_exporter_scrapes_total{outcome="ok"}`)-scraped)/elapsed, "pages/s")
			b.ReportMetric(metric(b, listen, "process_resident_memory_bytes")/(1<<20), "MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// processorTime is what a process has used, in seconds.
func processorTime(t testing.TB, pid int) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := 0.0
	for _, f := range fields[11:13] { // utime and stime: proc_pid_stat(5)
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks / 100
}

// metric is a pusher's own metric, 0 when it has none of that name.
func metric(t testing.TB, address, name string) float64 {
	t.Helper()
	page, err := (&testbed{url: "http://" + address}).get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}
