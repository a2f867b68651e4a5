package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// replay is a copy of a node's /proc and /sys in which numbers change all the
// time.
type replay struct {
	t     *testing.T
	proc  string
	files []*changing
	rand  *rand.Rand
}

// changing is a file under proc: on the lines that begin with prefix, or have
// it in them, the fields from the given one on change.
type changing struct {
	path, contains string
	from           int
	lines          []string
}

// newReplay copies the recorded tree, changes it until the test ends, and
// returns the arguments with which a pusher reads it.
func newReplay(t *testing.T, seed uint64) (args []string) {
	t.Helper()
	dir := t.TempDir()
	recorded := filepath.Join(rig.Root(t), "internal", "source", "host", "testdata", "node")
	if err := os.CopyFS(dir, os.DirFS(recorded)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sys", "class"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &replay{t: t, proc: filepath.Join(dir, "proc"), rand: rand.New(rand.NewPCG(seed, 0)), files: []*changing{
		{path: "stat", contains: "cpu", from: 1},
		{path: "loadavg"},
		{path: "meminfo", contains: ":", from: 1},
		{path: "diskstats", from: 3},
		{path: "1/net/dev", contains: ":", from: 1},
		{path: "pressure/cpu", from: 1},
		{path: "pressure/memory", from: 1},
		{path: "pressure/io", from: 1},
	}}
	for _, f := range r.files {
		content, err := os.ReadFile(filepath.Join(r.proc, f.path))
		if err != nil {
			t.Fatal(err)
		}
		f.lines = strings.Split(string(content), "\n")
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for _, f := range r.files {
				r.change(f)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+r.rand.IntN(60)) * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	return []string{"--path.procfs=" + r.proc, "--path.sysfs=" + filepath.Join(dir, "sys")}
}

// change puts the next version of a file in the place of the one before.
func (r *replay) change(f *changing) {
	for i, line := range f.lines {
		fields := strings.Fields(line)
		if len(fields) == 0 || !strings.Contains(line, f.contains) {
			continue
		}
		for k := f.from; k < len(fields); k++ {
			fields[k] = r.next(fields[k])
		}
		f.lines[i] = strings.Join(fields, " ")
	}
	path := filepath.Join(r.proc, f.path)
	if err := os.WriteFile(path+".next", []byte(strings.Join(f.lines, "\n")), 0o644); err != nil {
		r.t.Error(err)
		return
	}
	if err := os.Rename(path+".next", path); err != nil {
		r.t.Error(err)
	}
}

// next is what a field says next: whole numbers rise, also those that have a
// name; numbers with two places are drawn anew.
func (r *replay) next(field string) string {
	name, number, named := strings.Cut(field, "=")
	if !named {
		name, number = "", field
	}
	if named {
		name += "="
	}
	if n, err := strconv.ParseUint(number, 10, 64); err == nil {
		return name + strconv.FormatUint(n+uint64(r.rand.IntN(100)), 10)
	}
	if _, err := strconv.ParseFloat(number, 64); err == nil {
		return name + strconv.FormatFloat(float64(r.rand.IntN(10_000))/100, 'f', 2, 64)
	}
	return field
}
