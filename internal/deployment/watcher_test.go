package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestRoster(t *testing.T) {
	s := newSettings(t)
	s.write(filepath.Join(s.folder(), "config", "kvm-compose-config.json"),
		`{"testbed_host_ssh_config":{"main-host":{"ip":"10.50.0.9","is_main_host":true},"spare":{"ip":"10.50.0.7"}}}`)
	s.record("signal", `"up"`)
	s.state("signal", "a", "b")
	s.record("old", `"down"`)
	s.write(s.statePath("old"), strings.ReplaceAll(stateJSON("old", "x"), "main-host", "old-host"))
	s.record("busy", `"running"`)
	s.record("broken", `{"failed":{"up":{}}}`)
	s.write(filepath.Join(s.folder(), "deployments", "signal-logs.json"), `[]`)
	s.write(filepath.Join(s.folder(), "deployments", "README"), `x`)
	// The same runtime name twice among active guests, and once in each.
	s.record("a-b", `"up"`)
	s.state("a-b", "c", "d")
	s.record("a", `"up"`)
	s.state("a", "b-c")
	s.record("off", `"down"`)
	s.write(s.statePath("off"), `{"project_name":"off","testbed_guests":{"d":{"docker":{},"runtime_name":"a-b-d"}}}`)

	r := s.watch().Load()
	got := ""
	for _, p := range r.Projects() {
		got += fmt.Sprintf("%s %s %t %s[%s] %v %q\n", p.Name, p.State, p.Active, p.Source, guestNames(p), p.Hosts, p.Problem)
	}
	want := `a up true record[b-c ] [main-host] ""
a-b up true record[c d ] [main-host] ""
broken failed false record[] [] ""
busy running false record[] [] ""
off down false record[d ] [] ""
old down false record[x ] [old-host] ""
signal up true record[a b ] [main-host] ""
`
	if got != want {
		t.Errorf("got projects\n%s\nwant\n%s", got, want)
	}
	if got, want := fmt.Sprint(r.Hosts()), "[{main-host 10.50.0.9 true} {spare 10.50.0.7 false}]"; got != want {
		t.Errorf("hosts: got %s, want %s", got, want)
	}
	if r.HasHost("old-host") || !r.HasHost("spare") {
		t.Errorf("HasHost: got old-host %t, spare %t, want false, true", r.HasHost("old-host"), r.HasHost("spare"))
	}
	for _, c := range []struct {
		name  string
		match Match
		guest string
	}{
		{"signal-a", Found, "signal/a"},
		{"signal", Unknown, ""},
		{"signal-", Unknown, ""},
		{"", Unknown, ""},
		{"old-x", NotActive, "old/x"},
		{"a-b-c", Ambiguous, ""},
		{"a-b-d", Found, "a-b/d"},
		{"off-d", Unknown, ""},
	} {
		g, m := r.Lookup(c.name)
		name := ""
		if g != nil {
			name = g.Project + "/" + g.Name
		}
		if m != c.match || name != c.guest {
			t.Errorf("Lookup(%q): got %s %q, want %s %q", c.name, m, name, c.match, c.guest)
		}
	}
	if g := r.Project("signal").Guest("b"); g == nil || g.RuntimeName != "signal-b" {
		t.Errorf("Guest(b): got %+v", g)
	}
	if g := r.Project("signal").Guest("c"); g != nil {
		t.Errorf("Guest(c): got %+v, want nil", g)
	}
	var zero Roster
	if g, m := zero.Lookup("x"); g != nil || m != Unknown || zero.HasHost("x") || zero.Project("x") != nil {
		t.Errorf("the zero roster: got %v %v", g, m)
	}
}

