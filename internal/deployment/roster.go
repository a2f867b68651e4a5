// Package deployment owns the file formats of TestbedOS: which deployments
// there are, which of them are active, which guests belong to them and which
// hosts make up the cluster. It polls those files and offers the newest good
// version of them as one immutable [Roster].
//
// It decides nothing: who may say what about a guest is admission's, whether
// a guest was seen is presence's.
package deployment

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kinds of guests, as keys of a guest in state.json and values of guest_type.
const (
	Libvirt = "libvirt"
	Docker  = "docker"
	Android = "android"
)

// Guest is one guest of a deployment. It is immutable.
type Guest struct {
	Project string
	Name    string // the guest's name in its deployment
	Kind    string // Libvirt, Docker or Android
	Host    string // the testbed host it is placed on; "" when it is not placed yet

	// RuntimeName is the name of the domain, container or AVD on its host:
	// <project>-<guest>, or what the optional key runtime_name says.
	RuntimeName string

	// Addresses are those state.json gives, in the order of the file, each
	// once; at most 16.
	Addresses []netip.Addr
}

// Host is one testbed host. It is immutable.
type Host struct {
	Name string
	IP   string // "" when unknown, otherwise a valid address
	Main bool   // whether TestbedOS calls it the main host
}

// Sources of a project.
const (
	FromRecord = "record" // a record in the settings folder
	FromFile   = "file"   // a state file found by a glob
)

// Project is one deployment. It is immutable.
type Project struct {
	Name string

	// State is "up", "down", "running", the name of another variant in lower
	// case letters and underscores ("failed"), or "unknown" when the record
	// could not be read or names it in another way. A project of FromFile is
	// always "up".
	State  string
	Active bool // State is "up"
	Source string

	Guests []*Guest // sorted by name, without golden images; also of inactive projects
	Hosts  []string // names of its hosts, as its state file declares them or places guests on them, sorted

	// LeftOut are the guests of the state file that can not be used, in the
	// order of the file; at most 100 are kept, LeftOutTotal counts all.
	LeftOut      []Flaw
	LeftOutTotal int

	// Problem says why the project's files could not be used, "" when all is
	// well; the last good version of them is used meanwhile. It holds no
	// content of the files. Reason is one of the Reason constants, Since when
	// it began. Stale tells that it has lasted for longer than
	// [Watcher.StaleAfter].
	Problem string
	Reason  string
	Since   time.Time
	Stale   bool

	declared []Host // testbed_hosts of the state file
}

// Guest is the guest of that name, nil when there is none.
func (p *Project) Guest(name string) *Guest {
	i, ok := slices.BinarySearchFunc(p.Guests, name, func(g *Guest, n string) int { return strings.Compare(g.Name, n) })
	if !ok {
		return nil
	}
	return p.Guests[i]
}

// Problem is something wrong with a file that belongs to no usable project.
type Problem struct {
	File   string // "record", "state", "cluster" or "settings"
	Reason string // one of the Reason constants
	Text   string // for people; never a name or content taken from the file
}

// Match says what a lookup found.
type Match uint8

// Outcomes of [Roster.Lookup].
const (
	Unknown   Match = iota // no deployment has such a guest
	Found                  // exactly one guest of an active deployment
	NotActive              // only guests of deployments that are not active
	Ambiguous              // several guests of active deployments share the name
)

var matchNames = [...]string{"unknown", "found", "not_active", "ambiguous"}

// String is the outcome in lower case.
func (m Match) String() string { return matchNames[m] }

// Roster is one immutable picture of all deployments; safe for concurrent
// use. The zero Roster is empty. Nothing that its methods return may be
// changed.
type Roster struct {
	hosts    []Host
	cluster  []Host
	projects []*Project
	problems []Problem
	byHost   map[string]int
	byName   map[string]*Project
	guests   map[string]entry
}

type entry struct {
	guest *Guest
	match Match
}

// Hosts are those of the cluster file and, where it lacks them, of active
// deployments, sorted by name.
func (r *Roster) Hosts() []Host { return r.hosts }

// HasHost reports whether Hosts has one of that name.
func (r *Roster) HasHost(name string) bool { _, ok := r.byHost[name]; return ok }

// Host is the host of that name.
func (r *Roster) Host(name string) (Host, bool) {
	i, ok := r.byHost[name]
	if !ok {
		return Host{}, false
	}
	return r.hosts[i], true
}

// HostsFor are those of the cluster file and those that the project's own state
// file declares, each with the address that its file says; a name of both is
// there twice. Without a cluster file they are all hosts, as nothing else tells
// which of them are.
func (r *Roster) HostsFor(p *Project) []Host {
	if len(r.cluster) == 0 {
		return r.hosts
	}
	return slices.Concat(r.cluster, p.declared)
}

// Projects are all deployments, active or not, sorted by name.
func (r *Roster) Projects() []*Project { return r.projects }

// Project is the deployment of that name, nil when there is none.
func (r *Roster) Project(name string) *Project { return r.byName[name] }

// Problems are what is wrong beside the projects' own problems: names that
// can not be used, a cluster file that does not parse, a missing folder.
func (r *Roster) Problems() []Problem { return r.problems }

// Lookup resolves a whole runtime name. The name is never split: project a-b
// with guest c and project a with guest b-c have the same one. The guest is
// nil for Unknown and Ambiguous; for NotActive it is the first such guest in
// the order of projects.
func (r *Roster) Lookup(runtimeName string) (*Guest, Match) {
	e := r.guests[runtimeName]
	return e.guest, e.match
}

// newRoster takes projects sorted by name.
func newRoster(projects []*Project, cluster []Host, problems []Problem) *Roster {
	r := &Roster{
		cluster:  cluster,
		projects: projects,
		problems: problems,
		byHost:   map[string]int{},
		byName:   make(map[string]*Project, len(projects)),
	}
	hosts := map[string]Host{}
	for _, h := range cluster {
		hosts[h.Name] = h
	}
	total := 0
	for _, p := range projects {
		total += len(p.Guests)
	}
	r.guests = make(map[string]entry, total)
	for _, p := range projects {
		r.byName[p.Name] = p
		for _, g := range p.Guests {
			r.guests[g.RuntimeName] = joined(r.guests[g.RuntimeName], g, p.Active)
		}
		if !p.Active {
			continue
		}
		for _, h := range p.declared {
			if _, ok := hosts[h.Name]; !ok {
				hosts[h.Name] = h
			}
		}
	}
	for _, p := range projects {
		for _, name := range p.Hosts {
			if _, ok := hosts[name]; !ok && p.Active {
				hosts[name] = Host{Name: name}
			}
		}
	}
	for _, h := range hosts {
		r.hosts = append(r.hosts, h)
	}
	slices.SortFunc(r.hosts, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	for i, h := range r.hosts {
		r.byHost[h.Name] = i
	}
	return r
}

// joined is what a name means when g bears it too.
func joined(e entry, g *Guest, active bool) entry {
	switch {
	case active && (e.match == Found || e.match == Ambiguous):
		return entry{match: Ambiguous}
	case active:
		return entry{guest: g, match: Found}
	case e.match == Unknown:
		return entry{guest: g, match: NotActive}
	}
	return e
}
