package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// A group that is closed is not watched any more, and those around it as long as
// another one is in them.
func TestWatchesEnd(t *testing.T) {
	top := t.TempDir()
	l := &Layout{changes: &changes{}}
	watched := func() int {
		t.Helper()
		if l.changes.fd == 0 {
			return 0
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", l.changes.fd))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(b), "inotify wd:"); n != len(l.changes.watches) {
			t.Errorf("the kernel has %d watches, and %d are known", n, len(l.changes.watches))
		}
		return len(l.changes.watches)
	}
	var groups []*Group
	for _, name := range []string{"one", "two"} {
		dir := filepath.Join(top, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{filepath.Join(top, "memory.max"), filepath.Join(dir, "memory.max"), filepath.Join(dir, "memory.current")} {
			if err := os.WriteFile(file, []byte("1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		g, err := l.open("/"+name, map[string]place{unified: {dir, top}}, "")
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, g)
	}
	if n := watched(); n != 3 {
		t.Errorf("two groups in one: %d watches, want 3", n)
	}
	version := l.changes.version()
	for i, want := range []int{2, 0} {
		if l.changes.version() != version {
			t.Error("the end of a watch counts as a change")
		}
		if err := groups[i].Close(); err != nil {
			t.Fatal(err)
		}
		if n := watched(); n != want {
			t.Errorf("%d of two groups closed: %d watches, want %d", i+1, n, want)
		}
	}
	if l.changes.fd != 0 {
		t.Error("the descriptor is still open")
	}
}
