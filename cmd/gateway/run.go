package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/admission"
	"fanin/internal/charts"
	"fanin/internal/daemon"
	"fanin/internal/dashboard"
	"fanin/internal/deployment"
	"fanin/internal/exposition"
	"fanin/internal/history"
	"fanin/internal/ingest"
	"fanin/internal/presence"
	"fanin/internal/runs"
	"fanin/internal/sample"
	"fanin/internal/targets"
	"fanin/internal/verdict"
	"fanin/internal/window"
	"fanin/internal/wire"
)

type options struct {
	listen    []string
	webConfig string

	settings   string
	stateGlobs []string
	poll       time.Duration

	nodesFile  string
	maxBody    int64
	limits     wire.Limits
	nodeSeries int
	maxSeries  int
	maxBytes   int64
	expiry     time.Duration
	grace      time.Duration
	maxAge     time.Duration
	maxPoints  int
	readers    []string

	exporterRules string

	history historyOptions
	runs    runsOptions

	grafana string
}

func flags(app *kingpin.Application) *options {
	o := &options{}
	app.Flag("web.listen-address", "Address to listen on; may be given several times.").
		Default("127.0.0.1:9370").StringsVar(&o.listen)
	app.Flag("web.config.file", "File with TLS and user settings, in the format of the Prometheus exporter toolkit.").
		PlaceHolder("FILE").StringVar(&o.webConfig)
	app.Flag("testbedos.settings", "TestbedOS' settings folder; \"\" for none.").
		Default("/var/lib/testbedos").StringVar(&o.settings)
	app.Flag("state.glob", "Pattern of <project>-state.json files whose deployments are active by being there; may be given several times.").
		PlaceHolder("PATTERN").StringsVar(&o.stateGlobs)
	app.Flag("state.interval", "How often to look whether those files have changed.").
		Default("1s").DurationVar(&o.poll)
	app.Flag("push.nodes-file", "File with the token of each node that may push. Without it, senders on this machine are believed.").
		PlaceHolder("FILE").StringVar(&o.nodesFile)
	app.Flag("push.max-body-bytes", "Largest body of a push, compressed.").
		Default("2097152").Int64Var(&o.maxBody)
	app.Flag("push.max-decoded-bytes", "Largest body of a push, decompressed.").
		Default("8388608").IntVar(&o.limits.Decoded)
	app.Flag("push.max-series", "Most series in one push.").
		Default("10000").IntVar(&o.limits.Series)
	app.Flag("push.max-samples", "Most samples in one push.").
		Default("20000").IntVar(&o.limits.Samples)
	app.Flag("push.max-labels", "Most labels of one series.").
		Default("30").IntVar(&o.limits.Labels)
	app.Flag("push.max-node-series", "Most series of one node.").
		Default("20000").IntVar(&o.nodeSeries)
	app.Flag("window.max-series", "Most series of all nodes.").
		Default("1000000").IntVar(&o.maxSeries)
	app.Flag("window.max-bytes", "Memory for the samples that wait for readers, at 8 bytes each and up to 24 where every series has a time of its own; at least 1 MiB. When it is full, samples that some reader has are dropped; when none has, pushes are answered with 429 and the nodes keep theirs.").
		Default("268435456").Int64Var(&o.maxBytes)
	app.Flag("window.reader-expiry", "A named reader that has not been seen for so long is not waited for any more. Keep it below the pushers' --spool.max-age: until then nothing that the reader lacks is acknowledged, and what waits for longer is dropped.").
		Default("1h50m").DurationVar(&o.expiry)
	app.Flag("window.grace", "For so long after the first sample there may be named readers that have not come yet: until then nothing counts as collected by all of them, and a full window answers 429 rather than drop what nobody has.").
		Default("5m").DurationVar(&o.grace)
	app.Flag("scrape.max-age", "Samples older than this are refused, and not shown any more: a Prometheus without an out-of-order window takes one hour.").
		Default("50m").DurationVar(&o.maxAge)
	app.Flag("scrape.max-points", "Most samples on a page; the rest is on the next one.").
		Default("500000").IntVar(&o.maxPoints)
	app.Flag("scrape.reader", "Name of a scraper of /metrics/testbed (its ?scraper=) that must have every sample; may be given several times. It is waited for from the gateway's start on. Without any, whoever comes within --window.grace is.").
		PlaceHolder("NAME").StringsVar(&o.readers)
	app.Flag("exporter.rules", "File that says which guests serve a page of metrics; each host's pusher scrapes those of its own guests.").
		PlaceHolder("FILE").StringVar(&o.exporterRules)
	o.history.flags(app)
	o.runs.flags(app)
	app.Flag("grafana.url", "Base address of Grafana as the reader's browser sees it (/grafana behind the shipped Nginx); graphs are embedded when it is set.").
		PlaceHolder("URL").StringVar(&o.grafana)
	return o
}

