package ingest

import (
	"bytes"

	"fanin/internal/admission"
	"fanin/internal/sample"
	"fanin/internal/window"
	"fanin/internal/wire"
)

// work is what one request needs while it is under way.
type work struct {
	body    bytes.Buffer
	decoder wire.Decoder
	points  []sample.Point
	refused map[admission.Reason]int
	heard   []*sample.Owner // guests that said something of now, mostly once each

	version        wire.Version
	oldest, newest int64 // that a point may be, milliseconds

	sent, recent int64 // the sender's clock, and how far behind it the present reaches; milliseconds
}

// take keeps a point of an admitted series for the window, unless it is too old
// or too new.
func (j *work) take(series *sample.Series, p wire.Point) {
	switch {
	case p.T > j.newest:
		j.refused[admission.Future]++
	case p.T < j.oldest:
		j.refused[admission.TooOld]++
	default:
		j.points = append(j.points, sample.Point{Series: series, T: p.T, V: p.V})
	}
}

// hear notes who a series with this newest point shows to be there, or nil.
func (j *work) hear(by *sample.Owner, newest wire.Point) {
	if n := len(j.heard); by != nil && (n == 0 || j.heard[n-1] != by) && !by.IsHost() && j.present(newest) {
		j.heard = append(j.heard, by)
	}
}

// present reports whether a claim's newest point says something of now, and is
// neither the end of a series nor a part of what the sender has kept. Both times
// are of its own clock.
func (j *work) present(newest wire.Point) bool {
	return !window.IsStale(newest.V) && (j.sent == 0 || j.sent-newest.T <= j.recent)
}
