package spool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const childVariable = "FANIN_SPOOL_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// memoryDir is a folder on a file system that needs no disk, where thousands
// of spools open and close in seconds.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "fanin-spool-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// tiny makes a spool of n records in segments of two or three, acknowledges
// some and closes it. It returns which records each file holds.
func tiny(t testing.TB, dir string, n, acknowledged int) (id spoolID, in map[string][]int) {
	t.Helper()
	s := open(t, Options{Dir: dir})
	s.segmentSize = 360
	fill(t, s, 0, n)
	s.Ack(uint64(acknowledged))
	closeSpool(t, s)
	return s.id, contents(t, dir, s.id)
}

// tinyKilled is the same as kill -9 leaves it: the last segment has its zeros,
// and nobody knows what was acknowledged and which record was the last.
func tinyKilled(t testing.TB, dir string, n int) (id spoolID, in map[string][]int) {
	t.Helper()
	s := open(t, Options{Dir: dir})
	s.segmentSize = 440
	fill(t, s, 0, n)
	s.Ack(1)
	s.kill()
	f := files(t, dir)
	if b := read(t, f[len(f)-1]); len(b) != 440 || used(b, scan(b, s.id)) > 400 {
		t.Fatalf("the last segment has %d bytes of %d, want zeros at its end", used(b, nil), len(b))
	}
	return s.id, contents(t, dir, s.id)
}

// contents are the records in each file.
func contents(t testing.TB, dir string, id spoolID) map[string][]int {
	t.Helper()
	in := make(map[string][]int)
	for _, path := range files(t, dir) {
		for _, one := range scan(read(t, path), id) {
			in[filepath.Base(path)] = append(in[filepath.Base(path)], int(one.number)-1)
		}
	}
	if len(in) < 3 {
		t.Fatalf("%d segments, want more: %v", len(in), in)
	}
	return in
}

// reopened checks what is left of a spool of n records that was harmed: these
// survivors, in order, and every other sample counted, by the first Open only.
// New records go behind them.
func reopened(t testing.TB, dir, what string, survivors []int, lost uint64, n int) {
	t.Helper()
	var left uint64
	for _, i := range survivors {
		left += uint64(samples(i))
	}
	s := open(t, Options{Dir: dir})
	balance(t, s.Ledger())
	if l := s.Ledger(); l.Dropped[Damaged] != lost || l.Pending != left {
		t.Fatalf("%s: %s; want %d damaged and %d pending", what, account(l), lost, left)
	}
	if got := pending(t, s); !slices.Equal(got, survivors) {
		t.Fatalf("%s: pending %v, want %v", what, got, survivors)
	}
	fill(t, s, n, 1)
	closeSpool(t, s)
	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	if l := s.Ledger(); l.Dropped[Damaged] != 0 || l.Pending != left+uint64(samples(n)) {
		t.Fatalf("%s, second time: %s; want nothing counted again and %d pending", what, account(l), left+uint64(samples(n)))
	}
	if got := pending(t, s); !slices.Equal(got, append(slices.Clone(survivors), n)) {
		t.Fatalf("%s, second time: pending %v, want %v and %d", what, got, survivors, n)
	}
}

// without are the records from first to n less those that are gone, and the
// samples of these.
func without(first, n int, gone []int) (survivors []int, lost uint64) {
	for i := first; i < n; i++ {
		if slices.Contains(gone, i) {
			lost += uint64(samples(i))
		} else {
			survivors = append(survivors, i)
		}
	}
	return survivors, lost
}

const (
	tinyRecords = 12
	tinyAcked   = 1 // in the first segment, which stays
)

