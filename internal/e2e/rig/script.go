package rig

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Refused is a command for test scripts: `refused PATTERN ARG...` runs the
// program with the arguments and wants it to end within a second (at the third
// time, when the machine is busy), not with 0, after one line on standard error
// that matches, and nothing on standard output.
func Refused(program string) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		var took time.Duration
		var err error
		for try := 0; try == 0 || took > time.Second && try < 3; try++ {
			start := time.Now()
			err = ts.Exec(program, args[1:]...)
			took = time.Since(start)
		}
		said := ts.ReadFile("stderr")
		var exit *exec.ExitError
		switch {
		case !errors.As(err, &exit) || exit.ExitCode() <= 0:
			ts.Fatalf("%s %q: got %v, want an exit code that is not 0", program, args[1:], err)
		case took > time.Second:
			ts.Fatalf("%s %q took %s, want at most a second", program, args[1:], took)
		case strings.Count(said, "\n") != 1 || !regexp.MustCompile(args[0]).MatchString(said):
			ts.Fatalf("%s %q said %q, want one line that matches %s", program, args[1:], said, args[0])
		case ts.ReadFile("stdout") != "":
			ts.Fatalf("%s %q printed %q, want nothing", program, args[1:], ts.ReadFile("stdout"))
		}
	}
}
