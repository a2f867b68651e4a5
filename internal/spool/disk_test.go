package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// text is a log that can be read while it is written.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func logTo(l *text) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// body is what record i holds in these tests, and samples how many.
func body(i int) []byte { return []byte(fmt.Sprintf("record %d %s", i, strings.Repeat("x", i%50))) }

func samples(i int) int { return i + 1 }

func sum(from, n int) (s uint64) {
	for i := from; i < from+n; i++ {
		s += uint64(samples(i))
	}
	return s
}

func closeSpool(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// fill appends n records from the one with index from on.
func fill(t testing.TB, s *Spool, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if _, err := s.Append(body(i), samples(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// pending are the indexes of all pending records, in order. It checks that
// each is what was appended.
func pending(t testing.TB, s *Spool) (all []int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // Next returns what is there and never waits
	var last uint64
	for {
		r, err := s.Next(ctx, last)
		if err != nil {
			return all
		}
		if r.Number <= last {
			t.Fatalf("record %d after %d", r.Number, last)
		}
		last = r.Number
		var i int
		if _, err := fmt.Sscanf(string(r.Body), "record %d", &i); err != nil || !bytes.Equal(r.Body, body(i)) {
			t.Fatalf("record %d has %q", r.Number, r.Body)
		}
		if r.Samples != samples(i) {
			t.Errorf("record %q has %d samples, want %d", r.Body, r.Samples, samples(i))
		}
		all = append(all, i)
	}
}

func numbers(from, to int) (all []int) {
	for i := from; i < to; i++ {
		all = append(all, i)
	}
	return all
}

// files are a directory's segments.
func files(t testing.TB, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// copyDir copies a spool's files, so that it can be harmed.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// small has segments of 4 KiB.
func small(dir string) Options { return Options{Dir: dir, MaxBytes: 32 << 10} }

// TestRestart: what is pending is there again, in order, with the same numbers
// and the same id; what was delivered is not.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "spool")
	s := open(t, Options{Dir: dir})
	id := s.ID()
	fill(t, s, 0, 10)
	s.Refuse(5, "unknown", 2)
	s.Ack(4)
	want(t, s, "committed 55 delivered 10 dropped  refused unknown=2 pending 43")
	closeSpool(t, s)
	want(t, s, "committed 55 delivered 10 dropped  refused unknown=2 pending 43")

	s = open(t, Options{Dir: dir})
	if s.ID() != id || len(id) != 2*idLength {
		t.Errorf("id %q, want %q again", s.ID(), id)
	}
	want(t, s, "committed 45 delivered 0 dropped  refused  pending 45")
	if got := pending(t, s); !slices.Equal(got, numbers(4, 10)) {
		t.Errorf("pending %v, want 4 to 9", got)
	}
	if n, _ := s.Append(body(10), samples(10)); n != 11 {
		t.Errorf("the next number after a restart is %d, want 11", n)
	}
	s.Ack(11)
	closeSpool(t, s)
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("%v are left of a spool without records", left)
	}

	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	want(t, s, "committed 0 delivered 0 dropped  refused  pending 0")
	if n, _ := s.Append(body(11), samples(11)); n != 12 || s.ID() != id {
		t.Errorf("number %d of %s, want 12 of %s", n, s.ID(), id)
	}
}

// TestSegments: delivered segments go, and the directory stays within its
// bound.
func TestSegments(t *testing.T) {
	dir := t.TempDir()
	const limit = 64 << 10
	s := open(t, Options{Dir: dir, MaxBytes: limit})
	big := bytes.Repeat([]byte("y"), 1000)
	for i := range 500 {
		n, err := s.Append(big, 1)
		if err != nil {
			t.Fatal(err)
		}
		if i%200 < 50 {
			s.Ack(n - 3)
		}
		size := sizeOf(t, dir)
		s.mu.Lock()
		if s.onDisk != size || size > limit+3*s.segmentSize {
			t.Fatalf("%d bytes in files after %d records, the spool says %d, the bound is %d", size, i, s.onDisk, limit)
		}
		s.mu.Unlock()
	}
	f := files(t, dir)
	for i, path := range f {
		b := read(t, path)
		if zeros := int64(len(b)) - used(b, scan(b, s.id)); i < len(f)-1 && zeros > 0 {
			t.Errorf("a segment that is full ends with %d zeros", zeros)
		}
	}
	l := s.Ledger()
	balance(t, l)
	if l.Bytes > limit || l.Bytes < limit*8/10 || l.Dropped[Full] == 0 {
		t.Errorf("%d bytes pending of %d allowed; %s", l.Bytes, limit, account(l))
	}
	closeSpool(t, s)
	s = open(t, Options{Dir: dir, MaxBytes: limit})
	defer closeSpool(t, s)
	again := s.Ledger()
	if again.Records != l.Records || again.Pending != l.Pending || again.Dropped[Damaged] != 0 {
		t.Errorf("after a restart: %s in %d records, want %d in %d", account(again), again.Records, l.Pending, l.Records)
	}
}

// TestHollowSegments: of each segment one record stays. The files keep within
// their bound all the same.
func TestHollowSegments(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, MaxBytes: 64 << 10, Sync: time.Hour}
	s := open(t, o)
	defer closeSpool(t, s)
	big := bytes.Repeat([]byte("y"), 1000)
	largest := int64(0)
	for i := range 500 {
		n, err := s.Append(big, 1)
		if err != nil {
			t.Fatal(err)
		}
		if i%7 > 0 {
			s.Drop(n, Rejected)
		}
		largest = max(largest, sizeOf(t, dir))
	}
	limit := o.MaxBytes + 3*s.segmentSize
	if largest > limit || largest < limit-2*s.segmentSize {
		t.Errorf("the files took up to %d bytes, want almost the %d that are allowed", largest, limit)
	}
	balance(t, s.Ledger())
}

// TestAgeAcrossRestart: records grow old while nobody runs, and a clock that
// goes back does not make them live for ever.
func TestAgeAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	fill(t, s, 0, 3)
	closeSpool(t, s)
	path := files(t, dir)[0]
	all := scan(read(t, path), s.id)
	move := func(by time.Duration) {
		b := appendHead(nil, s.id)
		for i, one := range all {
			f := one.frame
			f.micros += int64(i-1) * by.Microseconds() // -1, 0, 1
			b = appendRecord(b, s.id, f, body(i))
		}
		write(t, path, b)
	}
	move(time.Hour)
	s = open(t, Options{Dir: dir, MaxAge: 30 * time.Minute})
	want(t, s, "committed 6 delivered 0 dropped too_old=1 refused  pending 5")
	if r, err := s.Next(t.Context(), 2); err != nil || time.Since(r.Appended) < 0 {
		t.Errorf("a record of the future is %s old, %v", time.Since(r.Appended), err)
	}
	closeSpool(t, s)
}

// TestLock: two can not have one directory, and the second one says who has it.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	fill(t, s, 0, 1)
	_, err := Open(Options{Dir: dir})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d)", os.Getpid())) {
		t.Errorf("second Open: %v, want one that names %s and process %d", err, dir, os.Getpid())
	}
	fill(t, s, 1, 1)
	closeSpool(t, s)
	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	if got := pending(t, s); !slices.Equal(got, numbers(0, 2)) {
		t.Errorf("pending %v, want both", got)
	}
}