// TestCutAnywhere cuts each segment off at every byte.
func TestCutAnywhere(t *testing.T) {
	dir := memoryDir(t)
	cut := func(t *testing.T, whole string, id spoolID, in map[string][]int, first int, known bool) {
		harmed := filepath.Join(dir, "harmed")
		for name, inside := range in {
			b := read(t, filepath.Join(whole, name))
			for size := range b {
				var left []int
				for _, one := range scan(b, id) {
					if int(one.offset)+int(one.length) <= size {
						left = append(left, int(one.number)-1)
					}
				}
				gone := slices.DeleteFunc(slices.Clone(inside), func(i int) bool { return slices.Contains(left, i) })
				survivors, lost := without(first, tinyRecords, gone)
				if !known && inside[len(inside)-1] == tinyRecords-1 {
					lost = 0 // at the very end nothing tells that there was more
				}
				copyDir(t, whole, harmed)
				if err := os.Truncate(filepath.Join(harmed, name), int64(size)); err != nil {
					t.Fatal(err)
				}
				reopened(t, harmed, fmt.Sprintf("%s cut off at %d", name, size), survivors, lost, tinyRecords)
			}
		}
	}
	t.Run("closed", func(t *testing.T) {
		whole := filepath.Join(dir, "closed")
		id, in := tiny(t, whole, tinyRecords, tinyAcked)
		cut(t, whole, id, in, tinyAcked, true)
	})
	t.Run("killed", func(t *testing.T) {
		whole := filepath.Join(dir, "killed")
		id, in := tinyKilled(t, whole, tinyRecords)
		cut(t, whole, id, in, 0, false)
	})
}

// TestFlipAnywhere changes every byte of every file, one at a time. Only a
// changed body is a loss.
func TestFlipAnywhere(t *testing.T) {
	dir := memoryDir(t)
	harmed := filepath.Join(dir, "harmed")
	flip := func(t *testing.T, whole string, id spoolID, in map[string][]int, first int) {
		for name := range in {
			b := read(t, filepath.Join(whole, name))
			for at := range b {
				var gone []int
				for _, one := range scan(b, id) {
					if body := int(one.offset); at >= body && at < body+int(one.length) {
						gone = append(gone, int(one.number)-1)
					}
				}
				survivors, lost := without(first, tinyRecords, gone)
				copyDir(t, whole, harmed)
				changed := slices.Clone(b)
				changed[at] ^= byte(1 + at%255)
				write(t, filepath.Join(harmed, name), changed)
				reopened(t, harmed, fmt.Sprintf("%s changed at %d", name, at), survivors, lost, tinyRecords)
			}
		}
	}
	t.Run("closed", func(t *testing.T) {
		whole := filepath.Join(dir, "closed")
		id, in := tiny(t, whole, tinyRecords, tinyAcked)
		flip(t, whole, id, in, tinyAcked)
	})
	t.Run("killed", func(t *testing.T) {
		whole := filepath.Join(dir, "killed")
		id, in := tinyKilled(t, whole, tinyRecords)
		flip(t, whole, id, in, 0)
	})
	// The position of a spool that has removed segments: they must not look lost.
	const acked = 5
	whole := filepath.Join(dir, "begun")
	tiny(t, whole, tinyRecords, acked)
	b := read(t, filepath.Join(whole, positionName))
	survivors, _ := without(acked, tinyRecords, nil)
	for at := 0; at < len(b); at++ {
		if at%slotSize == slotHead+64 {
			at += slotSize - slotHead - 100 // nothing but zeros
		}
		copyDir(t, whole, harmed)
		changed := slices.Clone(b)
		changed[at] ^= 0x10
		write(t, filepath.Join(harmed, positionName), changed)
		reopened(t, harmed, fmt.Sprintf("position changed at %d", at), survivors, 0, tinyRecords)
	}
}

