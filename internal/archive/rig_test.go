package archive

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/history"
	"fanin/internal/runs"
	"fanin/internal/sample"
	"fanin/internal/window"
)

// lab is a history, records on a deployment called lab, and their exports over
// HTTP.
type lab struct {
	*Exporter
	t     testing.TB
	store *window.Store
	url   string
	wrote map[string]map[int64]float64 // what was measured, by the series' text
}

func newLab(t testing.TB) *lab {
	t.Helper()
	root := t.TempDir()
	for name, content := range map[string]string{
		"deployments/lab.json": fmt.Sprintf(`{"name":"lab","project_location":%q,"state":"up"}`, root),
		"lab-state.json":       `{"project_name":"lab","testbed_hosts":{"h1":{}},"testbed_guests":{"web":{"name":"web","docker":{},"testbed_host":"h1"}}}`,
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	watcher := &deployment.Watcher{Settings: root}
	watcher.Load()
	store := &window.Store{Expected: []window.ReaderID{history.Reader}}
	past, err := history.New(history.Options{Path: filepath.Join(root, "history"), Window: store})
	if err != nil {
		t.Fatal(err)
	}
	records, err := runs.Open(runs.Options{
		Path: filepath.Join(root, "runs"), Roster: watcher.Roster, State: watcher.StateFile,
		Families: func(run *runs.Run) ([]byte, error) { return Families(past, run) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- past.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	l := &lab{Exporter: New(records, past, nil), t: t, store: store, wrote: map[string]map[int64]float64{}}
	mux := http.NewServeMux()
	l.Mount(mux)
	past.Mount(mux)
	server := httptest.NewUnstartedServer(mux)
	// An archive takes longer than other answers may.
	server.Config.ReadTimeout, server.Config.WriteTimeout = time.Second, time.Second
	server.Start()
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

// measure has points arrive, and waits until the history has them.
func (l *lab) measure(points ...sample.Point) {
	l.t.Helper()
	for _, p := range points {
		if l.wrote == nil {
			break
		}
		text := p.Series.Text()
		if l.wrote[text] == nil {
			l.wrote[text] = map[int64]float64{}
		}
		l.wrote[text][p.T] = p.V
	}
	if _, _, err := l.store.Append(points, time.Now(), 24*time.Hour, nil); err != nil {
		l.t.Fatal(err)
	}
	if l.wrote != nil {
		l.collected()
	}
}

func (l *lab) collected() {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		lag := uint64(0)
		for _, r := range l.store.Readers() {
			lag += r.Lag
		}
		if past, err := l.History.Past(0, math.MaxInt64); err == nil {
			past.Close()
			if lag == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the history lags by %d", lag)
		}
	}
}

// ran is a run with these times, which may be of the past.
func (l *lab) ran(name string, from, to int64) *runs.Run {
	l.t.Helper()
	run, err := l.Records.Start("lab", name, time.UnixMilli(from))
	if err != nil {
		l.t.Fatal(err)
	}
	if run, err = l.Records.Stop(run.ID, time.UnixMilli(to)); err != nil {
		l.t.Fatal(err)
	}
	return run
}

func (l *lab) get(path string) (*http.Response, error) {
	l.t.Helper()
	r, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, l.url+path, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return http.DefaultClient.Do(r)
}

func (l *lab) text(path string) (int, string) {
	l.t.Helper()
	got, err := l.get(path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return got.StatusCode, string(body)
}

// files are those of a run's archive.
func (l *lab) files(run *runs.Run) map[string]string {
	l.t.Helper()
	got, err := l.get("/api/v1/runs/" + run.ID + "/archive")
	if err != nil {
		l.t.Fatal(err)
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusOK || got.Header.Get("Content-Type") != "application/gzip" {
		text, _ := io.ReadAll(got.Body)
		l.t.Fatalf("the archive: %s %s", got.Status, text)
	}
	files, err := unpack(got.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return files
}

func unpack(from io.Reader) (map[string]string, error) {
	zip, err := gzip.NewReader(from)
	if err != nil {
		return nil, err
	}
	files, archive := map[string]string{}, tar.NewReader(zip)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, zip)
			return files, err
		} else if err != nil {
			return files, err
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return files, err
		}
		_, name, _ := strings.Cut(header.Name, "/")
		if _, twice := files[name]; twice {
			return files, errors.New(name + " is there twice")
		}
		files[name] = string(content)
	}
}

func label(name, value string) sample.Label { return sample.Label{Name: name, Value: value} }

// of are the identity labels of the deployment's guest, and more.
func of(more ...sample.Label) []sample.Label {
	return append([]sample.Label{
		label(sample.Project, "lab"), label(sample.HostName, "h1"), label(sample.GuestName, "web"), label(sample.GuestType, "docker"),
	}, more...)
}