// TestNumbersOnce: a number is never given twice, though the last records and the
// knowledge about them are gone.
func TestNumbersOnce(t *testing.T) {
	for name, harm := range map[string]func(dir string){
		"killed": func(string) {},
		"last segment gone": func(dir string) {
			f := files(t, dir)
			_ = os.Remove(f[len(f)-1])
		},
		"position gone": func(dir string) { _ = os.Remove(filepath.Join(dir, positionName)) },
		"both": func(dir string) {
			f := files(t, dir)
			_ = os.Remove(f[len(f)-1])
			_ = os.Remove(filepath.Join(dir, positionName))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, small(dir))
			defer s.Close()
			fill(t, s, 0, 100)
			killed := filepath.Join(t.TempDir(), "killed")
			copyDir(t, dir, killed)
			harm(killed)
			again := open(t, small(killed))
			defer closeSpool(t, again)
			if again.ID() != s.ID() {
				t.Errorf("id %s, want %s", again.ID(), s.ID())
			}
			if n, err := again.Append(body(0), 1); n <= 100 || err != nil {
				t.Errorf("number %d, %v; want one that was not used", n, err)
			}
		})
	}
}

// TestReopenOften: a thousand lives, some of them ended by force, after which
// what was acknowledged in that life may be there again.
func TestReopenOften(t *testing.T) {
	dir := t.TempDir()
	first, next := 0, 0
	begin := 0 // first at the beginning of this life; it is exact after a Close
	for life := range 1000 {
		s := open(t, Options{Dir: dir, MaxBytes: 1 << 20, Sync: time.Hour}) // the page cache will do
		balance(t, s.Ledger())
		if again := next - s.Ledger().Records; again >= begin && again <= first {
			first = again
		}
		begin = first
		if l := s.Ledger(); l.Pending != sum(first, next-first) || l.Dropped[Damaged] != 0 {
			t.Fatalf("life %d: %s, want %d pending", life, account(l), sum(first, next-first))
		}
		if life%100 == 0 {
			if got := pending(t, s); !slices.Equal(got, numbers(first, next)) {
				t.Fatalf("life %d: %v, want %d to %d", life, got, first, next)
			}
		}
		fill(t, s, next, life%4)
		next += life % 4
		if n := life % 3; next-first > n {
			for range n {
				r, err := s.Next(t.Context(), 0)
				if err != nil {
					t.Fatal(err)
				}
				s.Ack(r.Number)
				first++
			}
		}
		if life%5 == 0 { // as kill -9 leaves it
			s.kill()
			continue
		}
		closeSpool(t, s)
		begin = first
	}
}

