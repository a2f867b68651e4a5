package android

import (
	"bytes"
	"strconv"
	"strings"
)

// maxCommandLine bounds what is read of a command line. The emulator's is
// short; -avd stands near its beginning.
const maxCommandLine = 64 << 10

// commandLine is what is read of an emulator's arguments.
type commandLine struct {
	avd      string
	dataDir  string
	cores    float64 // 0: not said
	memoryMB float64 // 0: not said
}

// parseCommandLine reads /proc/PID/cmdline. The launcher takes the first AVD
// that is named; -qemu ends its options. An argument that is cut off counts as
// not there.
func parseCommandLine(b []byte) (c commandLine) {
	next := func() (string, bool) {
		i := bytes.IndexByte(b, 0)
		if i < 0 {
			return "", false
		}
		arg := string(b[:i])
		b = b[i+1:]
		return arg, true
	}
	_, _ = next() // the program
	for {
		arg, ok := next()
		if !ok {
			return c
		}
		var value string
		switch arg {
		case "-qemu":
			return c
		case "-avd", "-datadir", "-cores", "-memory":
			if value, ok = next(); !ok {
				return c
			}
		}
		switch name, at := strings.CutPrefix(arg, "@"); {
		case at && name != "" && c.avd == "":
			c.avd = name
		case arg == "-avd" && c.avd == "":
			c.avd = value
		case arg == "-datadir":
			c.dataDir = value
		case arg == "-cores":
			c.cores = count(value)
		case arg == "-memory":
			c.memoryMB = count(value)
		}
	}
}

// count is 0 for what is no number of cores or megabytes.
func count(s string) float64 {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0
	}
	return float64(n)
}

// validName reports whether an AVD's name is one that a guest can have. It
// becomes a label and part of a path.
func validName(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return len(name) >= 1 && len(name) <= 127
}

// role is what a program is by its name.
type role uint8

const (
	other    role = iota
	launcher      // becomes an engine, or starts one
	engine
)

// roleOf knows the programs of the emulator: the launcher, the engines of
// today (qemu-system-x86_64, -headless) and those of old (emulator64-x86). The
// kernel keeps 15 bytes of a process' own name, which are enough.
func roleOf(program string) role {
	switch {
	case program == "emulator" || program == "emulator-headless":
		return launcher
	case strings.HasPrefix(program, "qemu-system-"),
		strings.HasPrefix(program, "emulator64-"), strings.HasPrefix(program, "emulator-"):
		return engine
	}
	return other
}
