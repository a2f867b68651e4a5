package deployment

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Watcher keeps a [Roster] in step with the files. Options are set before
// the first call and not changed after it; the methods may be called from
// any goroutine.
//
// A file that is torn, missing or otherwise unusable never takes anything out
// of the roster: its last good version stays, it is looked at again every
// 100 ms for half a second and then at every poll. A deployment leaves when
// its record (or, of StateGlobs, its state file) has been gone for three looks.
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

	roster  atomic.Pointer[Roster]
	health  atomic.Pointer[health]
	settled atomic.Bool
	reading sync.Mutex // held while StateFile waits for the file system

	mu       sync.Mutex // guards what follows
	started  bool
	begun    time.Time // the first look
	seed     maphash.Seed
	log      *slog.Logger
	listing  listing
	tracked  map[string]*tracked // by key: the record's or state file's path
	cluster  clusterFile
	problems []Problem
	told     map[string]bool // what the log has been told of single names
	failures map[failure]uint64
	changes  uint64
}

type failure struct{ file, reason string }

// Load looks at all files, waiting up to half a second for those that are
// just being rewritten, and returns the roster. It never fails: what is wrong
// stands in the roster, in the log and in the metrics.
func (w *Watcher) Load() *Roster {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range retries {
		if !w.poll(time.Now()) {
			break
		}
		time.Sleep(retryEvery)
	}
	return w.Roster()
}

// Run looks at the files every Interval until ctx ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	interval := w.Interval
	if interval <= 0 {
		interval = time.Second
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		w.mu.Lock()
		again := w.poll(time.Now())
		w.mu.Unlock()
		if again {
			timer.Reset(min(interval, retryEvery))
		} else {
			timer.Reset(interval)
		}
	}
}

// Roster is the newest roster. The pointer changes only when something in it
// has; it is never nil.
func (w *Watcher) Roster() *Roster {
	if r := w.roster.Load(); r != nil {
		return r
	}
	return &Roster{}
}

// ErrUnsettled is what [Watcher.Settled] returns.
var ErrUnsettled = errors.New("the deployments' files have not been read yet: one of them is just being rewritten, or can not be read")

// Settled returns [ErrUnsettled] at the start, for as long as there is a file
// of which no version could be used yet, but no longer than 10 s. Until then
// the roster may lack who is there.
func (w *Watcher) Settled() error {
	if !w.settled.Load() {
		return ErrUnsettled
	}
	return nil
}

// settleAfter is when a file that was unusable from the start on is not waited
// for any more.
const settleAfter = 10 * time.Second

// settle ends the start when each file has had a good version.
func (w *Watcher) settle(now time.Time, l listed) {
	if w.begun.IsZero() {
		w.begun = now
	}
	if w.settled.Load() {
		return
	}
	cluster := w.cluster.file // not every cluster has one
	waiting := !l.records && !l.noTestbedOS || !l.files || cluster.awaited() && cluster.err.Reason != ReasonMissing
	for _, t := range w.tracked {
		waiting = waiting || t.recordFile.awaited() || t.active() && t.stateFile.awaited()
	}
	if !waiting || now.Sub(w.begun) >= settleAfter {
		w.settled.Store(true)
	}
}

// Register adds the watcher's own metrics to reg.
func (w *Watcher) Register(reg prometheus.Registerer) error { return reg.Register(w) }
