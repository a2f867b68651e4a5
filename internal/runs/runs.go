// Package runs owns the records of runs: when an experiment on a deployment
// began and ended, and what its researcher marked meanwhile. A record is a
// file, on disk before its request is answered. What was measured during a run
// is not here: it is read out of the history by the run's times.
package runs

import (
	"errors"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fanin/internal/deployment"
)

// Bounds of what is kept.
const (
	MaxRuns  = 1_000
	MaxMarks = 500 // of one run
	MaxName  = 100 // characters of a run's name
	MaxText  = 200 // characters of a mark

	maxRecords = 16 << 20 // bytes of all records together
)

// Time is in milliseconds since 1970; in JSON it is in seconds.
type Time int64

// TimeOf cuts t to milliseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMilli()) }

// MarshalJSON writes seconds with three decimals.
func (t Time) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(t)/1000, 'f', 3, 64), nil
}

// UnmarshalJSON reads seconds, to the nearest millisecond.
func (t *Time) UnmarshalJSON(b []byte) error {
	seconds, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(seconds) || math.Abs(seconds) > 1e11 {
		return errors.New("a time is a number of seconds since 1970")
	}
	*t = Time(math.Round(seconds * 1000))
	return nil
}

// Why a run has ended.
const (
	Stopped  = "stopped"             // somebody stopped it
	Inactive = "deployment_inactive" // its deployment was not up any more
)

// Mark is a moment of a run with what it was.
type Mark struct {
	At   Time   `json:"at"`
	Text string `json:"text"`
}

// Run is the record of one run. It is immutable.
type Run struct {
	ID      string `json:"id"`
	Project string `json:"project"`
	Name    string `json:"name"`
	Started Time   `json:"started"`
	Ended   *Time  `json:"ended"` // nil while it goes on

	EndedBecause string   `json:"ended_because,omitempty"`
	Hosts        []string `json:"hosts"` // of the deployment when the run began
	Marks        []Mark   `json:"marks"` // sorted by time

	// StateProblem says why there is no copy of the deployment's state.
	StateProblem string `json:"state_problem,omitempty"`
}

// Until is the run's end, now for one that goes on.
func (r *Run) Until(now time.Time) Time {
	if r.Ended != nil {
		return *r.Ended
	}
	return TimeOf(now)
}

// Options of [Open]. Path, Roster and State are needed.
type Options struct {
	Path string // a folder of its own, made when it is not there

	Roster func() *deployment.Roster
	Ready  func() error // nil once Roster knows every deployment; may be nil
	// State is a deployment's state file as it is now.
	State func(project string) ([]byte, error)
	// Families are what is known of the deployment's metrics when a run ends,
	// as JSON that is kept with it and not looked at. May be nil.
	Families func(*Run) ([]byte, error)

	Log *slog.Logger // nil: nothing is logged
}

// Records are all runs. Its methods may be called from any goroutine.
type Records struct {
	Options
	folder folder
	counts counts
	slots  chan struct{} // one for each change at once, those that wait included

	changing sync.Mutex // held over a change and its way to the disk

	mu       sync.RWMutex // guards these
	byID     map[string]*entry
	sorted   []*entry // by start, the newest first
	bytes    int      // of all records
	problem  string   // why records can not be kept, "" when they can
	inactive map[string]time.Time
}

// entry is a run with what follows from it.
type entry struct {
	*Run
	size   int
	series series
}

const maxWaiting = 16

// Open reads the records in a folder. What is damaged there is set aside. An
// error says that another process has the folder; one that can not be used
// now is no error, and every change is refused until it can.
func Open(o Options) (*Records, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Records{
		Options: o, folder: folder{path: o.Path}, slots: make(chan struct{}, maxWaiting),
		byID: map[string]*entry{}, inactive: map[string]time.Time{},
	}
	r.counts.init()
	if err := r.load(); errors.Is(err, errTaken) {
		return nil, err
	} else if err != nil {
		r.problem = err.Error()
		o.Log.Error("records of runs can not be kept", "path", o.Path, "err", err)
	}
	return r, nil
}

// load reads the folder, when it has not been read yet.
func (r *Records) load() error {
	if err := r.folder.take(); err != nil {
		return err
	}
	found, damaged, err := r.folder.read()
	if err != nil {
		return err
	}
	for _, d := range damaged {
		r.counts.damaged.Inc()
		r.Log.Error("a damaged record of a run is set aside", "was", d.file, "is", d.now, "err", d.err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range found {
		r.put(run.Run, run.size)
	}
	r.problem = ""
	return nil
}

// put takes a record in, or its new version. It is called with the lock held.
func (r *Records) put(run *Run, size int) {
	old := r.byID[run.ID]
	e := &entry{Run: run, size: size, series: seriesOf(run)}
	r.byID[run.ID] = e
	r.bytes += size
	if old != nil {
		r.bytes -= old.size
		r.sorted[slices.Index(r.sorted, old)] = e
		return
	}
	at, _ := slices.BinarySearchFunc(r.sorted, e, func(a, b *entry) int {
		if a.Started != b.Started {
			return int(max(-1, min(1, b.Started-a.Started)))
		}
		return strings.Compare(a.ID, b.ID)
	})
	r.sorted = slices.Insert(r.sorted, at, e)
}

// drop forgets a record. It is called with the lock held.
func (r *Records) drop(id string) {
	old := r.byID[id]
	delete(r.byID, id)
	r.bytes -= old.size
	at := slices.Index(r.sorted, old)
	r.sorted = slices.Delete(r.sorted, at, at+1)
}

// Get is the run of that identifier, nil when there is none.
func (r *Records) Get(id string) *Run {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if e := r.byID[id]; e != nil {
		return e.Run
	}
	return nil
}

// List are the runs of a project, or all for "", the newest first.
func (r *Records) List(project string) []*Run {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Run, 0, len(r.sorted))
	for _, e := range r.sorted {
		if project == "" || e.Project == project {
			all = append(all, e.Run)
		}
	}
	return all
}

// running is the run that goes on in a project, nil when none does.
func (r *Records) running(project string) *Run {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, e := range r.sorted {
		if e.Project == project && e.Ended == nil {
			return e.Run
		}
	}
	return nil
}

// KeptState is the deployment's state file as it was when the run began, what
// looks like a credential left out. [fs.ErrNotExist] when there is none.
func (r *Records) KeptState(id string) ([]byte, error) { return r.folder.readBeside(id, kindState) }

// KeptFamilies is what Options.Families said at the run's end.
func (r *Records) KeptFamilies(id string) ([]byte, error) {
	return r.folder.readBeside(id, kindFamilies)
}
