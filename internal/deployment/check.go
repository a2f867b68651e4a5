package deployment

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
)

// Check reads one state file as a [Watcher] would and returns its deployment
// (Active, nil when the file can not be used) and, joined by errors.Join,
// everything that is wrong with it: one *[Error] for the whole file, or one
// for each guest or host that would be left out. When the file is called
// <project>-state.json, its project_name must be that project.
func Check(path string) (*Project, error) {
	l := readFile(path, MaxFileBytes, signature{})
	if l.err != nil {
		l.err.Path = path
		return nil, l.err
	}
	name, ok := strings.CutSuffix(filepath.Base(path), "-state.json")
	if !ok {
		name = ""
	}
	s, err := parseState(l.data, name)
	if err != nil {
		err.Path = path
		return nil, err
	}
	t := &tracked{name: s.project, source: FromFile, state: s}
	p := t.makeProject(view{state: s})
	var wrong []error
	for _, f := range s.flaws {
		wrong = append(wrong, &Error{Path: path, Reason: f.Reason, Line: f.Line, Column: 1, Detail: f.Name + " would be left out"})
	}
	if more := s.flawed - len(s.flaws); more > 0 {
		wrong = append(wrong, fmt.Errorf("%s: %d more would be left out", path, more))
	}
	seen := map[string]string{}
	for _, g := range p.Guests {
		if other, ok := seen[g.RuntimeName]; ok {
			wrong = append(wrong, fmt.Errorf("%s: the guests %s and %s share the runtime name %s; both would be refused", path, other, g.Name, g.RuntimeName))
		}
		seen[g.RuntimeName] = g.Name
	}
	return p, errors.Join(wrong...)
}

// CheckSettings looks once at a settings folder and its files as a [Watcher]
// would and returns the roster and, joined, everything that is wrong: what
// stands in the roster's and its projects' problems, guests that are left
// out, and runtime names that several active guests share.
func CheckSettings(settings string, globs ...string) (*Roster, error) {
	w := &Watcher{Settings: settings, StateGlobs: globs, Log: slog.New(slog.DiscardHandler)}
	r := w.Load()
	var wrong []error
	for _, p := range r.Problems() {
		wrong = append(wrong, fmt.Errorf("%s: %s: %s", settings, p.Reason, p.Text))
	}
	for _, key := range w.keys() {
		t := w.tracked[key]
		for _, f := range []*file{t.recordFile, t.stateFile} {
			if f != nil && f.err != nil && !t.unborn() {
				wrong = append(wrong, f.err)
			}
		}
		if t.state == nil {
			continue
		}
		for _, f := range t.state.flaws {
			wrong = append(wrong, &Error{Path: t.stateFile.path, Reason: f.Reason, Line: f.Line, Column: 1, Detail: f.Name + " would be left out"})
		}
		for _, g := range t.state.guests {
			if _, m := r.Lookup(g.RuntimeName); t.active() && m == Ambiguous {
				wrong = append(wrong, fmt.Errorf("%s: several active guests share the runtime name %s; all would be refused", t.stateFile.path, g.RuntimeName))
			}
		}
	}
	return r, errors.Join(wrong...)
}
