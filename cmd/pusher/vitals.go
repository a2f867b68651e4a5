package main

import (
	"maps"
	"slices"
	"time"

	"fanin/internal/sample"
	"fanin/internal/spool"
)

// The ledger travels with the samples, so that a node's losses are seen where
// its samples are. The same numbers are on the pusher's own page.
var (
	committedSamples = sample.NewCounter("fanin_samples_committed_total", "", "Samples that the spool took: those delivered, dropped, refused and pending.")
	deliveredSamples = sample.NewCounter("fanin_samples_delivered_total", "", "Samples that the receiver took.")
	droppedSamples   = sample.NewCounter("fanin_samples_dropped_total", "", "Samples that were given up before the receiver took them, by reason.")
	refusedSamples   = sample.NewCounter("fanin_samples_refused_total", "", "Samples that the receiver did not want, by the reason it gave.")
	pendingSamples   = sample.NewGauge("fanin_samples_pending", "", "Samples that wait for delivery.")
)

// vitals are the ledger's points. The zero value is ready.
type vitals struct {
	series map[*sample.Family]map[string]*sample.Series // by reason
	build  *sample.Series
	last   int64 // time of the newest points
}

// setBack is by how much the clock has to go back for series to begin anew,
// as in the sampler.
const setBack = time.Minute

// append adds the ledger as it is now, before the batch itself is committed.
// It adds nothing when the clock was set back a little and the time of the last
// one has not come again.
func (v *vitals) append(points []sample.Point, l spool.Ledger, now time.Time) []sample.Point {
	t := now.UnixMilli()
	if t <= v.last && v.last-t <= setBack.Milliseconds() {
		return points
	}
	v.last = t
	add := func(f *sample.Family, reason string, value uint64) {
		points = append(points, sample.Point{Series: v.of(f, reason), T: t, V: float64(value)})
	}
	if v.build == nil {
		v.build = buildSeries()
	}
	points = append(points, sample.Point{Series: v.build, T: t, V: 1})
	add(committedSamples, "", l.Committed)
	add(deliveredSamples, "", l.Delivered)
	add(pendingSamples, "", l.Pending)
	for _, reason := range slices.Sorted(maps.Keys(l.Dropped)) {
		add(droppedSamples, reason, l.Dropped[reason])
	}
	for _, reason := range slices.Sorted(maps.Keys(l.Refused)) {
		add(refusedSamples, reason, l.Refused[reason])
	}
	return points
}

func (v *vitals) of(f *sample.Family, reason string) *sample.Series {
	if v.series == nil {
		v.series = make(map[*sample.Family]map[string]*sample.Series)
	}
	if v.series[f] == nil {
		v.series[f] = make(map[string]*sample.Series)
	}
	s := v.series[f][reason]
	if s == nil {
		s = sample.New(f, sample.Label{Name: "reason", Value: reason})
		v.series[f][reason] = s
	}
	return s
}
