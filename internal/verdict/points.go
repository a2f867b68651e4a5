package verdict

import (
	"slices"
	"strings"
	"time"

	"fanin/internal/sample"
)

// What the gateway says for itself, as of now.
var (
	GuestDisturbed      = sample.NewGauge("testbed_guest_disturbed_ratio", "ratio", "For which share of the last 10 s the guest was kept from running, 0 to 1, by cause.")
	HostDisturbed       = sample.NewGauge("testbed_host_disturbed_ratio", "ratio", "For which share of the last 10 s something on the host had to wait, 0 to 1, by cause.")
	DeploymentDisturbed = sample.NewGauge("testbed_deployment_disturbed_ratio", "ratio", "For which share of the last 10 s the testbed kept the deployment's worst-off guest from running, 0 to 1; 0 below 0.05, and limits of guests do not count.")
)

const (
	// told is from where on a single cause is on the page.
	told = 0.01
	// quiet is what a scheduler takes anyway: below, a deployment is not
	// disturbed.
	quiet = 0.05
)

// Verdicts are those of one moment. They are immutable.
type Verdicts struct {
	at       time.Time
	hosts    []ofHost
	guests   []ofGuest   // sorted by project and name
	projects []ofProject // sorted by name
}

type ofHost struct {
	shares [hostCauses]number
	series *[hostCauses]*sample.Series
}

type ofGuest struct {
	project, name string
	shares        shares
	series        *[causes]*sample.Series
}

type ofProject struct {
	name   string
	share  float64
	series *sample.Series
}

func (p *ofProject) value() float64 {
	if v := rounded(p.share); v >= quiet {
		return v
	}
	return 0
}

// Guest is the verdict on one guest: all causes that are known, and shares, 0 to
// 1; nil when there is none.
func (v *Verdicts) Guest(project, name string) map[string]float64 {
	i, found := slices.BinarySearchFunc(v.guests, project, func(g ofGuest, _ string) int {
		if order := strings.Compare(g.project, project); order != 0 {
			return order
		}
		return strings.Compare(g.name, name)
	})
	if !found {
		return nil
	}
	of := map[string]float64{}
	for c, n := range v.guests[i].shares {
		if n.ok {
			of[Cause(c).String()] = rounded(n.v)
		}
	}
	return of
}

// Deployment is the verdict on a deployment: see [DeploymentDisturbed].
func (v *Verdicts) Deployment(project string) (share float64, ok bool) {
	i, found := slices.BinarySearchFunc(v.projects, project, func(p ofProject, name string) int { return strings.Compare(p.name, name) })
	if !found {
		return 0, false
	}
	return v.projects[i].value(), true
}

// AppendPoints appends the verdicts as points without a time of their own (T
// is 0), family by family.
func (v *Verdicts) AppendPoints(to []sample.Point) []sample.Point {
	to = slices.Grow(to, len(v.projects)+2*(len(v.guests)+len(v.hosts)))
	for _, p := range v.projects {
		to = append(to, sample.Point{Series: p.series, V: p.value()})
	}
	for i := range v.guests {
		g := &v.guests[i]
		for c, n := range g.shares {
			if n.isTold(Cause(c)) {
				to = append(to, sample.Point{Series: g.series[c], V: rounded(n.v)})
			}
		}
	}
	for i := range v.hosts {
		h := &v.hosts[i]
		for c, n := range h.shares {
			if n.ok {
				to = append(to, sample.Point{Series: h.series[c], V: rounded(n.v)})
			}
		}
	}
	return to
}

// isTold reports whether a guest's share is on the page.
func (n number) isTold(c Cause) bool { return n.ok && (c == AnyOfTestbed || rounded(n.v) >= told) }

// names makes the series of verdicts, each once.
type names struct {
	builder  sample.Builder
	projects map[string]*sample.Series
}

const causeLabel = "cause"

// labels makes a set of an owner's; the names of pairs sort as they stand.
func (n *names) labels(owner *sample.Owner, pairs ...string) *sample.Labels {
	n.builder.Begin()
	for i := 0; i < len(pairs); i += 2 {
		n.builder.Add([]byte(pairs[i]), []byte(pairs[i+1]))
	}
	return n.builder.Labels(owner)
}

// guest makes those that are told for the first time: of most causes none ever
// is.
func (n *names) guest(g *guest, of *shares) {
	owner := g.owner
	for c, share := range of {
		if g.series[c] == nil && share.isTold(Cause(c)) {
			labels := n.labels(owner, causeLabel, Cause(c).String(), sample.GuestName, owner.Guest, sample.GuestType, owner.Kind,
				sample.HostName, owner.Host, sample.Project, owner.Project)
			g.series[c] = labels.Of(GuestDisturbed, GuestDisturbed.Name)
		}
	}
}

func (n *names) host(name string, h *host) *[hostCauses]*sample.Series {
	if h.series[0] == nil {
		for c, cause := range hostCauseNames {
			h.series[c] = n.labels(&sample.Owner{Host: name}, causeLabel, cause, sample.HostName, name).Of(HostDisturbed, HostDisturbed.Name)
		}
	}
	return &h.series
}

func (n *names) project(name string) *sample.Series {
	s := n.projects[name]
	if s == nil {
		if n.projects == nil {
			n.projects = map[string]*sample.Series{}
		}
		s = n.labels(&sample.Owner{Project: name}, sample.Project, name).Of(DeploymentDisturbed, DeploymentDisturbed.Name)
		n.projects[name] = s
	}
	return s
}

func (n *names) forget() { clear(n.projects) }
