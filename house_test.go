// Package fanin holds no code of its own: the tests here keep the rules of
// the house (ARCHITECTURE.md) and the generated METRICS.md.
package fanin

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// rooms says which packages of ours each package may import. A package that
// is not here may import none of ours.
var rooms = map[string][]string{
	"sample":          {},
	"index":           {},
	"kernfile":        {},
	"cgroup":          {"kernfile"},
	"guest":           {"sample"},
	"source/host":     {"sample", "kernfile"},
	"source/docker":   {"sample", "guest", "cgroup", "kernfile"},
	"source/libvirt":  {"sample", "guest", "cgroup", "kernfile"},
	"source/android":  {"sample", "guest", "kernfile"},
	"source/exporter": {"sample", "guest"},
	"sampler":         {"sample"},
	"wire":            {"sample", "index"},
	"spool":           {},
	"push":            {"spool"},
	"deployment":      {},
	"admission":       {"sample", "wire", "deployment"},
	"presence":        {"sample", "deployment"},
	"window":          {"sample", "index"},
	"verdict":         {"sample", "deployment", "presence"},
	"ingest":          {"sample", "wire", "deployment", "admission", "presence", "window"},
	"exposition":      {"sample", "window"},
	"history":         {"sample", "window"},
	"targets":         {"deployment", "admission"},
	"charts":          {"history"},
	"runs":            {"sample", "deployment"},
	"archive":         {"sample", "exposition", "history", "runs"},
	"dashboard":       {"sample", "deployment", "presence", "window", "charts", "verdict"},
	"daemon":          {},
	"e2e/simulate":    {"e2e/fleet", "sample", "wire", "deployment", "admission", "presence", "window", "ingest", "exposition"},
	"e2e/load":        {"e2e/fleet"},
}

// keys are packages of others (with all below them) that only some rooms may
// import.
var keys = map[string][]string{
	"libvirt.org/go/libvirt":                             {"source/libvirt"},
	"github.com/moby/moby":                               {"source/docker"},
	"github.com/prometheus/procfs":                       {"source/docker", "source/libvirt"},
	"github.com/prometheus/prometheus/prompb":            {"wire", "e2e/fleet"},
	"github.com/gogo/protobuf":                           {"wire"},
	"github.com/golang/snappy":                           {"wire", "e2e/fleet"},
	"github.com/prometheus/exporter-toolkit":             {"daemon"},
	"github.com/prometheus/prometheus/tsdb":              {"history"},
	"github.com/prometheus/prometheus/promql":            {"history"},
	"github.com/prometheus/prometheus/web":               {"history"},
	"github.com/prometheus/prometheus/storage":           {"history"},
	"github.com/prometheus/prometheus/model/histogram":   {},
	"github.com/prometheus/prometheus/model/textparse":   {"source/exporter"},
	"github.com/prometheus/prometheus/storage/remote":    {},
	"github.com/prometheus/prometheus/tsdb/agent":        {},
	"github.com/docker/docker":                           {},
	"github.com/prometheus/client_golang/exp/api/remote": {},
}

// never lists what must not be linked into a binary, at any depth.
var never = map[string][]string{
	"fanin/cmd/pusher": {
		"fanin/internal/deployment", "fanin/internal/admission", "fanin/internal/presence", "fanin/internal/window",
		"fanin/internal/exposition", "fanin/internal/ingest", "fanin/internal/targets", "fanin/internal/dashboard", "fanin/internal/history", "fanin/internal/runs", "fanin/internal/archive", "fanin/internal/forward",
		"github.com/prometheus/prometheus/storage", "github.com/prometheus/prometheus/tsdb", "github.com/prometheus/prometheus/promql",
	},
	"fanin/cmd/gateway": {
		"fanin/internal/sampler", "fanin/internal/cgroup", "fanin/internal/guest", "fanin/internal/source",
		"libvirt.org/go/libvirt", "github.com/moby/moby",
	},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) (all []pkg) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-tags", "libvirt_dlopen", "-json=ImportPath,Imports,Deps"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func below(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func TestWalls(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t, "./...") {
		room, internal := strings.CutPrefix(p.ImportPath, "fanin/internal/")
		seen[room] = true
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, "fanin/internal/")
			if isOurs && internal && !slices.Contains(rooms[room], ours) {
				t.Errorf("internal/%s imports internal/%s: the table in house_test.go and ARCHITECTURE.md does not allow it", room, ours)
			}
			for key, holders := range keys {
				if below(imported, key) && !slices.Contains(holders, room) && !longerKey(imported, key) {
					t.Errorf("%s imports %s, which only %v may", p.ImportPath, imported, holders)
				}
			}
		}
	}
	for room := range rooms {
		if !seen[room] {
			t.Errorf("the table names internal/%s, which does not exist", room)
		}
	}
}

// longerKey reports whether a more exact key than this one is about imported.
func longerKey(imported, key string) bool {
	for other := range keys {
		if len(other) > len(key) && below(imported, other) {
			return true
		}
	}
	return false
}

func TestBinariesStayApart(t *testing.T) {
	for binary, forbidden := range never {
		packages := list(t, binary)
		if len(packages) != 1 || len(packages[0].Deps) < 50 {
			t.Fatalf("go list found %d packages for %s", len(packages), binary)
		}
		for _, dep := range packages[0].Deps {
			for _, f := range forbidden {
				if below(dep, f) {
					t.Errorf("%s contains %s", binary, dep)
				}
			}
		}
	}
}
