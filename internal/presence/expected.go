package presence

import (
	"cmp"
	"slices"
	"strings"

	"fanin/internal/deployment"
	"fanin/internal/sample"
)

// expected is who should be there by one roster, so that a page, which says it
// of everybody, finds all of it prepared.
type expected struct {
	roster *deployment.Roster
	hosts  []expectedHost  // sorted by name
	guests []expectedGuest // sorted by project and name
}

type expectedHost struct {
	host            deployment.Host
	heard           *host // nil: nothing was heard of it yet
	up, clockOffset *sample.Series
}

type expectedGuest struct {
	guest *deployment.Guest
	owner sample.Owner

	host  *host  // nil: nothing was heard of it yet
	heard *heard // the same

	up, down *sample.Series // nil: not needed yet; down is for reason
	reason   string
}

// expect is called with the lock held.
func (b *Book) expect(roster *deployment.Roster) {
	if b.expected.roster == roster {
		return
	}
	b.expected = expected{roster: roster}
	for _, h := range roster.Hosts() {
		labels := sample.NewLabels(sample.Label{Name: sample.HostName, Value: h.Name})
		b.expected.hosts = append(b.expected.hosts, expectedHost{
			host: h, up: labels.Of(HostUp, HostUp.Name), clockOffset: labels.Of(ClockOffset, ClockOffset.Name),
		})
	}
	for _, p := range roster.Projects() {
		if !p.Active {
			continue
		}
		for _, g := range p.Guests {
			b.expected.guests = append(b.expected.guests, expectedGuest{guest: g, owner: OwnerOf(g)})
		}
	}
	slices.SortStableFunc(b.expected.guests, func(a, b expectedGuest) int {
		return cmp.Or(strings.Compare(a.guest.Project, b.guest.Project), strings.Compare(a.guest.Name, b.guest.Name))
	})
}

// series is that of a guest which is up, or is not for a reason.
func (e *expectedGuest) series(reason string) *sample.Series {
	if reason == "" && e.up != nil {
		return e.up
	}
	if reason != "" && e.reason == reason {
		return e.down
	}
	s := sample.New(GuestUp,
		sample.Label{Name: sample.HostName, Value: e.owner.Host},
		sample.Label{Name: sample.Project, Value: e.owner.Project},
		sample.Label{Name: sample.GuestName, Value: e.owner.Guest},
		sample.Label{Name: sample.GuestType, Value: e.owner.Kind},
		sample.Label{Name: "reason", Value: reason})
	if reason == "" {
		e.up = s
	} else {
		e.down, e.reason = s, reason
	}
	return s
}
