package runs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"fanin/internal/deployment"
)

// RefusalError is a request that is not done, with the HTTP status that says so.
type RefusalError struct {
	Code int
	Text string // what to do instead
	Run  string // the run that is in the way, "" for none
}

// Error implements error.
func (r *RefusalError) Error() string { return r.Text }

func refuse(code int, format string, args ...any) *RefusalError {
	return &RefusalError{Code: code, Text: fmt.Sprintf(format, args...)}
}

const idLength = 16 // 80 bits

func newID() string { return strings.ToLower(rand.Text()[:idLength]) }

// turn waits for the other changes.
func (r *Records) turn() (done func(), err error) {
	select {
	case r.slots <- struct{}{}:
	default:
		return nil, refuse(http.StatusTooManyRequests, "too many changes of runs at once: try again in a second")
	}
	r.changing.Lock()
	done = func() { r.changing.Unlock(); <-r.slots }
	r.mu.RLock()
	problem := r.problem
	r.mu.RUnlock()
	if problem != "" {
		if err := r.load(); err != nil {
			done()
			return nil, refuse(http.StatusServiceUnavailable, "records of runs can not be kept now: %v", err)
		}
		r.Log.Info("records of runs can be kept again", "path", r.Path)
	}
	return done, nil
}

// written says that a change did not reach the disk.
func (r *Records) written(err error) error {
	if err == nil {
		return nil
	}
	r.counts.failures.Inc()
	r.Log.Error("a record of a run could not be written", "err", err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return refuse(http.StatusInsufficientStorage, "the disk of the records is full, and nothing was changed: free some of it (%s)", r.Path)
	}
	return refuse(http.StatusServiceUnavailable, "the record could not be written, and nothing was changed: %v", err)
}

// Start begins a run. Only one goes on in a deployment at a time: what is
// measured belongs to the deployment, and would belong to both.
func (r *Records) Start(project, name string, now time.Time) (*Run, error) {
	name, err := clean("the name", name, MaxName)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if project == "" {
		return nil, refuse(http.StatusBadRequest, "project is missing: name the deployment that the run is on")
	}
	if r.Ready != nil {
		if err := r.Ready(); err != nil {
			return nil, refuse(http.StatusServiceUnavailable, "%v; try again in a second", err)
		}
	}
	p := r.Roster().Project(project)
	switch {
	case p == nil && !deployment.ValidName(project):
		return nil, refuse(http.StatusNotFound, "there is no deployment of that name")
	case p == nil:
		return nil, refuse(http.StatusNotFound, "there is no deployment called %s", project)
	case !p.Active:
		return nil, refuse(http.StatusConflict, "the deployment %s is %s: bring it up first", project, p.State)
	}
	done, err := r.turn()
	if err != nil {
		return nil, err
	}
	defer done()
	if other := r.running(project); other != nil {
		e := refuse(http.StatusConflict, "the run %q goes on in %s: stop it first", other.Name, project)
		e.Run = other.ID
		return nil, e
	}
	if err := r.room(MaxRuns - 1); err != nil {
		return nil, err
	}
	run := &Run{ID: newID(), Project: project, Name: name, Started: TimeOf(now), Hosts: slices.Clone(p.Hosts), Marks: []Mark{}}
	if run.Hosts == nil {
		run.Hosts = []string{}
	}
	state, err := r.State(project)
	if err == nil {
		state, err = withoutCredentials(state)
	}
	if err == nil {
		err = r.written(r.folder.writeBeside(run.ID, kindState, state))
		if err != nil {
			return nil, err
		}
	} else {
		run.StateProblem = err.Error()
	}
	if err := r.keep(run); err != nil {
		_ = r.folder.remove(run.ID)
		return nil, err
	}
	r.counts.started.Inc()
	r.Log.Info("run starts", "run", run.ID, "project", project, "name", name)
	return run, nil
}

