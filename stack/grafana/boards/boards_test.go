package boards

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the dashboards")

// TestBoards: the dashboards are what this package makes, and every panel says
// what it shows and in which unit.
func TestBoards(t *testing.T) {
	for _, b := range all {
		built, err := b.build()
		if err != nil {
			t.Fatalf("%s: %v", b.file, err)
		}
		got, err := json.MarshalIndent(built, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := filepath.Join("..", "dashboards", b.file)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code makes; `go test ./stack/grafana/boards -update` rewrites it", file)
		}
		for _, r := range b.rows {
			for _, p := range r.panels {
				if p.title == "" || p.text == "" || p.unit == "" || len(p.queries) == 0 {
					t.Errorf("%s, %q: a panel without a title, a text, a unit or a query", b.file, p.title)
				}
				for _, q := range p.queries {
					if q.legend == "" {
						t.Errorf("%s, %q: a query without a legend", b.file, p.title)
					}
				}
			}
		}
	}
}