// TestKilledOften: the zeros at the end of a segment are given back after a
// kill, or a hundred of them would fill the spool with nothing.
func TestKilledOften(t *testing.T) {
	dir := t.TempDir()
	o := Options{Dir: dir, MaxBytes: 64 << 10, Sync: time.Hour}
	for life := range 100 {
		s := open(t, o)
		fill(t, s, life, 1)
		s.mu.Lock()
		size, onDisk, limit := sizeOf(t, dir), s.onDisk, s.segmentSize
		s.mu.Unlock()
		if onDisk != size || size > 2*limit+int64(life)*300 {
			t.Fatalf("life %d: %d bytes in files, the spool says %d", life, size, onDisk)
		}
		s.kill()
	}
	s := open(t, o)
	defer closeSpool(t, s)
	if got := pending(t, s); !slices.Equal(got, numbers(0, 100)) {
		t.Errorf("pending %v, want all 100", got)
	}
}

// TestZeroAtTheEnd: the last byte of a record may be zero, and is no part of
// the zeros behind it.
func TestZeroAtTheEnd(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	closeSpool(t, s)
	b := appendHead(nil, s.id)
	for micros := time.Now().UnixMicro(); ; micros++ {
		f := frame{number: 1, samples: 5, length: 3, micros: micros, crc: checksum([]byte("abc"))}
		if whole := appendRecord(b, s.id, f, []byte("abc")); whole[len(whole)-1] == 0 {
			b = whole
			break
		}
	}
	path := filepath.Join(dir, fmt.Sprintf("%020d.spool", 1))
	write(t, path, append(slices.Clone(b), make([]byte, 1000)...))
	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	if got := read(t, path); !bytes.Equal(got, b) {
		t.Errorf("%d bytes are left of the file, want the %d of the head and the record", len(got), len(b))
	}
	want(t, s, "committed 5 delivered 0 dropped  refused  pending 5")
}

// TestPositionSometimes: it is not written for every acknowledgement.
func TestPositionSometimes(t *testing.T) {
	s := open(t, Options{Dir: t.TempDir()})
	defer closeSpool(t, s)
	fill(t, s, 0, 101)
	before := s.disk.place.turn
	for n := range 100 {
		s.Ack(uint64(n + 1))
	}
	if n := s.disk.place.turn - before; n > 1 {
		t.Errorf("the position was written %d times for a hundred acknowledgements", n)
	}
	s.disk.place.at = time.Now().Add(-positionEvery)
	before = s.disk.place.turn
	s.Ack(101)
	if s.disk.place.turn != before+1 {
		t.Errorf("the position was not written when it was %s old", positionEvery)
	}
}