// mostReaders is how many readers can be named, and why no more. The history is
// one too, and has to have a place.
func (o *options) mostReaders() (n int, why string) {
	if o.history.path != "" {
		return window.MaxReaders - 1, ", as the history (--history.path) is a reader too"
	}
	return window.MaxReaders, ""
}

const (
	sweepEvery  = time.Second
	forgetEvery = time.Minute
)

func runGateway(ctx context.Context, log *slog.Logger, o *options) error {
	// What is kept for long has few pointers and little is made anew: to collect
	// four times as often costs less than can be measured, and three fourths of
	// what waits for it are saved. Half of the processors are the others' on this
	// host. What comes in is many small pieces: spread over more threads they cost
	// more wake-ups, and one processor takes several million samples a second.
	processors := runtime.GOMAXPROCS(0)
	daemon.Runtime(25, (processors+1)/2)
	for _, pattern := range o.stateGlobs {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return fmt.Errorf("--state.glob %q: %w", pattern, err)
		}
	}
	nodes, err := admission.NewNodes(o.nodesFile, log)
	if err != nil {
		return fmt.Errorf("--push.nodes-file: %w", err)
	}
	var rules *targets.Rules
	if o.exporterRules != "" {
		if rules, err = targets.NewRules(o.exporterRules, log); err != nil {
			return fmt.Errorf("--exporter.rules: %w", err)
		}
	}
	for _, name := range o.readers {
		if !exposition.ValidReader(name) {
			return fmt.Errorf("--scrape.reader %q: a name has letters, digits, '_', '.' and '-', and at most 63 of them", name)
		}
	}
	if most, why := o.mostReaders(); len(o.readers) > most {
		return fmt.Errorf("--scrape.reader: %d names, at most %d can be given%s", len(o.readers), most, why)
	}
	if o.maxBytes < window.MinBytes {
		return fmt.Errorf("--window.max-bytes %d: at least %d", o.maxBytes, window.MinBytes)
	}
	connections := &exposition.Connections{}
	server := &daemon.Server{
		Addresses: o.listen, WebConfig: o.webConfig, Log: log,
		ConnContext: connections.ConnContext, ConnState: connections.ConnState,
	}
	if err := server.Listen(); err != nil {
		return err
	}
	registry := daemon.NewRegistry("gateway")

	watcher := &deployment.Watcher{Settings: o.settings, StateGlobs: o.stateGlobs, Interval: o.poll, Log: log}
	if _, err := os.Stat(o.settings); o.settings != "" && errors.Is(err, fs.ErrNotExist) && len(o.stateGlobs) > 0 {
		log.Info("there is no settings folder of TestbedOS; only the files of --state.glob are looked at", "path", o.settings)
		watcher.Settings = ""
	}
	if err := watcher.Register(registry); err != nil {
		return err
	}

	book := &presence.Book{}
	// A grace of 0 would be the window's default.
	store := &window.Store{MaxSeries: o.maxSeries, MaxBytes: o.maxBytes, ReaderExpiry: o.expiry, Grace: max(o.grace, 1), Watch: verdict.Wanted, Log: log}
	judge := &verdict.Judge{Arrived: store.Watched}
	for _, name := range o.readers {
		store.Expected = append(store.Expected, window.ReaderID{Name: name, Path: scrapePath})
	}
	gate := &admission.Gate{Roster: watcher.Roster, NodeSeries: o.nodeSeries, GatewaySeries: o.maxSeries}
	endpoint := &ingest.Handler{
		Nodes: nodes, Gate: gate, Window: store, Presence: book, Roster: watcher.Roster, Ready: watcher.Settled, Log: log,
		Limits: o.limits, MaxBody: o.maxBody, MaxAge: o.maxAge, Decoders: 2 * processors,
	}
	if err := endpoint.Register(registry); err != nil {
		return err
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fanin_window_series", Help: "Series in the window.",
	}, func() float64 { return float64(store.Len()) }))
	inside := &targets.Handler{Nodes: nodes, Roster: watcher.Roster, Rules: rules, Ready: watcher.Settled}
	if err := registry.Register(inside); err != nil {
		return err
	}
	var records *runs.Records
	report := func() *presence.Report { return book.Report(watcher.Roster(), time.Now()) }
	pages := &exposition.Pages{
		Window: store, MaxPoints: o.maxPoints, MaxAge: o.maxAge, Log: log,
		Now: func() []sample.Point {
			r := report()
			return append(judge.Verdicts(r).AppendPoints(r.Points()), records.Points(r.At)...)
		},
		Nodes: func() (nodes []exposition.Node) {
			for _, h := range report().Hosts {
				nodes = append(nodes, exposition.Node{Name: h.Host.Name, Up: h.Up})
			}
			return nodes
		},
	}
	if err := pages.Register(registry); err != nil {
		return err
	}

	past, err := o.history.open(store, pages.Now, registry, server.URL(), log)
	if err != nil {
		return fmt.Errorf("--history.path: %w", err)
	}
	if records, err = o.runs.open(o.history.path, past, watcher, registry, log); err != nil {
		return fmt.Errorf("--runs.path: %w", err)
	}

	runsAPI := http.NewServeMux()
	more, err := o.runs.mount(runsAPI, records, past, registry, log)
	if err != nil {
		return err
	}
	boards := dashboard.Options{Roster: watcher.Roster, Report: report, Verdicts: judge.Verdicts, Window: store, Runs: runsAPI, Grafana: o.grafana, Log: log}
	if past != nil {
		boards.Charts = charts.New(past)
	}
	board, err := dashboard.New(boards)
	if err != nil {
		return err
	}
	mux, err := routes(registry, watcher.Settled, endpoint, pages, board)
	if err != nil {
		return err
	}
	mux.Handle("GET /api/v1/targets", inside)
	tasks := []daemon.Task{
		{Name: "deployments", Run: watcher.Run},
		{Name: "sweep", Run: func(ctx context.Context) error {
			sweep(ctx, watcher, book, store, gate, judge)
			return nil
		}},
		{Name: "web", Run: server.Run},
	}
	if past != nil {
		past.Mount(mux)
		tasks = append(tasks, daemon.Task{Name: "history", Run: past.Run})
	} else {
		history.MountOff(mux)
	}
	mux.Handle("/api/v1/runs", runsAPI)
	mux.Handle("/api/v1/runs/", runsAPI)
	tasks = append(tasks, more...)
	server.Handler = mux
	watcher.Load()
	if nodes.Open() {
		log.Warn("no --push.nodes-file: every process on this machine may push under any host name; pushes from elsewhere are refused")
	}
	log.Info("gateway is ready", "page", server.URL()+"/dashboard/", "scrape", server.URL()+"/metrics/testbed")
	return daemon.Run(ctx, log, tasks...)
}

