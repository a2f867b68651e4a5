package history

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/version"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"fanin/internal/sample"
)

// Limits on what a request may be.
const (
	maxBody     = 1 << 20
	maxQuery    = 16 << 10
	maxSteps    = 11_000
	writeWithin = 30 * time.Second // after the query is done
)

// Mount adds the query API.
func (h *History) Mount(mux *http.ServeMux) {
	for path, f := range map[string]func(*request) error{
		"query":               h.query,
		"query_range":         h.queryRange,
		"series":              h.series,
		"labels":              h.labelNames,
		"label/{name}/values": h.labelValues,
		"metadata":            h.metadata,
		"status/buildinfo":    buildInfo,
		"query_exemplars":     func(r *request) error { return r.answer([]string{}) },
		"rules":               func(r *request) error { return r.answer(map[string][]string{"groups": {}}) },
		"alerts":              func(r *request) error { return r.answer(map[string][]string{"alerts": {}}) },
	} {
		mux.Handle("GET /api/v1/"+path, h.handler(f))
		mux.Handle("POST /api/v1/"+path, h.handler(f))
	}
}

// MountOff adds the same addresses for a gateway that keeps no history.
func MountOff(mux *http.ServeMux) {
	off := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "not_found", "this gateway keeps no history: start it with --history.path=FOLDER, or ask the Prometheus that scrapes it")
	})
	for _, path := range []string{"query", "query_range", "series", "labels", "label/{name}/values", "metadata", "status/buildinfo", "query_exemplars", "rules", "alerts"} {
		mux.Handle("GET /api/v1/"+path, off)
		mux.Handle("POST /api/v1/"+path, off)
	}
}

// request is one call of the API. Its context ends with the query's time.
type request struct {
	*http.Request
	w http.ResponseWriter
}

func (h *History) handler(f func(*request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetWriteDeadline(time.Now().Add(h.QueryTimeout + writeWithin))
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		err := h.call(f, &request{Request: r, w: w})
		if err == nil {
			h.counts.queries.WithLabelValues("success").Inc()
			return
		}
		failed := failureOf(err)
		if failed.kind == "execution" && damages(err) {
			h.doubt.Store(true)
		}
		h.counts.queries.WithLabelValues(failed.kind).Inc()
		fail(w, failed.code, failed.kind, failed.Error())
	})
}

// call has f answer within the query's time, when its turn has come.
func (h *History) call(f func(*request) error, r *request) error {
	if err := r.ParseForm(); err != nil {
		return badData(fmt.Errorf("error parsing form values: %w", err))
	}
	if len(r.FormValue("query")) > maxQuery {
		return invalid("query", fmt.Errorf("it is longer than %d bytes", maxQuery))
	}
	timeout := h.QueryTimeout
	if asked := r.FormValue("timeout"); asked != "" {
		d, err := duration(asked)
		if err != nil {
			return invalid("timeout", err)
		}
		timeout = max(0, min(timeout, d))
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	r.Request = r.WithContext(ctx)
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		err := fmt.Errorf("%d queries run already, and none of them has ended in time", h.MaxQueries)
		return &apiError{http.StatusServiceUnavailable, "timeout", err}
	}
	return f(r)
}

func (h *History) query(r *request) error {
	at, err := r.time("time", time.Now())
	if err != nil {
		return err
	}
	opts, err := r.options()
	if err != nil {
		return err
	}
	if err := h.bounded(r.FormValue("query"), 0); err != nil {
		return err
	}
	q, err := h.engine.NewInstantQuery(r.Context(), &h.base, opts, r.FormValue("query"), at)
	if err != nil {
		return invalid("query", err)
	}
	return h.evaluate(r, q)
}

func (h *History) queryRange(r *request) error {
	start, err := r.timeOf("start")
	if err != nil {
		return err
	}
	end, err := r.timeOf("end")
	if err != nil {
		return err
	}
	if end.Before(start) {
		return invalid("end", errors.New("it is before the start"))
	}
	step, err := duration(r.FormValue("step"))
	if err != nil {
		return invalid("step", err)
	}
	if step < time.Millisecond {
		return invalid("step", errors.New("it is less than a millisecond"))
	}
	if (end.UnixMilli()-start.UnixMilli())/step.Milliseconds() > maxSteps {
		return badData(fmt.Errorf("more than %d steps: choose a larger step", maxSteps))
	}
	opts, err := r.options()
	if err != nil {
		return err
	}
	if err := h.bounded(r.FormValue("query"), end.Sub(start)); err != nil {
		return err
	}
	q, err := h.engine.NewRangeQuery(r.Context(), &h.base, opts, r.FormValue("query"), start, end, step)
	if err != nil {
		return invalid("query", err)
	}
	return h.evaluate(r, q)
}

func (h *History) evaluate(r *request, q promql.Query) error {
	defer q.Close()
	limit, err := r.limit()
	if err != nil {
		return err
	}
	result := q.Exec(r.Context())
	if result.Err != nil {
		return result.Err
	}
	warnings := result.Warnings
	value, cut := truncated(result.Value, limit)
	if cut {
		warnings.Add(errTruncated)
	}
	out := r.begin()
	out.value(value)
	out.end(warnings, r.FormValue("query"))
	return nil
}

