package main

import (
	"flag"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"fanin/internal/e2e/rig"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pusher": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			env.Defer(func() { _ = taken.Close() })
			env.Setenv("STATE_DIRECTORY", env.WorkDir+"/state")
			env.Setenv("TAKEN", taken.Addr().String())
			r := &receiver{token: "right", times: make(map[string][]int64)}
			server := httptest.NewServer(r)
			env.Defer(server.Close)
			env.Setenv("RECEIVER", server.URL)
			return os.WriteFile(env.WorkDir+"/unreadable", nil, 0o000)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"refused": rig.Refused("pusher"),
		},
	})
}

// TestOncePage: Prometheus' own checker has nothing to say of the page.
func TestOncePage(t *testing.T) {
	rig.Need(t, "promtool")
	once := exec.Command("pusher", "once", "--no-docker", "--no-libvirt", "--sample.interval=200ms")
	page, err := once.Output()
	if err != nil {
		t.Fatal(err)
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(string(page))
	if said, err := check.CombinedOutput(); err != nil || len(said) > 0 {
		t.Errorf("promtool: %v, says\n%s\nof\n%s", err, said, page)
	}
}

// TestSpoolDir: where the spool is when nobody says.
func TestSpoolDir(t *testing.T) {
	for _, c := range []struct {
		flag, state, xdg, home string
		root                   bool
		want                   string
	}{
		{"/x", "/state", "/xdg", "/home/me", true, "/x"},
		{"", "/state", "/xdg", "/home/me", true, "/state"},
		{"", "/state:/more", "", "", false, "/state"},
		{"", "", "/xdg", "/home/me", true, "/var/lib/fanin/spool"},
		{"", "", "/xdg", "/home/me", false, "/xdg/fanin/spool"},
		{"", "", "relative", "/home/me", false, "/home/me/.local/state/fanin/spool"}, // XDG: must be ignored
		{"", "", "", "", false, ""},
	} {
		environment := map[string]string{"STATE_DIRECTORY": c.state, "XDG_STATE_HOME": c.xdg, "HOME": c.home}
		o := &options{spoolPath: c.flag}
		got, err := o.spoolDir(c.root, func(name string) string { return environment[name] })
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}
