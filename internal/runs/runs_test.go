package runs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"fanin/internal/deployment"
)

// What was answered is there after kill -9, and what is damaged keeps nothing
// else from being read.
func TestRestart(t *testing.T) {
	l := newLab(t, t.TempDir())
	first := l.begin(`="\'<b>`)
	if _, err := l.Mark(first.ID, "m", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Stop(first.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	second := l.begin("second")
	want, _ := json.Marshal(l.List(""))

	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(l.dir, first.ID+".json"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string]string{
		"torn": string(whole[:len(whole)/2]), "empty": "", "others": string(whole), "zeros": strings.Repeat("\x00", 4096),
		"hostile":   `{"id":"ID","project":"lab","name":"a\nb","started":1,"marks":[]}`,
		"backwards": `{"id":"ID","project":"lab","name":"a","started":10,"ended":9,"marks":[]}`,
		"large":     strings.Repeat(" ", maxRecord+1),
	}
	for name, content := range damaged {
		id := strings.Repeat("a", idLength-len(name)) + name
		write(id+".json", strings.ReplaceAll(content, "ID", id))
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(l.dir, strings.Repeat("b", idLength)+".json")); err != nil {
		t.Fatal(err)
	}
	write("half"+temporary, "{")
	write(strings.Repeat("c", idLength)+".state.json", "{}")
	write("notes.txt", "mine")

	l = l.again()
	if got, _ := json.Marshal(l.List("")); !bytes.Equal(got, want) {
		t.Errorf("after the restart\n%s\nbefore\n%s", got, want)
	}
	if n := testutil.ToFloat64(l.counts.damaged); int(n) != len(damaged)+1 {
		t.Errorf("%v records are counted as damaged, want %d\n%s", n, len(damaged)+1, l.say)
	}
	if entries, err := os.ReadDir(filepath.Join(l.dir, aside)); err != nil || len(entries) != len(damaged)+1 {
		t.Errorf("set aside: %v, %v", entries, err)
	}
	var left []string
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	wanted := []string{"damaged", "gateway.lock", "notes.txt"}
	for _, id := range []string{first.ID, second.ID} {
		wanted = append(wanted, id+".json", id+".state.json")
	}
	slices.Sort(wanted)
	if !slices.Equal(left, wanted) {
		t.Errorf("the folder has %v, want %v", left, wanted)
	}
	if a := l.ask("POST", "/api/v1/runs/"+second.ID+"/stop", ""); a.code != 200 {
		t.Errorf("the run that went on can not be stopped: %s", a.text)
	}
	if err := l.Delete(first.ID); err != nil {
		t.Error(err)
	}
	if found, _ := filepath.Glob(filepath.Join(l.dir, first.ID+"*")); len(found) != 0 {
		t.Errorf("of a run that was deleted there are %v", found)
	}
}

func TestFolderOfTwo(t *testing.T) {
	l := newLab(t, t.TempDir())
	if _, err := Open(l.Options); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("a second one: %v", err)
	}
}

// A folder that can not be used now refuses changes, and is used when it can.
func TestFolderThatComesLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runs")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, dir)
	if a := l.ask("POST", "/api/v1/runs", `{"project":"lab","name":"r"}`); a.code != 503 {
		t.Errorf("a run without a folder: %d %s", a.code, a.text)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	l.begin("r")
	if again := l.again(); len(again.List("")) != 1 {
		t.Error("the run is not on the disk")
	}
}

// A record that can not be written changes nothing.
func TestFailedWrite(t *testing.T) {
	l := newLab(t, t.TempDir())
	run := l.begin("r")
	moved := l.dir + "-moved"
	if err := os.Rename(l.dir, moved); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{"/marks": `{"text":"m"}`, "/stop": ""} {
		if a := l.ask("POST", "/api/v1/runs/"+run.ID+path, body); a.code != 503 {
			t.Errorf("%s: %d %s", path, a.code, a.text)
		}
	}
	if now := l.Get(run.ID); now.Ended != nil || len(now.Marks) != 0 {
		t.Errorf("what was refused is shown: %+v", now)
	}
	if n := testutil.ToFloat64(l.counts.failures); n != 2 {
		t.Errorf("%v failures are counted", n)
	}
	if err := os.Rename(moved, l.dir); err != nil {
		t.Fatal(err)
	}
	if a := l.ask("POST", "/api/v1/runs/"+run.ID+"/stop", ""); a.code != 200 {
		t.Errorf("when it can be written again: %d %s", a.code, a.text)
	}
}

func TestStateIsKeptWithoutCredentials(t *testing.T) {
	l := newLab(t, t.TempDir())
	run := l.begin("r")
	state, err := l.KeptState(run.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, unwanted := range []string{"hunter", "bob", "/root/.ssh", "ubuntu"} {
		if bytes.Contains(state, []byte(unwanted)) {
			t.Errorf("the state has %q:\n%s", unwanted, state)
		}
	}
	for _, wanted := range []string{`"memory_mb": 2048.0`, `"API": "(left out)"`, `"A=(left out)"`, `"--token"`, `"-v"`, `"ip": "10.0.0.1"`, `"https://(left out)@registry/x"`} {
		if !bytes.Contains(state, []byte(wanted)) {
			t.Errorf("the state lacks %s:\n%s", wanted, state)
		}
	}
}

func TestWithoutCredentials(t *testing.T) {
	for state, want := range map[string]string{
		`{"password":482913,"passphrase":null,"use_token":true}`:       `{"passphrase":null,"password":"(left out)","use_token":true}`,
		`{"secrets":["s","a=b"],"ssh_keys":["s"]}`:                     `{"secrets":["(left out)","(left out)"],"ssh_keys":["(left out)"]}`,
		`{"passwords":{"root":"s"},"api_token":{"value":["s",1]}}`:     `{"api_token":{"value":["(left out)","(left out)"]},"passwords":{"root":"(left out)"}}`,
		`{"command":"serve --db-password s -v --api-key=s --token"}`:   `{"command":"serve --db-password (left out) -v --api-key=(left out) --token"}`,
		`{"environment":["A=s=s","s",{"B":"s=s"}]}`:                    `{"environment":["A=(left out)","(left out)",{"B":"(left out)"}]}`,
		`{"environment":{"A":"s=s"}}`:                                  `{"environment":{"A":"(left out)"}}`,
		`{"testbed_guests":{"auth-server":{"ip":"1","password":"s"}}}`: `{"testbed_guests":{"auth-server":{"ip":"1","password":"(left out)"}}}`,
		`{"testbed_guests":[{"token":"s"}]}`:                           `{"testbed_guests":[{"token":"(left out)"}]}`,
	} {
		got, err := withoutCredentials([]byte(state))
		var b bytes.Buffer
		if err == nil {
			err = json.Compact(&b, got)
		}
		if err != nil || b.String() != want {
			t.Errorf("%s becomes\n%s, %v; want\n%s", state, &b, err, want)
		}
	}
}

// A run ends a minute after its deployment went down, as of that moment, and
// not because of an action on it.
func TestDeploymentGoesDown(t *testing.T) {
	l := newLab(t, t.TempDir())
	run := l.begin("r")
	roster := l.Roster
	down := func() *deployment.Roster { return &deployment.Roster{} }
	now := time.Now()
	look := func(of func() *deployment.Roster, after time.Duration) *Run {
		l.Roster = of
		l.watch(now.Add(after))
		return l.Get(run.ID)
	}
	look(down, time.Second)
	look(roster, 50*time.Second)
	look(down, 70*time.Second)
	if r := look(down, 129*time.Second); r.Ended != nil {
		t.Errorf("it ends too early: %+v", r)
	}
	if r := look(down, 131*time.Second); r.Ended == nil || *r.Ended != TimeOf(now.Add(70*time.Second)) || r.EndedBecause != Inactive {
		t.Errorf("it ends as %+v", r)
	}
	if len(l.inactive) > 1 {
		t.Errorf("%d are remembered", len(l.inactive))
	}
}

func TestSeries(t *testing.T) {
	l := newLab(t, t.TempDir())
	run := l.begin(`a"b\c`)
	for _, text := range []string{"stop", "x", "x", "x (2)", "start"} {
		if _, err := l.Mark(run.ID, text, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	texts := func(now time.Time) (all []string) {
		for _, p := range l.Points(now) {
			if p.T != 0 {
				t.Errorf("%s has a time", p.Series.Text())
			}
			text := p.Series.Text()
			if mark := p.Series.Label("mark"); mark != "" {
				text = mark
			}
			if slices.Contains(all, text) {
				t.Errorf("%s is there twice", text)
			}
			all = append(all, text)
		}
		return all
	}
	active := fmt.Sprintf(`testbed_run_active{name="a\"b\\c",project="lab",run=%q}`, run.ID)
	if got, want := texts(time.Now()), []string{active, "start", "stop (2)", "x", "x (2)", "x (2) (2)", "start (2)"}; !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if p := l.Points(time.Now())[1]; p.V != float64(run.Started)/1000 {
		t.Errorf("the start is at %v, want %v", p.V, run.Started)
	}
	ended, err := l.Stop(run.ID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	end := time.UnixMilli(int64(*ended.Ended))
	if got := texts(end.Add(shownFor - time.Second)); len(got) != 7 || got[0] != "start" || got[6] != "stop" {
		t.Errorf("after its end there are %q", got)
	}
	if got := texts(end.Add(shownFor)); len(got) != 0 {
		t.Errorf("an hour after its end there are %q", got)
	}
}

// Many at once: one start wins, every mark that was answered is kept.
func TestManyAtOnce(t *testing.T) {
	l := newLab(t, t.TempDir())
	var all sync.WaitGroup
	var mu sync.Mutex
	codes := map[int]int{}
	for i := range 40 {
		all.Go(func() {
			a := l.ask("POST", "/api/v1/runs", fmt.Sprintf(`{"project":"lab","name":"n%d"}`, i))
			mu.Lock()
			codes[a.code]++
			mu.Unlock()
		})
	}
	all.Wait()
	if codes[201] != 1 || codes[201]+codes[409]+codes[429] != 40 {
		t.Errorf("the starts were answered with %v", codes)
	}
	run := l.List("")[0]
	kept := 0
	for i := range 40 {
		all.Go(func() {
			if l.ask("POST", "/api/v1/runs/"+run.ID+"/marks", fmt.Sprintf(`{"text":"n%d"}`, i)).code == 200 {
				mu.Lock()
				kept++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if again := l.again(); len(again.Get(run.ID).Marks) != kept || kept == 0 {
		t.Errorf("%d marks are kept, %d were answered", len(again.Get(run.ID).Marks), kept)
	}
}