var errTruncated = errors.New("results truncated due to limit")

func (h *History) series(r *request) error {
	sets, err := r.matchers(h)
	if err != nil {
		return err
	}
	if len(sets) == 0 {
		return badData(errors.New("no match[] parameter provided"))
	}
	q, limit, err := h.querier(r)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	hints := &storage.SelectHints{Start: q.from, End: q.to, Func: "series", Limit: oneMore(limit)}
	var found []storage.SeriesSet
	for _, matchers := range sets {
		found = append(found, q.Select(r.Context(), len(sets) > 1, hints, matchers...))
	}
	set := found[0]
	if len(found) > 1 {
		set = storage.NewMergeSeriesSet(found, 0, storage.ChainedSeriesMerge)
	}
	var all []labels.Labels
	warnings := set.Warnings()
	for set.Next() {
		if len(all)%1000 == 0 && r.Context().Err() != nil {
			return r.Context().Err()
		}
		if limit > 0 && len(all) == limit {
			warnings.Add(errTruncated)
			break
		}
		all = append(all, set.At().Labels())
	}
	if err := set.Err(); err != nil {
		return err
	}
	out := r.begin()
	out.labelSets(all)
	out.end(warnings, "")
	return nil
}

func (h *History) labelNames(r *request) error {
	return h.strings(r, func(q *ranged, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelNames(r.Context(), hints, matchers...)
	})
}

func (h *History) labelValues(r *request) error {
	name := r.PathValue("name")
	if strings.HasPrefix(name, "U__") {
		name = model.UnescapeName(name, model.ValueEncodingEscaping)
	}
	if !model.UTF8Validation.IsValidLabelName(name) {
		return badData(fmt.Errorf("invalid label name: %q", name))
	}
	return h.strings(r, func(q *ranged, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, annotations.Annotations, error) {
		return q.LabelValues(r.Context(), name, hints, matchers...)
	})
}

// strings answers with what ask finds, for all sets of matchers together.
func (h *History) strings(r *request, ask func(*ranged, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error)) error {
	sets, err := r.matchers(h)
	if err != nil {
		return err
	}
	if len(sets) == 0 {
		sets = [][]*labels.Matcher{nil}
	}
	q, limit, err := h.querier(r)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	all, warnings := []string{}, annotations.Annotations{}
	for _, matchers := range sets {
		some, more, err := ask(q, &storage.LabelHints{Limit: oneMore(limit)}, matchers...)
		if err != nil {
			return err
		}
		all = append(all, some...)
		warnings.Merge(more)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if limit > 0 && len(all) > limit {
		all = all[:limit]
		warnings.Add(errTruncated)
	}
	out := r.begin()
	out.strings(all)
	out.end(warnings, "")
	return nil
}

// metadata answers with type, help and unit of the families that have come
// since the gateway was started.
func (h *History) metadata(r *request) error {
	type words struct {
		Type string `json:"type"`
		Help string `json:"help"`
		Unit string `json:"unit"`
	}
	limit, err := r.limit()
	if err != nil {
		return err
	}
	all := map[string][]words{}
	h.words.each(r.FormValue("metric"), func(f *sample.Family) {
		if limit == 0 || len(all) < limit {
			all[f.Name] = []words{{f.Type.String(), f.Help, f.Unit}}
		}
	})
	return r.answer(all)
}

// buildInfo names the version of Prometheus whose API this is, by which
// clients choose what they ask for.
func buildInfo(r *request) error {
	return r.answer(map[string]string{
		"version": apiVersion, "revision": version.GetRevision(), "branch": "", "buildUser": "",
		"buildDate": "", "goVersion": runtime.Version(), "application": "fanin gateway " + version.Version,
	})
}

// apiVersion is the release of Prometheus that the module in go.mod is.
const apiVersion = "3.15.0"

// ranged is a querier over the times that a request names.
type ranged struct {
	storage.Querier
	from, to int64
}

func (h *History) querier(r *request) (*ranged, int, error) {
	limit, err := r.limit()
	if err != nil {
		return nil, 0, err
	}
	start, err := r.time("start", earliest)
	if err != nil {
		return nil, 0, err
	}
	end, err := r.time("end", latest)
	if err != nil {
		return nil, 0, err
	}
	from, to := start.UnixMilli(), end.UnixMilli()
	q, err := h.base.Querier(from, to)
	if err != nil {
		return nil, 0, err
	}
	return &ranged{q, from, to}, limit, nil
}

func truncated(v any, limit int) (any, bool) {
	switch v := v.(type) {
	case promql.Matrix:
		if limit > 0 && len(v) > limit {
			return v[:limit], true
		}
	case promql.Vector:
		if limit > 0 && len(v) > limit {
			return v[:limit], true
		}
	}
	return v, false
}

// oneMore is the limit for the database, so that what is left out shows.
func oneMore(limit int) int {
	if limit > 0 {
		return limit + 1
	}
	return 0
}
