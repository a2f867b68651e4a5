package dashboard

import (
	"encoding/json"
	"math"
	"sync"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/sample"
	"fanin/internal/window"
)

// number may be unknown: the zero number is null in JSON.
type number struct {
	V  float64
	OK bool
}

func known(v float64) number {
	return number{V: v, OK: !math.IsNaN(v) && !math.IsInf(v, 0)}
}

// MarshalJSON is part of json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	if !n.OK {
		return []byte("null"), nil
	}
	return json.Marshal(n.V)
}

// The metrics the pages show.
const (
	guestCPU      = "testbed_guest_cpu"
	guestMemory   = "testbed_guest_memory"
	guestUsage    = "testbed_guest_memory_usage_bytes"
	guestLimit    = "testbed_guest_memory_limit_bytes"
	guestReceive  = "testbed_guest_network_receive_bytes_total"
	guestTransmit = "testbed_guest_network_transmit_bytes_total"
	hostCPU       = "testbed_host_cpu"
	hostMemory    = "testbed_host_memory_total_bytes"
	hostAvailable = "testbed_host_memory_available_bytes"
	hostLoad      = "testbed_host_load1"
)

// values are the newest of one owner by metric; network counters are rates
// summed over devices, bytes a second.
type values map[string]float64

func (v values) get(name string) number {
	x, ok := v[name]
	if !ok {
		return number{}
	}
	return known(x)
}

const (
	// freshFor is how long one look at the window serves all readers of a
	// page.
	freshFor = time.Second
	// forgetAfter is how long the previous values of a page stay that nobody
	// reads.
	forgetAfter = time.Minute
)

// current is what the window has of one project's guests and hosts, and the
// page made of it.
type current struct {
	used time.Time // guarded by Dashboard.mu

	mu       sync.Mutex // guards what follows; taken after pageMu
	at       time.Time
	values   map[sample.Owner]values
	counters map[sample.Key]counter

	pageMu sync.Mutex // guards what follows
	pageAt time.Time
	pageOf *deployment.Project
	page   []byte
}

// fresh reports whether what was made at the moment at may still be shown.
func fresh(at, now time.Time) bool {
	age := now.Sub(at)
	return age >= 0 && age < freshFor
}

// counter is the newest point of one counter and its rate before that.
type counter struct {
	t    int64
	v    float64
	rate number
}

// currentOf is that of a project, and forgets those that nobody has read for
// long.
func (d *Dashboard) currentOf(project string, now time.Time) *current {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, other := range d.current {
		if now.Sub(other.used) > forgetAfter {
			delete(d.current, name)
		}
	}
	c := d.current[project]
	if c == nil {
		c = &current{}
		d.current[project] = c
	}
	c.used = now
	return c
}

// valuesOf returns the current values of the owners that belong to project;
// match tells which they are.
func (d *Dashboard) valuesOf(project string, match func(sample.Owner) bool) map[sample.Owner]values {
	now := d.Now()
	c := d.currentOf(project, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil || !fresh(c.at, now) {
		c.look(d.Window, match)
		c.at = now
	}
	return c.values
}

func (c *current) look(store *window.Store, match func(sample.Owner) bool) {
	c.values = map[sample.Owner]values{}
	counters := map[sample.Key]counter{}
	for _, p := range store.Newest(nil, match) {
		name := p.Series.Name()
		v := p.V
		switch name {
		case guestCPU, guestMemory, guestUsage, guestLimit, hostCPU, hostMemory, hostAvailable, hostLoad:
		case guestReceive, guestTransmit:
			if p.Series.Label("device") == "lo" {
				continue
			}
			key := p.Series.Key() // a change of the roster makes new series of the same name
			n := c.counters[key].next(p)
			counters[key] = n
			if !n.rate.OK {
				continue
			}
			v = n.rate.V
		default:
			continue
		}
		owner := *p.Series.Owner()
		of := c.values[owner]
		if of == nil {
			of = values{}
			c.values[owner] = of
		}
		if name == guestReceive || name == guestTransmit {
			v += of[name]
		}
		of[name] = v
	}
	c.counters = counters
}

// next is the counter after a point. The same point keeps the rate, a reset
// of the counter leaves none.
func (c counter) next(p sample.Point) counter {
	n := counter{t: p.T, v: p.V}
	switch {
	case c.t == 0:
	case p.T == c.t:
		return c
	case p.T > c.t && p.V >= c.v:
		n.rate = known((p.V - c.v) / (float64(p.T-c.t) / 1000))
	}
	return n
}
