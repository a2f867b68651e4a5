package runs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A run over HTTP, from its start to its end.
func TestLifeOfARun(t *testing.T) {
	l := newLab(t, t.TempDir())
	before := time.Now().UnixMilli()
	run := l.begin("  Überlast α 🚀  ")
	if run.Name != "Überlast α 🚀" || run.Project != "lab" || int64(run.Started) < before || run.Ended != nil || !validID(run.ID) || !slices.Equal(run.Hosts, []string{"h1"}) {
		t.Errorf("the run is %+v", run)
	}
	path := "/api/v1/runs/" + run.ID
	if a := l.ask("POST", "/api/v1/runs", `{"project":"lab","name":"another"}`); a.code != 409 || a.Other != run.ID {
		t.Errorf("a second run at once: %d %s", a.code, a.text)
	}
	at := fmt.Sprintf("%.3f", float64(run.Started)/1000)
	if a := l.ask("POST", path+"/marks", `{"text":"attack"}`); a.code != 200 || len(a.Marks) != 1 {
		t.Errorf("a mark: %d %s", a.code, a.text)
	}
	if a := l.ask("POST", path+"/marks", `{"text":"attack","at":`+at+`}`); a.code != 200 || len(a.Marks) != 2 || a.Marks[0].At != run.Started {
		t.Errorf("a mark at the start: %d %s", a.code, a.text)
	}
	if a := l.ask("DELETE", path, ""); a.code != 409 {
		t.Errorf("a run that goes on is deleted: %d %s", a.code, a.text)
	}
	ended := l.ask("POST", path+"/stop", "")
	if ended.code != 200 || ended.Ended == nil || ended.EndedBecause != Stopped {
		t.Fatalf("stop: %d %s", ended.code, ended.text)
	}
	if a := l.ask("POST", path+"/stop", "{}"); a.code != 200 || *a.Ended != *ended.Ended {
		t.Errorf("stopped again: %d %s", a.code, a.text)
	}
	if a := l.ask("POST", path+"/marks", `{"text":"late"}`); a.code != 409 {
		t.Errorf("a mark after the end: %d %s", a.code, a.text)
	}
	if a := l.ask("POST", path+"/marks", `{"text":"seen later","at":`+at+`}`); a.code != 200 || len(a.Marks) != 3 {
		t.Errorf("a mark of a moment of a run that has ended: %d %s", a.code, a.text)
	}
	l.begin("second")
	var list struct{ Runs []Run }
	if err := json.Unmarshal([]byte(l.ask("GET", "/api/v1/runs?project=lab", "").text), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Runs) != 2 || list.Runs[0].Name != "second" {
		t.Errorf("the list is %+v", list.Runs)
	}
	if a := l.ask("GET", "/api/v1/runs?project=none", ""); a.text != "{\"runs\":[]}\n" {
		t.Errorf("the list of another deployment is %s", a.text)
	}
	if a := l.ask("DELETE", path, ""); a.code != 204 {
		t.Errorf("delete: %d %s", a.code, a.text)
	}
	if a := l.ask("GET", path, ""); a.code != 404 {
		t.Errorf("after it was deleted: %d %s", a.code, a.text)
	}
	if again := l.again(); len(again.List("")) != 1 {
		t.Errorf("after a restart there are %+v", again.List(""))
	}
}