// sizeOf is what a directory's segments take up.
// TestDroppedNeighbours drops records of two segments in the middle of the
// queue, of which one is removed and the other is found again: no sample is
// counted a second time, as damage.
func TestDroppedNeighbours(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxBytes: 1 << 20}
	s := open(t, o)
	s.segmentSize = 440
	big := strings.Repeat("x", 300)
	for _, text := range []string{big, big, "", "", ""} { // the second one is alone in its segment
		add(t, s, text, 1)
	}
	for _, number := range []uint64{2, 3, 4} {
		s.Drop(number, Rejected)
	}
	closeSpool(t, s)
	again := open(t, o)
	defer closeSpool(t, again)
	balance(t, again.Ledger())
	if l := again.Ledger(); l.Dropped[Damaged] != 0 || l.Pending < 2 {
		t.Errorf("after a restart: %s; want 1 and 5 pending, and no damage", account(l))
	}
}

// TestManyDropped drops more records behind one that waits than there is room to
// note: those of one segment are one gap.
func TestManyDropped(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxBytes: 64 << 20, Sync: time.Hour}
	s := open(t, o)
	add(t, s, "waits", 1)
	for range 40 * maxGaps { // some of their segments are removed meanwhile
		s.Drop(add(t, s, strings.Repeat("x", 500), 1), Rejected)
	}
	if n := len(s.gaps); n > 10 {
		t.Errorf("%d gaps", n)
	}
	add(t, s, "waits too", 1)
	closeSpool(t, s)
	again := open(t, o)
	defer closeSpool(t, again)
	balance(t, again.Ledger())
	if l := again.Ledger(); l.Dropped[Damaged] != 0 || l.Pending < 2 {
		t.Errorf("after a restart: %s; want the two pending, and no damage", account(l))
	}
}

func sizeOf(t testing.TB, dir string) (size int64) {
	t.Helper()
	for _, f := range files(t, dir) {
		if info, err := os.Stat(f); err == nil {
			size += info.Size()
		}
	}
	return size
}

// TestLeftoverFiles: what is not ours is left alone and said once.
func TestLeftoverFiles(t *testing.T) {
	dir, strange := t.TempDir(), t.TempDir()
	s := open(t, small(dir))
	fill(t, s, 0, 100)
	closeSpool(t, s)
	other := open(t, small(strange))
	fill(t, other, 500, 3)
	closeSpool(t, other)

	keep := map[string][]byte{
		"notes.txt":                            []byte("mine"),
		files(t, dir)[0][len(dir)+1:] + ".bak": read(t, files(t, dir)[0]),
		"00000000000000000050-7.spool":         read(t, files(t, strange)[0]),         // another spool's
		"00000000000000000051.spool":           bytes.Repeat([]byte("\xf5REC"), 3000), // garbage
		"99999999999999999999.spool":           []byte("\x00"),
	}
	for name, b := range keep {
		write(t, filepath.Join(dir, name), b)
	}
	if err := os.Mkdir(filepath.Join(dir, "00000000000000000052.spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "00000000000000000053.spool")); err != nil {
		t.Fatal(err)
	}
	// A copy of what is there anyway, and empty files, are nobody's loss.
	// The copy is damaged, which does not matter either.
	copied := read(t, files(t, dir)[1])
	copied[headSize+frameSize+3] ^= 1
	write(t, filepath.Join(dir, "00000000000000000054.spool"), copied)
	write(t, filepath.Join(dir, "00000000000000000055.spool"), nil)
	write(t, filepath.Join(dir, "00000000000000000056.spool"), make([]byte, 4096)) // begun when the power went

	var log text
	o := small(dir)
	o.Log = logTo(&log)
	s = open(t, o)
	if got := pending(t, s); !slices.Equal(got, numbers(0, 100)) {
		t.Errorf("pending %v, want all 100 once and in order", got)
	}
	if l := s.Ledger(); l.Dropped[Damaged] != 0 || l.Pending != sum(0, 100) {
		t.Errorf("ledger: %s", account(l))
	}
	fill(t, s, 100, 100)
	s.Ack(1 << 62)
	closeSpool(t, s)
	for name, b := range keep {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s is gone or changed: %v", name, err)
		}
	}
	if left := files(t, dir); len(left) != 5 {
		t.Errorf("segments left: %v, want the five that are not ours", left)
	}
	if strings.Count(log.String(), "left alone") != 1 || !strings.Contains(log.String(), "count=7") || !strings.Contains(log.String(), "notes.txt") {
		t.Errorf("the log says\n%s\nwant the seven files once", log.String())
	}
}

