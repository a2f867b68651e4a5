package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"

	"fanin/internal/source/docker"
	"fanin/internal/source/exporter"
)

// exporterFlags are about the pages of metrics that guests serve.
type exporterFlags struct {
	on         bool
	timeout    time.Duration
	maxBytes   int
	maxSeries  int
	nodeSeries int
	list       time.Duration
}

func (f *exporterFlags) add(app *kingpin.Application) {
	app.Flag("exporter", "Scrape the pages of metrics that guests serve: those that containers' labels name (prometheus.io/scrape, port, path) and those on the gateway's list (--no-exporter: never).").
		Default("true").BoolVar(&f.on)
	app.Flag("exporter.timeout", "How long one scrape may take.").
		Default("2s").DurationVar(&f.timeout)
	app.Flag("exporter.max-bytes", "Largest page of a guest.").
		Default("1048576").IntVar(&f.maxBytes)
	app.Flag("exporter.max-series", "Most series on a page, and of a page within two minutes.").
		Default("2000").IntVar(&f.maxSeries)
	app.Flag("exporter.max-node-series", "Most series of all pages on this host; when there are so many, pages that have less than their fair share are still taken.").
		Default("10000").IntVar(&f.nodeSeries)
	app.Flag("exporter.list-interval", "How often the gateway is asked for its list; 0s: never.").
		Default("5s").DurationVar(&f.list)
}

func (f *exporterFlags) check() error {
	switch {
	case f.timeout < 10*time.Millisecond || f.timeout > time.Minute:
		return fmt.Errorf("--exporter.timeout %s: must be from 10ms to 1m", f.timeout)
	case f.maxBytes < 1<<10 || f.maxBytes > 64<<20:
		return fmt.Errorf("--exporter.max-bytes %d: must be from 1024 to 67108864", f.maxBytes)
	case f.maxSeries < 1 || f.nodeSeries < 1:
		return fmt.Errorf("--exporter.max-series %d, --exporter.max-node-series %d: must be at least 1", f.maxSeries, f.nodeSeries)
	case f.list != 0 && f.list < 100*time.Millisecond:
		return fmt.Errorf("--exporter.list-interval %s: must be 0s, or at least 100ms", f.list)
	}
	return nil
}

func (f *exporterFlags) apply(s *exporter.Source) {
	s.Timeout, s.MaxBytes, s.MaxSeries, s.NodeSeries = f.timeout, f.maxBytes, f.maxSeries, f.nodeSeries
	s.UserAgent = "fanin-pusher/" + version.Version
}

// list is the gateway's list of pages, nil when it is not to be asked.
func (o *options) list(client *http.Client, log *slog.Logger) *exporter.List {
	f := o.sourceFlags.exporter
	address, ok := listAddress(o.url, o.node)
	if !f.on || f.list == 0 || !ok {
		return nil
	}
	return &exporter.List{URL: address, Client: client, Node: o.node, Interval: f.list, Log: log}
}

// listAddress is where a gateway has its list, by where it takes pushes. Other
// receivers' addresses do not lead to one.
func listAddress(push, node string) (address string, ok bool) {
	u, err := url.Parse(push)
	if err != nil {
		return "", false
	}
	before, ok := strings.CutSuffix(u.Path, "/api/v1/write")
	if !ok {
		return "", false
	}
	u.Path, u.RawPath, u.Fragment = before+"/api/v1/targets", "", ""
	u.RawQuery = url.Values{"node": {node}}.Encode()
	return u.String(), true
}

// labelled are the pages that containers say they have.
func labelled(containers *docker.Source) func() []exporter.Target {
	return func() []exporter.Target {
		pages := containers.Pages()
		targets := make([]exporter.Target, 0, len(pages))
		for _, p := range pages {
			targets = append(targets, exporter.Target{
				Guest: p.Name, Instance: p.ID, Port: p.Port, Path: p.Path, Addresses: p.Addresses, Namespace: p.Namespace,
			})
		}
		return targets
	}
}

// listed are those on the gateway's list. A container whose engine knows no
// address of it is on a network of its own making: the list's address leads to
// it from inside its namespace, and may lead elsewhere from the host.
func listed(list *exporter.List, containers *docker.Source) func() []exporter.Target {
	return func() []exporter.Target {
		all := list.Targets()
		targets := make([]exporter.Target, 0, len(all))
		for _, t := range all {
			if p, ok := containers.Inside(t.Guest); ok {
				t.Instance, t.Namespace, t.Inside = p.ID, p.Namespace, true
			}
			targets = append(targets, t)
		}
		return targets
	}
}
