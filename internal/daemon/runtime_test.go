package daemon

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestRuntime(t *testing.T) {
	processors, percent := runtime.GOMAXPROCS(0), debug.SetGCPercent(100)
	t.Cleanup(func() {
		runtime.GOMAXPROCS(processors)
		debug.SetGCPercent(percent)
	})
	check := func(wantPercent, wantProcessors int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != wantProcessors {
			t.Errorf("got %d processors, want %d", got, wantProcessors)
		}
		got := debug.SetGCPercent(100)
		debug.SetGCPercent(got)
		if got != wantPercent {
			t.Errorf("got %d percent, want %d", got, wantPercent)
		}
	}
	t.Setenv("GOGC", "100")
	t.Setenv("GOMAXPROCS", "3")
	runtime.GOMAXPROCS(3)
	Runtime(25, 1) // the environment says otherwise
	check(100, 3)
	t.Setenv("GOGC", "")
	Runtime(25, 1)
	check(25, 3)
	t.Setenv("GOMAXPROCS", "")
	Runtime(30, 2)
	check(30, 2)
}
