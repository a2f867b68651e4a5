package runs

import (
	"context"
	"time"
)

const watchEvery = time.Second

// patience is for how long a deployment may be other than up before its run
// ends: an action on it ("running") takes a while, and files are rewritten.
const patience = time.Minute

// Run ends the runs of deployments that are not up any more, until ctx ends.
func (r *Records) Run(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.changing.Lock() // a change on its way to the disk gets there
			defer r.changing.Unlock()
			r.folder.release()
			return nil
		case <-tick.C:
			r.watch(time.Now())
		}
	}
}

// watch ends the runs whose deployment has been inactive for too long; they
// end when it became so.
func (r *Records) watch(now time.Time) {
	if r.Ready != nil && r.Ready() != nil {
		return
	}
	roster := r.Roster()
	going := map[string]bool{}
	for _, run := range r.List("") {
		if run.Ended != nil {
			continue
		}
		if p := roster.Project(run.Project); p != nil && p.Active {
			continue
		}
		going[run.ID] = true
		since, known := r.inactive[run.ID]
		if !known {
			r.inactive[run.ID] = now
		} else if now.Sub(since) >= patience {
			if _, err := r.end(run.ID, Inactive, TimeOf(since)); err != nil {
				r.inactive[run.ID] = since // the next look tries again
			}
		}
	}
	for id := range r.inactive {
		if !going[id] {
			delete(r.inactive, id)
		}
	}
}
