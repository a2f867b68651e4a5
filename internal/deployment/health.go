package deployment

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// health is what the watcher's metrics are made of, so that a scrape never
// waits for a file system; immutable.
type health struct {
	changes  uint64
	failures map[failure]uint64
	took     time.Duration
	projects []projectHealth
}

type projectHealth struct {
	name  string
	stale bool
	good  time.Time // zero when no version was ever good
}

// failed counts what a file begins to suffer from.
func (w *Watcher) failed(f *file) func(*Error) {
	return func(err *Error) {
		w.failures[failure{f.kind, err.Reason}]++
		w.log.Debug("a file can not be used just now", "path", f.path, "reason", err.Reason, "err", err)
	}
}

// say tells the log when a file has become unusable for longer than its
// writer needs, and when it is good again.
func (w *Watcher) say(t *tracked, f *file, now time.Time) {
	project := ""
	if t != nil {
		project = t.name
	}
	switch {
	case f.broken() && !f.told:
		f.told = true
		w.log.Warn("a file can not be used; its last good version stays", "file", f.kind, "project", project,
			"reason", f.err.Reason, "err", f.err, "good_version", !f.good.IsZero())
	case f.err == nil && f.told:
		f.told = false
		w.log.Info("a file can be used again", "file", f.kind, "project", project, "path", f.path,
			"after", now.Sub(f.failed).Round(time.Millisecond))
	}
}

// sayState tells the log what a new version of a state file brings.
func (w *Watcher) sayState(t *tracked, s *state) {
	before := 0
	if t.state != nil {
		before = len(t.state.guests)
	}
	w.log.Info("deployment guests", "project", t.name, "guests", len(s.guests), "before", before)
	for i, flaw := range s.flaws {
		w.failures[failure{"guest", flaw.Reason}]++
		if i < 5 {
			w.log.Warn("a guest or host of the state file is left out", "project", t.name,
				"reason", flaw.Reason, "line", flaw.Line, "name", flaw.Name, "left_out", s.flawed)
		}
	}
}

// first reports whether the log has not been told of key yet. The keys are
// bounded: when a thousand have come together, everything may be said again.
func (w *Watcher) first(key string) bool {
	if w.told[key] {
		return false
	}
	if len(w.told) >= 1000 {
		clear(w.told)
	}
	w.told[key] = true
	return true
}

// over reports whether the log has been told of key, and forgets it.
func (w *Watcher) over(key string) bool {
	was := w.told[key]
	delete(w.told, key)
	return was
}

func (w *Watcher) descriptions() (stale, age, failures, deployments, guests, changes, took *prometheus.Desc) {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return d("fanin_state_file_stale", "1 while a deployment's record or state file has been unusable for so long that its last good version counts as stale.", "project"),
		d("fanin_state_file_age_seconds", "How long ago the version in use of a deployment's record and state file was last seen on disk; absent when there never was a good one.", "project"),
		d("fanin_deployment_failures_total", "How often a file, or a guest in one, began to be unusable, by kind of file and reason.", "file", "reason"),
		d("fanin_deployments", "Deployments in the roster, by whether they are active.", "active"),
		d("fanin_deployment_guests", "Guests in the roster, golden images excepted, by whether their deployment is active.", "active"),
		d("fanin_roster_changes_total", "How often the roster has changed."),
		d("fanin_deployment_poll_seconds", "How long the last look at all files took.")
}

// Describe is part of prometheus.Collector.
func (w *Watcher) Describe(out chan<- *prometheus.Desc) {
	stale, age, failures, deployments, guests, changes, took := w.descriptions()
	for _, d := range []*prometheus.Desc{stale, age, failures, deployments, guests, changes, took} {
		out <- d
	}
}

// Collect is part of prometheus.Collector. It never waits for a file.
func (w *Watcher) Collect(out chan<- prometheus.Metric) {
	stale, age, failures, deployments, guests, changes, took := w.descriptions()
	h := w.health.Load()
	if h == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	now := time.Now()
	for _, p := range h.projects {
		v := 0.0
		if p.stale {
			v = 1
		}
		gauge(stale, v, p.name)
		if !p.good.IsZero() {
			gauge(age, max(now.Sub(p.good).Seconds(), 0), p.name)
		}
	}
	for k, n := range h.failures {
		out <- prometheus.MustNewConstMetric(failures, prometheus.CounterValue, float64(n), k.file, k.reason)
	}
	var projectsBy, guestsBy [2]float64
	for _, p := range w.Roster().Projects() {
		i := 0
		if p.Active {
			i = 1
		}
		projectsBy[i]++
		guestsBy[i] += float64(len(p.Guests))
	}
	for i, label := range []string{"false", "true"} {
		gauge(deployments, projectsBy[i], label)
		gauge(guests, guestsBy[i], label)
	}
	out <- prometheus.MustNewConstMetric(changes, prometheus.CounterValue, float64(h.changes))
	gauge(took, h.took.Seconds())
}
