// Package archive owns what is made of a run for other programs: one file with
// everything that was measured on its deployment, and the comparison of two
// runs. Both are read out of the history when they are asked for.
package archive

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/history"
	"fanin/internal/runs"
)

const (
	atOnce      = 2                // archives and comparisons
	writeWithin = 30 * time.Second // of one piece of an archive, by a client that reads slowly
	settle      = 3 * time.Second  // after a run's end, for what is still on its way
	// What an archive leaves free on the disk, where its parts are compressed
	// before they leave: more than the history needs to go on.
	reserve = 256 << 20
)

// Exporter serves archives and comparisons of runs.
type Exporter struct {
	Records *runs.Records
	History *history.History
	Log     *slog.Logger // nil: nothing is logged

	slots    chan struct{}
	requests *prometheus.CounterVec
	bytes    prometheus.Counter
	reserve  int64
}

// New returns an exporter of these records.
func New(records *runs.Records, past *history.History, log *slog.Logger) *Exporter {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Exporter{
		Records: records, History: past, Log: log, slots: make(chan struct{}, atOnce), reserve: reserve,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fanin_runs_exports_total", Help: "Archives and comparisons of runs that were asked for, by what came of them: success, refused, failed, canceled.",
		}, []string{"kind", "outcome"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fanin_runs_archive_bytes_total", Help: "Bytes of archives that were sent.",
		}),
	}
}

// Register adds the exporter's metrics.
func (e *Exporter) Register(registerer prometheus.Registerer) error {
	if err := registerer.Register(e.requests); err != nil {
		return err
	}
	return registerer.Register(e.bytes)
}

// Mount adds the addresses.
func (e *Exporter) Mount(mux *http.ServeMux) {
	mux.Handle("GET /api/v1/runs/{id}/archive", e.handler("archive", e.archive))
	mux.Handle("GET /api/v1/runs/compare", e.handler("comparison", e.compare))
}

// MountOff adds the same addresses for a gateway without a history.
func MountOff(mux *http.ServeMux) {
	off := func(w http.ResponseWriter, _ *http.Request) {
		runs.WriteRefusal(w, refuse(http.StatusNotFound, "this gateway keeps no history, and so has nothing of the run but its record: start it with --history.path=FOLDER"))
	}
	mux.HandleFunc("GET /api/v1/runs/{id}/archive", off)
	mux.HandleFunc("GET /api/v1/runs/compare", off)
}

func refuse(code int, text string) error { return &runs.RefusalError{Code: code, Text: text} }

// begunError is what went wrong when a part of the answer had left already: the
// connection is cut, so that nobody takes it for the whole.
type begunError struct{ error }

func (e *Exporter) handler(kind string, serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := e.admit(w, r, serve)
		var refused *runs.RefusalError
		var begun begunError
		switch {
		case err == nil:
			e.requests.WithLabelValues(kind, "success").Inc()
		case r.Context().Err() != nil:
			e.requests.WithLabelValues(kind, "canceled").Inc()
			panic(http.ErrAbortHandler)
		case errors.As(err, &refused):
			e.requests.WithLabelValues(kind, "refused").Inc()
			runs.WriteRefusal(w, err)
		default:
			e.requests.WithLabelValues(kind, "failed").Inc()
			e.Log.Warn("a run could not be exported", "kind", kind, "err", err)
			if errors.As(err, &begun) {
				panic(http.ErrAbortHandler)
			}
			runs.WriteRefusal(w, err)
		}
	})
}

// admit serves when there is a slot.
func (e *Exporter) admit(w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter, *http.Request) error) error {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		return refuse(http.StatusTooManyRequests, strconv.Itoa(atOnce)+" archives or comparisons are being made: try again when one of them is done")
	}
	return serve(w, r)
}

