package deployment

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

const (
	// pollBudget is how long one poll waits for file systems in all, and
	// leastWait what is granted to a file after that.
	pollBudget = 2 * time.Second
	leastWait  = 2 * time.Millisecond

	// goneAfter looks a name that left its folder is gone: editors replace
	// files by renaming, and for a moment there is none.
	goneAfter = 3
)

// tracked is one deployment; owned by the watcher's lock.
type tracked struct {
	name   string
	source string
	absent int // looks in a row that did not find its file in the folder

	recordFile *file // nil for FromFile
	record     *record
	stateFile  *file // nil until the record was read
	state      *state

	view    view
	project *Project
}

// view is all that a project is made of.
type view struct {
	record *record
	state  *state
	reason string
	text   string
	since  time.Time
	stale  bool
}

type clusterFile struct {
	file    *file
	hosts   []Host
	changed bool // since the roster was made
}

func (t *tracked) active() bool {
	return t.source == FromFile || t.record != nil && t.record.state == "up"
}

// missing reports whether the state file is not there.
func (t *tracked) missing() bool {
	return t.stateFile.err != nil && t.stateFile.err.Reason == ReasonMissing
}

// unborn tells a deployment whose state file is missing because it is not up.
func (t *tracked) unborn() bool {
	return !t.active() && t.stateFile != nil && t.missing()
}

// poll looks at everything once and swaps the roster when something changed.
// It reports whether it should be called again soon.
func (w *Watcher) poll(now time.Time) (again bool) {
	w.start()
	deadline := now.Add(pollBudget)
	wait := func() time.Duration { return max(time.Until(deadline), leastWait) }
	changed := false

	l := w.list(now, wait())
	found, problems := l.found, l.problems
	for key, t := range found {
		if w.tracked[key] == nil {
			w.tracked[key] = t
			changed = true
		}
	}
	for key, t := range w.tracked {
		w.pollOne(t, now, wait)
		switch {
		case found[key] != nil, t.source == FromRecord && !l.records, t.source == FromFile && !l.leftOut[key] && !t.missing():
			t.absent = 0
		default:
			if t.absent++; t.absent >= goneAfter {
				delete(w.tracked, key)
				changed = true
				w.log.Info("deployment is gone", "project", t.name, "from", t.source)
				continue
			}
			again = true
		}
		again = again || t.retrying()
		if v := w.viewOf(t, now); v != t.view || t.project == nil {
			if v.stale && !t.view.stale {
				w.log.Warn("what is known of a deployment is stale", "project", t.name, "reason", v.reason, "since", v.since)
			}
			t.view, t.project = v, t.makeProject(v)
			changed = true
		}
	}
	if p, ok := w.pollCluster(now, wait); ok {
		problems = append(problems, p)
	} else if f := w.cluster.file; f != nil && f.retrying() && !f.good.IsZero() {
		again = true
	}

	projects, hidden := w.chosen()
	problems = append(problems, hidden...)
	w.publish(now, projects, problems, changed)
	w.settle(now, l)
	return again
}

func (w *Watcher) start() {
	if w.started {
		return
	}
	w.started = true
	if w.log = w.Log; w.log == nil {
		w.log = slog.Default()
	}
	w.seed = maphash.MakeSeed()
	w.tracked = map[string]*tracked{}
	w.told = map[string]bool{}
	w.failures = map[failure]uint64{}
	if w.Settings != "" {
		w.cluster.file = w.newFile("cluster", filepath.Join(w.Settings, "config", "kvm-compose-config.json"))
	}
}

func (w *Watcher) newFile(kind, path string) *file {
	return &file{kind: kind, path: path, seed: w.seed}
}

// listed are the deployments that have a file now.
type listed struct {
	found          map[string]*tracked
	leftOut        map[string]bool // paths, for their names and number
	problems       []Problem
	records, files bool // all folders of records, and of state files, could be read
	noTestbedOS    bool // there is no folder of records
}

