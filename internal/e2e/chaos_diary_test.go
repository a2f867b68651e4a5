package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// diary is what was done to the programs, and when. A test that fails shows
// it, and so does the long form.
type diary struct {
	began time.Time

	mu      sync.Mutex
	entries []entry
}

type entry struct {
	at   time.Time
	text string
}

func newDiary(t *testing.T) *diary {
	d := &diary{began: time.Now()}
	t.Cleanup(func() {
		if t.Failed() || long(t) > 0 {
			t.Logf("what happened:\n%s", d.between(d.began, time.Now()))
		}
	})
	return d
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.entries = append(d.entries, entry{time.Now(), fmt.Sprintf(format, args...)})
}

// between is the entries of a span of time, one a line.
func (d *diary) between(from, to time.Time) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines strings.Builder
	for _, e := range d.entries {
		if !e.at.Before(from) && !e.at.After(to) {
			fmt.Fprintf(&lines, "  %s +%.3fs %s\n", e.at.Format("15:04:05.000"), e.at.Sub(d.began).Seconds(), e.text)
		}
	}
	return lines.String()
}
