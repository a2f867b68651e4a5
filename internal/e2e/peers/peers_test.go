// Package peers measures the gateway and, where they are installed, the programs
// that people use in its place, all with the same load in one run: what it
// costs to receive, to serve a page, to do both at once, and to hold a series.
// Costs are processor time and memory of the program alone, as the kernel counts
// them, so that other work on the machine disturbs little.
//
// It is a benchmark and no test: `make bench-peers` runs it.
package peers

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

var (
	quick  = flag.Bool("quick", false, "a fourth of the load, and no million of series")
	tables = flag.String("tables", "", "folder for the tables, in Markdown")
)

// size is one of the fleet: 40 guests of 50 series on each node, which are 2,000
// samples in a body.
type size struct {
	name  string
	nodes int
}

var (
	small  = size{"10k", 5}
	middle = size{"100k", 50}
	large  = size{"1M", 500}
)

const stopGrace = 30 * time.Second

const nodeSeries = 40 * 50

func (s size) series() int { return s.nodes * nodeSeries }

func (s size) flags() []string {
	return []string{fmt.Sprint("--nodes=", s.nodes), "--guests=40", "--series=50"}
}

// yard is where peers are measured.
type yard struct {
	gateway string // program
	pusher  string
	load    string
	sink    string // address of what takes everything
	results *results
}

func newYard(b *testing.B) *yard {
	b.Helper()
	dir := b.TempDir()
	out, err := exec.Command("go", "build", "-trimpath", "-tags=libvirt_dlopen", "-ldflags=-s -w", "-o", dir,
		"fanin/cmd/gateway", "fanin/cmd/pusher", "fanin/internal/e2e/load").CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	y := &yard{
		gateway: filepath.Join(dir, "gateway"), pusher: filepath.Join(dir, "pusher"), load: filepath.Join(dir, "load"),
		sink: fmt.Sprintf("127.0.0.1:%d", rig.FreePort(b)), results: &results{},
	}
	rig.Start(b, y.load, "sink", y.sink)
	return y
}

// once stops a benchmark that would be repeated: each is long enough for one
// time, and one that is repeated would go on with a receiver that is not new.
func once(b *testing.B) {
	b.Helper()
	if b.N != 1 {
		b.Fatal("run with -benchtime=1x, as make bench-peers does")
	}
	b.ReportMetric(0, "ns/op") // says nothing here
}

func share(n int) int {
	if *quick {
		return max(1, n/4)
	}
	return n
}

func BenchmarkPeers(b *testing.B) {
	rig.Need(b, "go")
	y := newYard(b)
	begun := machine()
	for _, p := range y.peers(b) {
		if p.path == "" {
			b.Logf("left out: %s is not installed (package %s)", p.name, p.lacks)
			y.results.missing = append(y.results.missing, p.name)
			continue
		}
		b.Run("peer="+p.name, func(b *testing.B) { y.measure(b, p) })
	}
	y.results.write(b, layout)
	when := "Begun " + begun + "; ended " + machine() + ".\n"
	fmt.Print("\n" + when)
	if *tables != "" {
		if err := os.WriteFile(filepath.Join(*tables, "machine.md"), []byte(when), 0o644); err != nil {
			b.Error(err)
		}
	}
}

// measure begins each of the longer runs with a new process, as what was sent
// before would be in its memory.
func (y *yard) measure(b *testing.B, p *peer) {
	sizes := []size{small, middle}
	if p.name == gatewayName && !*quick {
		sizes = append(sizes, large)
	}
	for _, s := range sizes {
		for i, protocol := range p.protocols {
			r := y.start(b, p, s)
			b.Run(fmt.Sprintf("receive/series=%s/protocol=%s", s.name, protocol), func(b *testing.B) { r.receive(b, protocol) })
			if p.page != "" && i == 0 && s != large {
				r.pages(b, protocol)
			}
			r.Stop(stopGrace)
		}
	}
	if p.floor {
		return
	}
	for i, protocol := range p.protocols {
		if protocol != text {
			b.Run("churn/protocol="+protocol, func(b *testing.B) { y.churn(b, p, protocol) })
		}
		b.Run("paced/series=100k/protocol="+protocol, func(b *testing.B) { y.paced(b, p, protocol) })
		if i == 0 && p.page != "" {
			b.Run("quickly/series=10k", func(b *testing.B) { y.quickly(b, p, protocol) })
		}
	}
	for _, points := range []int{1, 10} {
		b.Run(fmt.Sprintf("memory/series=100k/points=%d", points), func(b *testing.B) { y.memory(b, p, points) })
	}
}