func (w *Watcher) list(now time.Time, wait time.Duration) listed {
	all := listed{found: map[string]*tracked{}, leftOut: map[string]bool{}, records: true, files: true}
	folders := w.listing.look(w.Settings, w.StateGlobs, now, wait)
	bad := map[failure]int{}
	if w.Settings != "" {
		dir := filepath.Join(w.Settings, "deployments")
		names, err := folders.records, folders.err
		if err != nil {
			all.records, all.noTestbedOS = false, errors.Is(err, fs.ErrNotExist)
			all.problems = append(all.problems, Problem{File: "settings", Reason: pathError(err).Reason, Text: "the folder of deployment records can not be read"})
			if w.first("settings") {
				w.log.Warn("the folder of deployment records can not be read; what was known stays", "path", dir, "err", err)
			}
		} else if w.over("settings") {
			w.log.Info("the folder of deployment records can be read again", "path", dir)
		}
		for _, name := range names {
			stem := strings.TrimSuffix(name, ".json")
			path := filepath.Join(dir, name)
			if w.usable("record", path, stem, len(all.found), bad) {
				all.found[path] = w.known(path, func() *tracked {
					return &tracked{name: stem, source: FromRecord, recordFile: w.newFile("record", path)}
				})
			}
		}
	}
	for i, pattern := range w.StateGlobs {
		paths, err := folders.files[i].paths, folders.files[i].err
		switch said := "pattern " + pattern; {
		case errors.Is(err, filepath.ErrBadPattern):
			all.problems = append(all.problems, Problem{File: "settings", Reason: ReasonMalformed, Text: "a pattern of state files is malformed"})
			if w.first(said) {
				w.log.Warn("a pattern of state files is malformed", "pattern", pattern, "err", err)
			}
		case err != nil:
			all.files = false
			all.problems = append(all.problems, Problem{File: "settings", Reason: ReasonUnreadable, Text: "a folder of state files can not be read"})
			if w.first(said) {
				w.log.Warn("a folder of state files can not be read; what was known stays", "pattern", pattern, "err", err)
			}
		case w.over(said):
			w.log.Info("the folders of state files can be read again", "pattern", pattern)
		}
		for _, path := range paths {
			stem, ok := strings.CutSuffix(filepath.Base(path), "-state.json")
			if !ok {
				stem = ""
			}
			if w.usable("state", path, stem, len(all.found), bad) {
				all.found[path] = w.known(path, func() *tracked {
					return &tracked{name: stem, source: FromFile, stateFile: w.newFile("state", path)}
				})
			} else {
				all.leftOut[path] = true
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(bad), func(a, b failure) int {
		return cmp.Or(strings.Compare(a.file, b.file), strings.Compare(a.reason, b.reason))
	}) {
		text := fmt.Sprintf("%d files whose names can not be used are left out", bad[k])
		if k.reason == ReasonTooMany {
			text = fmt.Sprintf("%d deployments beyond the first %d are left out", bad[k], MaxProjects)
		}
		all.problems = append(all.problems, Problem{File: k.file, Reason: k.reason, Text: text})
	}
	return all
}

func (w *Watcher) known(key string, fresh func() *tracked) *tracked {
	if t := w.tracked[key]; t != nil {
		return t
	}
	return fresh()
}

// usable checks the name of a file and how many there are already.
func (w *Watcher) usable(kind, path, stem string, have int, bad map[failure]int) bool {
	var reason string
	switch {
	case !ValidName(stem):
		reason = ReasonBadName
	case have >= MaxProjects:
		reason = ReasonTooMany
	default:
		return true
	}
	k := failure{kind, reason}
	bad[k]++
	if bad[k] <= keptFlaws && w.first(reason+" "+path) {
		w.failures[k]++
		w.log.Warn("a file is left out for its name", "file", quoted(filepath.Base(path)), "reason", reason)
	}
	return false
}

// pollOne looks at the files of one deployment.
func (w *Watcher) pollOne(t *tracked, now time.Time, wait func() time.Duration) {
	if f := t.recordFile; f != nil {
		f.poll(now, wait(), func(data []byte) *Error {
			r, err := parseRecord(data, t.name)
			if err == nil && (t.record == nil || *t.record != *r) {
				if t.record == nil || t.record.state != r.state {
					w.log.Info("deployment state", "project", t.name, "state", r.state)
				}
				t.record = r
			}
			return err
		}, w.failed(f))
		w.say(t, f, now)
		if t.record == nil {
			return
		}
		path := filepath.Join(t.record.location, t.name+"-state.json")
		if t.stateFile == nil || t.stateFile.path != path {
			t.stateFile = w.newFile("state", path)
		}
	}
	f := t.stateFile
	f.poll(now, wait(), func(data []byte) *Error {
		s, err := parseState(data, t.name)
		if err == nil && !reflect.DeepEqual(t.state, s) {
			w.sayState(t, s)
			t.state = s
		}
		return err
	}, w.failed(f))
	if t.unborn() {
		if f.broken() {
			t.state, f.good = nil, time.Time{}
		}
		return
	}
	w.say(t, f, now)
}

func (t *tracked) retrying() bool {
	return t.recordFile != nil && t.recordFile.retrying() || t.stateFile != nil && t.stateFile.retrying() && !t.unborn()
}

// pollCluster looks at the cluster file. Without one the hosts of the active
// deployments are all there are, and that is no problem.
func (w *Watcher) pollCluster(now time.Time, wait func() time.Duration) (Problem, bool) {
	f := w.cluster.file
	if f == nil {
		return Problem{}, false
	}
	f.poll(now, wait(), func(data []byte) *Error {
		hosts, flaws, err := parseCluster(data)
		if err != nil {
			return err
		}
		for _, flaw := range flaws {
			w.log.Warn("a host of the cluster file is left out", "reason", flaw.Reason, "line", flaw.Line, "name", flaw.Name)
		}
		if !slices.Equal(hosts, w.cluster.hosts) {
			w.cluster.hosts, w.cluster.changed = hosts, true
		}
		return nil
	}, func(err *Error) {
		if err.Reason != ReasonMissing || !f.good.IsZero() {
			w.failed(f)(err)
		}
	})
	if f.err != nil && f.err.Reason == ReasonMissing && f.good.IsZero() {
		return Problem{}, false
	}
	w.say(nil, f, now)
	if !f.broken() {
		return Problem{}, false
	}
	return Problem{File: "cluster", Reason: f.err.Reason, Text: "the cluster file " + f.err.plain()}, true
}

// viewOf is what the project of t shows now.
func (w *Watcher) viewOf(t *tracked, now time.Time) view {
	v := view{record: t.record, state: t.state}
	for _, f := range []*file{t.stateFile, t.recordFile} {
		if f == nil || !f.broken() || f == t.stateFile && t.unborn() {
			continue
		}
		v.reason = f.err.Reason
		v.since = f.failed
		v.stale = now.Sub(f.failed) >= w.staleAfter()
		v.text = "the " + f.kind + " file " + f.err.plain()
		switch {
		case f == t.stateFile && t.state == nil, f == t.recordFile && t.record == nil:
			v.text += "; no good version of it is known"
		case v.stale:
			v.text += "; what is shown is stale"
		default:
			v.text += "; its last good version is used"
		}
	}
	return v
}

func (w *Watcher) staleAfter() time.Duration {
	if w.StaleAfter > 0 {
		return w.StaleAfter
	}
	return time.Minute
}

func (t *tracked) makeProject(v view) *Project {
	p := &Project{
		Name: t.name, State: "unknown", Active: t.active(), Source: t.source,
		Problem: v.text, Reason: v.reason, Since: v.since, Stale: v.stale,
	}
	switch {
	case t.source == FromFile:
		p.State = "up"
	case v.record != nil:
		p.State = v.record.state
	}
	if v.state != nil {
		p.Guests, p.Hosts, p.declared = v.state.guests, v.state.names, v.state.hosts
		p.LeftOut, p.LeftOutTotal = v.state.flaws, v.state.flawed
	}
	return p
}

// chosen are the projects sorted by name, each name once: records win over
// files, and the first path over later ones.
func (w *Watcher) chosen() (projects []*Project, hidden []Problem) {
	var first *tracked
	for _, key := range w.keys() {
		t := w.tracked[key]
		if first != nil && first.name == t.name {
			if first.stateFile != nil && first.stateFile.path == t.stateFile.path {
				continue
			}
			hidden = append(hidden, Problem{File: "state", Reason: ReasonDuplicateName, Text: "a state file of the deployment " + t.name + " is left out, as another file has that name"})
			if w.first("hidden " + key) {
				w.failures[failure{"state", ReasonDuplicateName}]++
				w.log.Warn("a state file is left out, as another file has the name of its deployment", "project", t.name, "file", t.stateFile.path)
			}
			continue
		}
		first = t
		projects = append(projects, t.project)
	}
	return projects, hidden
}

// keys of tracked by name, records first.
func (w *Watcher) keys() []string {
	return slices.SortedFunc(maps.Keys(w.tracked), func(a, b string) int {
		x, y := w.tracked[a], w.tracked[b]
		return cmp.Or(strings.Compare(x.name, y.name), -strings.Compare(x.source, y.source), strings.Compare(a, b))
	})
}

// publish swaps the roster when it differs from the one in use.
func (w *Watcher) publish(now time.Time, projects []*Project, problems []Problem, changed bool) {
	old := w.roster.Load()
	if old == nil || changed || w.cluster.changed || !slices.Equal(problems, w.problems) {
		w.problems, w.cluster.changed = problems, false
		w.changes++
		w.roster.Store(newRoster(projects, w.cluster.hosts, problems))
	}
	h := &health{changes: w.changes, failures: maps.Clone(w.failures), took: time.Since(now)}
	for _, t := range w.tracked {
		if t.project == nil || w.roster.Load().Project(t.name) != t.project {
			continue
		}
		s := projectHealth{name: t.name, stale: t.view.stale}
		for _, f := range []*file{t.stateFile, t.recordFile} {
			if f == nil || f.good.IsZero() || f == t.stateFile && t.unborn() {
				continue
			}
			if s.good.IsZero() || f.good.Before(s.good) {
				s.good = f.good
			}
		}
		h.projects = append(h.projects, s)
	}
	w.health.Store(h)
}
