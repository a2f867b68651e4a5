package docker

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/events"
)

// look asks for the addresses of containers that have just been started and
// that somebody wants to scrape: no event tells them, and the next list may
// be seconds away. Several that start together are asked for at once. It is
// owned by follow.
type look struct {
	api    *api
	roster *roster

	due     <-chan time.Time // begin is to be called
	answers chan looked      // of the call that is under way

	ids      map[string]bool // that are asked for next
	underway bool
}

type looked struct {
	entries []entry
	asked   map[string]uint32
}

const (
	lookAfter = 50 * time.Millisecond
	maxLook   = 100 // containers in a call
)

func newLook(a *api, r *roster) *look {
	return &look{api: a, roster: r, answers: make(chan looked, 1), ids: map[string]bool{}}
}

// note takes an event that the roster has taken.
func (l *look) note(m *events.Message) {
	if m.Action != events.ActionStart || m.Actor.Attributes[scrapeLabel] != "true" || len(l.ids) >= maxLook {
		return // what is too much is found by the next list
	}
	l.ids[m.Actor.ID] = true
	l.arm()
}

func (l *look) arm() {
	if l.due == nil && !l.underway && len(l.ids) > 0 {
		l.due = time.After(lookAfter)
	}
}

func (l *look) begin(ctx context.Context) {
	l.due = nil
	asked := l.roster.starts(l.ids)
	clear(l.ids)
	if len(asked) == 0 {
		return
	}
	ids := make([]string, 0, len(asked))
	for id := range asked {
		ids = append(ids, id)
	}
	l.underway = true
	go func() {
		// A list that fails says so by itself, soon enough.
		entries, _ := l.api.list(ctx, ids...)
		l.answers <- looked{entries, asked}
	}()
}

func (l *look) end(answer looked) {
	l.underway = false
	l.roster.locate(answer.entries, answer.asked)
	l.arm()
}
