// Load drives receivers of samples and servers of pages on this machine, for
// measuring what they cost. It prepares what it sends beforehand, is bounded
// in all it does, talks to loopback only, and writes what it did as a line of
// JSON.
//
//	load roster DIR     the deployments that the fleet belongs to, for a gateway
//	load push URL       remote write, 1.0 or 2.0, as fast as it goes or paced
//	load text URL       pages in text to a Pushgateway, a group for each node
//	load scrape URL     pages, over and over
//	load sink ADDRESS   takes everything and keeps nothing, until SIGTERM
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"fanin/internal/e2e/fleet"
)

// What no run may exceed.
const (
	maxSeries   = 2_000_000
	maxDuration = 10 * time.Minute
	maxRequests = 1_000_000
	maxRate     = 5_000_000
	maxSenders  = 64
)

func main() {
	app := kingpin.New("load", "Bounded load for receivers and servers on this machine.")
	app.UsageWriter(os.Stdout)
	app.HelpFlag.Short('h')
	var (
		f     fleet.Fleet
		limit bounds
		dir   string
		p     pushing
		s     scraping
		takes sink

		version = "1"
	)
	ofFleet := func(c *kingpin.CmdClause) {
		c.Flag("nodes", "Nodes that send.").Default("50").IntVar(&f.Nodes)
		c.Flag("guests", "Guests of a node.").Default("40").IntVar(&f.Guests)
		c.Flag("series", "Series of a guest.").Default("50").IntVar(&f.Series)
	}
	bounded := func(c *kingpin.CmdClause) {
		c.Flag("duration", "Ends after this time, at most 10m.").Default("10s").DurationVar(&limit.duration)
		c.Flag("requests", "Ends after so many requests; 0: when the time is up.").IntVar(&limit.requests)
	}
	paced := func(c *kingpin.CmdClause) {
		c.Flag("rate", "Samples a second; 0: as many as are taken.").FloatVar(&p.rate)
		c.Flag("senders", "Connections, among which the nodes are divided.").Default("4").IntVar(&p.senders)
		c.Flag("first-tick", "Number of the first tick, so that a run can go on where another one ended.").IntVar(&p.first)
	}
	rosterCmd := app.Command("roster", "Write the state files of the fleet's deployments.")
	rosterCmd.Arg("dir", "Where to.").Required().ExistingDirVar(&dir)
	ofFleet(rosterCmd)

	pushCmd := app.Command("push", "Send remote write.")
	pushCmd.Arg("url", "Where to: on loopback.").Required().StringVar(&p.url)
	ofFleet(pushCmd)
	bounded(pushCmd)
	paced(pushCmd)
	pushCmd.Flag("protocol", "Version of remote write, 1 or 2.").Default(version).EnumVar(&version, "1", "2")
	pushCmd.Flag("churn", "Each body has series that were never there before.").BoolVar(&p.churn)
	pushCmd.Flag("pusher", "Send the headers of our own pusher too: interval, clock, spool and record.").BoolVar(&p.pusher)

	textCmd := app.Command("text", "Send pages of text.")
	textCmd.Arg("url", "Of a Pushgateway: on loopback.").Required().StringVar(&p.url)
	ofFleet(textCmd)
	bounded(textCmd)
	paced(textCmd)

	scrapeCmd := app.Command("scrape", "Fetch pages.")
	scrapeCmd.Arg("url", "Of the page: on loopback.").Required().StringVar(&s.url)
	bounded(scrapeCmd)
	scrapeCmd.Flag("format", "What is asked for.").Default("plain").EnumVar(&s.format, "plain", "gzip", "openmetrics", "protobuf")
	scrapeCmd.Flag("every", "From the beginning of one page to that of the next; 0: without a pause.").DurationVar(&s.every)

	sinkCmd := app.Command("sink", "Take everything.")
	sinkCmd.Arg("address", "To listen on: on loopback.").Required().StringVar(&takes.address)
	sinkCmd.Flag("decompress", "Read bodies into memory and decompress them.").BoolVar(&takes.decompress)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var report any
	var err error
	switch command := kingpin.MustParse(app.Parse(os.Args[1:])); command {
	case sinkCmd.FullCommand():
		err = takes.drain(ctx)
	case scrapeCmd.FullCommand():
		if err = limit.check(); err == nil {
			report, err = s.run(ctx, limit)
		}
	default:
		p.fleet, p.text, p.version = f, command == textCmd.FullCommand(), fleet.Version(version[0]-'0')
		switch {
		case f.Nodes <= 0 || f.Guests <= 0 || f.Series <= 0 || f.Total() > maxSeries:
			err = fmt.Errorf("a fleet has at least one series and at most %d", maxSeries)
		case command == rosterCmd.FullCommand():
			err = f.WriteStates(dir)
		default:
			if err = errors.Join(limit.check(), p.check()); err == nil {
				report, err = p.run(ctx, limit)
			}
		}
	}
	if err == nil && report != nil {
		err = json.NewEncoder(os.Stdout).Encode(report)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// bounds is where a run ends.
type bounds struct {
	duration time.Duration
	requests int
}

func (b *bounds) check() error {
	if b.duration <= 0 || b.duration > maxDuration {
		return fmt.Errorf("--duration %s: more than 0 and at most %s", b.duration, maxDuration)
	}
	if b.requests < 0 || b.requests > maxRequests {
		return fmt.Errorf("--requests %d: at most %d", b.requests, maxRequests)
	}
	if b.requests == 0 {
		b.requests = maxRequests
	}
	return nil
}
