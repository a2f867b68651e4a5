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

// maxFile bounds what is read of a file. QEMU's command line grows with its
// devices, 200 of them take 60 KiB; in its status 65,536 groups take 720 KiB.
const maxFile = 1 << 20

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
// lines are read only of processes that look like an emulator, and not of those
// in a PID namespace of their own: anybody can give a container's process any
// name and arguments. One that can not be read in time is told of to hanging and
// passed over.
//
// Of several the one in a group that libvirt has made is the domain's, then the
// one with the lowest number: a child that has not yet become its own program
// has the same line and, but for a wrap of the numbers, the higher one.
func (ps *processes) find(ctx context.Context, uuids map[string]bool, hanging func(pid int)) (map[string]int, error) {
	entries, err := os.ReadDir(ps.proc)
	if err != nil {
		return nil, err
	}
	found, inMachine := map[string]int{}, map[string]bool{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(ps.proc, e.Name())
		machine, ok := emulator(dir)
		if !ok || !hosts(dir) {
			continue
		}
		line, err := ps.arguments(ctx, pid)
		if errors.Is(err, kernfile.ErrHanging) {
			hanging(pid)
		}
		if err != nil {
			continue
		}
		uuid := uuidOf(line)
		if !uuids[uuid] {
			continue
		}
		if found[uuid] == 0 || machine && !inMachine[uuid] || machine == inMachine[uuid] && pid < found[uuid] {
			found[uuid], inMachine[uuid] = pid, machine
		}
	}
	return found, nil
}

// emulator reports whether a process looks like one, and whether its group is of
// those that libvirt makes.
func emulator(dir string) (machine, ok bool) {
	comm, err := readFile(filepath.Join(dir, "comm"))
	ok = err == nil && (bytes.Contains(comm, []byte("qemu")) || bytes.Contains(comm, []byte("kvm")))
	group, err := readFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return false, ok
	}
	return cgroup.InMachine(group), ok || bytes.Contains(group, []byte("qemu"))
}

// hosts reports whether a process is in the PID namespace of the procfs that
// tells of it.
func hosts(dir string) bool {
	b, err := readFile(filepath.Join(dir, "status"))
	return err == nil && parseDepth(b) == 1
}

// parseDepth takes out of /proc/PID/status (proc_pid_status(5)) in how many PID
// namespaces the process has a number, counted from the one whose procfs it is.
// Kernels before 4.1 do not tell; then it is 1. It is 0 when the file was not
// read to its end: NSpid stands behind the groups, of which there may be 65,536.
func parseDepth(b []byte) int {
	if len(b) >= maxFile {
		return 0
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			return len(bytes.Fields(rest))
		}
	}
	return 1
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
	return io.ReadAll(io.LimitReader(f, maxFile))
}
