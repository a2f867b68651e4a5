package main

import (
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

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
			env.Setenv("TAKEN", taken.Addr().String())
			return os.WriteFile(env.WorkDir+"/unreadable", nil, 0o000)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// refused PATTERN ARG...: pusher ARG... ends within a second, not with
			// 0, after one line that matches, and nothing on stdout.
			"refused": func(ts *testscript.TestScript, _ bool, args []string) {
				start := time.Now()
				err := ts.Exec("pusher", args[1:]...)
				took := time.Since(start)
				said := ts.ReadFile("stderr")
				var exit *exec.ExitError
				switch {
				case !errors.As(err, &exit) || exit.ExitCode() <= 0:
					ts.Fatalf("pusher %q: got %v, want an exit code that is not 0", args[1:], err)
				case took > time.Second:
					ts.Fatalf("pusher %q took %s, want at most a second", args[1:], took)
				case strings.Count(said, "\n") != 1 || !regexp.MustCompile(args[0]).MatchString(said):
					ts.Fatalf("pusher %q said %q, want one line that matches %s", args[1:], said, args[0])
				case ts.ReadFile("stdout") != "":
					ts.Fatalf("pusher %q printed %q, want nothing", args[1:], ts.ReadFile("stdout"))
				}
			},
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
