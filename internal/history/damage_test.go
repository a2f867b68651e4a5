package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fanin/internal/sample"
)

// wreck is a database with all that can be damaged: blocks, a checkpoint,
// several segments of each log, chunks; as kill -9 leaves it.
func wreck(t *testing.T) (dir string, written points) {
	t.Helper()
	dir = t.TempDir()
	written = points{}
	// Blocks are of two hours: where in one the samples end decides what is left
	// in the logs.
	now := time.Now().Truncate(2 * time.Hour).Add(-75 * time.Minute)
	at := now.Add(-9 * time.Hour)
	var p *past
	for life := range 6 {
		p = begin(t, dir, Options{})
		for range 3 {
			next := at.Add(30 * time.Minute)
			batch := lines(40, at, next, 15*time.Second)
			// Some come late.
			late := make([]sample.Point, 0, len(batch)/20)
			early := batch[:0:0]
			for i, one := range batch {
				if i%20 == 7 && life > 0 {
					one.Series = testSeries(1000 + i%5)
					one.T -= int64(i)
					late = append(late, one)
				} else {
					early = append(early, one)
				}
			}
			p.push(early)
			written.add(early)
			slices.SortFunc(late, func(a, b sample.Point) int { return int(b.T - a.T) })
			for _, one := range late { // backwards in time, each on a window of its own
				if err := p.write(func(a *appending) { p.appendPage(a, []sample.Point{one}) }); err != nil {
					t.Fatal(err)
				}
			}
			written.add(late)
			at = next
			p.compact()
		}
		if life < 5 {
			p.stop()
		}
	}
	if got := written.lost(t, p.all()); got != 0 {
		t.Fatalf("%d of %d points are missing before anything is damaged", got, written.count())
	}
	return copyOf(t, dir), written
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: nothing is there: %v", pattern, err)
	}
	slices.Sort(files)
	return files
}

