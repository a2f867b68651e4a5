package verdict

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/sample"
)

var start = time.Unix(1_700_000_000, 0)

// bench is a judge with the book and roster around it.
type bench struct {
	t       testing.TB
	book    presence.Book
	roster  *deployment.Roster
	judge   Judge
	waiting []sample.Point
	handed  []sample.Point // a copy, which the judge clears
	now     time.Time
	offset  time.Duration // of h1's clock
	mute    bool          // h1 does not tell its clock

	interval time.Duration // of h1
	series   map[string]*sample.Series
}

// newBench has the project signal with guests "name@host" on h1 and h2.
func newBench(t testing.TB, guests ...string) *bench {
	t.Helper()
	b := &bench{t: t, now: start, interval: time.Second, series: map[string]*sample.Series{}}
	b.judge.Arrived = func([]sample.Point) []sample.Point {
		got := b.waiting
		b.waiting = nil
		return got
	}
	b.deploy(guests...)
	return b
}

func (b *bench) deploy(guests ...string) {
	b.t.Helper()
	var parts []string
	for _, g := range guests {
		name, host, _ := strings.Cut(g, "@")
		parts = append(parts, fmt.Sprintf(`%q: {"name": %q, "docker": {"image": "x"}, "testbed_host": %q}`, name, name, host))
	}
	file := filepath.Join(b.t.TempDir(), "signal-state.json")
	content := `{"project_name": "signal", "testbed_hosts": {"h1": {"ip": "10.0.0.1"}, "h2": {"ip": "10.0.0.2"}}, "testbed_guests": {` + strings.Join(parts, ",") + `}}`
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
	r, err := deployment.CheckSettings("", file)
	if err != nil {
		b.t.Fatal(err)
	}
	b.roster = r
}

// says brings one point of "family label=value", of a guest on h1, or of h1
// itself when guest is "", at h1's clock.
func (b *bench) says(guest, what string, ago time.Duration, v float64) {
	name, label, _ := strings.Cut(what, " ")
	key := guest + "/" + what
	s := b.series[key]
	if s == nil {
		labels := []sample.Label{{Name: sample.HostName, Value: "h1"}}
		if guest != "" {
			labels = append(labels, sample.Label{Name: sample.Project, Value: "signal"}, sample.Label{Name: sample.GuestName, Value: guest}, sample.Label{Name: sample.GuestType, Value: "docker"})
			name = "testbed_guest_" + name
		} else {
			name = "testbed_host_" + name
		}
		if n, value, ok := strings.Cut(label, "="); ok {
			labels = append(labels, sample.Label{Name: n, Value: value})
		}
		s = sample.New(&sample.Family{Name: name}, labels...)
		b.series[key] = s
		if !Wanted(s) {
			b.t.Fatalf("%s is not wanted", s.Text())
		}
	}
	b.waiting = append(b.waiting, sample.Point{Series: s, T: b.now.Add(b.offset - ago).UnixMilli(), V: v})
}

// hears says that h1 and the guests on it are there.
func (b *bench) hears(guests ...string) {
	b.book.HostHeard("h1", b.now, b.interval)
	if !b.mute {
		b.book.ClockRead("h1", b.offset)
	}
	for _, g := range guests {
		b.book.GuestSaid(sample.Owner{Host: "h1", Project: "signal", Guest: g, Kind: "docker"}, true, "", b.now)
	}
}

// counts lets counters rise by so much a second for d, with a point each
// second. Those of the host are named without a guest, those of guests as
// guest/family.
func (b *bench) counts(d time.Duration, rates map[string]float64) {
	for range int(d / time.Second) {
		b.now = b.now.Add(time.Second)
		for _, what := range slices.Sorted(maps.Keys(rates)) {
			guest, family, of := strings.Cut(what, "/")
			if !of {
				guest, family = "", what
			}
			v := rates[what]
			if !strings.Contains(family, "processes") && family != "cpus" && family != "load1" {
				v *= b.now.Sub(start).Seconds()
			}
			b.says(guest, family, 0, v)
			if of {
				b.hears(guest)
			}
		}
		b.hears()
		b.judge.Collect(b.now)
	}
}

