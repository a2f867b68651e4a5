package deployment

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// settings is a TestbedOS settings folder with home folders beside it.
type settings struct {
	t    testing.TB
	root string
}

func newSettings(t testing.TB) *settings {
	t.Helper()
	s := &settings{t: t, root: t.TempDir()}
	for _, d := range []string{"settings/deployments", "settings/config", "home"} {
		if err := os.MkdirAll(filepath.Join(s.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *settings) folder() string { return filepath.Join(s.root, "settings") }

func (s *settings) recordPath(name string) string {
	return filepath.Join(s.folder(), "deployments", name+".json")
}

func (s *settings) statePath(name string) string {
	return filepath.Join(s.root, "home", name, name+"-state.json")
}

func (s *settings) write(path, content string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *settings) record(name, state string) {
	s.t.Helper()
	s.write(s.recordPath(name), fmt.Sprintf(`{"name": %q, "project_location": %q, "state": %s, "last_action_uuid": null}`,
		name, filepath.Join(s.root, "home", name), state))
}

func (s *settings) state(name string, guests ...string) {
	s.t.Helper()
	s.write(s.statePath(name), stateJSON(name, guests...))
}

// stateJSON has docker guests on main-host.
func stateJSON(name string, guests ...string) string {
	all := map[string]any{}
	for _, g := range guests {
		all[g] = map[string]any{"name": g, "network": nil, "docker": map[string]any{"image": "x"}, "testbed_host": "main-host", "is_golden_image": false}
	}
	b, err := json.MarshalIndent(map[string]any{
		"project_name":   name,
		"testbed_hosts":  map[string]any{"main-host": map[string]any{"ip": "10.50.0.1", "is_main_host": true}},
		"testbed_guests": all,
	}, "", "  ")
	if err != nil {
		panic(err)
	}
	return string(b)
}

// watch is a watcher whose polls the test makes itself, with a clock of its
// own that begins now.
type watch struct {
	*Watcher
	now time.Time
}

func (s *settings) watch(globs ...string) *watch {
	return &watch{Watcher: &Watcher{Settings: s.folder(), StateGlobs: globs, Log: slog.New(slog.DiscardHandler)}, now: time.Now()}
}

// polls lets d pass in steps of 100 ms, one poll each.
func (w *watch) polls(d time.Duration) *Roster {
	w.mu.Lock()
	defer w.mu.Unlock()
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(retryEvery) {
		w.poll(w.now)
	}
	return w.Roster()
}

func guestNames(p *Project) string {
	if p == nil {
		return "<no project>"
	}
	out := ""
	for _, g := range p.Guests {
		out += g.Name + " "
	}
	return out
}