// largest is the largest file of a pattern.
func largest(t *testing.T, dir, pattern string) string {
	t.Helper()
	return slices.MaxFunc(glob(t, dir, pattern), func(a, b string) int { return len(read(t, a)) - len(read(t, b)) })
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func change(t *testing.T, file string, f func([]byte) []byte) {
	t.Helper()
	b := f(read(t, file))
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func torn(b []byte) []byte { return b[:len(b)-len(b)/3-1] }

func flipped(where float64) func([]byte) []byte {
	return func(b []byte) []byte {
		b[int(float64(len(b)-1)*where)] ^= 0x10
		return b
	}
}

func garbage(b []byte) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestDamage damages one thing at a time. Each time the history starts, says
// what it set aside, has everything else and goes on, and so does the next
// start.
func TestDamage(t *testing.T) {
	whole, written := wreck(t)
	all := written.count()
	file := func(pattern string, f func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { change(t, largest(t, dir, pattern), f) }
	}
	remove := func(pattern string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.RemoveAll(largest(t, dir, pattern)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const none, some = 0, -1 // at most three quarters: the largest block has half of all
	for _, form := range []struct {
		name   string
		part   string // what is set aside; "" for nothing
		lost   int    // points at the most; none, or some: not all
		damage func(*testing.T, string)
	}{
		{"nothing", "", none, func(*testing.T, string) {}},
		{"log torn", partLog, some, file("wal/0*", torn)},
		{"log: last byte torn", partLog, some, file("wal/0*", func(b []byte) []byte {
			b = bytes.TrimRight(b, "\x00") // which are no record's
			return b[:len(b)-1]
		})},
		{"log flipped in front", partLog, some, file("wal/0*", flipped(0.001))},
		{"log flipped inside", partLog, some, file("wal/0*", flipped(0.5))},
		{"log is garbage", partLog, some, file("wal/0*", garbage)},
		{"log: zeros at the end", "", none, file("wal/0*", func(b []byte) []byte { return append(b, make([]byte, 5000)...) })},
		{"log: segment missing", partLog, some, remove("wal/0*")},
		{"log: strange numbers", partLog, none, func(t *testing.T, dir string) {
			for _, name := range []string{"wal/99999999", "wal/7", "wal/-1"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(filepath.Join(dir, "wal", "00000077", "x"), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"log is a file", partLog, some, func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "wal"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"log: folder missing", partLog, some, func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
				t.Fatal(err)
			}
		}},
		{"checkpoint flipped", partLog, some, file("wal/checkpoint.*/0*", flipped(0.5))},
		{"checkpoint is garbage", partLog, some, file("wal/checkpoint.*/0*", garbage)},
		{"checkpoint missing", partLog, some, remove("wal/checkpoint.*")},
		{"late log torn", partLateLog, some, file("wbl/0*", torn)},
		{"late log flipped", partLateLog, some, file("wbl/0*", flipped(0.5))},
		{"late log is garbage", partLateLog, some, file("wbl/0*", garbage)},
		{"late log missing", "", some, remove("wbl")},
		{"chunks torn", partChunks, none, file("chunks_head/*", func(b []byte) []byte {
			b = bytes.TrimRight(b, "\x00")
			return b[:len(b)-2]
		})},
		{"chunks flipped", partChunks, none, file("chunks_head/*", flipped(0.1))},
		{"chunks flipped in front", partChunks, none, file("chunks_head/*", flipped(0))},
		{"chunks are garbage", partChunks, none, file("chunks_head/*", garbage)},
		{"chunks missing", "", none, remove("chunks_head")},
		{"chunks: a gap", partChunks, none, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "chunks_head", "000099"), garbage(make([]byte, 100)), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"block: meta.json missing", partBlock, some, remove("0*/meta.json")},
		{"block: meta.json is garbage", partBlock, some, file("0*/meta.json", garbage)},
		{"block: meta.json of the future", partFuture, some, file("0*/meta.json", func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"maxTime": 1`), []byte(`"maxTime": 91`), 1)
		})},
		{"block: index torn", partBlock, some, file("0*/index", torn)},
		{"block: index flipped", partBlock, some, file("0*/index", flipped(0.5))},
		{"block: index missing", partBlock, some, remove("0*/index")},
		{"block: chunks torn", partBlock, some, file("0*/chunks/*", torn)},
		{"block: chunks flipped", partBlock, some, file("0*/chunks/*", flipped(0.5))},
		{"block: chunks are garbage", partBlock, some, file("0*/chunks/*", garbage)},
		{"block: chunks missing", partBlock, some, remove("0*/chunks/*")},
		{"strangers", "", none, func(t *testing.T, dir string) {
			for _, name := range []string{"x", "01ARZ3", "wal/x", "wbl/y", "chunks_head/z.tmp"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(form.name, func(t *testing.T) {
			dir := copyOf(t, whole)
			form.damage(t, dir)
			p := begin(t, dir, Options{})
			var damaged *blockError
			if err := scrub(context.Background(), dir, 0); errors.As(err, &damaged) {
				if err := p.open(p.base.detach("test"), damaged); err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			aside, _ := filepath.Glob(filepath.Join(dir, asideFolder, "*"))
			said := strings.Count(p.log.String(), "level=ERROR")
			part := form.part
			if strings.Contains(form.name, "index flipped") && len(aside) == 0 {
				part = "" // between two lists, where nothing stands
			}
			switch part {
			case "":
				if len(aside) > 0 || said > 0 {
					t.Errorf("set aside: %v\n%s", aside, p.log)
				}
			default:
				missing := strings.Contains(form.name, "missing") && form.part == partLog
				if p.damages(form.part) == 0 || len(aside) == 0 && !missing || said == 0 || said > 8 {
					t.Errorf("%d %ss are counted, %d parts are aside, %d errors logged\n%s", p.damages(form.part), form.part, len(aside), said, p.log)
				}
			}
			got := p.all()
			lost := written.lost(t, got)
			t.Logf("%d of %d points lost", lost, all)
			if form.lost == none && lost > 0 || lost > all*3/4 {
				t.Errorf("%d of %d points are lost", lost, all)
			}
			// It goes on, with old and new series, and the next start has all.
			more := lines(60, time.Now().Truncate(time.Second).Add(-5*time.Second), time.Now(), time.Second)
			p.push(more)
			got.add(more)
			if n := got.lost(t, p.all()); n > 0 {
				t.Errorf("%d points are missing after more was written", n)
			}
			for again := range 2 {
				p.stop()
				p = begin(t, dir, Options{})
				if n := got.lost(t, p.all()); n > 0 {
					t.Errorf("%d points are missing after start %d behind the damage\n%s", n, again+1, p.log)
				}
			}
			p.compact()
			if n := got.lost(t, p.all()); n > 0 {
				t.Errorf("%d points are missing after compaction", n)
			}
			if strings.Contains(p.log.String(), "level=ERROR") {
				t.Errorf("the next start has something to say:\n%s", p.log)
			}
		})
	}
}

// TestOldLog: a log of which the database has removed thousands of segments goes
// on without its checkpoint, and without thousands of files and lines.
func TestOldLog(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	written := points{}
	batch := lines(3, now.Add(-time.Minute), now, time.Second)
	written.add(batch)
	p.push(batch)
	p.stop()
	const first = 5000
	for i, file := range glob(t, p.Path, "wal/0*") {
		if err := os.Rename(file, filepath.Join(p.Path, "wal", fmt.Sprintf("%08d", first+i))); err != nil {
			t.Fatal(err)
		}
	}
	p = begin(t, p.Path, Options{})
	if n := written.lost(t, p.all()); n > 0 {
		t.Errorf("%d points are missing\n%s", n, p.log)
	}
	files, said := glob(t, p.Path, "wal/*"), strings.Count(p.log.String(), "level=ERROR")
	if len(files) > 10 || said != 1 || p.damages(partLog) != 1 {
		t.Errorf("%d files are in the log, %d errors logged, %d damages counted; want a few, 1 and 1", len(files), said, p.damages(partLog))
	}
	more := lines(6, now, now.Add(time.Second), time.Second)
	written.add(more)
	p.push(more)
	p.stop()
	p = begin(t, p.Path, Options{})
	if n := written.lost(t, p.all()); n > 0 || strings.Contains(p.log.String(), "level=ERROR") {
		t.Errorf("after the next start %d points are missing\n%s", n, p.log)
	}
}

// TestDoubt: a query that meets damage has the blocks looked at, and one that
// is wrong by itself has not, whatever words it is made of.
func TestDoubt(t *testing.T) {
	whole := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(2 * time.Hour)
	for at := now.Add(-6 * time.Hour); at.Before(now); at = at.Add(10 * time.Minute) {
		whole.push(lines(30, at, at.Add(time.Second), time.Second))
	}
	whole.compact()
	whole.stop()
	chunk := func(t *testing.T, dir string) { change(t, largest(t, dir, "0*/chunks/0*"), flipped(0.5)) }
	series := func(t *testing.T, dir string) {
		for _, file := range glob(t, dir, "0*/index") {
			change(t, file, func(b []byte) []byte {
				at := binary.BigEndian.Uint64(b[len(b)-44:]) // where the series begin: the second of the six words at the end
				b[at+20] ^= 1
				return b
			})
		}
	}
	selector := url.Values{"query": {`sum(sum_over_time(testbed_guest_test[12h]))`}, "match[]": {"testbed_guest_test"}}
	for _, form := range []struct {
		name, path string
		damage     func(*testing.T, string)
		form       url.Values
		code       int
		doubt      bool
	}{
		{"nothing", "query", nil, selector, 200, false},
		{"a chunk", "query", chunk, selector, 422, true},
		{"series", "query", series, selector, 422, true},
		{"series, listed", "series", series, selector, 422, true},
		{"pattern", "query", nil, url.Values{"query": {`label_replace(testbed_guest_test, "a", "$1", "b", "chunk(")`}}, 422, false},
		{"label", "query", nil, url.Values{"query": {`label_replace(vector(1), "n", "checksum", "", "") + on(n) (label_replace(vector(1), "n", "checksum", "", "") or label_replace(label_replace(vector(1), "n", "checksum", "", ""), "m", "chunk", "", ""))`}}, 422, false},
		{"name", "query", nil, url.Values{"query": {`label_replace(vector(1), "invalid size\xff", "", "", "")`}}, 422, false},
	} {
		t.Run(form.name, func(t *testing.T) {
			dir := copyOf(t, whole.Path)
			if form.damage != nil {
				form.damage(t, dir)
			}
			p := begin(t, dir, Options{})
			resp, err := http.PostForm(p.serve()+"/api/v1/"+form.path, form.form)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != form.code || p.doubt.Load() != form.doubt {
				t.Errorf("%d, doubt %t: %s; want %d and %t", resp.StatusCode, p.doubt.Load(), text, form.code, form.doubt)
			}
		})
	}
}
