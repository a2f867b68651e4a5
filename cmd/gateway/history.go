package main

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"fanin/internal/history"
	"fanin/internal/sample"
	"fanin/internal/window"
)

type historyOptions struct {
	path       string
	retention  model.Duration
	size       units.Base2Bytes
	maxSeries  int
	timeout    time.Duration
	maxSamples int
	maxQueries int
}

func (o *historyOptions) flags(app *kingpin.Application) {
	app.Flag("history.path", "Folder for a history of all samples, which answers PromQL at /api/v1/query as a Prometheus does. Without it there is none.").
		PlaceHolder("FOLDER").StringVar(&o.path)
	app.Flag("history.retention.time", "How long the history keeps samples, such as 12h or 15d.").
		Default(model.Duration(history.DefaultRetention).String()).SetValue(&o.retention)
	app.Flag("history.retention.size", "How much disk the history's blocks may take, such as 10GB; the oldest go first. 0B is no bound.").
		Default("0B").BytesVar(&o.size)
	app.Flag("history.max-series", "Most series that the history has in memory, those of the last two to three hours, at up to 10 KiB each with a sample a second; new ones beyond are refused there.").
		Default(strconv.Itoa(history.DefaultMaxSeries)).IntVar(&o.maxSeries)
	app.Flag("history.query.timeout", "How long one query may take.").
		Default(history.DefaultQueryTimeout.String()).DurationVar(&o.timeout)
	app.Flag("history.query.max-samples", "Most samples that one query may hold in memory, at 16 bytes each.").
		Default(strconv.Itoa(history.DefaultMaxSamples)).IntVar(&o.maxSamples)
	app.Flag("history.query.max-concurrency", "Most queries from outside at once; more wait for their turn.").
		Default(strconv.Itoa(history.DefaultMaxQueries)).IntVar(&o.maxQueries)
}

// open returns the history, nil when there is none.
func (o *historyOptions) open(store *window.Store, now func() []sample.Point, registry *prometheus.Registry, instance string, log *slog.Logger) (*history.History, error) {
	if o.path == "" {
		return nil, nil
	}
	// That the history is known does not tell which scrapers there are.
	store.Others = len(store.Expected) == 0
	store.Expected = append(store.Expected, history.Reader)
	h, err := history.New(history.Options{
		Path: o.path, Window: store, Now: now, Own: registry, Instance: instance, Log: log,
		RetentionTime: time.Duration(o.retention), RetentionSize: int64(o.size), MaxSeries: o.maxSeries,
		QueryTimeout: o.timeout, MaxSamples: o.maxSamples, MaxQueries: o.maxQueries,
	})
	if err != nil {
		return nil, err
	}
	return h, h.Register(registry)
}
