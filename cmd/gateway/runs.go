package main

import (
	"log/slog"
	"net/http"
	"path/filepath"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/archive"
	"fanin/internal/daemon"
	"fanin/internal/deployment"
	"fanin/internal/history"
	"fanin/internal/runs"
)

type runsOptions struct {
	path    string
	writers string
}

func (o *runsOptions) flags(app *kingpin.Application) {
	app.Flag("runs.path", "Folder for the records of runs, which are started, marked and stopped at /api/v1/runs. By default the folder runs inside --history.path; without either there are none.").
		PlaceHolder("FOLDER").StringVar(&o.path)
	app.Flag("runs.writers", "Who may start, mark, stop and delete runs: local (requests from this machine that no proxy has handed on), all (whoever reaches the port) or none.").
		Default(runs.Local.String()).EnumVar(&o.writers, runs.WritersNames...)
}

// open returns the records, nil when there are none.
func (o *runsOptions) open(folder string, past *history.History, watcher *deployment.Watcher, registry *prometheus.Registry, log *slog.Logger) (*runs.Records, error) {
	path := o.path
	if path == "" && past != nil {
		path = filepath.Join(folder, "runs")
	}
	if path == "" {
		return nil, nil
	}
	options := runs.Options{Path: path, Roster: watcher.Roster, Ready: watcher.Settled, State: watcher.StateFile, Log: log}
	if past != nil {
		options.Families = func(run *runs.Run) ([]byte, error) { return archive.Families(past, run) }
	}
	records, err := runs.Open(options)
	if err != nil {
		return nil, err
	}
	return records, records.Register(registry)
}

// mount adds the addresses of runs and returns what there is to do.
func (o *runsOptions) mount(mux *http.ServeMux, records *runs.Records, past *history.History, registry *prometheus.Registry, log *slog.Logger) ([]daemon.Task, error) {
	if records == nil {
		runs.MountOff(mux)
		return nil, nil
	}
	api := &runs.API{Records: records, Writers: runs.ParseWriters(o.writers)}
	api.Mount(mux)
	if past == nil {
		archive.MountOff(mux)
	} else {
		exporter := archive.New(records, past, log)
		if err := exporter.Register(registry); err != nil {
			return nil, err
		}
		exporter.Mount(mux)
	}
	return []daemon.Task{{Name: "runs", Run: records.Run}}, nil
}