// run finds the run and waits for what was measured at its very end.
func (e *Exporter) run(ctx context.Context, id string) (*runs.Run, error) {
	run := e.Records.Get(id)
	if run == nil {
		return nil, refuse(http.StatusNotFound, "there is no such run: GET /api/v1/runs lists them")
	}
	if run.Ended != nil {
		// The end lies in the future when the clock was set back after it.
		ago := max(0, time.Since(time.UnixMilli(int64(*run.Ended))))
		select {
		case <-time.After(settle - ago):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return run, nil
}

// archive serves a run as one compressed tar. It leaves as it is made, family
// by family.
//
//	200  the archive; when it can not be finished the connection is cut
//	404  no such run
//	429  too many at once
//	503  the history is not open
//	507  the disk is nearly full
func (e *Exporter) archive(w http.ResponseWriter, r *http.Request) error {
	run, err := e.run(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	s := newSelection(e, run, time.Now())
	groups, err := s.groups(r.Context())
	if err != nil {
		return unavailable(err)
	}
	b := &bundle{
		ctx: r.Context(), w: w, control: http.NewResponseController(w), sent: e.bytes,
		folder: e.Records.Path, reserve: e.reserve, prefix: "run-" + run.ID + "/", at: time.UnixMilli(s.to),
	}
	if err := b.room(); err != nil {
		return refuse(http.StatusInsufficientStorage, err.Error()+": free some, or move the records by --runs.path")
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("Content-Disposition", `attachment; filename="fanin-`+run.Project+"-"+run.ID+`.tar.gz"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := s.write(r.Context(), b, groups); err != nil {
		return begunError{err}
	}
	return nil
}

func unavailable(err error) error {
	if errors.Is(err, history.ErrNotOpen) {
		return refuse(http.StatusServiceUnavailable, err.Error())
	}
	return err
}

// write writes all files.
func (s *selection) write(ctx context.Context, b *bundle, groups []group) error {
	record, err := s.record()
	if err != nil {
		return err
	}
	versions, err := s.versions(ctx)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{"README.txt", s.readme()}, {"run.json", record}, {"versions.json", versions}} {
		if err := b.add(f.name, f.content); err != nil {
			return err
		}
	}
	if state, err := s.Records.KeptState(s.run.ID); err == nil {
		if err := b.add("state.json", state); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	metrics, err := b.part()
	if err != nil {
		return err
	}
	defer metrics.close()
	out := &openMetrics{w: metrics}
	for _, g := range groups {
		if err := s.family(ctx, b, out, g); err != nil {
			return err
		}
	}
	if err := out.end(); err != nil {
		return err
	}
	if err := b.addPart("metrics.om", metrics); err != nil {
		return err
	}
	return b.end()
}

// family writes one family. The past is open only while that goes to the disk,
// and not while the client takes it.
func (s *selection) family(ctx context.Context, b *bundle, out *openMetrics, g group) error {
	tables, err := s.tables(ctx, b, out, g)
	defer func() {
		for _, t := range tables {
			t.part.close()
		}
	}()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := b.addPart("csv/"+t.name+".csv", t.part); err != nil {
			return err
		}
	}
	return nil
}

type table struct {
	name string
	part *part
}

func (s *selection) tables(ctx context.Context, b *bundle, out *openMetrics, g group) (all []table, err error) {
	past, err := s.History.Past(s.from, s.to)
	if err != nil {
		return nil, err
	}
	defer past.Close()
	lines, err := s.lines(ctx, past, g)
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	if err := out.family(g.family, lines); err != nil {
		return nil, err
	}
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && lines[n].Name == lines[0].Name {
			n++
		}
		p, err := b.part()
		if err != nil {
			return all, err
		}
		all = append(all, table{fileName(lines[0].Name), p})
		rows, err := writeCSV(p, lines[:n])
		if err != nil {
			return all, err
		}
		if rows == 0 { // all that is there are ends of series
			p.close()
			all = all[:len(all)-1]
		}
		lines = lines[n:]
	}
	return all, nil
}