// Whatever happens to a state file of a deployment that is up, its guests
// stay, the others are untouched, and the reason is said.
func TestLastGoodVersionStays(t *testing.T) {
	good := stateJSON("p", "a", "b")
	for _, c := range []struct {
		name, reason string
		spoil        func(t *testing.T, path string) error
	}{
		{"empty", ReasonTorn, func(t *testing.T, p string) error { return os.Truncate(p, 0) }},
		{"torn", ReasonTorn, func(t *testing.T, p string) error { return os.Truncate(p, int64(len(good)/2)) }},
		{"zeroes", ReasonTorn, func(t *testing.T, p string) error { return os.WriteFile(p, make([]byte, 4096), 0o644) }},
		{"deleted", ReasonMissing, func(t *testing.T, p string) error { return os.Remove(p) }},
		{"folder deleted", ReasonMissing, func(t *testing.T, p string) error { return os.RemoveAll(filepath.Dir(p)) }},
		{"of another deployment", ReasonWrongName, func(t *testing.T, p string) error { return os.WriteFile(p, []byte(stateJSON("other")), 0o644) }},
		{"null", ReasonMalformed, func(t *testing.T, p string) error { return os.WriteFile(p, []byte("null"), 0o644) }},
		{"deep", ReasonTooDeep, func(t *testing.T, p string) error {
			return os.WriteFile(p, []byte(strings.Repeat("[", 1_000_000)), 0o644)
		}},
		{"huge and sparse", ReasonTooLarge, func(t *testing.T, p string) error { return os.Truncate(p, 1<<40) }},
		{"symbolic link to a good one", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error {
				if err := os.WriteFile(p+".real", []byte(stateJSON("p")), 0o644); err != nil {
					return err
				}
				return os.Symlink(p+".real", p)
			})
		}},
		{"symbolic link to a secret", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error { return os.Symlink("/etc/shadow", p) })
		}},
		{"symbolic link to itself", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error { return os.Symlink(p, p) })
		}},
		{"FIFO", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error { return syscall.Mkfifo(p, 0o644) })
		}},
		{"folder", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error { return os.Mkdir(p, 0o755) })
		}},
		{"link to an endless device", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error { return os.Symlink("/dev/zero", p) })
		}},
		{"device", ReasonNotRegular, func(t *testing.T, p string) error {
			return replace(p, func() error {
				err := syscall.Mknod(p, syscall.S_IFCHR|0o644, 1<<8|5)
				if err == syscall.EPERM {
					t.Skip("devices can not be made here")
				}
				return err
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSettings(t)
			s.record("p", `"up"`)
			s.state("p", "a", "b")
			s.record("q", `"up"`)
			s.state("q", "x")
			w := s.watch()
			before := w.polls(3 * time.Second)
			if got := guestNames(before.Project("p")); got != "a b " {
				t.Fatalf("before: got guests %q", got)
			}
			if err := c.spoil(t, s.statePath("p")); err != nil {
				t.Fatal(err)
			}
			if r := w.polls(300 * time.Millisecond); r != before {
				t.Errorf("after 0.3 s: got another roster, want the same pointer, problem %q", r.Project("p").Problem)
			}
			r := w.polls(2 * time.Second)
			p := r.Project("p")
			if guestNames(p) != "a b " || !p.Active || p.Reason != c.reason || p.Problem == "" || p.Stale || p.Since.IsZero() {
				t.Errorf("after 2 s: got guests %q, problem %q %q, stale %t; want a b, %s, not stale", guestNames(p), p.Reason, p.Problem, p.Stale, c.reason)
			}
			if g, m := r.Lookup("p-a"); m != Found || g == nil {
				t.Errorf("after 2 s: Lookup(p-a) is %s", m)
			}
			if again := w.polls(50 * time.Second); again != r {
				t.Errorf("after 52 s: the roster has changed although nothing did: %q", again.Project("p").Problem)
			}
			r = w.polls(12 * time.Second)
			if p := r.Project("p"); guestNames(p) != "a b " || !p.Stale || !strings.Contains(p.Problem, "stale") {
				t.Errorf("after 64 s: got guests %q, problem %q, stale %t, want stale", guestNames(p), p.Problem, p.Stale)
			}
			if q := r.Project("q"); q != before.Project("q") || q.Problem != "" {
				t.Errorf("the other deployment changed: %+v", q)
			}
			want := `fanin_deployment_failures_total{file="state",reason="` + c.reason + `"} 1
fanin_state_file_stale{project="p"} 1
fanin_state_file_stale{project="q"} 0
`
			if got := metrics(t, w.Watcher, "fanin_deployment_failures_total", "fanin_state_file_stale"); got != want {
				t.Errorf("got metrics\n%s\nwant\n%s", got, want)
			}

			if err := os.RemoveAll(s.statePath("p")); err != nil {
				t.Fatal(err)
			}
			s.state("p", "a", "b", "c")
			if p := w.polls(200 * time.Millisecond).Project("p"); guestNames(p) != "a b c " || p.Problem != "" {
				t.Errorf("mended: got guests %q, problem %q", guestNames(p), p.Problem)
			}
		})
	}
}