// receive: the same series again and again, as fast as they are taken.
func (r *running) receive(b *testing.B, protocol string) {
	once(b)
	r.send(b, protocol, 2)
	if r.name == gatewayName {
		const least = 8 // bytes of a sample in the window
		d, cost := r.send(b, protocol, windowBytes/least/r.size.series()+1)
		growing := cost / float64(d.Samples) * 1e6
		b.ReportMetric(growing, "CPU-s/Msample-growing")
		r.y.results.put(r.peer, protocol, "growing "+r.size.name, growing)
	}
	samples := 10_000_000
	if r.dear {
		samples = 2_000_000
	}
	d, cost := r.send(b, protocol, share(samples)/r.size.series())
	perMillion := cost / float64(d.Samples) * 1e6
	b.ReportMetric(perMillion, "CPU-s/Msample")
	b.ReportMetric(float64(d.Bytes)/float64(d.Samples), "B/sample")
	r.y.results.put(r.peer, protocol, "receive "+r.size.name, perMillion)
	r.y.results.put(r.peer, protocol, "wire", float64(d.Bytes)/float64(d.Samples))
}

// pages: nothing comes in meanwhile.
func (r *running) pages(b *testing.B, protocol string) {
	r.now(b, protocol)
	for _, format := range r.formats {
		b.Run(fmt.Sprintf("page/series=%s/format=%s", r.size.name, format), func(b *testing.B) {
			once(b)
			n := 4_000_000 / r.size.series()
			if r.dear {
				n /= 5
			}
			scrape := []string{"scrape", r.url + r.page, "--format=" + format, "--duration=1m"}
			drive(b, r.y.load, append(scrape, "--requests=2")...)
			before := processorSeconds(b, r.pid())
			d := drive(b, r.y.load, append(scrape, fmt.Sprint("--requests=", share(n)))...)
			cost := r.perPage(processorSeconds(b, r.pid())-before, d)
			if format != "protobuf" && d.Samples < r.size.series() {
				b.Errorf("%s: %d samples on the page, want %d", r.name, d.Samples, r.size.series())
			}
			b.ReportMetric(cost, "CPU-ms/100kseries")
			b.ReportMetric(d.P50, "p50-ms")
			b.ReportMetric(float64(d.Bytes)/float64(r.size.series()), "B/series")
			of := "page " + r.size.name + " " + format
			r.y.results.put(r.peer, "", of, cost)
			r.y.results.put(r.peer, "", of+" p50", d.P50)
			r.y.results.put(r.peer, "", of+" MB", float64(d.Bytes)/1e6)
		})
	}
}

// now has every node say something of this moment, as some pages leave out what
// is old, and waits until all of it is shown.
func (r *running) now(b *testing.B, protocol string) {
	b.Helper()
	r.send(b, protocol, 1, "--rate=1000000")
	if r.page == "" {
		return
	}
	rig.Eventually(b, 30*time.Second, func() error {
		d, err := tryDrive(r.y.load, "scrape", r.url+r.page, "--requests=1")
		if err == nil && d.Samples < r.size.series() {
			err = fmt.Errorf("%s: %d samples on the page, want %d", r.name, d.Samples, r.size.series())
		}
		return err
	})
}

// perPage is milliseconds for 100,000 series.
func (r *running) perPage(cost float64, d done) float64 {
	return cost * 1000 / float64(d.Pages) * 100_000 / float64(r.size.series())
}

