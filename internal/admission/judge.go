package admission

import (
	"bytes"
	"regexp"
	"slices"
	"unicode/utf8"

	"fanin/internal/deployment"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// Limits of one series, in bytes. Their number is [wire.Limits]' matter.
const (
	maxMetricName = 200
	maxLabelName  = 128
	maxLabelValue = 512
)

const (
	nameLabel   = "__name__"
	guestLabel  = "guest"  // names a guest by its runtime name
	reasonLabel = "reason" // on the claim that a guest is not up
	guestUp     = "testbed_guest_up"
	guestPrefix = "testbed_guest_"
	pagePrefix  = "testbed_guest_exporter_" // of the attempt to scrape a guest's page
	hostPrefix  = "testbed_host_"
)

// Names that stand for the gateway's own word.
var gatewaysOwn = map[string]bool{
	"testbed_host_up":                    true,
	"testbed_host_clock_offset_seconds":  true,
	"testbed_guest_disturbed_ratio":      true,
	"testbed_host_disturbed_ratio":       true,
	"testbed_deployment_disturbed_ratio": true,
	"testbed_run_active":                 true,
	"testbed_run_mark_timestamp_seconds": true,
}

// Reserved reports whether series of this name are said by the gateway only.
func Reserved(name string) bool { return gatewaysOwn[name] }

func (s *Session) judge(claim *wire.Series) Verdict {
	said, overfull := claim.Labels()
	if reason := flaw(said, overfull); reason != "" {
		return refused(reason)
	}
	roster, host := s.node.roster, s.node.host
	if !roster.HasHost(host) {
		return refused(UnknownHost)
	}
	var name, guest, why []byte
	for _, l := range said {
		switch string(l.Name) {
		case nameLabel:
			name = l.Value
		case guestLabel:
			guest = l.Value
		case reasonLabel:
			why = l.Value
		}
	}
	var of *deployment.Guest
	switch {
	case gatewaysOwn[string(name)]:
		return refused(ReservedName)
	case len(guest) == 0 && bytes.HasPrefix(name, []byte(guestPrefix)):
		return refused(NoGuest)
	case len(guest) > 0 && bytes.HasPrefix(name, []byte(hostPrefix)):
		return refused(ReservedName)
	case len(guest) > 0:
		if s.guest != string(guest) {
			s.guest = string(guest)
			s.found, s.reason = resolve(roster, s.guest, host)
		}
		if s.reason != "" {
			v := refused(s.reason)
			if string(name) == guestUp {
				v.Refusal.Stranger = s.guest
			}
			if s.reason == WrongHost {
				v.Owner = s.owner(s.found)
			}
			return v
		}
		of = s.found
	}
	owner := s.owner(of)
	if string(name) == guestUp {
		if !plainReason.Match(why) {
			why = nil
		}
		return Verdict{State: &State{Why: string(why)}, Owner: owner}
	}
	family, named := s.family(name)
	v := Verdict{Series: s.labels(name, said, owner).Of(family, named), Owner: owner}
	if bytes.HasPrefix(name, []byte(pagePrefix)) {
		v.Owner = nil
	}
	return v
}

// owner is a guest as it should be, its own host included; nil: this host.
func (s *Session) owner(g *deployment.Guest) *sample.Owner {
	known := s.node.owners[g]
	if known == nil {
		known = &sample.Owner{Host: s.node.host}
		if g != nil {
			known = &sample.Owner{Host: g.Host, Project: g.Project, Guest: g.Name, Kind: g.Kind}
		}
		s.node.owners[g] = known
	}
	return known
}

var plainReason = regexp.MustCompile(`^[a-z_]{1,32}$`)

// resolve looks the whole runtime name up; it is never split at a hyphen. The
// guest comes with WrongHost too.
func resolve(roster *deployment.Roster, runtimeName, host string) (*deployment.Guest, Reason) {
	guest, match := roster.Lookup(runtimeName)
	switch match {
	case deployment.Found:
	case deployment.Ambiguous:
		return nil, Ambiguous
	case deployment.NotActive:
		return nil, NotActive
	default:
		return nil, UnknownGuest
	}
	switch guest.Host {
	case host:
		return guest, ""
	case "":
		return nil, NotPlaced
	default:
		return guest, WrongHost
	}
}

// labels are those of a claim without its name and the guest, and the identity
// labels. What the sender wrote under their names is kept as exported_ and the
// name, as Prometheus does it. A host may count its guests by guest_type:
// without a guest_name that is no identity.
func (s *Session) labels(name []byte, said []wire.Label, owner *sample.Owner) *sample.Labels {
	if s.identified != owner {
		s.identified, s.identity = owner, identityOf(owner)
	}
	identity := s.identity
	if owner.IsHost() && bytes.HasPrefix(name, []byte(hostPrefix)) {
		identity[1] = wire.Label{}
	}
	for _, l := range said {
		if says(identity[:], l.Name) {
			said = exported(said, identity[:])
			break
		}
	}
	if s.builder == nil {
		if s.builder, _ = s.gate.builders.Get().(*sample.Builder); s.builder == nil {
			s.builder = &sample.Builder{}
		}
	}
	b, rest := s.builder, identity[:]
	b.Begin()
	for _, l := range said {
		if string(l.Name) == nameLabel || string(l.Name) == guestLabel {
			continue
		}
		for len(rest) > 0 && bytes.Compare(rest[0].Name, l.Name) < 0 {
			b.Add(rest[0].Name, rest[0].Value)
			rest = rest[1:]
		}
		b.Add(l.Name, l.Value)
	}
	for _, l := range rest {
		b.Add(l.Name, l.Value)
	}
	return b.Labels(owner)
}

// identityOf is the identity labels, sorted by name.
func identityOf(owner *sample.Owner) [4]wire.Label {
	return [...]wire.Label{
		{Name: []byte(sample.GuestName), Value: []byte(owner.Guest)},
		{Name: []byte(sample.GuestType), Value: []byte(owner.Kind)},
		{Name: []byte(sample.HostName), Value: []byte(owner.Host)},
		{Name: []byte(sample.Project), Value: []byte(owner.Project)},
	}
}

func says(labels []wire.Label, name []byte) bool {
	return slices.ContainsFunc(labels, func(l wire.Label) bool { return bytes.Equal(l.Name, name) })
}

// exported is what was said with other names in the place of some.
func exported(said, names []wire.Label) []wire.Label {
	said = slices.Clone(said)
	for i, l := range said {
		if !says(names, l.Name) {
			continue
		}
		other := append([]byte("exported_"), l.Name...)
		for says(said, other) {
			other = append([]byte("exported_"), other...)
		}
		said[i].Name = other
	}
	slices.SortFunc(said, func(a, b wire.Label) int { return bytes.Compare(a.Name, b.Name) })
	return said
}

// flaw checks the form of a claim: what a page could not carry.
func flaw(labels []wire.Label, overfull bool) Reason {
	if overfull {
		return TooManyLabels
	}
	named := false
	for i, l := range labels {
		if i > 0 {
			switch bytes.Compare(labels[i-1].Name, l.Name) {
			case 0:
				return RepeatedLabel
			case 1:
				return Unsorted
			}
		}
		if !utf8.Valid(l.Name) || !utf8.Valid(l.Value) {
			return BadUTF8
		}
		if string(l.Name) == nameLabel {
			named = true
			if len(l.Value) > maxMetricName {
				return TooLong
			}
			if !sample.ValidMetricName(l.Value) {
				return BadName
			}
			continue
		}
		if len(l.Name) > maxLabelName || len(l.Value) > maxLabelValue {
			return TooLong
		}
		if !sample.ValidLabelName(l.Name) {
			return BadLabelName
		}
	}
	if !named {
		return BadName
	}
	return ""
}

// family finds what name belongs to: itself, or the histogram or summary
// whose part it is. named is the name.
func (s *Session) family(name []byte) (f *sample.Family, named string) {
	if f = s.node.metadata[string(name)]; f != nil {
		return f, f.Name
	}
	for _, suffix := range [...]string{"_bucket", "_count", "_sum"} {
		base, has := bytes.CutSuffix(name, []byte(suffix))
		if f = s.node.metadata[string(base)]; has && f != nil && partOf(f.Type, suffix) {
			return f, s.gate.name(name)
		}
	}
	f = s.gate.family(sample.Family{Name: string(name)})
	return f, f.Name
}

// family is one pointer for all families that are the same.
func (g *Gate) family(like sample.Family) *sample.Family {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.families[like]
	if f == nil {
		f = &like
		if len(g.families) < maxFamilies {
			g.families[like] = f
		}
	}
	return f
}

// name is one string for all names that are the same.
func (g *Gate) name(like []byte) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	name, known := g.names[string(like)]
	if !known {
		name = string(like)
		if len(g.names) < maxFamilies {
			g.names[name] = name
		}
	}
	return name
}

func partOf(t sample.Type, suffix string) bool {
	switch t {
	case sample.Histogram, sample.GaugeHistogram:
		return true
	case sample.Summary:
		return suffix != "_bucket"
	}
	return false
}

func typeOf(t wire.Type) sample.Type {
	switch t {
	case wire.Counter:
		return sample.Counter
	case wire.Gauge:
		return sample.Gauge
	case wire.Histogram:
		return sample.Histogram
	case wire.GaugeHistogram:
		return sample.GaugeHistogram
	case wire.Summary:
		return sample.Summary
	case wire.Info:
		return sample.Info
	case wire.StateSet:
		return sample.StateSet
	}
	return sample.Unknown
}
