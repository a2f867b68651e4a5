package main

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"fanin/internal/e2e/rig"
	"fanin/internal/window"
)

var update = flag.Bool("update", false, "rewrite golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gateway": main})
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
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"refused": rig.Refused("gateway"),
		},
	})
}

// TestReadersAreForgottenBeforeSpoolsGiveUp holds apart what both programs do
// when nothing is said: see window.Store.ReaderExpiry.
func TestReadersAreForgottenBeforeSpoolsGiveUp(t *testing.T) {
	byDefault := func(help, flag string) time.Duration {
		text, err := os.ReadFile(help)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`--` + flag + `=(\w+)`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s has no --%s", help, flag)
		}
		d, err := time.ParseDuration(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	expiry := byDefault("testdata/script/help.txtar", "window.reader-expiry")
	age := byDefault("../pusher/testdata/script/help.txtar", "spool.max-age")
	if age-expiry < 10*time.Minute {
		t.Errorf("readers are forgotten after %s and spools keep %s: want ten minutes between them", expiry, age)
	}
}

// TestMoreReadersThanPlaces: the history takes the place of one.
func TestMoreReadersThanPlaces(t *testing.T) {
	for _, c := range []struct {
		readers int
		history string
		want    string
	}{
		{window.MaxReaders, t.TempDir(), "--scrape.reader: 64 names, at most 63 can be given, as the history (--history.path) is a reader too"},
		{window.MaxReaders + 1, "", "--scrape.reader: 65 names, at most 64 can be given"},
		{window.MaxReaders - 1, t.TempDir(), "--window.max-bytes 0: at least 1048576"}, // which is looked at next
		{window.MaxReaders, "", "--window.max-bytes 0: at least 1048576"},
	} {
		o := &options{history: historyOptions{path: c.history}}
		for i := range c.readers {
			o.readers = append(o.readers, fmt.Sprint("prometheus-", i))
		}
		if err := runGateway(t.Context(), slog.New(slog.DiscardHandler), o); err == nil || err.Error() != c.want {
			t.Errorf("%d readers, history %q: got %v, want %s", c.readers, c.history, err, c.want)
		}
	}
}
