package runs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"
)

const maxBody = 16 << 10

// API serves the records over HTTP.
type API struct {
	Records *Records
	Writers Writers
}

// Mount adds the addresses of the records. Every refusal is {"error": TEXT},
// and its text says what to do; where another run is in the way, "run" names
// it.
func (a *API) Mount(mux *http.ServeMux) {
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.refuse(w, refuse(http.StatusForbidden, "this request comes from a page of another site"))
	}))
	write := func(pattern string, serve func(*http.Request) (any, int, error)) {
		mux.Handle(pattern, guard.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := a.Writers.allow(r); err != nil {
				a.refuse(w, err)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			a.answer(w, r, serve)
		})))
	}
	read := func(pattern string, serve func(*http.Request) (any, int, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, serve) })
	}
	read("GET /api/v1/runs", a.list)
	read("GET /api/v1/runs/{id}", a.get)
	write("POST /api/v1/runs", a.start)
	write("POST /api/v1/runs/{id}/marks", a.mark)
	write("POST /api/v1/runs/{id}/stop", a.stop)
	write("DELETE /api/v1/runs/{id}", a.delete)
}

// MountOff adds the same addresses, and those of archives, for a gateway that
// keeps no records.
func MountOff(mux *http.ServeMux) {
	off := func(w http.ResponseWriter, _ *http.Request) {
		WriteRefusal(w, refuse(http.StatusNotFound, "this gateway keeps no records of runs: start it with --runs.path=FOLDER or with a history"))
	}
	mux.HandleFunc("/api/v1/runs", off)
	mux.HandleFunc("/api/v1/runs/", off)
}

func (a *API) answer(w http.ResponseWriter, r *http.Request, serve func(*http.Request) (any, int, error)) {
	body, code, err := serve(r)
	if err != nil {
		a.refuse(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if body == nil {
		w.WriteHeader(code)
		return
	}
	writeJSON(w, code, body)
}

// WriteRefusal answers with an error in the form of this API. What is no
// [RefusalError] is answered with 500.
func WriteRefusal(w http.ResponseWriter, err error) (code int) {
	var known *RefusalError
	if !errors.As(err, &known) {
		known = refuse(http.StatusInternalServerError, "%v", err)
	}
	if known.Code == http.StatusTooManyRequests || known.Code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, known.Code, struct {
		Error string `json:"error"`
		Run   string `json:"run,omitempty"`
	}{known.Text, known.Run})
	return known.Code
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n'))
}

func (a *API) refuse(w http.ResponseWriter, err error) {
	a.Records.counts.refused.WithLabelValues(strconv.Itoa(WriteRefusal(w, err))).Inc()
}

func (a *API) list(r *http.Request) (any, int, error) {
	return struct {
		Runs []*Run `json:"runs"`
	}{a.Records.List(r.URL.Query().Get("project"))}, http.StatusOK, nil
}

func (a *API) get(r *http.Request) (any, int, error) {
	run, err := a.Records.known(r.PathValue("id"))
	return run, http.StatusOK, err
}

func (a *API) start(r *http.Request) (any, int, error) {
	var asked struct {
		Project string `json:"project"`
		Name    string `json:"name"`
	}
	if err := decode(r, &asked); err != nil {
		return nil, 0, err
	}
	run, err := a.Records.Start(asked.Project, asked.Name, time.Now())
	return run, http.StatusCreated, err
}

func (a *API) mark(r *http.Request) (any, int, error) {
	var asked struct {
		Text string `json:"text"`
		At   *Time  `json:"at"`
	}
	if err := decode(r, &asked); err != nil {
		return nil, 0, err
	}
	run, err := a.Records.Mark(r.PathValue("id"), asked.Text, asked.At, time.Now())
	return run, http.StatusOK, err
}

func (a *API) stop(r *http.Request) (any, int, error) {
	if err := decode(r, &struct{}{}); err != nil {
		return nil, 0, err
	}
	run, err := a.Records.Stop(r.PathValue("id"), time.Now())
	return run, http.StatusOK, err
}

func (a *API) delete(r *http.Request) (any, int, error) {
	return nil, http.StatusNoContent, a.Records.Delete(r.PathValue("id"))
}

// decode reads a body of JSON; an empty one is {}.
func decode(r *http.Request, into any) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		return refuse(http.StatusUnsupportedMediaType, "send the body as JSON, with Content-Type: application/json")
	}
	body, err := io.ReadAll(r.Body)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", maxBody)
	case err != nil:
		return refuse(http.StatusBadRequest, "the body could not be read to its end")
	case len(bytes.TrimSpace(body)) == 0:
		body = []byte("{}")
	case !utf8.Valid(body):
		return refuse(http.StatusBadRequest, "the body is not valid UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return refuse(http.StatusBadRequest, "the body is not what this address takes: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the body has something behind its end")
	}
	return nil
}
