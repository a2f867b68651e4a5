package dashboard

import (
	"math"
	"slices"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/sample"
	"fanin/internal/verdict"
)

// Reasons beside those of presence why a guest is not up.
const (
	notActive = "not_active"
	ambiguous = "ambiguous_name"
)

const (
	// mostUnowned bounds the list of guests that nobody owns.
	mostUnowned = 200
)

// overview is what the first page and /api/v1/deployments say.
type overview struct {
	Time         time.Time  `json:"time"`
	Deployments  []summary  `json:"deployments"`
	Hosts        []hostView `json:"hosts"`
	Problems     []problem  `json:"problems"`
	Unowned      []unowned  `json:"unowned_guests"`
	UnownedTotal int        `json:"unowned_guests_total"`

	Charts chartsView `json:"-"`
}

// summary is one deployment.
type summary struct {
	Name           string   `json:"name"`
	State          string   `json:"state"`
	Active         bool     `json:"active"`
	Source         string   `json:"source"`
	Hosts          []string `json:"hosts"`
	GuestsExpected int      `json:"guests_expected"`
	GuestsUp       int      `json:"guests_up"`
	GuestsLeftOut  int      `json:"guests_left_out"`
	Disturbed      number   `json:"disturbed"` // the worst-off guest's share, by the testbed
	Problem        *problem `json:"problem"`
}

// problem is what is wrong with a file.
type problem struct {
	File   string     `json:"file,omitempty"`
	Reason string     `json:"reason"`
	Text   string     `json:"text"`
	Stale  bool       `json:"stale"`
	Since  *time.Time `json:"since,omitempty"`
}

// hostView is one host. The values are null when they are unknown.
type hostView struct {
	Name     string `json:"name"`
	IP       string `json:"ip"`
	Main     bool   `json:"main"`
	Up       bool   `json:"up"`
	LastSeen number `json:"last_seen_seconds"`
	Interval number `json:"interval_seconds"`
	Offset   number `json:"clock_offset_seconds"`
	Unowned  int    `json:"unowned_guests"`

	*hostValues // only on a deployment's page

	Graphs []graph `json:"-"`
}

type hostValues struct {
	CPU         number `json:"cpu_percent"`
	Load        number `json:"load1"`
	MemoryUsed  number `json:"memory_used_bytes"`
	MemoryTotal number `json:"memory_total_bytes"`
}

// unowned is a guest that a host reports and no active deployment owns. Name
// and Reason come from outside.
type unowned struct {
	Host     string `json:"host"`
	Name     string `json:"name"`
	Reason   string `json:"reason"`
	LastSeen number `json:"last_seen_seconds"`
}

// detail is what a deployment's page and /api/v1/deployments/<project> say.
type detail struct {
	Time time.Time `json:"time"`
	summary
	HostViews []hostView  `json:"host_status"`
	Guests    []guestView `json:"guests"`
	LeftOut   []leftOut   `json:"left_out"`

	Charts chartsView `json:"-"`
	Board  *graph     `json:"-"` // in Grafana; nil without
}

// guestView is one guest. The values are null when they are unknown.
type guestView struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	Host        string   `json:"host"` // "" when it is not placed
	RuntimeName string   `json:"runtime_name"`
	Addresses   []string `json:"addresses"`
	Up          bool     `json:"up"`
	Reason      string   `json:"reason"` // "" when up
	LastSeen    number   `json:"last_seen_seconds"`

	CPU         number `json:"cpu_percent"` // of its limit
	Memory      number `json:"memory_percent"`
	MemoryUsed  number `json:"memory_bytes"`
	MemoryLimit number `json:"memory_limit_bytes"`
	Receive     number `json:"network_receive_bytes_per_second"`
	Transmit    number `json:"network_transmit_bytes_per_second"`

	// Disturbed is for which share of the last 10 s the guest was kept from
	// running, by cause; null when that is not known.
	Disturbed map[string]float64 `json:"disturbed"`

	Graphs []graph `json:"-"`
}

// leftOut is a guest of the state file that can not be used. Its name is not
// told, as it may be the reason.
type leftOut struct {
	Reason string `json:"reason"`
	Line   int    `json:"line"`
}

func (d *Dashboard) overview() *overview {
	roster, report := d.Roster(), d.Report()
	o := &overview{
		Time: report.At.UTC().Truncate(time.Millisecond), Deployments: []summary{}, Hosts: []hostView{},
		Problems: []problem{}, Unowned: []unowned{}, Charts: d.chartsView(""),
	}
	up := map[string]int{}
	for _, g := range report.Guests {
		if g.Up {
			up[g.Guest.Project]++
		}
	}
	verdicts := d.verdicts(report)
	for _, p := range roster.Projects() {
		s := summarize(p, up[p.Name])
		s.Disturbed = disturbed(verdicts, p.Name)
		o.Deployments = append(o.Deployments, s)
	}
	for _, h := range report.Hosts {
		o.Hosts = append(o.Hosts, viewHost(h, report.At))
		o.UnownedTotal += len(h.Strangers)
		for _, s := range h.Strangers {
			if len(o.Unowned) < mostUnowned {
				o.Unowned = append(o.Unowned, unowned{Host: s.Host, Name: s.Name, Reason: s.Reason, LastSeen: since(s.Seen, report.At)})
			}
		}
	}
	for _, p := range roster.Problems() {
		o.Problems = append(o.Problems, problem{File: p.File, Reason: p.Reason, Text: p.Text})
	}
	return o
}

