package main

import (
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"fanin/internal/daemon"
	"fanin/internal/push"
	"fanin/internal/sample"
	"fanin/internal/spool"
	"fanin/internal/wire"
)

// most points of one record. Receivers take so many series at once (10,000 at
// the gateway); a tick with more makes several records.
const mostPoints = 5000

// committer puts each tick into the spool.
type committer struct {
	queue   *spool.Spool
	log     *slog.Logger
	vitals  vitals
	batch   []sample.Point
	encoder wire.Encoder
	body    []byte
	lost    prometheus.Counter
	failing bool
}

func newCommitter(queue *spool.Spool, log *slog.Logger, registry prometheus.Registerer) *committer {
	return &committer{queue: queue, log: log, lost: promauto.With(registry).NewCounter(prometheus.CounterOpts{
		Name: "fanin_samples_lost_total",
		Help: "Samples that the spool did not take.",
	})}
}

func (c *committer) points(points []sample.Point) {
	c.batch = c.vitals.append(append(c.batch[:0], points...), c.queue.Ledger(), time.Now())
	defer clear(c.batch) // series of guests that are gone
	for chunk := range slices.Chunk(c.batch, mostPoints) {
		c.body = c.encoder.Append(c.body[:0], chunk)
		_, err := c.queue.Append(c.body, len(chunk))
		if err != nil {
			c.lost.Add(float64(len(chunk)))
		}
		if failing := err != nil; failing != c.failing {
			c.failing = failing
			if failing {
				c.log.Error("samples can not be committed", "samples", len(chunk), "err", err)
			} else {
				c.log.Info("samples are committed again")
			}
		}
	}
}

// split divides a record's body for a receiver that does not take it whole.
func split(body []byte) (first, second push.Part, err error) {
	one, other, err := wire.Split(body)
	return push.Part(one), push.Part(other), err
}

// message says how a record's body is sent: as it is, or, to a receiver that
// takes nothing newer, as version 1.
func message(body []byte, old bool) (push.Message, error) {
	version := wire.VersionOf(body)
	if old && version != wire.V1 {
		var err error
		if body, err = wire.Downgrade(body); err != nil {
			return push.Message{}, err
		}
		version = wire.V1
	}
	return push.Message{Body: body, ContentType: version.ContentType(), Version: version.String(), Old: version == wire.V1}, nil
}

// routes is the pusher's map of addresses.
func routes(registry *prometheus.Registry, delivery *push.Pusher) (http.Handler, error) {
	mux := http.NewServeMux()
	daemon.Observe(mux, registry, delivery.Trouble)
	landing, err := daemon.LandingPage("fanin pusher", "Samples this host and its guests, and pushes what it saw.",
		daemon.Link{Address: "metrics", Text: "Metrics", Description: "of the pusher itself"},
		daemon.Link{Address: "readyz", Text: "Ready", Description: "whether samples are being delivered"},
	)
	if err != nil {
		return nil, err
	}
	mux.Handle("GET /{$}", landing)
	return mux, nil
}