func TestRefusals(t *testing.T) {
	l := newLab(t, t.TempDir())
	run := l.begin("r")
	path := "/api/v1/runs/" + run.ID
	marks := path + "/marks"
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	none := func(*http.Request) {}
	for _, c := range []struct {
		what, method, path, body string
		change                   func(*http.Request)
		code                     int
		says                     string
	}{
		{"no such deployment", "POST", "/api/v1/runs", `{"project":"nowhere","name":"x"}`, none, 404, "no deployment called nowhere"},
		{"a deployment that is down", "POST", "/api/v1/runs", `{"project":"asleep","name":"x"}`, none, 409, "bring it up"},
		{"a path for a deployment", "POST", "/api/v1/runs", `{"project":"../../etc","name":"x"}`, none, 404, "no deployment"},
		{"no deployment", "POST", "/api/v1/runs", `{"name":"x"}`, none, 400, "project is missing"},
		{"no name", "POST", "/api/v1/runs", `{"project":"lab","name":" "}`, none, 400, "empty"},
		{"a line break", "POST", "/api/v1/runs", `{"project":"lab","name":"a\nb"}`, none, 400, "U+000A"},
		{"a text that runs backwards", "POST", marks, `{"text":"a\u202eb"}`, none, 400, "U+202E"},
		{"no text that is valid", "POST", marks, "{\"text\":\"\xff\"}", none, 400, "UTF-8"},
		{"a long text", "POST", marks, `{"text":"` + strings.Repeat("ä", MaxText+1) + `"}`, none, 400, "201 characters"},
		{"a large body", "POST", marks, `{"text":"` + strings.Repeat("a", maxBody) + `"}`, none, 413, "larger"},
		{"a moment before the run", "POST", marks, `{"text":"a","at":1}`, none, 400, "between"},
		{"a moment to come", "POST", marks, `{"text":"a","at":9999999999}`, none, 400, "between"},
		{"no number", "POST", marks, `{"text":"a","at":"now"}`, none, 400, "seconds since 1970"},
		{"no JSON", "POST", marks, `text=a`, none, 400, "not what"},
		{"a key that is not known", "POST", marks, `{"text":"a","time":1}`, none, 400, "time"},
		{"something behind the end", "POST", marks, `{"text":"a"}{}`, none, 400, "behind"},
		{"a form", "POST", marks, `{"text":"a"}`, header("Content-Type", "application/x-www-form-urlencoded"), 415, "application/json"},
		{"a page of another site", "POST", path + "/stop", "", header("Sec-Fetch-Site", "cross-site"), 403, "another site"},
		{"an origin of another site", "DELETE", path, "", header("Origin", "http://evil.example"), 403, "another site"},
		{"a name that leads here", "POST", path + "/stop", "", func(r *http.Request) {
			r.Host = "evil.example:9370"
			r.Header.Set("Origin", "http://evil.example:9370")
		}, 403, "localhost"},
		{"by a proxy", "POST", path + "/stop", "", header("X-Forwarded-For", "10.0.0.9"), 403, "--runs.writers=all"},
		{"no such run", "GET", "/api/v1/runs/aaaaaaaaaaaaaaaa", "", none, 404, "no such run"},
		{"a path for a run", "POST", "/api/v1/runs/..%2f..%2fetc/stop", "", none, 404, "no such run"},
		{"a path for a run to delete", "DELETE", "/api/v1/runs/%2e%2e%2fgateway.lock", "", none, 404, "no such run"},
	} {
		if a := l.ask(c.method, c.path, c.body, c.change); a.code != c.code || !strings.Contains(a.Error, c.says) {
			t.Errorf("%s: got %d %s, want %d %q", c.what, a.code, a.text, c.code, c.says)
		}
	}
	if now := l.Get(run.ID); now.Ended != nil || len(now.Marks) != 0 {
		t.Errorf("what was refused has changed the run: %+v", now)
	}
	if n := testutil.ToFloat64(l.counts.refused.WithLabelValues("413")); n != 1 {
		t.Errorf("%v refusals with 413 are counted", n)
	}
	for i := range MaxMarks {
		if _, err := l.Mark(run.ID, fmt.Sprint("m", i), nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if a := l.ask("POST", marks, `{"text":"one more"}`); a.code != 409 {
		t.Errorf("more marks than are kept: %d %s", a.code, a.text)
	}
}

func TestWriters(t *testing.T) {
	request := func(from string) *http.Request {
		return &http.Request{RemoteAddr: from, Host: "localhost:9370", Header: http.Header{}}
	}
	for _, c := range []struct {
		writers Writers
		from    string
		allowed bool
	}{
		{Local, "127.0.0.1:5", true},
		{Local, "[::1]:5", true},
		{Local, "10.0.0.9:5", false},
		{All, "10.0.0.9:5", true},
		{Nobody, "127.0.0.1:5", false},
	} {
		if err := c.writers.allow(request(c.from)); (err == nil) != c.allowed {
			t.Errorf("%s from %s: %v", c.writers, c.from, err)
		}
	}
	for i, name := range WritersNames {
		if w := ParseWriters(name); w != Writers(i) || w.String() != name {
			t.Errorf("%s is %s", name, w)
		}
	}
}

// TestListReadsNoBody: a form with a file is not taken for the project, nor
// read: it would be kept in memory, and on the disk of temporary files.
func TestListReadsNoBody(t *testing.T) {
	l := newLab(t, t.TempDir())
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	if err := errors.Join(form.WriteField("project", "another"), form.Close()); err != nil {
		t.Fatal(err)
	}
	run := l.begin("r")
	sent := &counting{Reader: &body}
	r := httptest.NewRequest(http.MethodGet, "/api/v1/runs?project=lab", sent)
	r.Header.Set("Content-Type", form.FormDataContentType())
	mux, w := http.NewServeMux(), httptest.NewRecorder()
	(&API{Records: l.Records}).Mount(mux)
	mux.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), run.ID) || sent.n > 0 {
		t.Errorf("%d bytes are read for %s", sent.n, w.Body)
	}
}

type counting struct {
	io.Reader
	n int
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}
