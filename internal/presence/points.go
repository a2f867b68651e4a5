package presence

import "fanin/internal/sample"

// What the gateway says for itself, as of now.
var (
	HostUp      = sample.NewGauge("testbed_host_up", "", "1 while the gateway hears the host's pusher, 0 when it is silent.")
	GuestUp     = sample.NewGauge("testbed_guest_up", "", "1 while the guest runs, 0 with a reason otherwise.")
	ClockOffset = sample.NewGauge("testbed_host_clock_offset_seconds", "seconds", "By how much the host's clock is ahead of the gateway's, transfer time included.")
)

// Points writes the report as points without a time of their own (T is 0),
// family by family.
func (r *Report) Points() []sample.Point {
	points := make([]sample.Point, 0, 2*len(r.Hosts)+len(r.Guests))
	for _, h := range r.Hosts {
		points = append(points, sample.Point{Series: h.up, V: number(h.Up)})
	}
	for _, h := range r.Hosts {
		if h.ClockKnown {
			points = append(points, sample.Point{Series: h.clockOffset, V: h.ClockOffset.Seconds()})
		}
	}
	for _, g := range r.Guests {
		points = append(points, sample.Point{Series: g.series, V: number(g.Up)})
	}
	return points
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
