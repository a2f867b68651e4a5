package runs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

// smallDisk is a real disk of a MiB.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	rig.Need(t)
	rig.NeedRoot(t)
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A full disk refuses changes and loses nothing; when there is room again,
// they are taken.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	l := newLab(t, filepath.Join(dir, "runs"))
	run := l.begin("r")
	if _, err := l.Mark(run.ID, "before", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	path := "/api/v1/runs/" + run.ID
	for what, body := range map[string]string{"/marks": `{"text":"m"}`, "/stop": ""} {
		if a := l.ask("POST", path+what, body); a.code != 507 {
			t.Errorf("%s on a full disk: %d %s", what, a.code, a.text)
		}
	}
	l = l.again()
	if r := l.Get(run.ID); r == nil || r.Ended != nil || len(r.Marks) != 1 {
		t.Errorf("after a restart on a full disk the run is %+v", r)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "runs", "*"+temporary)); len(left) != 0 {
		t.Errorf("what could not be written is still there: %v", left)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if a := l.ask("POST", path+"/stop", ""); a.code != 200 {
		t.Errorf("with room again: %d %s", a.code, a.text)
	}
}

// TestFolderGivenAway: what another gateway may have now is not touched.
func TestFolderGivenAway(t *testing.T) {
	l := newLab(t, t.TempDir())
	run := l.begin("r")
	if _, err := l.Stop(run.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	next := l.again()
	if err := l.Delete(run.ID); err == nil {
		t.Error("who does not have the folder any more has deleted a run")
	}
	if again := next.again(); again.Get(run.ID) == nil {
		t.Error("the run is gone")
	}
}

// TestRoomForHalf: a start whose record does not fit any more leaves nothing of
// itself, though the state of its deployment did fit.
func TestRoomForHalf(t *testing.T) {
	dir := smallDisk(t)
	l := newLab(t, filepath.Join(dir, "runs"))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	info, err := os.Stat(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(ballast, info.Size()-int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if a := l.ask("POST", "/api/v1/runs", `{"project":"lab","name":"r"}`); a.code != 507 {
		t.Errorf("a start on a full disk: %d %s", a.code, a.text)
	}
	if left, err := filepath.Glob(filepath.Join(l.dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("there are %v; want the lock alone", left)
	}
}
