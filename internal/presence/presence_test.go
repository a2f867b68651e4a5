package presence

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/sample"
)

var start = time.Unix(1_700_000_000, 0)

func roster(t testing.TB, guests ...string) *deployment.Roster {
	t.Helper()
	var parts []string
	for _, g := range guests {
		name, host, _ := strings.Cut(g, "@")
		placed := fmt.Sprintf("%q", host)
		if host == "" {
			placed = "null"
		}
		parts = append(parts, fmt.Sprintf(`%q: {"name": %q, "docker": {"image": "x"}, "testbed_host": %s}`, name, name, placed))
	}
	file := filepath.Join(t.TempDir(), "signal-state.json")
	content := `{"project_name": "signal", "testbed_hosts": {"h1": {"ip": "10.0.0.1"}, "h2": {"ip": "10.0.0.2"}}, "testbed_guests": {` + strings.Join(parts, ",") + `}}`
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := deployment.CheckSettings("", file)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func owner(guest, host string) sample.Owner {
	return sample.Owner{Host: host, Project: "signal", Guest: guest, Kind: "docker"}
}

// status writes each guest as name:up or name:reason.
func status(r *Report) string {
	var got []string
	for _, g := range r.Guests {
		word := g.Reason
		if g.Up {
			word = "up" + g.Reason
		}
		got = append(got, g.Guest.Name+":"+word)
	}
	return strings.Join(got, " ")
}

func TestExpectedAgainstObserved(t *testing.T) {
	r := roster(t, "a@h1", "b@h1", "c@h1", "d@h1", "e@h2", "f@", "g@h1")
	var b Book
	if got, want := status(b.Report(r, start)), "a:host_silent b:host_silent c:host_silent d:host_silent e:host_silent f:not_placed g:host_silent"; got != want {
		t.Fatalf("before anything was heard:\ngot  %s\nwant %s", got, want)
	}
	b.HostHeard("h1", start, time.Second)
	b.GuestSaid(owner("a", "h1"), true, "ignored", start)
	b.GuestSaid(owner("b", "h1"), false, "paused", start)
	b.GuestSaid(owner("c", "h1"), false, "", start)
	b.GuestsHeard([]*sample.Owner{new(owner("d", "h1"))}, start) // a stock sender: points, and no word
	b.GuestRefused(owner("g", "h1"), start)
	if got, want := status(b.Report(r, start.Add(time.Second))), "a:up b:paused c:stopped d:up e:host_silent f:not_placed g:refused"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	// The host goes on, and says nothing of them any more.
	b.HostHeard("h1", start.Add(16*time.Second), time.Second)
	if got, want := status(b.Report(r, start.Add(16*time.Second))), "a:not_seen b:not_seen c:not_seen d:not_seen e:host_silent f:not_placed g:not_seen"; got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	if got, want := status(b.Report(r, start.Add(32*time.Second))), "a:host_silent"; !strings.HasPrefix(got, want) {
		t.Fatalf("got  %s\nwant %s ...", got, want)
	}
}

func TestSilenceIsThreeIntervalsOrFifteenSeconds(t *testing.T) {
	r := roster(t, "a@h1")
	for interval, want := range map[time.Duration]time.Duration{0: 15 * time.Second, time.Second: 15 * time.Second, 10 * time.Second: 30 * time.Second} {
		var b Book
		b.HostHeard("h1", start, interval)
		for after, up := range map[time.Duration]bool{want: true, want + time.Millisecond: false} {
			if h, _ := b.Report(r, start.Add(after)).Host("h1"); h.Up != up {
				t.Errorf("interval %s, silent for %s: up is %v, want %v", interval, after, h.Up, up)
			}
		}
	}
}

func TestPoints(t *testing.T) {
	r := roster(t, "a@h1", "f@")
	var b Book
	b.HostHeard("h1", start, time.Second)
	b.ClockRead("h1", -1500*time.Millisecond)
	b.GuestSaid(owner("a", "h1"), true, "", start)
	var got []string
	for _, p := range b.Report(r, start).Points() {
		got = append(got, fmt.Sprintf("%s %v %d", p.Series.Text(), p.V, p.T))
	}
	want := []string{
		`testbed_host_up{host_name="h1"} 1 0`,
		`testbed_host_up{host_name="h2"} 0 0`,
		`testbed_host_clock_offset_seconds{host_name="h1"} -1.5 0`,
		`testbed_guest_up{guest_name="a",guest_type="docker",host_name="h1",project="signal"} 1 0`,
		`testbed_guest_up{guest_name="f",guest_type="docker",project="signal",reason="not_placed"} 0 0`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAllowed(t *testing.T) {
	r := roster(t, "a@h1", "b@h1")
	var b Book
	b.HostHeard("h1", start, time.Second)
	b.GuestSaid(owner("b", "h1"), false, "stopped", start)
	allowed := b.Allowed(r, start)
	for o, want := range map[sample.Owner]bool{
		{Host: "h1"}:     true,
		{Host: "other"}:  false,
		owner("a", "h1"): true,
		owner("a", "h2"): false, // it has moved away
		owner("b", "h1"): false, // its host says that it stopped
		owner("c", "h1"): false,
		{Host: "h1", Project: "other", Guest: "a", Kind: "docker"}: false,
	} {
		if got := allowed(o); got != want {
			t.Errorf("%+v: got %v, want %v", o, got, want)
		}
	}
}

func TestStrangersAreBoundedAndForgotten(t *testing.T) {
	r := roster(t, "a@h1")
	var b Book
	b.HostHeard("h1", start, time.Second)
	for i := range 2 * maxStrangers {
		b.StrangerHeard(Stranger{Host: "h1", Name: fmt.Sprint(i), Reason: "unknown_guest", Seen: start})
	}
	if h, _ := b.Report(r, start).Host("h1"); len(h.Strangers) != maxStrangers {
		t.Fatalf("got %d strangers, want %d", len(h.Strangers), maxStrangers)
	}
	later := start.Add(time.Minute)
	b.HostHeard("h1", later, time.Second)
	b.Forget(later)
	if h, _ := b.Report(r, later).Host("h1"); len(h.Strangers) != 0 || len(b.hosts["h1"].strangers) != 0 {
		t.Fatalf("got %d strangers a minute later, want none", len(h.Strangers))
	}
}

// What is said of a guest follows its state, its roster and what was forgotten.
func TestPointsFollow(t *testing.T) {
	var b Book
	said := func(r *deployment.Roster, now time.Time) string {
		var got []string
		for _, p := range b.Report(r, now).Points() {
			if p.Series.Family() == GuestUp {
				got = append(got, fmt.Sprint(p.Series.Label(sample.GuestName), p.Series.Label("reason"), p.V))
			}
		}
		return strings.Join(got, " ")
	}
	first, second := roster(t, "a@h1"), roster(t, "a@h2", "b@h1")
	later := start.Add(2 * time.Hour)
	for i, step := range []struct {
		do   func()
		of   *deployment.Roster
		now  time.Time
		want string
	}{
		{func() {}, first, start, "a" + HostSilent + "0"},
		{func() {
			b.HostHeard("h1", start, time.Second)
			b.GuestSaid(owner("a", "h1"), true, "", start)
		}, first, start, "a1"},
		{func() { b.GuestSaid(owner("a", "h1"), false, "paused", start) }, first, start, "apaused0"},
		{func() { b.GuestSaid(owner("a", "h1"), false, "", start) }, first, start, "a" + Stopped + "0"},
		{func() { b.GuestSaid(owner("a", "h1"), true, "", start) }, first, start, "a1"},
		{func() {}, second, start, "a" + HostSilent + "0 b" + NotSeen + "0"},
		{func() { b.GuestSaid(owner("b", "h1"), true, "", start) }, second, start, "a" + HostSilent + "0 b1"},
		{func() {
			b.Forget(later)
			b.HostHeard("h1", later, time.Second)
			b.GuestSaid(owner("b", "h1"), true, "", later)
		}, second, later, "a" + HostSilent + "0 b1"},
	} {
		step.do()
		if got := said(step.of, step.now); got != step.want {
			t.Errorf("step %d: got %q, want %q", i, got, step.want)
		}
	}
}