// TestMissingSegments deletes every set of segments.
func TestMissingSegments(t *testing.T) {
	dir := memoryDir(t)
	whole, harmed := filepath.Join(dir, "whole"), filepath.Join(dir, "harmed")
	_, in := tiny(t, whole, tinyRecords, tinyAcked)
	var names []string
	for name := range in {
		names = append(names, name)
	}
	for set := range 1 << len(names) {
		copyDir(t, whole, harmed)
		var gone []int
		for i, name := range names {
			if set>>i&1 == 1 {
				gone = append(gone, in[name]...)
				if err := os.Remove(filepath.Join(harmed, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		survivors, lost := without(tinyAcked, tinyRecords, gone)
		reopened(t, harmed, fmt.Sprintf("without %v", gone), survivors, lost, tinyRecords)
	}
}

// TestTornTail: what a kill in the middle of a write leaves is no loss, at
// whatever byte, and what was committed before is there. The rest of the file
// is zero, or it ends there: then there was no room for zeros.
func TestTornTail(t *testing.T) {
	dir := memoryDir(t)
	live, torn := filepath.Join(dir, "live"), filepath.Join(dir, "torn")
	s := open(t, small(live))
	defer s.Close()
	fill(t, s, 0, 3)
	path := filepath.Base(files(t, live)[0])
	before := int(s.disk.end)
	fill(t, s, 3, 1)
	b := read(t, filepath.Join(live, path))
	after := int(s.disk.end)
	if len(b) != int(s.segmentSize) {
		t.Fatalf("the segment has %d bytes, want it to have all %d from the start", len(b), s.segmentSize)
	}
	for size := before; size < after; size++ {
		survivors := numbers(0, 3)
		if size >= before+frameSize+len(body(3)) {
			survivors = numbers(0, 4)
		}
		for rest, zeros := range map[string]int{"nothing": 0, "zeros": len(b) - size} {
			copyDir(t, live, torn)
			write(t, filepath.Join(torn, path), append(slices.Clone(b[:size]), make([]byte, zeros)...))
			reopened(t, torn, fmt.Sprintf("torn after %d of %d bytes, then %s", size-before, after-before, rest), survivors, 0, 10)
		}
	}
}

// TestTornPages: when the power goes, any of a record's pages may have been
// written. What was committed before is there; the record is there if its body
// and one of its frames are.
func TestTornPages(t *testing.T) {
	const page = 4096
	dir := memoryDir(t)
	live, torn := filepath.Join(dir, "live"), filepath.Join(dir, "torn")
	s := open(t, Options{Dir: live})
	defer s.Close()
	fill(t, s, 0, 3)
	before := int(s.disk.end)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	if _, err := s.Append(big, 7); err != nil {
		t.Fatal(err)
	}
	path := filepath.Base(files(t, live)[0])
	b := read(t, filepath.Join(live, path))
	pages := (int(s.disk.end)-1)/page - before/page + 1
	if pages < 4 {
		t.Fatalf("the record lies on %d pages, want more", pages)
	}
	for set := range 1 << pages {
		harmed := slices.Clone(b)
		for i := range pages {
			if set>>i&1 == 1 {
				continue
			}
			from := (before/page + i) * page
			clear(harmed[max(from, before):min(from+page, len(b))])
		}
		copyDir(t, live, torn)
		write(t, filepath.Join(torn, path), harmed)
		again := open(t, Options{Dir: torn})
		balance(t, again.Ledger())
		l := again.Ledger()
		want := sum(0, 3)
		same := func(from, n int) bool { return bytes.Equal(harmed[from:from+n], b[from:from+n]) }
		if same(before+frameSize, len(big)) && (same(before, frameSize) || same(before+frameSize+len(big), frameSize)) {
			want += 7
		}
		if l.Pending != want || l.Dropped[Damaged] != 0 && l.Dropped[Damaged] != 7 {
			t.Errorf("pages %b: %s, want %d pending", set, account(l), want)
		}
		for i := range 3 {
			r, err := again.Next(t.Context(), uint64(i))
			if err != nil || !bytes.Equal(r.Body, body(i)) {
				t.Errorf("pages %b: record %d is %q, %v", set, i, r.Body, err)
			}
		}
		closeSpool(t, again)
	}
}

// child appends and acknowledges until it is killed, and says what it did
// after it is done.
func child(dir string) {
	fail := func(err error) {
		fmt.Println("error", err)
		os.Exit(1)
	}
	s, err := Open(Options{Dir: dir})
	if err != nil {
		fail(err)
	}
	next, err := strconv.Atoi(os.Getenv(childVariable + "_NEXT"))
	if err != nil {
		fail(err)
	}
	for i := next; ; i++ {
		if _, err := s.Append(body(i), samples(i)); err != nil {
			fail(err)
		}
		fmt.Println("appended", i)
		if i%3 != 0 {
			continue
		}
		r, err := s.Next(context.Background(), 0)
		if err != nil {
			fail(err)
		}
		var taken int
		if _, err := fmt.Sscanf(string(r.Body), "record %d", &taken); err != nil {
			fail(err)
		}
		s.Ack(r.Number)
		fmt.Println("acknowledged", taken)
	}
}

// TestKilled: kill -9 of a process that appends and acknowledges, again and
// again. Everything that was committed and not acknowledged is found. What was
// acknowledged lately may be found again.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	next, first := 0, 0     // the next record to append; the oldest not acknowledged
	begin, repeated := 0, 0 // the oldest when the process began
	for round := range 15 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), childVariable+"="+dir, childVariable+"_NEXT="+strconv.Itoa(next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := 20 + rand.IntN(100)
		said := bufio.NewScanner(out)
		for n := 0; said.Scan(); n++ {
			what, number, _ := strings.Cut(said.Text(), " ")
			i, err := strconv.Atoi(number)
			if err != nil {
				t.Fatalf("the child says %q", said.Text())
			}
			if what == "appended" {
				next = i + 1
			} else {
				first = i + 1
			}
			if n == stop {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		s := open(t, Options{Dir: dir})
		balance(t, s.Ledger())
		if l := s.Ledger(); l.Dropped[Damaged] != 0 || l.Dropped[Disk] != 0 {
			t.Errorf("round %d: %s, want no loss", round, account(l))
		}
		got := pending(t, s)
		// The last append and the last acknowledgement may have happened
		// without being said.
		ok := slices.Equal(got, numbers(got[0], got[0]+len(got))) &&
			got[0] >= begin && got[0] <= first+1 && (got[len(got)-1] == next-1 || got[len(got)-1] == next)
		if !ok {
			t.Fatalf("round %d: pending %v, want %d, or from %d on, to %d", round, got, first, begin, next-1)
		}
		repeated += max(first-got[0], 0)
		first, begin, next = got[0], got[0], got[len(got)-1]+1
		closeSpool(t, s)
	}
	if next < 300 {
		t.Errorf("only %d records in all", next)
	}
	t.Logf("%d records, %d of them found again", next, repeated)
}

// kill leaves a spool as the end of its process does.
func (s *Spool) kill() {
	s.io.Lock()
	defer s.io.Unlock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.unmount()
	s.disk.read.Lock()
	defer s.disk.read.Unlock()
	s.closeRead()
}

// TestModel does anything in any order; a slice does the same.
func TestModel(t *testing.T) {
	root := memoryDir(t)
	type one struct {
		number         uint64
		body           string
		samples, total int
	}
	var runs int
	rapid.Check(t, func(t *rapid.T) {
		runs++
		o := Options{Dir: filepath.Join(root, strconv.Itoa(runs)), MaxBytes: 1 << 20}
		if rapid.Bool().Draw(t, "lazy") {
			o.Sync = time.Hour
		}
		reopen := func() *Spool {
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			s.segmentSize = 1000
			return s
		}
		s := reopen()
		defer func() { s.kill() }()
		var model, dropped, acked []one
		var last uint64
		pick := func(t *rapid.T) uint64 {
			if len(model) == 0 {
				return 7
			}
			return model[rapid.IntRange(0, len(model)-1).Draw(t, "which")].number
		}
		list := func() (got []one) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			for after := uint64(0); ; {
				r, err := s.Next(ctx, after)
				if err != nil {
					return got
				}
				after = r.Number
				got = append(got, one{r.Number, string(r.Body), r.Samples, r.total})
			}
		}
		// Those that are done with may be there again, as long as their file is.
		restarted := func(again ...one) {
			got := list()
			same := slices.DeleteFunc(slices.Clone(got), func(r one) bool {
				with := func(d one) bool { return d.number == r.number && d.body == r.body && d.total == r.total }
				return slices.ContainsFunc(again, with) && !slices.ContainsFunc(model, with)
			})
			for i := range model {
				model[i].samples = model[i].total
			}
			if !slices.Equal(same, model) {
				t.Fatalf("after a restart %v\nwant %v", same, model)
			}
			model = got
			if l := s.Ledger(); l.Dropped[Damaged] != 0 {
				t.Fatalf("after a restart: %s", account(l))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				b := bytes.Repeat([]byte{byte(len(model))}, rapid.IntRange(0, 600).Draw(t, "size"))
				n := rapid.IntRange(0, 9).Draw(t, "samples")
				number, err := s.Append(b, n)
				if err != nil || number <= last {
					t.Fatalf("Append: %d after %d, %v", number, last, err)
				}
				last = number
				model = append(model, one{number, string(b), n, n})
			},
			"next": func(t *rapid.T) {
				if len(model) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(model)-1).Draw(t, "which")
				r, err := s.Next(context.Background(), model[i].number-1)
				if err != nil || string(r.Body) != model[i].body || r.Number != model[i].number {
					t.Fatalf("Next: %d, %v; want %d", r.Number, err, model[i].number)
				}
			},
			"ack": func(t *rapid.T) {
				number := pick(t)
				s.Ack(number)
				model = slices.DeleteFunc(model, func(r one) bool {
					if r.number <= number {
						acked = append(acked, r)
					}
					return r.number <= number
				})
			},
			"drop": func(t *rapid.T) {
				number := pick(t)
				s.Drop(number, Rejected)
				model = slices.DeleteFunc(model, func(r one) bool {
					if r.number == number {
						dropped = append(dropped, r)
					}
					return r.number == number
				})
			},
			"refuse": func(t *rapid.T) {
				number, n := pick(t), rapid.IntRange(0, 9).Draw(t, "samples")
				s.Refuse(number, "no", n)
				for i := range model {
					if model[i].number == number {
						model[i].samples -= min(n, model[i].samples)
					}
				}
			},
			"reopen": func(*rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = reopen()
				restarted(dropped...)
			},
			"kill": func(*rapid.T) {
				s.kill()
				s = reopen()
				restarted(slices.Concat(dropped, acked)...)
			},
			"": func(t *rapid.T) {
				l := s.Ledger()
				balance(t, l)
				var waiting uint64
				for _, r := range model {
					waiting += uint64(r.samples)
				}
				if l.Records != len(model) || l.Pending != waiting || l.Memory != 0 {
					t.Errorf("%d samples in %d records, %d bytes in memory; want %d in %d", l.Pending, l.Records, l.Memory, waiting, len(model))
				}
				if got := list(); !slices.Equal(got, model) {
					t.Errorf("pending %v\nwant %v", got, model)
				}
			},
		})
		if err := os.RemoveAll(o.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
}

func FuzzScan(f *testing.F) {
	id := spoolID{1, 2, 3}
	b := appendHead(nil, id)
	for i := range 4 {
		text := body(i)
		b = appendRecord(b, id, frame{number: uint64(i + 1), samples: 3, before: uint64(i * 3), length: uint32(len(text)), crc: checksum(text)}, text)
	}
	f.Add(b)
	f.Add(b[:len(b)-50])
	f.Add(b[headSize+5:])
	f.Add(append(slices.Clone(b), b...))
	f.Add([]byte("\xf5REC\xf6REC"))
	f.Fuzz(func(t *testing.T, b []byte) {
		last := uint64(0)
		for _, one := range scan(b, id) {
			if one.number <= last {
				t.Errorf("record %d after %d", one.number, last)
			}
			last = one.number
			end := one.offset + int64(one.length)
			if one.intact && (one.offset < 0 || end > int64(len(b)) || checksum(b[one.offset:end]) != one.crc) {
				t.Errorf("record %d at %d to %d of %d is not intact", one.number, one.offset, end, len(b))
			}
		}
	})
}

func FuzzPosition(f *testing.F) {
	p := position{id: spoolID{7}, turn: 1, head: 5, gaps: map[uint64]uint64{4: 2}}
	f.Add(p.slot())
	f.Add(append(p.slot(), p.slot()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parsePosition(b); ok {
			if again, ok := parsePosition(p.slot()); !ok || again.turn != p.turn || len(again.gaps) != len(p.gaps) {
				t.Errorf("%+v becomes %+v, %v", p, again, ok)
			}
		}
	})
}

// TestPositionSlots: the process is killed after segments were removed, and
// one slot of the position is damaged, whichever.
func TestPositionSlots(t *testing.T) {
	dir := memoryDir(t)
	live, harmed := filepath.Join(dir, "live"), filepath.Join(dir, "harmed")
	s := open(t, Options{Dir: live})
	defer s.Close()
	s.segmentSize = 360
	fill(t, s, 0, tinyRecords)
	s.Ack(5)
	for slot := range 2 {
		copyDir(t, live, harmed)
		path := filepath.Join(harmed, positionName)
		b := read(t, path)
		b[slot*slotSize+40] ^= 1
		write(t, path, b)
		survivors, _ := without(5, tinyRecords, nil)
		reopened(t, harmed, fmt.Sprintf("slot %d", slot), survivors, 0, tinyRecords)
	}
}
