package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// How long the chaos goes on, and from what it is drawn. With a length from
// the environment (`make chaos`) every test of this kind has its long form.
const (
	lengthVariable = "FANIN_CHAOS"      // such as 10m
	seedVariable   = "FANIN_CHAOS_SEED" // a number
)

// long is the length of the long form, 0 for the short one.
func long(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(lengthVariable)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 2*time.Minute {
		t.Fatalf("%s=%s: want a length of time from 2m on", lengthVariable, text)
	}
	return d
}

func seed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv(seedVariable)
	if text == "" {
		return rand.Uint64() >> 40 // short enough to be typed
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: want a whole number", seedVariable, text)
	}
	return n
}

// absence is when Prometheus ends, how, and for how long.
type absence struct {
	at, until time.Duration
	signal    syscall.Signal
}

// plan is what happens in a run.
type plan struct {
	length  time.Duration
	kills   int
	window  int64 // bytes: small enough to be full when Prometheus is away for long
	absent  []absence
	deliver time.Duration
}

func newPlan(length time.Duration, r *rand.Rand) plan {
	if length == 0 {
		from := drawn(r, 10*time.Second, 25*time.Second)
		return plan{
			length: 60 * time.Second, kills: 8, window: 1 << 20, deliver: time.Minute,
			absent: []absence{{from, from + 15*time.Second, syscall.SIGKILL}},
		}
	}
	first := drawn(r, length*5/100, length*15/100)
	back := first + length/10
	second := back + drawn(r, length*5/100, length*10/100)
	p := plan{
		length: length, kills: max(20, int(length/(25*time.Second))), window: 4 << 20, deliver: 3 * time.Minute,
		absent: []absence{{first, back, syscall.SIGKILL}, {second, second + length/2, syscall.SIGTERM}},
	}
	return p
}

func drawn(r *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(r.Int64N(int64(to-from)))
}

// TestChaos: whatever is killed, cut off or away, Prometheus has every sample
// that was ever committed on a node, once, under its own time and with its own
// value, and none besides.
//
// Pushers on this machine's /proc and on a recorded one that changes push over
// links that spoil requests; the gateway and the pushers are killed at random
// moments, Prometheus is killed and stopped for longer. Everything that a
// pusher ever wrote to its spool is kept aside and compared in the end.
func TestChaos(t *testing.T) {
	rig.Need(t, "prometheus")
	t.Parallel()
	number := seed(t)
	t.Logf("%s=%d", seedVariable, number)
	r := rand.New(rand.NewPCG(number, 1))
	p := newPlan(long(t), r)
	hosts := []struct {
		name     string
		interval time.Duration
		replayed bool
	}{
		{"seconds", time.Second, false},
		{"tenths", 100 * time.Millisecond, false},
		{"replayed-tenths", 100 * time.Millisecond, true},
		{"replayed-seconds", time.Second, true},
	}
	var names []string
	for _, h := range hosts {
		names = append(names, h.name)
	}
	c := newCluster(t, names, fmt.Sprintf("--window.max-bytes=%d", p.window), "--scrape.reader=prometheus")
	prometheus := c.prometheus3("prometheus", 5*time.Second)
	var links []*badLink
	for i, h := range hosts {
		l := newLink(t, c.diary, h.name, c.address, number+uint64(i))
		links = append(links, l)
		var args []string
		if h.replayed {
			args = newReplay(t, number+uint64(i))
		}
		c.pusher(h.name, l.address, h.interval, args...)
	}
	a := c.audit(number)
	began := time.Now()
	kills := c.havoc(p, r, prometheus)
	took := time.Since(began)

	for _, l := range links {
		l.heal()
	}
	c.stopSampling()
	c.deliver(p.deliver)
	delivered := time.Since(began) - took
	samples, series := c.same(prometheus, 0)
	a.end()
	spoilt := counts(links)
	for f := cutOff; f <= refusing; f++ {
		if spoilt[f] == 0 {
			t.Errorf("no request was ever %s", f)
		}
	}
	t.Logf("%s=%d: %d samples of %d series were compared after %s, the last collected %s later; kill -9: %v; requests spoilt: %v; %d pushes were answered with 429; %d ledgers and %d windows looked at, at most %d of %d bytes in the window",
		seedVariable, number, samples, series, took.Round(time.Second), delivered.Round(time.Second), kills, spoilt,
		a.turnedAway.Load(), a.ledgers.Load(), a.windows.Load(), a.fullest.Load(), p.window)
	if a.ledgers.Load() < 50 || a.windows.Load() < 50 {
		t.Error("the pages were looked at too seldom")
	}
	if long(t) > 0 && a.turnedAway.Load() == 0 {
		t.Error("the window was never full")
	}
}

// step is something to do at some time after the beginning.
type step struct {
	at time.Duration
	do func()
}

// havoc follows the plan and returns how often what was killed.
func (c *cluster) havoc(p plan, r *rand.Rand, prometheus *rig.PrometheusServer) map[string]int {
	var steps []step
	add := func(at time.Duration, do func()) {
		steps = append(steps, step{at, do})
		slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	}
	for _, away := range p.absent {
		add(away.at, func() { c.leave(prometheus, away.signal) })
		add(away.until, func() { c.comeBack(prometheus) })
	}
	var last time.Duration
	killed := map[string]int{}
	for i := range p.kills {
		victim := c.gateway
		if i%2 == 1 {
			victim = c.pushers[i/2%len(c.pushers)].program
		}
		at, down := drawn(r, 2*time.Second, p.length-4*time.Second), drawn(r, 100*time.Millisecond, 3*time.Second)
		var kill func()
		kill = func() {
			if victim.down {
				add(last+time.Second, kill) // it was drawn twice
				return
			}
			victim.kill()
			killed[victim.name]++
			for _, n := range c.pushers {
				n.journal.look()
			}
			add(last+down, victim.start)
		}
		add(at, kill)
	}
	start := time.Now()
	for len(steps) > 0 {
		next := steps[0]
		steps = steps[1:]
		time.Sleep(time.Until(start.Add(next.at)))
		last = time.Since(start)
		next.do()
	}
	time.Sleep(time.Until(start.Add(p.length)))
	return killed
}