// room refuses what would be too much, with so many runs.
func (r *Records) room(most int) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.byID) > most {
		return refuse(http.StatusConflict, "%d runs are kept, and no more can be: delete some", len(r.byID))
	}
	if r.bytes > maxRecords {
		return refuse(http.StatusConflict, "the records take %d MiB, and no more is kept: delete some runs", maxRecords>>20)
	}
	return nil
}

// keep brings a new version of a run to the disk and then shows it.
func (r *Records) keep(run *Run) error {
	size, err := r.folder.save(run)
	if err := r.written(err); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(run, size)
	return nil
}

func (r *Records) known(id string) (*Run, error) {
	if run := r.Get(id); run != nil {
		return run, nil
	}
	return nil, refuse(http.StatusNotFound, "there is no such run: GET /api/v1/runs lists them")
}

// Mark adds a mark at a moment of the run, now for nil.
func (r *Records) Mark(id, text string, at *Time, now time.Time) (*Run, error) {
	text, err := clean("the text", text, MaxText)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	done, err := r.turn()
	if err != nil {
		return nil, err
	}
	defer done()
	run, err := r.known(id)
	if err != nil {
		return nil, err
	}
	switch {
	case at == nil && run.Ended != nil:
		return nil, refuse(http.StatusConflict, "the run has ended: give the moment of the mark as \"at\", in seconds since 1970")
	case at == nil:
		t := max(TimeOf(now), run.Started) // the clock may have been set
		at = &t
	case *at < run.Started || *at > run.Until(now):
		return nil, refuse(http.StatusBadRequest, "\"at\" is not between the run's start and its end, or now: it is in seconds since 1970 by the gateway's clock")
	}
	if len(run.Marks) >= MaxMarks {
		return nil, refuse(http.StatusConflict, "the run has %d marks, and no more are kept", len(run.Marks))
	}
	if err := r.room(MaxRuns); err != nil {
		return nil, err
	}
	next := *run
	i, _ := slices.BinarySearchFunc(run.Marks, *at, func(m Mark, t Time) int {
		if m.At <= t {
			return -1
		}
		return 1
	})
	next.Marks = slices.Insert(slices.Clone(run.Marks), i, Mark{*at, text})
	if err := r.keep(&next); err != nil {
		return nil, err
	}
	r.counts.marks.Inc()
	return &next, nil
}

// Stop ends a run. One that has ended stays as it is, so that a request whose
// answer was lost may be made again.
func (r *Records) Stop(id string, now time.Time) (*Run, error) {
	return r.end(id, Stopped, TimeOf(now))
}

func (r *Records) end(id, why string, at Time) (*Run, error) {
	done, err := r.turn()
	if err != nil {
		return nil, err
	}
	defer done()
	run, err := r.known(id)
	if err != nil || run.Ended != nil {
		return run, err
	}
	next := *run
	at = max(at, run.Started)
	if n := len(run.Marks); n > 0 {
		at = max(at, run.Marks[n-1].At)
	}
	next.Ended, next.EndedBecause = &at, why
	if r.Families != nil {
		families, err := r.Families(&next)
		if err == nil && len(families) <= maxBeside {
			err = r.folder.writeBeside(id, kindFamilies, families)
		}
		if err != nil { // what is still known when the archive is made must do
			r.Log.Warn("what the run's metrics are is not kept", "run", id, "err", err)
		}
	}
	if err := r.keep(&next); err != nil {
		return nil, err
	}
	r.counts.ended.WithLabelValues(why).Inc()
	r.Log.Info("run ends", "run", id, "project", run.Project, "name", run.Name, "because", why)
	return &next, nil
}

// Delete removes a run that has ended.
func (r *Records) Delete(id string) error {
	done, err := r.turn()
	if err != nil {
		return err
	}
	defer done()
	run, err := r.known(id)
	if err != nil {
		return err
	}
	if run.Ended == nil {
		return refuse(http.StatusConflict, "the run goes on: stop it first")
	}
	if err := r.written(r.folder.remove(id)); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
	r.counts.deleted.Inc()
	return nil
}