func (b *bench) verdicts() *Verdicts { return b.judge.Verdicts(b.book.Report(b.roster, b.now)) }

// text is the verdict on a guest: its causes and the deployment's share.
func (b *bench) text(guest string) string {
	v := b.verdicts()
	of := v.Guest("signal", guest)
	var parts []string
	for _, cause := range slices.Sorted(maps.Keys(of)) {
		if cause == "any" {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s=%v", cause, of[cause]))
	}
	if share, ok := v.Deployment("signal"); ok {
		if worst := of["any"]; worst != share && (worst >= quiet || share > 0) {
			b.t.Errorf("%v, and the deployment is at %v", of, share)
		}
		parts = append(parts, fmt.Sprintf("all=%v", share))
	}
	return strings.Join(parts, " ")
}

// What counters that rise by so much a second come to, worked out by hand.
func TestCauses(t *testing.T) {
	const (
		use     = "a/cpu_usage_seconds_total"
		quota   = "a/cpu_throttled_seconds_total"
		cpu     = "a/pressure_cpu_waiting_seconds_total"
		mem     = "a/pressure_memory_waiting_seconds_total"
		disk    = "a/pressure_io_waiting_seconds_total"
		delay0  = "a/vcpu_delay_seconds_total vcpu=0"
		delay1  = "a/vcpu_delay_seconds_total vcpu=1"
		wait0   = "a/vcpu_wait_seconds_total vcpu=0"
		threads = "a/processes"
		hostCPU = "pressure_cpu_waiting_seconds_total"
		user    = "cpu_seconds_total mode=user"
		idle    = "cpu_seconds_total mode=idle"
		iowait  = "cpu_seconds_total mode=iowait"
		steal   = "cpu_seconds_total mode=steal"
	)
	for name, c := range map[string]struct {
		rates map[string]float64
		want  string
	}{
		"nothing":                          {map[string]float64{use: 0.5}, ""},
		"a virtual processor waits":        {map[string]float64{use: 1.5, delay0: 0.1, delay1: 0.3}, "cpu_delay=0.3 all=0.3"},
		"the scheduler's own words for it": {map[string]float64{wait0: 0.25}, "cpu_delay=0.25 all=0.25"},
		"both are said":                    {map[string]float64{delay0: 0.2, wait0: 0.25}, "cpu_delay=0.2 all=0.2"},
		"more than there was":              {map[string]float64{delay0: 1.2}, "cpu_delay=1 all=1"},

		// One busy thread under a quota of a tenth of a core.
		"throttled": {map[string]float64{use: 0.1, quota: 0.9}, "cpu_throttled=0.9"},
		// Four busy threads under a quota of three cores: throttled for a quarter of
		// the time, on each of four cores.
		"throttled on four cores": {map[string]float64{use: 3, quota: 1}, "cpu_throttled=0.25"},
		"throttled in bursts":     {map[string]float64{use: 0.05, quota: 0.05}, "cpu_throttled=0.05"},
		"usage unknown":           {map[string]float64{quota: 0.4}, "cpu_throttled=0.4"},

		"pressure":              {map[string]float64{cpu: 0.125, mem: 0.0625, disk: 0.5}, "cpu_pressure=0.125 io_pressure=0.5 memory_pressure=0.0625 all=0.125"},
		"memory is the worst":   {map[string]float64{cpu: 0.125, mem: 0.75}, "cpu_pressure=0.125 memory_pressure=0.75 all=0.75"},
		"disks are not blamed":  {map[string]float64{disk: 1}, "io_pressure=1"},
		"waits for its quota":   {map[string]float64{use: 0.1, quota: 0.9, cpu: 0.9}, "cpu_pressure=0 cpu_throttled=0.9 all=0"},
		"and for others":        {map[string]float64{use: 0.1, quota: 0.5, cpu: 0.75}, "cpu_pressure=0.25 cpu_throttled=0.5 all=0.25"},
		"a VM with a quota too": {map[string]float64{use: 0.5, quota: 0.25, delay0: 0.5}, "cpu_delay=0.25 cpu_throttled=0.25 all=0.25"},

		// No word on the guest's own waiting: no more than the host's, than it ran
		// itself, and than its threads that did not run.
		"a busy host":                {map[string]float64{use: 0.5, hostCPU: 1, threads: 7}, "host_cpu=0.5 all=0.5"},
		"a host that is busy a bit":  {map[string]float64{use: 0.5, hostCPU: 0.125, threads: 7}, "host_cpu=0.125 all=0.125"},
		"an idle guest":              {map[string]float64{use: 0, hostCPU: 1, threads: 7}, "host_cpu=0 all=0"},
		"one thread, always on":      {map[string]float64{use: 1, hostCPU: 1, threads: 1}, "host_cpu=0 all=0"},
		"threads are not known":      {map[string]float64{use: 0.75, hostCPU: 1}, "host_cpu=0.75 all=0.75"},
		"its own word comes first":   {map[string]float64{use: 0.5, hostCPU: 1, cpu: 0.0625}, "cpu_pressure=0.0625 all=0.0625"},
		"a VM's word comes first":    {map[string]float64{use: 0.5, hostCPU: 1, delay0: 0.0625}, "cpu_delay=0.0625 all=0.0625"},
		"usage is not known at all":  {map[string]float64{hostCPU: 1, threads: 7}, ""},
		"no pressure, all in use":    {map[string]float64{use: 0.5, idle: 0.125, iowait: 0.125, "load1": 5, "cpus": 2}, "host_cpu=0.5 all=0.5"},
		"no pressure, nearly in use": {map[string]float64{use: 0.5, idle: 0.5, iowait: 0.25, "load1": 5, "cpus": 2}, "host_cpu=0.25 all=0.25"},
		"no pressure, one idle":      {map[string]float64{use: 0.5, idle: 1, "load1": 5, "cpus": 2}, "host_cpu=0 all=0"},
		"no pressure, no queue":      {map[string]float64{use: 0.5, idle: 0, "load1": 2, "cpus": 2}, "host_cpu=0 all=0"},
		"no pressure, no load known": {map[string]float64{use: 0.5, idle: 0, "cpus": 2}, ""},

		// A host of two cores wants 1.5 of them and is given 1.2: a fifth is lost.
		"stolen":                {map[string]float64{use: 0.5, steal: 0.3, user: 1.2, idle: 0.5}, "host_steal=0.1 all=0.1"},
		"stolen from all cores": {map[string]float64{use: 2, steal: 0.3, user: 1.2, idle: 0.5}, "host_steal=0.2 all=0.2"},
		"never stolen":          {map[string]float64{use: 0.5, steal: 0, user: 1.2}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "a@h1")
			b.counts(20*time.Second, c.rates)
			if got := b.text("a"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestHosts(t *testing.T) {
	b := newBench(t, "a@h1")
	b.counts(20*time.Second, map[string]float64{
		"pressure_cpu_waiting_seconds_total": 0.5, "pressure_memory_waiting_seconds_total": 0.25, "pressure_io_waiting_seconds_total": 0.125,
		"cpu_seconds_total mode=steal": 0.5, "cpu_seconds_total mode=user": 0.75, "cpu_seconds_total mode=guest": 0.75,
	})
	want := `testbed_host_disturbed_ratio{cause="cpu_pressure",host_name="h1"} 0.5 0
testbed_host_disturbed_ratio{cause="steal",host_name="h1"} 0.25 0
testbed_host_disturbed_ratio{cause="memory_pressure",host_name="h1"} 0.25 0
testbed_host_disturbed_ratio{cause="io_pressure",host_name="h1"} 0.125 0
`
	if got := text(b.verdicts()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func text(v *Verdicts) string {
	var all strings.Builder
	for _, p := range v.AppendPoints(nil) {
		fmt.Fprintln(&all, p.Series.Text(), p.V, p.T)
	}
	return all.String()
}

// The deployment is as bad as its worst-off guest.
func TestPoints(t *testing.T) {
	b := newBench(t, "b@h1", "a@h1", "c@h2")
	b.counts(20*time.Second, map[string]float64{"b/vcpu_delay_seconds_total vcpu=0": 0.25, "a/vcpu_delay_seconds_total vcpu=0": 0.5, "a/cpu_throttled_seconds_total": 0})
	want := `testbed_deployment_disturbed_ratio{project="signal"} 0.5 0
testbed_guest_disturbed_ratio{cause="cpu_delay",guest_name="a",guest_type="docker",host_name="h1",project="signal"} 0.5 0
testbed_guest_disturbed_ratio{cause="any",guest_name="a",guest_type="docker",host_name="h1",project="signal"} 0.5 0
testbed_guest_disturbed_ratio{cause="cpu_delay",guest_name="b",guest_type="docker",host_name="h1",project="signal"} 0.25 0
testbed_guest_disturbed_ratio{cause="any",guest_name="b",guest_type="docker",host_name="h1",project="signal"} 0.25 0
`
	if got := text(b.verdicts()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, p := range b.verdicts().AppendPoints(nil) {
		if s := p.Series; *s.Owner() != *sample.New(s.Family(), s.Labels().All()...).Owner() {
			t.Errorf("%s belongs to %+v", s.Text(), *s.Owner())
		}
	}
}

// What a scheduler takes anyway is told, and is no disturbance; single causes
// are told from a hundredth on, and what is the guest's own is not among "any".
func TestSmallShares(t *testing.T) {
	for share, want := range map[float64]string{
		0: "signal=0 any=0", 0.0099: "signal=0 any=0.0099", 0.01: "signal=0 cpu_delay=0.01 any=0.01",
		0.0499: "signal=0 cpu_delay=0.0499 any=0.0499", 0.05: "signal=0.05 cpu_delay=0.05 any=0.05",
	} {
		b := newBench(t, "a@h1")
		b.counts(20*time.Second, map[string]float64{"a/" + delay: share, "a/pressure_io_waiting_seconds_total": 0.009})
		var got []string
		for _, p := range b.verdicts().AppendPoints(nil) {
			got = append(got, fmt.Sprint(cmp.Or(p.Series.Label("cause"), p.Series.Label("project")), "=", p.V))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("a share of %v: got %s, want %s", share, s, want)
		}
	}
	b := newBench(t, "a@h1")
	b.counts(20*time.Second, map[string]float64{"a/pressure_io_waiting_seconds_total": 0.5, "a/cpu_throttled_seconds_total": 0.25})
	want := `testbed_guest_disturbed_ratio{cause="cpu_throttled",guest_name="a",guest_type="docker",host_name="h1",project="signal"} 0.25 0
testbed_guest_disturbed_ratio{cause="io_pressure",guest_name="a",guest_type="docker",host_name="h1",project="signal"} 0.5 0
`
	if got := text(b.verdicts()); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

const delay = "vcpu_delay_seconds_total vcpu=0"

// A share is over the last 10 s, as near to it as the interval lets it: points
// 0.9 s apart or more are kept. It comes with 7.5 s of points and is never taken
// over more than 15 s.
func TestOverTenSeconds(t *testing.T) {
	for interval, want := range map[time.Duration]struct{ points, share float64 }{
		100 * time.Millisecond: {301, 5 / 10.2}, time.Second: {31, 0.5}, 3 * time.Second: {11, 5. / 9},
		7 * time.Second: {5, 5. / 14}, 15 * time.Second: {3, 1. / 3}, 16 * time.Second: {2, math.NaN()},
	} {
		// It waited all of the time in the last 5 s, and before that never.
		b, n := newBench(t, "a@h1"), 0
		const whole = 30 * time.Second
		for at := whole - whole%interval; at >= 0; at -= interval {
			b.now = start.Add(whole - at)
			b.says("a", delay, 0, max(0, 5-at.Seconds()))
			b.hears("a")
			b.judge.Collect(b.now)
			n++
		}
		got, ok := b.verdicts().Deployment("signal")
		if float64(n) != want.points || ok == math.IsNaN(want.share) || ok && math.Abs(got-want.share) > 1e-4 {
			t.Errorf("every %s: got %v, %v from %d points, want %v from %v", interval, got, ok, n, want.share, want.points)
		}
	}
	b := newBench(t, "a@h1")
	for i := 1; i <= 9; i++ {
		b.counts(time.Second, map[string]float64{"a/" + delay: 0.5})
		want := ""
		if i >= 9 { // points of eight seconds
			want = "cpu_delay=0.5 all=0.5"
		}
		if got := b.text("a"); got != want {
			t.Errorf("after %d s: got %q, want %q", i, got, want)
		}
	}
}

// It rises and falls again as what it is about does.
func TestRisesAndFalls(t *testing.T) {
	b := newBench(t, "a@h1")
	v := 0.0
	var got []string
	for i := range 40 {
		b.now = b.now.Add(time.Second)
		if i >= 15 && i < 20 {
			v += 0.8
		}
		b.says("a", delay, 0, v)
		b.hears("a")
		if i >= 14 && i%5 == 4 {
			got = append(got, b.text("a"))
		}
	}
	want := "cpu_delay=0 all=0, cpu_delay=0.4 all=0.4, cpu_delay=0.4 all=0.4, cpu_delay=0 all=0, cpu_delay=0 all=0, cpu_delay=0 all=0"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

// A counter that was reset says nothing until it has gone on for long enough.
func TestReset(t *testing.T) {
	b := newBench(t, "a@h1")
	b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5})
	for i := range 9 {
		b.now = b.now.Add(time.Second)
		b.says("a", delay, 0, float64(i)/4)
		b.hears("a")
		want := "" // and not the difference to 10
		if i == 8 {
			want = "cpu_delay=0.25 all=0.25"
		}
		if got := b.text("a"); got != want {
			t.Errorf("%d s after the reset: got %q, want %q", i, got, want)
		}
	}
}

// What comes late is not of now. Once it has caught up there is a verdict at
// once, of the last 10 s only.
func TestCatchingUp(t *testing.T) {
	b := newBench(t, "a@h1")
	b.counts(20*time.Second, map[string]float64{"a/" + delay: 1})
	b.now = b.now.Add(60 * time.Second)
	b.hears("a")
	if got := b.text("a"); got != "" {
		t.Errorf("nothing has come for a minute: got %q", got)
	}
	for ago := 59; ago >= 9; ago-- { // it goes on waiting, and no longer from 20 s before now
		b.says("a", delay, time.Duration(ago)*time.Second, 20+60-max(20, float64(ago)))
	}
	b.judge.made = nil // it would stand for half a second
	if got := b.text("a"); got != "" {
		t.Errorf("the newest point is 9 s old: got %q", got)
	}
	for ago := 8; ago >= 0; ago-- {
		b.says("a", delay, time.Duration(ago)*time.Second, 60)
	}
	b.judge.made = nil
	if got, want := b.text("a"), "cpu_delay=0 all=0"; got != want {
		t.Errorf("all has come: got %q, want %q", got, want)
	}
}

// A gap in the points is filled by the counter, if it is short; else there is
// nothing until there are enough again.
func TestGap(t *testing.T) {
	for gap, want := range map[time.Duration]string{4 * time.Second: "cpu_delay=0.5 all=0.5", 15 * time.Second: "cpu_delay=0.5 all=0.5", 16 * time.Second: ""} {
		b := newBench(t, "a@h1")
		b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5})
		b.now = b.now.Add(gap - time.Second)
		b.counts(time.Second, map[string]float64{"a/" + delay: 0.5})
		if got := b.text("a"); got != want {
			t.Errorf("after %s: got %q, want %q", gap, got, want)
		}
	}
}

// Points are of their host's clock.
func TestClocks(t *testing.T) {
	for offset, after := range map[time.Duration]string{
		-time.Hour: "", 0: "cpu_delay=0.5 all=0.5", 6 * time.Second: "", time.Hour: "",
		-6 * time.Second: "cpu_delay=0.2 all=0.2", // for 10 s the counter seems to have risen for 4 s
	} {
		b := newBench(t, "a@h1")
		b.offset = offset
		b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5})
		if got, want := b.text("a"), "cpu_delay=0.5 all=0.5"; got != want {
			t.Errorf("a clock ahead by %s: got %q, want %q", offset, got, want)
		}
		b.offset = 0
		b.counts(time.Second, map[string]float64{"a/" + delay: 0.5})
		if got := b.text("a"); got != after {
			t.Errorf("a clock ahead by %s was set right: got %q, want %q", offset, got, after)
		}
		b.counts(15*time.Second, map[string]float64{"a/" + delay: 0.5})
		if got, want := b.text("a"), "cpu_delay=0.5 all=0.5"; got != want {
			t.Errorf("a clock ahead by %s was set right long ago: got %q, want %q", offset, got, want)
		}
	}
}

// What stands for now: not older than 8 s, or two and a half intervals, and not
// of the future.
func TestPresent(t *testing.T) {
	for _, c := range []struct {
		interval, offset, after time.Duration
		want                    string
	}{
		{time.Second, 0, 8 * time.Second, "cpu_delay=0.5 all=0.5"},
		{time.Second, 0, 9 * time.Second, ""},
		{6 * time.Second, 0, 15 * time.Second, "cpu_delay=0.5 all=0.5"},
		{6 * time.Second, 0, 16 * time.Second, ""},
		{time.Second, 8 * time.Second, 0, "cpu_delay=0.5 all=0.5"},
		{time.Second, 9 * time.Second, 0, ""},
		{time.Second, -9 * time.Second, 0, ""},
	} {
		b := newBench(t, "a@h1")
		b.interval, b.offset, b.mute = c.interval, c.offset, true
		b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5})
		b.now = b.now.Add(c.after)
		b.hears("a")
		if got := b.text("a"); got != c.want {
			t.Errorf("every %s, a clock ahead by %s that is not told, %s later: got %q, want %q", c.interval, c.offset, c.after, got, c.want)
		}
	}
}

// A guest that stops, moves, or whose deployment goes down has no verdict, and
// neither has its deployment.
func TestWhoIsGone(t *testing.T) {
	rates := map[string]float64{"a/" + delay: 0.5}
	for name, goes := range map[string]func(b *bench){
		"stopped": func(b *bench) {
			b.book.GuestSaid(sample.Owner{Host: "h1", Project: "signal", Guest: "a", Kind: "docker"}, false, "", b.now)
		},
		"moved": func(b *bench) {
			b.deploy("a@h2")
			b.book.HostHeard("h2", b.now, time.Second)
			b.book.GuestSaid(sample.Owner{Host: "h2", Project: "signal", Guest: "a", Kind: "docker"}, true, "", b.now)
		},
		"undeployed": func(b *bench) { b.deploy() },
		"silent": func(b *bench) {
			b.now = b.now.Add(16 * time.Second)
		},
		"its series ended": func(b *bench) {
			b.now = b.now.Add(9 * time.Second)
			b.hears("a")
		},
		"malformed": func(b *bench) {
			b.now = b.now.Add(time.Second)
			b.says("a", delay, 0, math.Inf(1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "a@h1")
			b.counts(20*time.Second, rates)
			if got := b.text("a"); got != "cpu_delay=0.5 all=0.5" {
				t.Fatalf("got %q before", got)
			}
			goes(b)
			b.judge.made = nil
			if got := b.text("a"); got != "" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestForget(t *testing.T) {
	b := newBench(t, "a@h1")
	b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5, "load1": 1})
	b.judge.Forget(b.now.Add(forgetAfter))
	if len(b.judge.known) != 2 || b.text("a") != "cpu_delay=0.5 all=0.5" {
		t.Fatalf("%d series are left of 2", len(b.judge.known))
	}
	b.judge.Forget(b.now.Add(forgetAfter + time.Second))
	if n := len(b.judge.known) + len(b.judge.guests) + len(b.judge.hosts); n != 0 {
		t.Fatalf("%d are remembered", n)
	}
	b.now = b.now.Add(2 * forgetAfter)
	b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5})
	if got := b.text("a"); got != "cpu_delay=0.5 all=0.5" {
		t.Fatalf("got %q after it came back", got)
	}
}

// A new roster makes new series of the same names; what was counted goes on.
func TestSeriesOfAnotherRoster(t *testing.T) {
	b := newBench(t, "a@h1")
	b.counts(20*time.Second, map[string]float64{"a/" + delay: 0.5})
	clear(b.series)
	b.counts(time.Second, map[string]float64{"a/" + delay: 0.5})
	if got := b.text("a"); got != "cpu_delay=0.5 all=0.5" || len(b.judge.known) != 1 {
		t.Fatalf("got %q and %d series", got, len(b.judge.known))
	}
}
