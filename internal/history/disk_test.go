package history

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

// smallDisk is a real disk of 100 MiB.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	rig.Need(t)
	rig.NeedRoot(t)
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=100m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill leaves so many bytes free.
func fill(t *testing.T, dir string, free int64) (empty func()) {
	t.Helper()
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "ballast")
	size := int64(disk.Bavail)*disk.Bsize - free
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// tick does what Run does, until ok or for a minute.
func (p *past) tick(ok func() bool) {
	p.t.Helper()
	ctx := context.Background()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			p.t.Fatalf("not so after a minute\n%s", p.log)
		}
		p.last[opening] = time.Time{} // tries again at once
		p.step(ctx, time.Now())
		select {
		case e := <-p.ended:
			p.note(ctx, e)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestFullDisk: the reader stops before the disk is full, is still asked and
// answers, and takes everything when there is room again.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	p := begin(t, filepath.Join(dir, "history"), Options{})
	written := points{}
	at := time.Now().Truncate(time.Second).Add(-time.Hour)
	next := func() {
		batch := lines(50, at, at.Add(time.Minute), time.Second)
		at = at.Add(time.Minute)
		written.add(batch)
		p.push(batch)
	}
	next()
	before := p.all().count()
	empty := fill(t, dir, reserve-1<<20)
	next()
	next()
	if got := p.waiting(); got != 6000 {
		t.Errorf("%d points wait, want 6000", got)
	}
	if got := p.all().count(); got != before {
		t.Errorf("%d points are there, want the %d from before", got, before)
	}
	if p.counts.up.Load() || strings.Count(p.log.String(), "no space left") != 1 {
		t.Errorf("what is wrong is not said once:\n%s", p.log)
	}
	empty()
	p.collect(t.Context(), time.Now())
	if p.waiting() != 0 || !p.counts.up.Load() || !strings.Contains(p.log.String(), "writes again") {
		t.Errorf("%d points wait:\n%s", p.waiting(), p.log)
	}
	if n := written.lost(t, p.all()); n > 0 {
		t.Errorf("%d points are missing", n)
	}
}

// TestFullDiskAtOnce fills the disk to the last byte behind the history's
// back, so that the database fails in the midst of a write, and panics where
// it puts chunks away. Nothing is lost, and nothing but the history suffers.
func TestFullDiskAtOnce(t *testing.T) {
	for _, form := range []string{"log", "chunks"} {
		t.Run(form, func(t *testing.T) {
			dir := smallDisk(t)
			p := begin(t, filepath.Join(dir, "history"), Options{})
			p.reserve = 0
			written := points{}
			at := time.Now().Truncate(time.Second).Add(-2 * time.Hour)
			next := func(series int, long time.Duration) {
				batch := lines(series, at, at.Add(long), time.Second)
				at = at.Add(long)
				written.add(batch)
				p.push(batch)
			}
			next(50, 10*time.Minute)
			empty := fill(t, dir, 0)
			switch form {
			case "log":
				next(50, 10*time.Minute)
			case "chunks":
				p.start(t.Context(), maintaining, p.maintain)
				e := <-p.ended
				if !errors.Is(e.err, errPanic) {
					t.Fatalf("%v; the test wants to see the database panic", e.err)
				}
				p.note(t.Context(), e)
				next(50, time.Minute)
			}
			if p.waiting() == 0 || p.counts.up.Load() {
				t.Errorf("nothing waits\n%s", p.log)
			}
			if got := p.all().count(); got < 30000 {
				t.Errorf("%d points can be asked for meanwhile", got)
			}
			empty()
			p.tick(func() bool { return p.base.ready() && p.waiting() == 0 })
			if n := written.lost(t, p.all()); n > 0 {
				t.Errorf("%d of %d points are missing\n%s", n, written.count(), p.log)
			}
			next(60, time.Minute)
			p.stop()
			p = begin(t, p.Path, Options{})
			if n := written.lost(t, p.all()); n > 0 {
				t.Errorf("%d of %d points are missing after a restart\n%s", n, written.count(), p.log)
			}
			if p.damages(partLog) > 0 {
				t.Errorf("what stood half in the log is still there:\n%s", p.log)
			}
		})
	}
}

