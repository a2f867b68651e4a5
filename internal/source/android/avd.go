package android

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	maxEnvironment = 256 << 10
	maxIni         = 64 << 10
)

// hardware is what an AVD has. 0 is unknown.
type hardware struct {
	cores  float64
	memory float64 // bytes
}

// hardwareOf reads what the emulator itself has read: the arguments, then what
// it has written down itself at this start (hardware-qemu.ini), then the AVD's
// config.ini. home is the AVDs' folder; "" for the one that the environment of
// the process names. What may not be read is unknown.
func (h *node) hardwareOf(p *process, line *commandLine, home string) hardware {
	var hw hardware
	for _, dir := range h.avdFolders(p, line, home) {
		config, err := readFile(filepath.Join(dir, "config.ini"), maxIni)
		if err != nil {
			continue
		}
		hw.take(config)
		// What an earlier run has left is of that run.
		name := filepath.Join(dir, "hardware-qemu.ini")
		if info, err := os.Stat(name); err == nil && info.ModTime().After(fromSeconds(p.started).Add(-time.Second)) {
			if b, err := readFile(name, maxIni); err == nil {
				hw.take(b)
			}
		}
		break
	}
	if line.cores > 0 {
		hw.cores = line.cores
	}
	if line.memoryMB > 0 {
		hw.memory = line.memoryMB * (1 << 20)
	}
	return hw
}

func fromSeconds(s float64) time.Time { return time.UnixMilli(int64(s * 1e3)) }

// avdFolders are the folders that may be the AVD's own, the likeliest first.
func (h *node) avdFolders(p *process, line *commandLine, home string) []string {
	if home != "" {
		return folders("", home, line.avd)
	}
	// The process' own view of the file system: it may have been given another
	// one together with its network namespace.
	dir := filepath.Join(h.proc, strconv.Itoa(p.pid))
	root := filepath.Join(dir, "root")
	var dirs []string
	if filepath.IsAbs(line.dataDir) {
		dirs = append(dirs, below(root, line.dataDir))
	}
	b, err := readFile(filepath.Join(dir, "environ"), maxEnvironment)
	if err != nil {
		return dirs
	}
	for _, home := range avdHomes(b) {
		dirs = append(dirs, folders(root, home, line.avd)...)
	}
	return dirs
}

// folders are an AVD's folder as NAME.ini beside it names it, and where it is
// unless that says so.
func folders(root, home, name string) []string {
	var dirs []string
	if b, err := readFile(below(root, home, name+".ini"), maxIni); err == nil {
		if rel, ok := iniValue(b, "path.rel"); ok {
			dirs = append(dirs, below(root, home, "..", rel))
		}
		if path, ok := iniValue(b, "path"); ok && filepath.IsAbs(path) {
			dirs = append(dirs, below(root, path))
		}
	}
	return append(dirs, below(root, home, name+".avd"))
}

// below is a path in another root, however many .. it has.
func below(root string, path ...string) string {
	return filepath.Join(root, filepath.Join("/", filepath.Join(path...)))
}

// avdHomes are the folders in which the emulator looks for AVDs, from its
// environment (https://developer.android.com/tools/variables).
func avdHomes(environ []byte) []string {
	variables := map[string]string{}
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if name, value, ok := bytes.Cut(entry, []byte("=")); ok {
			variables[string(name)] = string(value)
		}
	}
	var homes []string
	for _, v := range [...]struct{ name, below string }{
		{"ANDROID_AVD_HOME", ""},
		{"ANDROID_USER_HOME", "avd"},
		{"ANDROID_EMULATOR_HOME", "avd"},
		{"ANDROID_PREFS_ROOT", ".android/avd"},
		{"ANDROID_SDK_HOME", ".android/avd"},
		{"ANDROID_SDK_HOME", "avd"},
		{"HOME", ".android/avd"},
	} {
		if value := variables[v.name]; filepath.IsAbs(value) {
			homes = append(homes, filepath.Join(value, v.below))
		}
	}
	return homes
}

// take adds what an ini file says. hw.ramSize is in megabytes unless it has a
// unit.
func (hw *hardware) take(b []byte) {
	if value, ok := iniValue(b, "hw.cpu.ncore"); ok {
		if n := count(value); n > 0 {
			hw.cores = n
		}
	}
	if value, ok := iniValue(b, "hw.ramSize"); ok {
		if n := size(value); n > 0 {
			hw.memory = n
		}
	}
}

// iniValue is the value of "key=value" or "key = value"; of several the last.
func iniValue(b []byte, key string) (value string, ok bool) {
	for line := range bytes.Lines(b) {
		name, v, found := bytes.Cut(line, []byte("="))
		if found && string(bytes.TrimSpace(name)) == key {
			value, ok = string(bytes.TrimSpace(v)), true
		}
	}
	return value, ok
}

// size reads "2048", "2048M", "2048MB", "2 G": bytes, 0 for what it can not
// read. Without a unit it is megabytes; a K is 1024.
func size(s string) float64 {
	digits := strings.TrimRight(s, "bBkKmMgG ")
	n, err := strconv.ParseUint(digits, 10, 40)
	if err != nil {
		return 0
	}
	switch strings.ToUpper(strings.TrimSpace(s[len(digits):])) {
	case "", "M", "MB":
		return float64(n) * (1 << 20)
	case "K", "KB":
		return float64(n) * (1 << 10)
	case "G", "GB":
		return float64(n) * (1 << 30)
	}
	return 0
}
