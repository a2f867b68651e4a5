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
	ofHost := func(f *sample.Family, h HostStatus, v float64) {
		points = append(points, sample.Point{Series: sample.New(f, sample.Label{Name: sample.HostName, Value: h.Host.Name}), V: v})
	}
	for _, h := range r.Hosts {
		ofHost(HostUp, h, number(h.Up))
	}
	for _, h := range r.Hosts {
		if h.ClockKnown {
			ofHost(ClockOffset, h, h.ClockOffset.Seconds())
		}
	}
	for _, g := range r.Guests {
		points = append(points, sample.Point{
			Series: sample.New(GuestUp,
				sample.Label{Name: sample.HostName, Value: g.Guest.Host},
				sample.Label{Name: sample.Project, Value: g.Guest.Project},
				sample.Label{Name: sample.GuestName, Value: g.Guest.Name},
				sample.Label{Name: sample.GuestType, Value: g.Guest.Kind},
				sample.Label{Name: "reason", Value: g.Reason}),
			V: number(g.Up),
		})
	}
	return points
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