// TestOddPosition: whatever lies where the position should, nothing is lost.
func TestOddPosition(t *testing.T) {
	for name, put := range map[string]func(path string){
		"none":      func(string) {},
		"empty":     func(path string) { write(t, path, nil) },
		"garbage":   func(path string) { write(t, path, bytes.Repeat([]byte("zz"), 9000)) },
		"directory": func(path string) { _ = os.Mkdir(path, 0o700) },
		"symlink":   func(path string) { _ = os.Symlink("/dev/zero", path) },
		"pipe":      func(path string) { _ = unix.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, small(dir))
			fill(t, s, 0, 10)
			s.Ack(3)
			closeSpool(t, s)
			path := filepath.Join(dir, positionName)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			put(path)
			again := open(t, small(dir))
			if got := pending(t, again); !slices.Equal(got, numbers(0, 10)) || again.ID() != s.ID() {
				t.Errorf("pending %v of %s; want all that is on disk, of %s", got, again.ID(), s.ID())
			}
			want(t, again, "committed 55 delivered 0 dropped  refused  pending 55")
			fill(t, again, 10, 3)
			_ = again.Close()
			again = open(t, small(dir))
			if got := pending(t, again); !slices.Equal(got, numbers(0, 13)) {
				t.Errorf("pending %v, want 0 to 12", got)
			}
			_ = again.Close()
		})
	}
}

// BenchmarkSteady is a tick's record, appended, read and acknowledged, on the
// disk below the temporary directory.
func BenchmarkSteady(b *testing.B) {
	for name, o := range map[string]Options{"memory": {}, "always": {Dir: b.TempDir()}, "1s": {Dir: b.TempDir(), Sync: time.Second}} {
		b.Run(name, func(b *testing.B) {
			s := open(b, o)
			defer closeSpool(b, s)
			body := bytes.Repeat([]byte("x"), 40<<10)
			var before, after unix.Rusage
			_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				n, err := s.Append(body, 2000)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Next(b.Context(), n-1); err != nil {
					b.Fatal(err)
				}
				s.Ack(n)
			}
			_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
			used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
			b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkPaced is what a small record costs in processor time when one comes
// now and then, which is more than in a tight loop: waits find the processor
// asleep, and all caches are cold. It is appended, read and acknowledged; the
// time is the median, for this machine is not ours alone.
func BenchmarkPaced(b *testing.B) {
	now := func() int64 {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
			b.Fatal(err)
		}
		return t.Nano()
	}
	body := bytes.Repeat([]byte("x"), 6<<10)
	for _, sync := range []time.Duration{0, time.Second} {
		for _, pace := range []time.Duration{10 * time.Millisecond, 50 * time.Millisecond} {
			b.Run(fmt.Sprintf("sync=%s/every=%s", sync, pace), func(b *testing.B) {
				s := open(b, Options{Dir: b.TempDir(), Sync: sync})
				defer closeSpool(b, s)
				var used []int64
				for b.Loop() {
					time.Sleep(pace)
					before := now()
					n, err := s.Append(body, 200)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := s.Next(b.Context(), n-1); err != nil {
						b.Fatal(err)
					}
					s.Ack(n)
					used = append(used, now()-before)
				}
				slices.Sort(used)
				b.ReportMetric(float64(used[len(used)/2])/1e3, "cpu-us/record")
				b.ReportMetric(0, "ns/op") // mostly sleep
			})
		}
	}
}
