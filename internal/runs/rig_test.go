package runs

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fanin/internal/deployment"
)

const hostileState = `{"project_name": "lab", "testbed_hosts": {"h1": {"ip": "10.0.0.1", "username": "root", "ssh_private_key_location": "/root/.ssh/id"}},
 "testbed_guests": {
  "vm": {"name": "vm", "testbed_host": "h1", "libvirt": {"cpus": 2, "memory_mb": 2048.0, "username": "ubuntu", "password": "hunter2", "libvirt_type": {"cloud_image": {"environment": {"API": "hunter3"}}}}},
  "web": {"name": "web", "testbed_host": "h1", "docker": {"image": "https://bob:hunter4@registry/x", "environment": ["A=hunter5"], "command": ["run", "--token", "hunter6", "--db-password=hunter7", "-v"]}}}}`

// lab is a gateway's records over HTTP, of a deployment called lab that is up.
type lab struct {
	*Records
	t    *testing.T
	dir  string
	url  string
	say  *strings.Builder
	file string // its record
}

func newLab(t *testing.T, dir string) *lab {
	t.Helper()
	root := t.TempDir()
	l := &lab{t: t, dir: dir, say: &strings.Builder{}, file: filepath.Join(root, "deployments", "lab.json")}
	for name, content := range map[string]string{
		l.file: l.record("up"), filepath.Join(root, "lab-state.json"): hostileState,
		filepath.Join(root, "deployments", "asleep.json"): strings.ReplaceAll(l.record("down"), `"lab"`, `"asleep"`),
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	watcher := &deployment.Watcher{Settings: root, Log: slog.New(slog.DiscardHandler)}
	watcher.Load()
	records, err := Open(Options{
		Path: dir, Roster: watcher.Roster, Ready: watcher.Settled, State: watcher.StateFile,
		Log: slog.New(slog.NewTextHandler(l.say, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.Records = records
	t.Cleanup(records.folder.release)
	mux := http.NewServeMux()
	(&API{Records: records}).Mount(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

func (l *lab) record(state string) string {
	return fmt.Sprintf(`{"name": "lab", "project_location": %q, "state": %q}`, filepath.Dir(filepath.Dir(l.file)), state)
}

// again is what another process finds in the folder after kill -9.
func (l *lab) again() *lab {
	l.t.Helper()
	l.folder.release()
	return newLab(l.t, l.dir)
}

type answer struct {
	code int
	Run
	Error string `json:"error"`
	Other string `json:"run"`
	text  string
}

func (l *lab) ask(method, path, body string, change ...func(*http.Request)) answer {
	l.t.Helper()
	r, err := http.NewRequest(method, l.url+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for _, f := range change {
		f(r)
	}
	got, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	a := answer{code: got.StatusCode, text: string(text)}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a); err != nil && got.Header.Get("Content-Type") == "application/json" {
			l.t.Fatalf("%s: %v", text, err)
		}
	}
	if a.code >= 400 && a.Error == "" {
		l.t.Errorf("%s %s: %d without an error: %s", method, path, a.code, text)
	}
	return a
}

func (l *lab) begin(name string) Run {
	l.t.Helper()
	body, _ := json.Marshal(map[string]string{"project": "lab", "name": name})
	a := l.ask("POST", "/api/v1/runs", string(body))
	if a.code != http.StatusCreated {
		l.t.Fatalf("start %q: %d %s", name, a.code, a.text)
	}
	return a.Run
}