// paced: 100,000 samples a second and a page each second, as in use.
func (y *yard) paced(b *testing.B, p *peer, protocol string) {
	once(b)
	r := y.start(b, p, middle)
	defer r.Stop(stopGrace)
	r.now(b, protocol)
	seconds := share(16)
	push := func() (float64, done) {
		d, cost := r.send(b, protocol, seconds, "--rate=100000")
		return cost / d.Seconds, d
	}
	alone, _ := push()
	b.ReportMetric(100*alone, "%core-alone")
	y.results.put(p, protocol, "paced alone", 100*alone)
	if r.page == "" {
		return
	}
	page := r.page
	if r.named != "" {
		page = r.named
	}
	if r.named != "" { // what came before it is not of a second
		drive(b, y.load, "scrape", r.url+page, fmt.Sprint("--requests=", 2+2*seconds))
	}
	var scraped done
	var failed error
	var group sync.WaitGroup
	group.Go(func() {
		scraped, failed = tryDrive(r.y.load, "scrape", r.url+page, "--every=1s", fmt.Sprint("--requests=", seconds-1), fmt.Sprintf("--duration=%ds", seconds))
	})
	both, d := push()
	group.Wait()
	if failed != nil {
		b.Fatal(failed)
	}
	cost := r.perPage((both-alone)*d.Seconds, scraped)
	b.ReportMetric(100*both, "%core")
	b.ReportMetric(cost, "CPU-ms/100kseries")
	b.ReportMetric(scraped.P99, "p99-ms")
	y.results.put(p, protocol, "paced", 100*both)
	y.results.put(p, "", "paced page", cost)
	y.results.put(p, "", "paced p99", scraped.P99)
}

// quickly: small pages, many times a second, while much comes in.
func (y *yard) quickly(b *testing.B, p *peer, protocol string) {
	once(b)
	r := y.start(b, p, small)
	defer r.Stop(stopGrace)
	r.now(b, protocol)
	seconds := share(12)
	var scraped done
	var failed error
	var group sync.WaitGroup
	group.Go(func() {
		scraped, failed = tryDrive(r.y.load, "scrape", r.url+r.page, "--every=100ms", fmt.Sprintf("--duration=%ds", seconds))
	})
	r.send(b, protocol, 5*seconds, "--rate=50000")
	group.Wait()
	if failed != nil {
		b.Fatal(failed)
	}
	b.ReportMetric(scraped.P50, "p50-ms")
	b.ReportMetric(scraped.P99, "p99-ms")
	y.results.put(p, "", "quickly p50", scraped.P50)
	y.results.put(p, "", "quickly p99", scraped.P99)
}

// churn: series that were never there before, in every body.
func (y *yard) churn(b *testing.B, p *peer, protocol string) {
	once(b)
	r := y.start(b, p, middle)
	defer r.Stop(stopGrace)
	r.send(b, protocol, 1, "--churn")
	d, cost := r.send(b, protocol, 3, "--churn")
	perMillion := cost / float64(d.Samples) * 1e6
	b.ReportMetric(perMillion, "CPU-s/Mseries")
	y.results.put(p, protocol, "churn", perMillion)
}

// memory: what 100,000 series take with some points of each, beyond what the
// program has when it is new.
func (y *yard) memory(b *testing.B, p *peer, points int) {
	once(b)
	r := y.start(b, p, middle)
	defer r.Stop(stopGrace)
	metrics := r.url + "/metrics"
	empty := resident(b, r.pid())
	emptyHeap := settle(b, metrics)
	r.send(b, p.protocols[len(p.protocols)-1], points)
	heap := settle(b, metrics)
	time.Sleep(5 * time.Second) // memory goes back to the kernel slowly
	n := float64(middle.series())
	perSeries := (resident(b, r.pid()) - empty) / n
	b.ReportMetric(perSeries, "RSS-B/series")
	b.ReportMetric((heap-emptyHeap)/n, "heap-B/series")
	of := fmt.Sprint("memory ", points)
	y.results.put(p, "", of, perSeries)
	y.results.put(p, "", of+" heap", (heap-emptyHeap)/n)
}