// sweep takes out of the window what has ended, and forgets senders and
// guests that are long gone.
func sweep(ctx context.Context, watcher *deployment.Watcher, book *presence.Book, store *window.Store, gate *admission.Gate, judge *verdict.Judge) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	forgot := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		store.Sweep(now, book.Allowed(watcher.Roster(), now))
		judge.Collect(now)
		if now.Sub(forgot) >= forgetEvery {
			forgot = now
			gate.Forget(now)
			book.Forget(now)
			judge.Forget(now)
		}
	}
}

// scrapePath is where everything is scraped.
const scrapePath = "/metrics/testbed"

func guestsOf(kind string) func(sample.Owner) bool {
	return func(o sample.Owner) bool { return o.Kind == kind }
}

// routes is the gateway's map of addresses.
func routes(registry *prometheus.Registry, ready func() error, endpoint http.Handler, pages *exposition.Pages, board *dashboard.Dashboard) (*http.ServeMux, error) {
	mux := http.NewServeMux()
	mux.Handle("/api/v1/write", endpoint)
	mux.Handle("GET "+scrapePath, pages.Handler(nil))
	mux.Handle("GET /api/metrics/prometheus/hosts", pages.Handler(sample.Owner.IsHost))
	for _, kind := range []string{deployment.Libvirt, deployment.Docker, deployment.Android} {
		mux.Handle("GET /api/metrics/prometheus/"+kind, pages.Handler(guestsOf(kind)))
	}
	mux.Handle("GET /api/v1/readers", pages.Readers())
	mux.Handle("GET /api/v1/scrape-targets", pages.Targets())
	board.Mount(mux)
	daemon.Observe(mux, registry, ready)
	landing, err := daemon.LandingPage("fanin gateway", "What the testbed's hosts and guests do, second by second.",
		daemon.Link{Address: "dashboard/", Text: "Dashboard", Description: "deployments, their hosts and guests"},
		daemon.Link{Address: "metrics/testbed", Text: "Scrape page", Description: "the newest sample of every series; for a named reader (?scraper=NAME) all since its last page"},
		daemon.Link{Address: "api/v1/readers", Text: "Readers", Description: "who collects samples here, and how far each has come"},
		daemon.Link{Address: "metrics", Text: "Metrics", Description: "of the gateway itself"},
	)
	if err != nil {
		return nil, err
	}
	mux.Handle("GET /{$}", landing)
	return mux, nil
}
