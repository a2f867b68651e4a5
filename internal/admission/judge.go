package admission

import (
	"bytes"
	"regexp"
	"strings"
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
	"testbed_host_up":                   true,
	"testbed_host_clock_offset_seconds": true,
}

func (s *Session) judge(claim *wire.Series) Verdict {
	said, overfull := claim.Labels()
	if reason := flaw(said, overfull); reason != "" {
		return refused(reason)
	}
	roster, host := s.node.roster, s.node.host
	if !roster.HasHost(host) {
		return refused(UnknownHost)
	}
	var name, guest, why string
	labels := make([]sample.Label, 0, len(said)+4)
	for _, l := range said {
		switch string(l.Name) {
		case nameLabel:
			name = string(l.Value)
		case guestLabel:
			guest = string(l.Value)
		default:
			if string(l.Name) == reasonLabel {
				why = string(l.Value)
			}
			labels = append(labels, sample.Label{Name: string(l.Name), Value: string(l.Value)})
		}
	}
	var of *deployment.Guest
	switch {
	case gatewaysOwn[name]:
		return refused(ReservedName)
	case guest == "" && strings.HasPrefix(name, guestPrefix):
		return refused(NoGuest)
	case guest != "" && strings.HasPrefix(name, hostPrefix):
		return refused(ReservedName)
	case guest != "":
		g, reason := resolve(roster, guest, host)
		if reason != "" {
			v := refused(reason)
			if name == guestUp {
				v.Refusal.Stranger = guest
			}
			if reason == WrongHost {
				v.Owner = s.owner(g)
			}
			return v
		}
		of = g
	}
	owner := s.owner(of)
	if name == guestUp {
		if !plainReason.MatchString(why) {
			why = ""
		}
		return Verdict{State: &State{Why: why}, Owner: owner}
	}
	v := Verdict{Series: sample.NewNamed(s.family(name), name, identified(name, labels, *owner)...), Owner: owner}
	if strings.HasPrefix(name, pagePrefix) {
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

// identified adds the identity labels; what the sender wrote under their
// names is kept as exported_ and the name, as Prometheus does it. A host may
// count its guests by guest_type: without a guest_name that is no identity.
func identified(name string, labels []sample.Label, owner sample.Owner) []sample.Label {
	counts := owner.IsHost() && strings.HasPrefix(name, hostPrefix)
	taken := func(name string) bool {
		for _, l := range labels {
			if l.Name == name {
				return true
			}
		}
		return false
	}
	for i, l := range labels {
		switch l.Name {
		case sample.GuestType:
			if counts {
				continue
			}
		case sample.Project, sample.GuestName, sample.HostName:
		default:
			continue
		}
		exported := "exported_" + l.Name
		for taken(exported) {
			exported = "exported_" + exported
		}
		labels[i].Name = exported
	}
	return append(labels,
		sample.Label{Name: sample.HostName, Value: owner.Host},
		sample.Label{Name: sample.Project, Value: owner.Project},
		sample.Label{Name: sample.GuestName, Value: owner.Guest},
		sample.Label{Name: sample.GuestType, Value: owner.Kind})
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
			if !sample.ValidMetricName(string(l.Value)) {
				return BadName
			}
			continue
		}
		if len(l.Name) > maxLabelName || len(l.Value) > maxLabelValue {
			return TooLong
		}
		if !sample.ValidLabelName(string(l.Name)) {
			return BadLabelName
		}
	}
	if !named {
		return BadName
	}
	return ""
}

// family finds what name belongs to: itself, or the histogram or summary
// whose part it is.
func (s *Session) family(name string) *sample.Family {
	found, ok := s.node.metadata[name]
	if !ok {
		found = sample.Family{Name: name}
		for _, suffix := range [...]string{"_bucket", "_count", "_sum"} {
			base, has := strings.CutSuffix(name, suffix)
			if m, known := s.node.metadata[base]; has && known && partOf(m.Type, suffix) {
				found = m
			}
		}
	}
	g := s.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.families[found]
	if f == nil {
		f = &found
		if len(g.families) < maxFamilies {
			g.families[found] = f
		}
	}
	return f
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
