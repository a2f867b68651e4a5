package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// Where nothing can be watched, limits are read each time.
func TestLimitsAreReadWithoutNotice(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("memory.max", "3000\n")
	write("memory.current", "1\n")
	l := &Layout{changes: &changes{fd: -1}}
	g, err := l.open("/group", map[string]place{unified: {dir, dir}}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, want := range []string{"3000", "2000", "1000"} {
		write("memory.max", want+"\n")
		var s Stats
		if err := g.Read(&s); err != nil || s.MemoryLimit != number([]byte(want)) {
			t.Errorf("got %v, %v, want %s", s.MemoryLimit, err, want)
		}
	}
}
