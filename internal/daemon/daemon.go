// Package daemon owns what makes a program a well-behaved daemon: named tasks
// that stop together, signals, the HTTP listener with TLS and its limits, the
// health endpoints, the log flags and the program's own metrics. It knows
// nothing of what the program does.
package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/common/version"
	"golang.org/x/sync/errgroup"
)

// Task is a part of the program that runs until its context ends and then
// returns nil. An error from it ends the program.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
}

// Run runs all tasks until SIGINT or SIGTERM arrives, ctx ends or the first
// task returns an error; then every task's context ends and Run waits for all
// of them. The error names the task it came from. A second signal ends the
// process at once.
func Run(ctx context.Context, log *slog.Logger, tasks ...Task) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for _, task := range tasks {
		group.Go(func() error {
			if err := task.Run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", task.Name, err)
			} else if err != nil {
				log.Warn("task ended with an error while stopping", "task", task.Name, "err", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		stop() // from here on a second signal has its default effect
		log.Info("stopping")
		return nil
	})
	return group.Wait()
}

// App starts a program's command line: --help, --version, --log.level and
// --log.format. The logger is built from what these say, after parsing.
func App(program, help string) (app *kingpin.Application, logger func() *slog.Logger) {
	app = kingpin.New(program, help)
	app.UsageWriter(os.Stdout)
	app.Version(version.Print(program))
	app.HelpFlag.Short('h')
	config := &promslog.Config{Level: promslog.NewLevel(), Format: promslog.NewFormat()}
	app.Flag("log.level", "Least severity to log: debug, info, warn or error.").
		Default("info").SetValue(config.Level)
	app.Flag("log.format", "Form of the log: logfmt or json.").
		Default("logfmt").SetValue(config.Format)
	return app, func() *slog.Logger { return promslog.New(config) }
}

// NewRegistry returns a registry that already tells about the process, the Go
// runtime and, as <program>_build_info, the version.
func NewRegistry(program string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector(program),
	)
	return registry
}

// Observe adds the endpoints by which the program itself is watched: /metrics,
// /healthz (it runs; also /-/healthy) and /readyz (ready returns nil; also
// /-/ready).
func Observe(mux *http.ServeMux, registry *prometheus.Registry, ready func() error) {
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 8}))
	healthy := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }
	mux.HandleFunc("GET /healthz", healthy)
	mux.HandleFunc("GET /-/healthy", healthy)
	readiness := func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	}
	mux.HandleFunc("GET /readyz", readiness)
	mux.HandleFunc("GET /-/ready", readiness)
}
