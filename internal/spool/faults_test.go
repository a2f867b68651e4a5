package spool

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

// TestFullDisk is a real one of 1 MiB: the spool fills it, goes on in memory,
// and everything that still fits comes out in order.
func TestFullDisk(t *testing.T) {
	rig.Need(t)
	rig.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	var log text
	s := open(t, Options{Dir: dir, Log: logTo(&log), MaxMemory: 100 * (1000 + overhead)})
	pad := strings.Repeat("z", 1000-len("record 00000000 "))
	add := func(i int) {
		t.Helper()
		if _, err := s.Append(fmt.Appendf(nil, "record %08d %s", i, pad), 1); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	for i := range 1300 { // some 960 fit the disk, and 100 memory
		add(i)
		balance(t, s.Ledger())
	}
	l := s.Ledger()
	if l.Records < 1000 {
		t.Errorf("%d records are kept, want the disk used though there was no room for a segment's zeros", l.Records)
	}
	if l.Dropped[Disk] < 100 || l.Memory == 0 || l.Memory > 100*(1000+overhead) || len(l.Dropped) != len(dropReasons) {
		t.Errorf("%s, %d bytes in memory; want more than 100 samples dropped", account(l), l.Memory)
	}
	if n := strings.Count(log.String(), "are kept in memory only"); n != 1 || !strings.Contains(log.String(), "no space left") || !strings.Contains(log.String(), "make room") {
		t.Errorf("said %d times that the disk is full:\n%s", n, log.String())
	}
	// The receiver takes what is on disk, which makes room.
	var got []int
	var last uint64
	take := func(n int) {
		t.Helper()
		for range n {
			r, err := s.Next(t.Context(), last)
			if err != nil {
				t.Fatal(err)
			}
			var i int
			if _, err := fmt.Sscanf(string(r.Body), "record %d", &i); err != nil || len(r.Body) != 1000 {
				t.Fatalf("record %d: %q", r.Number, r.Body)
			}
			last = r.Number
			got = append(got, i)
			s.Ack(last)
		}
	}
	take(l.Records - 50) // of those in memory, too
	rig.Eventually(t, 20*time.Second, func() error {
		if l := s.Ledger(); l.Memory > 0 {
			return fmt.Errorf("%d bytes are in memory still", l.Memory)
		}
		return nil
	})
	add(1300)
	if !strings.Contains(log.String(), "works again") {
		t.Errorf("the recovery is not said:\n%s", log.String())
	}
	closeSpool(t, s)
	s = open(t, Options{Dir: dir})
	if l := s.Ledger(); l.Pending != 51 || l.Dropped[Damaged] != 0 {
		t.Errorf("after a restart: %s, want 51 pending and nothing counted twice", account(l))
	}
	take(51)
	closeSpool(t, s)
	if !slices.IsSorted(got) || len(got) != 1301-int(l.Dropped[Disk]) || got[len(got)-1] != 1300 {
		t.Errorf("%d records came out, want %d in order: %v", len(got), 1301-l.Dropped[Disk], got)
	}
}

// TestReadOnly: a directory that can not be written to is read, and used as
// soon as it can.
func TestReadOnly(t *testing.T) {
	rig.Need(t)
	rig.NeedRoot(t)
	dir := t.TempDir()
	s := open(t, Options{Dir: dir})
	fill(t, s, 0, 5)
	closeSpool(t, s)
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("remount read-only: %v", err)
	}
	var log text
	s = open(t, Options{Dir: dir, Log: logTo(&log)})
	fill(t, s, 5, 5)
	if got := pending(t, s); !slices.Equal(got, numbers(0, 10)) {
		t.Errorf("pending %v, want 0 to 9", got)
	}
	r, err := s.Next(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	s.Ack(r.Number)
	want(t, s, "committed 55 delivered 1 dropped  refused  pending 54")
	if l := s.Ledger(); l.Memory == 0 {
		t.Error("nothing is counted as in memory")
	}
	if strings.Count(log.String(), "are kept in memory only") != 1 || !strings.Contains(log.String(), "mount it for writing") {
		t.Errorf("the log says\n%s\nwant once what to do", log.String())
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 15*time.Second, func() error {
		if l := s.Ledger(); l.Memory > 0 {
			return fmt.Errorf("%d bytes are in memory still", l.Memory)
		}
		return nil
	})
	fill(t, s, 10, 2)
	closeSpool(t, s)
	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	if got := pending(t, s); !slices.Equal(got, numbers(1, 12)) {
		t.Errorf("after a restart pending %v, want 1 to 11", got)
	}
	want(t, s, fmt.Sprintf("committed %d delivered 0 dropped  refused  pending %d", sum(1, 11), sum(1, 11)))
}

// TestNotCreatable: the directory comes later than the process, and what could
// not go there before the end is counted.
func TestNotCreatable(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "file")
	write(t, parent, []byte("in the way"))
	dir := filepath.Join(parent, "spool")
	var log text
	s := open(t, Options{Dir: dir, Log: logTo(&log)})
	fill(t, s, 0, 3)
	if strings.Count(log.String(), "are kept in memory only") != 1 {
		t.Errorf("the log says\n%s", log.String())
	}
	closeSpool(t, s)
	want(t, s, "committed 6 delivered 0 dropped disk=6 refused  pending 0")

	s = open(t, Options{Dir: dir, Log: logTo(&log)})
	fill(t, s, 0, 3)
	if err := os.Remove(parent); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 15*time.Second, func() error {
		if l := s.Ledger(); l.Memory > 0 {
			return errors.New("not on disk yet")
		}
		return nil
	})
	fill(t, s, 3, 2)
	id := s.ID()
	closeSpool(t, s)
	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	if got := pending(t, s); !slices.Equal(got, numbers(0, 5)) || s.ID() != id {
		t.Errorf("pending %v of %s, want 0 to 4 of %s", got, s.ID(), id)
	}
}