// metrics are the lines of the named families.
func metrics(t *testing.T, w *Watcher, names ...string) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := w.Register(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range families {
		if slices.Contains(names, f.GetName()) {
			if _, err := expfmt.MetricFamilyToText(&all, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	lines := slices.DeleteFunc(strings.SplitAfter(all.String(), "\n"), func(l string) bool { return strings.HasPrefix(l, "#") })
	return strings.Join(lines, "")
}

func replace(path string, by func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return by()
}

// The same version coming back after a torn one changes nothing.
func TestHostsFor(t *testing.T) {
	a := &Project{Name: "a", Active: true, declared: []Host{{Name: "x", IP: "10.0.0.1"}, {Name: "main", IP: "10.0.0.2"}}}
	b := &Project{Name: "b", Active: true, declared: []Host{{Name: "y", IP: "10.0.0.3"}}}
	addresses := func(cluster ...Host) (all string) {
		for _, h := range newRoster([]*Project{a, b}, cluster, nil).HostsFor(a) {
			all += h.IP + " "
		}
		return all
	}
	if got, want := addresses(Host{Name: "main", IP: "10.0.0.9"}), "10.0.0.9 10.0.0.1 10.0.0.2 "; got != want {
		t.Errorf("with a cluster file: got %s, want %s", got, want)
	}
	if got, want := addresses(), "10.0.0.2 10.0.0.1 10.0.0.3 "; got != want {
		t.Errorf("without one: got %s, want %s", got, want)
	}
}

func TestRosterKeepsItsPointer(t *testing.T) {
	s := newSettings(t)
	s.record("p", `"up"`)
	s.state("p", "a")
	w := s.watch()
	before := w.polls(time.Second)
	for range 3 {
		if err := os.Truncate(s.statePath("p"), 10); err != nil {
			t.Fatal(err)
		}
		w.polls(200 * time.Millisecond)
		s.state("p", "a")
		w.polls(200 * time.Millisecond)
	}
	// Another text that means the same.
	s.write(s.statePath("p"), strings.Replace(stateJSON("p", "a"), `"x"`, `"y"`, 1))
	s.record("p", ` "up" `)
	if after := w.polls(5 * time.Second); after != before {
		t.Errorf("got another roster, want the same pointer")
	}
}

// A rewrite that leaves size and times as they were is found as long as the
// file is young. Kernels since 6.13 give most file systems finer times, so the
// test makes the watcher believe that it has seen the new version's already.
func TestRewriteWithinOneClockTick(t *testing.T) {
	s := newSettings(t)
	s.record("p", `"up"`)
	s.state("p", "one")
	w := s.watch()
	w.polls(time.Second)
	s.state("p", "two")
	var st unix.Stat_t
	if err := unix.Lstat(s.statePath("p"), &st); err != nil {
		t.Fatal(err)
	}
	w.tracked[s.recordPath("p")].stateFile.sig = signatureOf(&st)
	if got := guestNames(w.polls(100 * time.Millisecond).Project("p")); got != "two " {
		t.Errorf("got guests %q, want the rewritten file's", got)
	}
}

// Files that stay as they are cost a stat each and no read.
func TestSteadyPollReadsNothing(t *testing.T) {
	s := newSettings(t)
	for i := range 20 {
		name := fmt.Sprintf("p%d", i)
		s.record(name, `"up"`)
		s.state(name, "a")
	}
	w := s.watch()
	w.polls(3 * time.Second)
	before := reads(t)
	w.polls(2 * time.Second)
	if n := reads(t) - before; n > 20 {
		t.Errorf("20 polls of 40 files made %d reads, want none", n)
	}
}

// reads is how many read calls the process has made.
func reads(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "syscr: ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRecordComesAndGoes(t *testing.T) {
	s := newSettings(t)
	s.record("p", `"down"`)
	s.state("p", "a")
	w := s.watch()
	expect := func(when string, d time.Duration, want string) {
		t.Helper()
		r := w.polls(d)
		_, m := r.Lookup("p-a")
		got := m.String()
		if p := r.Project("p"); p != nil {
			got += " " + p.State + " " + p.Reason
		}
		if got != want {
			t.Fatalf("%s: got %q, want %q", when, got, want)
		}
	}
	expect("down", 200*time.Millisecond, "not_active down ")
	s.record("p", `"up"`)
	expect("up", 200*time.Millisecond, "found up ")
	s.record("p", `"running"`)
	expect("running", 200*time.Millisecond, "not_active running ")
	s.record("p", `"up"`)
	expect("up again", 200*time.Millisecond, "found up ")

	if err := os.Truncate(s.recordPath("p"), 5); err != nil {
		t.Fatal(err)
	}
	expect("torn record", 2*time.Second, "found up torn")
	s.record("p", `"up"`)
	expect("whole record", 200*time.Millisecond, "found up ")

	// Replaced by renaming, with a moment without a file.
	if err := os.Rename(s.recordPath("p"), s.recordPath("p")+"~"); err != nil {
		t.Fatal(err)
	}
	expect("renamed away", 100*time.Millisecond, "found up ")
	if err := os.Rename(s.recordPath("p")+"~", s.recordPath("p")); err != nil {
		t.Fatal(err)
	}
	expect("renamed back", time.Second, "found up ")

	if err := os.Remove(s.recordPath("p")); err != nil {
		t.Fatal(err)
	}
	expect("record deleted", 400*time.Millisecond, "unknown")

	s.record("p", `"down"`)
	expect("record back", 200*time.Millisecond, "not_active down ")
	if err := os.Remove(s.statePath("p")); err != nil {
		t.Fatal(err)
	}
	expect("down, state deleted", time.Second, "unknown down ")
	s.state("p", "a")
	s.record("p", `"up"`)
	expect("the same state comes back", 200*time.Millisecond, "found up ")

	// The whole folder vanishing is no deletion of records.
	if err := os.Rename(s.folder(), s.folder()+"~"); err != nil {
		t.Fatal(err)
	}
	expect("settings gone", 5*time.Second, "found up missing")
	if p := w.Roster().Problems(); len(p) != 1 || p[0].File != "settings" || p[0].Reason != ReasonMissing {
		t.Errorf("settings gone: got problems %+v", p)
	}
	if err := os.Rename(s.folder()+"~", s.folder()); err != nil {
		t.Fatal(err)
	}
	expect("settings back", time.Second, "found up ")
}

func TestNamesOfFiles(t *testing.T) {
	s := newSettings(t)
	s.record("fine", `"up"`)
	s.state("fine", "a")
	for _, name := range []string{"<script>alert(1)<", `a"b`, ".hidden", "with blank", strings.Repeat("x", 64), "ünder", "a\nb"} {
		s.write(s.recordPath(name), `{}`)
	}
	r := s.watch().Load()
	if len(r.Projects()) != 1 || len(r.Problems()) != 1 || r.Problems()[0].Reason != ReasonBadName {
		t.Fatalf("got %d projects, problems %+v, want 1 project, 1 problem", len(r.Projects()), r.Problems())
	}
	if text := r.Problems()[0].Text; text != "7 files whose names can not be used are left out" {
		t.Errorf("got %q", text)
	}
}

// TestFolderOfStateFiles: a folder that can not be read for a while takes
// nothing out, is said, and is waited for at the start. What goes while it can
// not be read goes afterwards.
func TestFolderOfStateFiles(t *testing.T) {
	s := newSettings(t)
	dir, away := filepath.Join(s.root, "states"), filepath.Join(s.root, "away")
	path := func(name string) string { return filepath.Join(dir, name+"-state.json") }
	s.write(path("stays"), stateJSON("stays", "a"))
	s.write(path("goes"), stateJSON("goes", "b"))
	hide := func() {
		if err := errors.Join(os.Rename(dir, away), os.Symlink("states", dir)); err != nil { // to itself: ELOOP
			t.Fatal(err)
		}
	}
	show := func() {
		if err := errors.Join(os.Remove(dir), os.Rename(away, dir)); err != nil {
			t.Fatal(err)
		}
	}
	names := func(r *Roster) (names string) {
		for _, p := range r.Projects() {
			names += p.Name + " "
		}
		for _, p := range r.Problems() {
			names += p.Reason + " "
		}
		return names
	}
	pattern := filepath.Join(s.root, "st?tes", "*-state.json")
	w := s.watch(pattern)
	if got := names(w.polls(time.Second)); got != "goes stays " {
		t.Fatalf("got %q", got)
	}
	hide()
	if got := names(w.polls(3 * time.Second)); got != "goes stays unreadable " {
		t.Errorf("while the folder can not be read: got %q", got)
	}
	later := s.watch(pattern)
	if later.polls(3 * time.Second); later.settled.Load() {
		t.Error("a start is over with a folder that can not be read")
	}
	if err := os.Remove(filepath.Join(away, "goes-state.json")); err != nil {
		t.Fatal(err)
	}
	show()
	for _, w := range []*watch{w, later} {
		if got := names(w.polls(time.Second)); got != "stays " || !w.settled.Load() {
			t.Errorf("when the folder can be read again: got %q", got)
		}
	}
}

// A folder on a file system that hangs holds up only that more is found.
func TestHangingFolder(t *testing.T) {
	s := newSettings(t)
	s.record("p", `"up"`)
	s.state("p", "a")
	file := filepath.Join(s.root, "states", "q-state.json")
	s.write(file, stateJSON("q", "a"))
	w := s.watch(filepath.Join(s.root, "states", "*"))
	w.polls(time.Second)
	hung := make(chan folders, 1)
	w.listing.pending = hung
	s.state("p", "a", "b")
	s.write(file, stateJSON("q", "a", "b"))
	r := w.polls(time.Second)
	for _, name := range []string{"p", "q"} {
		if got := guestNames(r.Project(name)); got != "a b " {
			t.Errorf("%s while its folder hangs: got %q, want a b", name, got)
		}
	}
	if got := fmt.Sprint(r.Problems()); strings.Count(got, ReasonUnreadable) != 2 {
		t.Errorf("problems: got %s, want both folders", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	hung <- folders{err: errNoAnswer, files: []files{{}}}
	if r := w.polls(time.Second); r.Project("q") != nil || r.Project("p") == nil || len(r.Problems()) != 0 {
		t.Errorf("when it answers again: %+v", r.Projects())
	}
}

func TestStateGlobs(t *testing.T) {
	s := newSettings(t)
	s.record("both", `"up"`)
	s.state("both", "recorded")
	one, two := filepath.Join(s.root, "one"), filepath.Join(s.root, "two")
	path := func(dir, name string) string { return filepath.Join(dir, name+"-state.json") }
	s.write(path(one, "solo"), stateJSON("solo", "a"))
	s.write(path(one, "both"), stateJSON("both", "globbed"))
	s.write(path(two, "solo"), stateJSON("solo", "second"))
	s.write(path(two, "bad name"), stateJSON("bad name", "x"))
	s.write(filepath.Join(two, "other.json"), "{}")
	s.write(path(two, "liar"), stateJSON("solo", "x"))
	w := s.watch(filepath.Join(one, "*-state.json"), filepath.Join(two, "*.json"), filepath.Join(s.root, "home", "*", "*-state.json"), "[")
	r := w.polls(3 * time.Second)
	got := ""
	for _, p := range r.Projects() {
		got += fmt.Sprintf("%s %s %t %s[%s] %s\n", p.Name, p.State, p.Active, p.Source, guestNames(p), p.Reason)
	}
	want := "both up true record[recorded ] \nliar up true file[] wrong_name\nsolo up true file[a ] \n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	got = ""
	for _, p := range r.Problems() {
		got += p.File + " " + p.Reason + ", "
	}
	if want := "settings malformed, state bad_name, state duplicate_name, state duplicate_name, "; got != want {
		t.Errorf("problems: got %q, want %q", got, want)
	}
	if err := os.Truncate(path(one, "solo"), 9); err != nil {
		t.Fatal(err)
	}
	if got := guestNames(w.polls(2 * time.Second).Project("solo")); got != "a " {
		t.Errorf("torn: got guests %q, want a", got)
	}
	if err := os.Remove(path(one, "solo")); err != nil {
		t.Fatal(err)
	}
	if got := guestNames(w.polls(time.Second).Project("solo")); got != "second " {
		t.Errorf("first file deleted: got guests %q, want second", got)
	}
	if err := os.Remove(path(two, "solo")); err != nil {
		t.Fatal(err)
	}
	if p := w.polls(time.Second).Project("solo"); p != nil {
		t.Errorf("both deleted: got %+v, want none", p)
	}
}

// A file system that does not answer holds up its own file alone.
func TestHangingFileSystem(t *testing.T) {
	s := newSettings(t)
	s.record("p", `"up"`)
	s.state("p", "a")
	s.record("q", `"up"`)
	s.state("q", "a")
	w := s.watch()
	w.polls(200 * time.Millisecond)
	hung := make(chan look, 1)
	w.tracked[s.recordPath("p")].stateFile.pending = hung
	s.state("q", "a", "b")
	s.state("p", "a", "b")
	begin := time.Now()
	r := w.polls(time.Second)
	if d := time.Since(begin); d > time.Second {
		t.Errorf("ten polls took %s with one file system hanging", d)
	}
	if got := guestNames(r.Project("q")); got != "a b " {
		t.Errorf("the other deployment: got %q, want a b", got)
	}
	if p := r.Project("p"); guestNames(p) != "a " || p.Reason != ReasonUnreadable {
		t.Errorf("got %q %q, want the last good version, %s", guestNames(p), p.Reason, ReasonUnreadable)
	}
	hung <- look{err: &Error{Reason: ReasonUnreadable}}
	if p := w.polls(300 * time.Millisecond).Project("p"); guestNames(p) != "a b " || p.Problem != "" {
		t.Errorf("it answers again: got %q %q", guestNames(p), p.Problem)
	}
}

// A writer that truncates and rewrites in place every few milliseconds, as
// TestbedOS does, while the watcher runs: no roster ever lacks a guest.
func TestRewrittenInPlace(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := newSettings(t)
	guests := make([]string, 300)
	for i := range guests {
		guests[i] = fmt.Sprintf("guest-%03d", i)
	}
	s.record("p", `"up"`)
	s.state("p", guests...)
	s.record("q", `"up"`)
	s.state("q", "a")
	w := &Watcher{Settings: s.folder(), Interval: time.Millisecond, Log: s.watch().Log}
	w.Load()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.Run(ctx) }()
	go func() {
		// Two versions, so that most rewrites must be parsed.
		versions := []string{stateJSON("p", guests...), stateJSON("p", append(slices.Clone(guests), "extra")...)}
		record := `{"name": "p", "project_location": "` + filepath.Dir(s.statePath("p")) + `", "state": "up"}`
		for i := 0; ctx.Err() == nil; i++ {
			if err := rewrite(s.statePath("p"), versions[i%2]); err != nil {
				done <- err
				return
			}
			if err := rewrite(s.recordPath("p"), record); err != nil {
				done <- err
				return
			}
			time.Sleep(3 * time.Millisecond)
		}
		done <- nil
	}()
	seen := map[*Roster]bool{}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		r := w.Roster()
		seen[r] = true
		p, q := r.Project("p"), r.Project("q")
		if p == nil || q == nil || !p.Active || len(p.Guests) < len(guests) || len(q.Guests) != 1 {
			t.Fatalf("the roster shrank: p %+v, q %+v", p, q)
		}
	}
	cancel()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	torn := w.health.Load().failures[failure{"state", ReasonTorn}]
	t.Logf("%d rosters, %d torn reads", len(seen), torn)
	if len(seen) < 10 {
		t.Errorf("only %d rosters seen: the watcher did not follow", len(seen))
	}
}

// rewrite truncates and writes in two halves, without renaming.
func rewrite(path, content string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, part := range []string{content[:len(content)/2], content[len(content)/2:]} {
		if _, err := f.WriteString(part); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func TestCheck(t *testing.T) {
	p, err := Check("testdata/signal-state.json")
	if err != nil || len(p.Guests) != 3 || !p.Active {
		t.Fatalf("got %+v, %v, want 3 guests", p, err)
	}
	dir := t.TempDir()
	for _, c := range []struct{ file, in, want string }{
		{"p-state.json", "{\n  \"project_name\": \"p\",,\n}", `DIR/p-state.json:2:23: torn: invalid character ',' looking for beginning of object key string`},
		{"q-state.json", guestIn(""), `DIR/q-state.json:1:1: wrong_name: project_name is "p", expected "q"`},
		{"any.json", guestIn("\n\"a b\":{\"docker\":{}}"), `DIR/any.json:2:1: bad_name: "a b" would be left out`},
		{"twice.json", guestIn(`"a":{"docker":{},"runtime_name":"x"},"b":{"docker":{},"runtime_name":"x"}`), `DIR/twice.json: the guests a and b share the runtime name x; both would be refused`},
	} {
		path := filepath.Join(dir, c.file)
		if err := os.WriteFile(path, []byte(c.in), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Check(path)
		if got := strings.ReplaceAll(fmt.Sprint(err), dir, "DIR"); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	if _, err := Check(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v, want missing", err)
	}
	s := newSettings(t)
	s.record("a-b", `"up"`)
	s.state("a-b", "c")
	s.record("a", `"up"`)
	s.state("a", "b-c", "bad name")
	s.record("torn", `"up"`)
	s.write(s.statePath("torn"), "{")
	r, err := CheckSettings(s.folder())
	got := strings.ReplaceAll(fmt.Sprint(err), s.root, "ROOT")
	want := `ROOT/home/a/a-state.json:13:1: bad_name: "bad name" would be left out
ROOT/home/a/a-state.json: several active guests share the runtime name a-b-c; all would be refused
ROOT/home/a-b/a-b-state.json: several active guests share the runtime name a-b-c; all would be refused
ROOT/home/torn/torn-state.json:1:1: torn: unexpected end of JSON input`
	if got != want || len(r.Projects()) != 3 {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A steady poll of 100 deployments with 100 guests each: stat and nothing
// else.
func BenchmarkSteadyPoll(b *testing.B) {
	s := newSettings(b)
	guests := make([]string, 100)
	for i := range guests {
		guests[i] = fmt.Sprintf("guest-%03d", i)
	}
	for i := range 100 {
		name := fmt.Sprintf("project-%03d", i)
		s.record(name, `"up"`)
		s.state(name, guests...)
	}
	w := s.watch()
	before := w.polls(3 * time.Second)
	b.ReportAllocs()
	for b.Loop() {
		w.poll(w.now)
	}
	if w.Roster() != before {
		b.Error("the roster has changed")
	}
}

func BenchmarkParseState(b *testing.B) {
	guests := make([]string, 100)
	for i := range guests {
		guests[i] = fmt.Sprintf("guest-%03d", i)
	}
	data := []byte(stateJSON("p", guests...))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := parseState(data, "p"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	s := newSettings(b)
	s.record("p", `"up"`)
	s.state("p", "a", "b")
	r := s.watch().Load()
	for b.Loop() {
		if _, m := r.Lookup("p-b"); m != Found {
			b.Fatal(m)
		}
	}
}

// TestSettled: at the start a file that is just being rewritten is waited for,
// and one that stays broken is not for ever.
func TestSettled(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(s *settings)
		mend  func(s *settings)
	}{
		{"torn state", func(s *settings) { s.write(s.statePath("signal"), `{"project_name": "sig`) }, func(s *settings) { s.state("signal", "web") }},
		{"empty record", func(s *settings) { s.write(s.recordPath("signal"), "") }, func(s *settings) { s.record("signal", `"up"`) }},
		{"state that comes", func(s *settings) { _ = os.Remove(s.statePath("signal")) }, func(s *settings) { s.state("signal", "web") }},
		{"empty cluster", func(s *settings) { s.write(filepath.Join(s.folder(), "config", "kvm-compose-config.json"), "") }, func(s *settings) {
			s.write(filepath.Join(s.folder(), "config", "kvm-compose-config.json"), `{"testbed_host_ssh_config": {}}`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSettings(t)
			s.record("signal", `"up"`)
			s.state("signal", "web")
			c.spoil(s)
			w := s.watch()
			if w.Settled() == nil {
				t.Error("settled before the first look")
			}
			if w.polls(300 * time.Millisecond); w.Settled() == nil {
				t.Error("settled with a file that was never good")
			}
			c.mend(s)
			if r := w.polls(200 * time.Millisecond); w.Settled() != nil || guestNames(r.Project("signal")) != "web " {
				t.Errorf("%v with %q, want settled with the guest", w.Settled(), guestNames(r.Project("signal")))
			}
			c.spoil(s)
			if w.polls(time.Second); w.Settled() != nil {
				t.Error("what was settled is not any more")
			}
		})
	}
	t.Run("broken for good", func(t *testing.T) {
		s := newSettings(t)
		s.record("signal", `"up"`)
		s.write(s.statePath("signal"), "no")
		w := s.watch()
		if w.polls(settleAfter - time.Second); w.Settled() == nil {
			t.Error("settled although a file was never good")
		}
		if w.polls(2 * time.Second); w.Settled() != nil {
			t.Error("waits for ever")
		}
	})
	t.Run("no deployments yet", func(t *testing.T) {
		s := newSettings(t)
		if err := os.Remove(filepath.Join(s.folder(), "deployments")); err != nil {
			t.Fatal(err)
		}
		w := s.watch()
		if w.polls(100 * time.Millisecond); w.Settled() != nil {
			t.Error("waits for a folder that is not there")
		}
	})
	t.Run("no TestbedOS", func(t *testing.T) {
		w := &watch{Watcher: &Watcher{Settings: filepath.Join(t.TempDir(), "none"), Log: slog.New(slog.DiscardHandler)}, now: time.Now()}
		if w.polls(100 * time.Millisecond); w.Settled() != nil {
			t.Error("waits for files that there are not")
		}
	})
	t.Run("down and without a state", func(t *testing.T) {
		s := newSettings(t)
		s.record("signal", `"down"`)
		w := s.watch()
		if w.polls(100 * time.Millisecond); w.Settled() != nil {
			t.Error("waits for the state of a deployment that is down")
		}
	})
}