func (d *Dashboard) detail(p *deployment.Project) *detail {
	roster, report := d.Roster(), d.Report()
	o := &detail{
		Time: report.At.UTC().Truncate(time.Millisecond), HostViews: []hostView{}, Guests: []guestView{}, LeftOut: []leftOut{},
		Charts: d.chartsView(p.Name), Board: d.grafana.project(p.Name),
	}
	for _, f := range p.LeftOut {
		o.LeftOut = append(o.LeftOut, leftOut{Reason: f.Reason, Line: f.Line})
	}
	hosts := p.Hosts
	current := d.valuesOf(p.Name, func(owner sample.Owner) bool {
		if owner.IsHost() {
			_, mine := slices.BinarySearch(hosts, owner.Host)
			return mine
		}
		return owner.Project == p.Name
	})
	for _, name := range hosts {
		status, ok := report.Host(name)
		if !ok {
			status.Host.Name = name
		}
		v := viewHost(status, report.At)
		v.hostValues = valuesOfHost(current[sample.Owner{Host: name}])
		v.Graphs = d.grafana.host(name)
		o.HostViews = append(o.HostViews, v)
	}
	statuses := map[string]presence.GuestStatus{}
	for _, g := range report.Guests {
		if g.Guest.Project == p.Name {
			statuses[g.Guest.Name] = g
		}
	}
	up, verdicts := 0, d.verdicts(report)
	for _, g := range p.Guests {
		status, ok := statuses[g.Name]
		_, match := roster.Lookup(g.RuntimeName)
		switch {
		case !p.Active || !ok:
			status.Reason = notActive
		case match == deployment.Ambiguous && !status.Up:
			status.Reason = ambiguous
		}
		if status.Up {
			up++
		}
		v := viewGuest(g, status, report.At, current[presence.OwnerOf(g)])
		v.Disturbed = verdicts.Guest(p.Name, g.Name)
		v.Graphs = d.grafana.guest(p.Name, g.Name)
		o.Guests = append(o.Guests, v)
	}
	o.summary = summarize(p, up)
	o.Disturbed = disturbed(verdicts, p.Name)
	return o
}

func (d *Dashboard) verdicts(r *presence.Report) *verdict.Verdicts {
	if d.Verdicts == nil {
		return &verdict.Verdicts{}
	}
	return d.Verdicts(r)
}

func disturbed(v *verdict.Verdicts, project string) number {
	if share, ok := v.Deployment(project); ok {
		return known(share)
	}
	return number{}
}

func summarize(p *deployment.Project, up int) summary {
	s := summary{
		Name: p.Name, State: p.State, Active: p.Active, Source: p.Source, Hosts: slices.Clone(p.Hosts),
		GuestsUp: up, GuestsLeftOut: p.LeftOutTotal,
	}
	if s.Hosts == nil {
		s.Hosts = []string{}
	}
	if p.Active {
		s.GuestsExpected = len(p.Guests)
	}
	if p.Problem != "" {
		began := p.Since.UTC().Truncate(time.Second)
		s.Problem = &problem{Reason: p.Reason, Text: p.Problem, Stale: p.Stale, Since: &began}
	}
	return s
}

func viewHost(h presence.HostStatus, now time.Time) hostView {
	v := hostView{
		Name: h.Host.Name, IP: h.Host.IP, Main: h.Host.Main, Up: h.Up,
		LastSeen: since(h.LastSeen, now), Unowned: len(h.Strangers),
	}
	if h.Interval > 0 {
		v.Interval = known(h.Interval.Seconds())
	}
	if h.ClockKnown {
		v.Offset = known(math.Round(h.ClockOffset.Seconds()*1e4) / 1e4)
	}
	return v
}

func valuesOfHost(v values) *hostValues {
	h := &hostValues{CPU: v.get(hostCPU), Load: v.get(hostLoad), MemoryTotal: v.get(hostMemory)}
	if available := v.get(hostAvailable); available.OK && h.MemoryTotal.OK {
		h.MemoryUsed = known(h.MemoryTotal.V - available.V)
	}
	return h
}

func viewGuest(g *deployment.Guest, s presence.GuestStatus, now time.Time, v values) guestView {
	out := guestView{
		Name: g.Name, Type: g.Kind, Host: g.Host, RuntimeName: g.RuntimeName, Addresses: []string{},
		Up: s.Up, Reason: s.Reason, LastSeen: since(s.LastSeen, now),
		CPU: v.get(guestCPU), Memory: v.get(guestMemory), MemoryUsed: v.get(guestUsage), MemoryLimit: v.get(guestLimit),
		Receive: v.get(guestReceive), Transmit: v.get(guestTransmit),
	}
	for _, a := range g.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	return out
}

// since is how many seconds ago t was, to the millisecond.
func since(t, now time.Time) number {
	if t.IsZero() {
		return number{}
	}
	return known(max(now.Sub(t), 0).Round(time.Millisecond).Seconds())
}