// TestFullLateLog: that what came late is not in its log is seen, though the
// database's commit says nothing of it.
func TestFullLateLog(t *testing.T) {
	rig.Need(t)
	rig.NeedRoot(t)
	dir := t.TempDir()
	wbl := filepath.Join(dir, "wbl")
	if err := os.Mkdir(wbl, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", wbl, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(wbl, unix.MNT_DETACH) })
	p := begin(t, dir, Options{})
	written := points{}
	now := time.Now().Truncate(time.Second)
	newest := lines(1, now, now.Add(time.Second), time.Second)
	written.add(newest)
	p.push(newest)
	at := now.Add(-2 * time.Hour)
	late := func() {
		batch := lines(51, at, at.Add(5*time.Minute), time.Second)[300:] // without the first, which is newer
		at = at.Add(5 * time.Minute)
		written.add(batch)
		p.push(batch)
	}
	for p.waiting() == 0 {
		if late(); written.count() > 1e6 {
			t.Fatal("a million points in a log of 64 KiB")
		}
	}
	late()
	if p.counts.up.Load() || !strings.Contains(p.log.String(), "what came late") {
		t.Errorf("what is wrong is not said:\n%s", p.log)
	}
	if err := unix.Mount("tmpfs", wbl, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	p.tick(func() bool { return p.base.ready() && p.waiting() == 0 })
	for range 2 {
		if n := written.lost(t, p.all()); n > 0 {
			t.Errorf("%d of %d points are missing\n%s", n, written.count(), p.log)
		}
		p.stop()
		p = begin(t, dir, Options{})
	}
}

// TestFoundOnAFullDisk: damage, and samples of the future, that are found while
// nothing can be set aside do not end queries, and are not forgotten.
func TestFoundOnAFullDisk(t *testing.T) {
	begun := func(t *testing.T) (p *past, now time.Time) {
		p = begin(t, t.TempDir(), Options{})
		now = time.Now().Truncate(2 * time.Hour)
		for at := now.Add(-6 * time.Hour); at.Before(now); at = at.Add(10 * time.Minute) {
			p.push(lines(3, at, at.Add(time.Second), time.Second))
		}
		p.compact()
		p.last[scrubbing], p.last[maintaining] = now, now
		return p, now
	}
	fullThenNot := func(t *testing.T, p *past, now time.Time) {
		t.Helper()
		p.reserve = math.MaxUint64
		p.step(t.Context(), now)
		if !p.base.ready() || p.running[opening] {
			t.Error("it is closed while there is no room to open it")
		}
		p.reserve = reserve
		p.step(t.Context(), now)
		if p.running[opening] {
			p.note(t.Context(), <-p.ended)
		}
		if !p.base.ready() {
			t.Errorf("it is not open\n%s", p.log)
		}
	}
	t.Run("damage", func(t *testing.T) {
		p, now := begun(t)
		p.found = &blockError{filepath.Dir(glob(t, p.Path, "0*/meta.json")[0]), errDamaged}
		fullThenNot(t, p, now)
		if p.damages(partBlock) != 1 {
			t.Errorf("the block that is damaged is in use\n%s", p.log)
		}
	})
	t.Run("future", func(t *testing.T) {
		p, now := begun(t)
		p.push(lines(1, now.Add(5*time.Hour), now.Add(5*time.Hour+time.Second), time.Second))
		fullThenNot(t, p, now)
		if p.damages(partFuture) == 0 || p.base.ahead(now) {
			t.Errorf("the future is not set aside\n%s", p.log)
		}
	})
}

// TestReadOnly: a folder that can not be written to is used as soon as it can.
func TestReadOnly(t *testing.T) {
	rig.Need(t)
	rig.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("bind mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
			t.Fatalf("remount: %v", err)
		}
	}
	remount(unix.MS_RDONLY)
	p := unopened(t, dir, Options{})
	written := points{}
	batch := lines(5, time.Now().Add(-time.Minute), time.Now(), time.Second)
	written.add(batch)
	if _, _, err := p.store.Append(batch, time.Now(), time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.step(context.Background(), time.Now())
		e := <-p.ended
		if e.err == nil || errors.Is(e.err, errTaken) {
			t.Fatalf("%v; want it to be tried again", e.err)
		}
		p.note(context.Background(), e)
		p.last[opening] = time.Time{}
	}
	if p.waiting() == 0 || strings.Count(p.log.String(), "level=ERROR") != 1 {
		t.Errorf("%d points wait:\n%s", p.waiting(), p.log)
	}
	remount(0)
	p.tick(func() bool { return p.base.ready() && p.waiting() == 0 })
	if n := written.lost(t, p.all()); n > 0 {
		t.Errorf("%d points are missing", n)
	}
}
