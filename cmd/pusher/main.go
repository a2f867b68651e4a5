// Command pusher samples the host it runs on and the guests on it, and pushes
// what it saw to a gateway.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/daemon"
	"fanin/internal/push"
	"fanin/internal/sampler"
	"fanin/internal/spool"
)

func main() {
	app, logger := daemon.App("pusher", "Samples this host and the guests on it, and pushes what it saw to a gateway.")
	o := flags(app)

	run := app.Command("run", "Sample and push until stopped (the default).").Default()
	once := app.Command("once", "Sample twice, an interval apart, and print one page of metrics; fails when a source fails.")
	find := app.Command("discover", "Print the guests that this host has as a TestbedOS state file.")
	project := find.Flag("project", "Name of the deployment.").Default("demo").String()
	host := find.Flag("host", "Name of this host; its own by default.").PlaceHolder("NAME").String()

	var err error
	switch kingpin.MustParse(app.Parse(os.Args[1:])) {
	case run.FullCommand():
		err = runPusher(context.Background(), logger(), o)
	case once.FullCommand():
		err = printOnce(context.Background(), logger(), o, os.Stdout)
	case find.FullCommand():
		if *host == "" {
			*host = o.node
		}
		err = discover(context.Background(), logger(), o, *project, *host, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pusher:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

// runPusher is the way of a sample: sources, sampler, wire, spool, push.
func runPusher(ctx context.Context, log *slog.Logger, o *options) error {
	if err := o.check(); err != nil {
		return err
	}
	// A steady tick makes next to no garbage: it may as well be collected early,
	// and a megabyte saved on every node. There is work for a few milliseconds in a
	// second: threads that wake up to share it cost more than they do.
	daemon.Runtime(50, 1)
	client, err := o.client()
	if err != nil {
		return err
	}
	server := &daemon.Server{Addresses: o.listen, WebConfig: o.webConfig, Log: log}
	if err := server.Listen(); err != nil {
		return err
	}
	registry := daemon.NewRegistry("pusher")

	list := o.list(client, log)
	sources := o.open(list, log)
	defer closeAll(sources)
	queue, err := o.openSpool(log)
	if err != nil {
		return err
	}
	defer func() { _ = queue.Close() }() // which logs what stays
	commit := newCommitter(queue, log, registry)
	clock := &sampler.Sampler{Sources: sources, Interval: o.interval, Output: commit.points, Log: log, Metrics: registry}
	delivery := &push.Pusher{URL: o.url, Client: client, Spool: queue, Message: message, Split: split, Node: o.node, Interval: o.interval, Log: log, Metrics: registry}

	if err := register(registry, sources, queue); err != nil {
		return err
	}
	if err := list.Register(registry); err != nil {
		return err
	}
	if server.Handler, err = routes(registry, delivery); err != nil {
		return err
	}
	if err := greet(ctx, delivery); err != nil {
		return fmt.Errorf("--push.url: %w", err)
	}
	tasks := []daemon.Task{
		{Name: "sampler", Run: func(ctx context.Context) error {
			defer queue.Finish() // so that the delivery knows when it has all
			return clock.Run(ctx)
		}},
		{Name: "push", Run: delivery.Run},
		{Name: "web", Run: server.Run},
	}
	if list != nil {
		tasks = append(tasks, daemon.Task{Name: list.Name(), Run: survive(list, followAgain, log)})
	}
	for _, source := range sources {
		if f, ok := source.(follower); ok {
			tasks = append(tasks, daemon.Task{Name: "source " + source.Name(), Run: survive(f, followAgain, log)})
		}
	}
	log.Info("pusher is ready", "node", o.node, "interval", o.interval, "metrics", server.URL()+"/metrics")
	return daemon.Run(ctx, log, tasks...)
}

// greet finds wrong credentials while somebody is looking. Later on they are
// waited out, and a receiver that is not there yet is waited for from the
// start.
func greet(ctx context.Context, delivery *push.Pusher) error {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	return delivery.Greet(ctx)
}

const greetTimeout = 700 * time.Millisecond

// register exports what the parts count.
func register(registry prometheus.Registerer, sources []sampler.Source, queue *spool.Spool) error {
	for _, source := range sources {
		if r, ok := source.(interface {
			Register(prometheus.Registerer) error
		}); ok {
			if err := r.Register(registry); err != nil {
				return err
			}
		}
	}
	return queue.Register(registry)
}
