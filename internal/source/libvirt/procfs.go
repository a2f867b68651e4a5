//go:build cgo

package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fanin/internal/cgroup"
	"fanin/internal/kernfile"
)

// userHz is the unit of the times in /proc/PID/stat. The kernel promises 100
// to user space on every architecture that runs QEMU.
const userHz = 100

// maxCommandLine bounds what is read of a command line. QEMU's grows with its
// devices; 200 of them take 60 KiB.
const maxCommandLine = 1 << 20

// process is the QEMU of a running domain. The descriptors stay with this one
// process: when it ends they say so, and never show another one that got its
// number.
type process struct {
	stat    int // descriptor of /proc/PID/stat
	group   *cgroup.Group
	netns   string // which network namespace; "" when that may not be known
	pid     int
	started float64 // seconds since 1970
	buf     []byte
}

// procStat is what is read of /proc/PID/stat (proc_pid_stat(5)).
type procStat struct {
	state        byte
	user, system float64 // seconds
	start        float64 // seconds since boot
	rssPages     float64
}

// attach opens the process pid and makes sure that it is the QEMU of the
// domain. The error is [cgroup.ErrGone] when it is not, or not any more.
func (ps *processes) attach(ctx context.Context, pid int, uuid string, layout *cgroup.Layout) (*process, error) {
	proc := ps.proc
	dir, err := unix.Open(filepath.Join(proc, strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, procError(err)
	}
	defer func() { _ = unix.Close(dir) }()
	line, err := ps.arguments(ctx, pid)
	if err != nil {
		return nil, procError(err)
	}
	if uuidOf(line) != uuid {
		return nil, cgroup.ErrGone
	}
	fd, err := unix.Openat(dir, "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, procError(err)
	}
	p := &process{stat: fd, pid: pid, buf: make([]byte, 1024)}
	if layout != nil {
		p.group, err = layout.OfMachine(pid)
		if err != nil && !errors.Is(err, cgroup.ErrNoGroup) && !errors.Is(err, cgroup.ErrGone) {
			p.close()
			return nil, err
		}
	}
	// The link needs the right to trace the process; see netTables.
	p.netns, _ = os.Readlink(filepath.Join(proc, strconv.Itoa(pid), "ns/net"))
	boot, err := bootTime(proc)
	if err != nil {
		p.close()
		return nil, err
	}
	// Still there: whatever was looked up by its number was its own.
	s, err := p.read()
	if err != nil {
		p.close()
		return nil, err
	}
	p.started = boot + s.start
	return p, nil
}

// read is [cgroup.ErrGone] when the process has ended.
func (p *process) read() (procStat, error) {
	n, err := kernfile.Pread(p.stat, p.buf, 0)
	if err != nil {
		return procStat{}, procError(err)
	}
	s, ok := parseProcStat(p.buf[:n])
	if !ok {
		return procStat{}, fmt.Errorf("/proc/%d/stat has an unknown form", p.pid)
	}
	if s.state == 'Z' || s.state == 'X' {
		return procStat{}, cgroup.ErrGone
	}
	return s, nil
}

func (p *process) close() {
	if p == nil {
		return
	}
	_ = unix.Close(p.stat)
	if p.group != nil {
		_ = p.group.Close()
	}
}

func procError(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return cgroup.ErrGone
	}
	return err
}

func parseProcStat(b []byte) (procStat, bool) {
	// The name may hold anything, parentheses too.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return procStat{}, false
	}
	b = bytes.TrimSpace(b[i+1:])
	var s procStat
	ok := true
	for field := 3; field <= 24; field++ {
		word := b
		if j := bytes.IndexByte(b, ' '); j >= 0 {
			word, b = b[:j], b[j+1:]
		} else {
			b = nil
		}
		if len(word) == 0 {
			return procStat{}, false
		}
		switch field {
		case 3:
			s.state = word[0]
		case 14:
			s.user, ok = ticks(word, ok)
		case 15:
			s.system, ok = ticks(word, ok)
		case 22:
			s.start, ok = ticks(word, ok)
		case 24:
			var n uint64
			n, ok = number(word, ok)
			s.rssPages = float64(n)
		}
	}
	return s, ok
}

func ticks(b []byte, ok bool) (float64, bool) {
	n, ok := number(b, ok)
	return float64(n) / userHz, ok
}

// number reads digits without allocating; ok is false from the first wrong
// one on.
func number(b []byte, ok bool) (uint64, bool) {
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, ok && len(b) > 0 && len(b) <= 20
}

// bootTime is btime of /proc/stat.
func bootTime(proc string) (float64, error) {
	f, err := os.Open(filepath.Join(proc, "stat"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<20))
	if err != nil {
		return 0, err
	}
	t, ok := parseBootTime(b)
	if !ok {
		return 0, fmt.Errorf("%s/stat has no btime", proc)
	}
	return t, nil
}

func parseBootTime(b []byte) (float64, bool) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			n, ok := number(bytes.TrimSpace(rest), true)
			return float64(n), ok
		}
	}
	return 0, false
}

// processes are those of this node.
type processes struct {
	proc     string // where procfs is mounted
	patience kernfile.Patience
}

// arguments is the command line of a process. Reading it waits for the process'
// own memory lock.
func (ps *processes) arguments(ctx context.Context, pid int) ([]byte, error) {
	return kernfile.Patiently(ctx, &ps.patience, pid, func() ([]byte, error) {
		return readFile(filepath.Join(ps.proc, strconv.Itoa(pid), "cmdline"))
	})
}

// find looks for the QEMU processes of the domains with these UUIDs. Command
// lines are read only of processes that look like an emulator. One that can not
// be read in time is told of to hanging and passed over.
func (ps *processes) find(ctx context.Context, uuids map[string]bool, hanging func(pid int)) (map[string]int, error) {
	entries, err := os.ReadDir(ps.proc)
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if !emulator(filepath.Join(ps.proc, e.Name())) {
			continue
		}
		line, err := ps.arguments(ctx, pid)
		if errors.Is(err, kernfile.ErrHanging) {
			hanging(pid)
		}
		if err != nil {
			continue
		}
		// A child that has not yet become its own program has the same line
		// and, but for a wrap of the numbers, the higher one.
		if uuid := uuidOf(line); uuids[uuid] && (found[uuid] == 0 || pid < found[uuid]) {
			found[uuid] = pid
		}
	}
	return found, nil
}

func emulator(dir string) bool {
	for _, name := range []string{"comm", "cgroup"} {
		b, err := readFile(filepath.Join(dir, name))
		if err == nil && (bytes.Contains(b, []byte("qemu")) || name == "comm" && bytes.Contains(b, []byte("kvm"))) {
			return true
		}
	}
	return false
}

// uuidOf is the value of -uuid on a QEMU command line as /proc has it, "" when
// there is none.
func uuidOf(line []byte) string {
	for len(line) > 0 {
		var arg []byte
		arg, line, _ = bytes.Cut(line, []byte{0})
		if string(arg) == "-uuid" {
			value, _, _ := bytes.Cut(line, []byte{0})
			return strings.ToLower(string(value))
		}
	}
	return ""
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxCommandLine))
}