// TestHarmedWhileRunning: segments are damaged, shortened and removed under a
// running spool.
func TestHarmedWhileRunning(t *testing.T) {
	dir := t.TempDir()
	var log text
	o := small(dir)
	o.Log = logTo(&log)
	s := open(t, o)
	fill(t, s, 0, 120)
	f := files(t, dir)
	if len(f) < 4 {
		t.Fatalf("%d segments, want more", len(f))
	}
	in := make(map[string][]int) // the records of each file
	for _, path := range f {
		for _, one := range scan(read(t, path), s.id) {
			in[path] = append(in[path], int(one.number)-1)
		}
	}
	b := read(t, f[0])
	harmed := in[f[0]][3]
	b[bytes.Index(b, body(harmed))+4] ^= 1
	write(t, f[0], b) // in place
	if err := os.Truncate(f[1], int64(len(read(t, f[1]))/2)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f[2]); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f[len(f)-1]); err != nil { // the one that is written to
		t.Fatal(err)
	}
	fill(t, s, 120, 20)
	gone := map[int]bool{harmed: true}
	for _, i := range append(slices.Clone(in[f[2]]), in[f[len(f)-1]]...) {
		gone[i] = true
	}
	left := make(map[int]bool)
	for _, one := range scan(read(t, f[1]), s.id) {
		left[int(one.number)-1] = true
	}
	for _, i := range in[f[1]] {
		gone[i] = !left[i]
	}
	maps.DeleteFunc(gone, func(_ int, is bool) bool { return !is })
	var lost uint64
	var survivors []int
	for i := range 140 {
		if gone[i] {
			lost += uint64(samples(i))
		} else {
			survivors = append(survivors, i)
		}
	}
	if got := pending(t, s); !slices.Equal(got, survivors) {
		t.Errorf("pending %v\nwant %v", got, survivors)
	}
	rig.Eventually(t, 10*time.Second, func() error {
		if l := s.Ledger(); l.Memory > 0 {
			return fmt.Errorf("%d bytes in memory", l.Memory)
		}
		return nil
	})
	want(t, s, fmt.Sprintf("committed %d delivered 0 dropped damaged=%d refused  pending %d", sum(0, 140), lost, sum(0, 140)-lost))
	if strings.Count(log.String(), "the spool is damaged") != 1 {
		t.Errorf("the log says\n%s\nwant once that it is damaged", log.String())
	}
	closeSpool(t, s)
	s = open(t, small(dir))
	defer closeSpool(t, s)
	want(t, s, fmt.Sprintf("committed %d delivered 0 dropped  refused  pending %d", sum(0, 140)-lost, sum(0, 140)-lost))
}

// TestDirectoryGone: the whole directory is removed under a running spool.
func TestDirectoryGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, small(dir))
	fill(t, s, 0, 5)
	id := s.ID()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 5, 5)
	rig.Eventually(t, 10*time.Second, func() error {
		if l := s.Ledger(); l.Memory > 0 {
			return fmt.Errorf("%d bytes in memory", l.Memory)
		}
		return nil
	})
	fill(t, s, 10, 1)
	if got := pending(t, s); !slices.Equal(got, numbers(5, 11)) {
		t.Errorf("pending %v, want what came after", got)
	}
	balance(t, s.Ledger())
	closeSpool(t, s)
	s = open(t, small(dir))
	defer closeSpool(t, s)
	if got := pending(t, s); !slices.Equal(got, numbers(5, 11)) || s.ID() != id {
		t.Errorf("pending %v of %s, want 5 to 10 of %s", got, s.ID(), id)
	}
}

// deaf is a file that takes everything and can not sync.
func deaf(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fdatasync(int(f.Fd())); err == nil {
		t.Fatal("/dev/null can be synced")
	}
	return f
}

