package deployment

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestStateFile(t *testing.T) {
	s := newSettings(t)
	s.record("signal", `"up"`)
	s.state("signal", "web")
	w := s.watch()
	w.polls(time.Second)
	want := stateJSON("signal", "web")
	if got, err := w.StateFile("signal"); err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	for project, says := range map[string]string{"": "no state file", "nowhere": "no state file", "../signal": "no state file"} {
		if got, err := w.StateFile(project); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("of %q: %q, %v", project, got, err)
		}
	}

	// Nor does one call stand in the way of the next.
	for range 1000 {
		if _, err := w.StateFile("signal"); err != nil {
			t.Fatal(err)
		}
	}

	// One that is being rewritten is waited for.
	s.write(s.statePath("signal"), want[:len(want)/2])
	time.AfterFunc(2*retryEvery, func() { s.state("signal", "web") })
	if got, err := w.StateFile("signal"); err != nil || string(got) != want {
		t.Errorf("rewritten: %q, %v", got, err)
	}

	for what, spoil := range map[string]func(){
		"cut off":    func() { s.write(s.statePath("signal"), want[:len(want)/2]) },
		"of another": func() { s.write(s.statePath("signal"), stateJSON("other", "web")) },
		"a link": func() {
			if err := os.Symlink("/etc/passwd", s.statePath("signal")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		if err := os.Remove(s.statePath("signal")); err != nil {
			t.Fatal(err)
		}
		spoil()
		if got, err := w.StateFile("signal"); err == nil || strings.Contains(err.Error(), s.root) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

// A file system that hangs holds up one call, and the others not at all.
func TestStateFileOfAHangingFileSystem(t *testing.T) {
	s := newSettings(t)
	s.record("signal", `"up"`)
	s.state("signal", "web")
	w := s.watch()
	w.polls(time.Second)
	w.reading.Lock() // as a read that does not come back
	defer w.reading.Unlock()
	began := time.Now()
	if _, err := w.StateFile("signal"); err == nil || time.Since(began) > readWithin {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}
