package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
)

// Runtime sets how often garbage is collected and how many processors run the
// program's own code, each unless the environment says
// (https://pkg.go.dev/runtime#hdr-Environment_Variables).
func Runtime(gcPercent, processors int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(processors)
	}
}