// TestSyncFails: the kernel says only once that it could not write, and has
// forgotten it then. What was not synced is written again, in order.
func TestSyncFails(t *testing.T) {
	for name, lazy := range map[string]time.Duration{"always": 0, "later": time.Hour} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var log text
			s := open(t, Options{Dir: dir, Sync: lazy, Log: logTo(&log)})
			fill(t, s, 0, 5)
			s.io.Lock()
			whole := s.disk.active
			s.disk.active = deaf(t)
			s.io.Unlock()
			defer whole.Close()
			fill(t, s, 5, 1)
			if lazy > 0 {
				// The one that was written to nowhere is not to be found, the others are.
				if _, err := whole.WriteAt(appendRecord(nil, s.id, frame{number: 6, before: sum(0, 5), samples: 6, length: uint32(len(body(5))), crc: checksum(body(5))}, body(5)), s.records[5].offset-frameSize); err != nil {
					t.Fatal(err)
				}
				s.flush()
			}
			if l := s.Ledger(); l.Memory == 0 || lazy > 0 && l.Memory != l.Bytes {
				t.Errorf("%d of %d bytes are in memory, want what may not be on disk", l.Memory, l.Bytes)
			}
			fill(t, s, 6, 2)
			rig.Eventually(t, 10*time.Second, func() error {
				if l := s.Ledger(); l.Memory > 0 {
					return fmt.Errorf("%d bytes in memory", l.Memory)
				}
				if !strings.Contains(log.String(), "works again") {
					return errors.New("the recovery is not said")
				}
				return nil
			})
			if strings.Count(log.String(), "are kept in memory only") != 1 || strings.Count(log.String(), "works again") != 1 {
				t.Errorf("the log says\n%s", log.String())
			}
			if got := pending(t, s); !slices.Equal(got, numbers(0, 8)) {
				t.Errorf("pending %v, want 0 to 7", got)
			}
			closeSpool(t, s)
			s = open(t, Options{Dir: dir})
			defer closeSpool(t, s)
			if got := pending(t, s); !slices.Equal(got, numbers(0, 8)) {
				t.Errorf("after a restart %v, want 0 to 7", got)
			}
			want(t, s, "committed 36 delivered 0 dropped  refused  pending 36")
		})
	}
}

// TestReadFails: an error that goes away costs nothing, one that stays costs
// what can not be read.
func TestReadFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, small(dir))
	defer closeSpool(t, s)
	fill(t, s, 0, 60)
	broken, err := os.Open("/proc/self/mem") // nothing is mapped at its beginning: EIO
	if err != nil {
		t.Fatal(err)
	}
	s.disk.read.Lock()
	s.disk.read.segment, s.disk.read.file = s.records[0].segment, broken
	s.disk.read.Unlock()
	if r, err := s.Next(t.Context(), 0); err != nil || !bytes.Equal(r.Body, body(0)) {
		t.Fatalf("Next: %q, %v; want the first record in spite of one error", r.Body, err)
	}
	if s.failures["read"] != 1 {
		t.Errorf("%d errors are counted, want 1", s.failures["read"])
	}

	f := files(t, dir)[0]
	if err := os.Rename(f, f+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(f, f); err != nil { // ELOOP until it is gone
		t.Fatal(err)
	}
	s.disk.read.Lock()
	s.closeRead()
	s.disk.read.Unlock()
	go func() {
		for s.Ledger().Dropped[Damaged] == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		_ = os.Rename(f+".away", f)
	}()
	if r, err := s.Next(t.Context(), 0); err != nil || !bytes.Equal(r.Body, body(1)) {
		t.Errorf("Next: %q, %v; want the second record, as the first is given up", r.Body, err)
	}
	want(t, s, fmt.Sprintf("committed %d delivered 0 dropped damaged=1 refused  pending %d", sum(0, 60), sum(1, 59)))
	if s.failures["read"] < 1+readAttempts {
		t.Errorf("%d errors are counted, want %d or more", s.failures["read"], 1+readAttempts)
	}
}

// TestLateDirectory: one that can be opened only while the spool runs keeps
// what it holds for the next start.
func TestLateDirectory(t *testing.T) {
	base := t.TempDir()
	early, parent := filepath.Join(base, "early"), filepath.Join(base, "parent")
	dir := filepath.Join(parent, "spool")
	s := open(t, Options{Dir: early})
	fill(t, s, 0, 3)
	s.Ack(1)
	closeSpool(t, s)

	write(t, parent, nil)
	s = open(t, Options{Dir: dir})
	fill(t, s, 3, 2)
	if err := errors.Join(os.Remove(parent), os.Mkdir(parent, 0o700), os.Rename(early, dir)); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 10*time.Second, func() error {
		if l := s.Ledger(); l.Memory > 0 {
			return errors.New("not on disk yet")
		}
		return nil
	})
	fill(t, s, 5, 1)
	if got := pending(t, s); !slices.Equal(got, numbers(3, 6)) {
		t.Errorf("pending %v, want 3 to 5", got)
	}
	used := s.last
	s.Ack(1 << 62)
	closeSpool(t, s)
	s = open(t, Options{Dir: dir})
	defer closeSpool(t, s)
	if s.last < used {
		t.Errorf("numbers go on from %d, but %d was used", s.last, used)
	}
	if got := pending(t, s); !slices.Equal(got, numbers(1, 3)) {
		t.Errorf("after the next start %v, want 1 and 2", got)
	}
	want(t, s, "committed 5 delivered 0 dropped  refused  pending 5")
}
