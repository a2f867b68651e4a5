package android

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// errGone says that a process has ended, or that its number is another's.
var errGone = errors.New("process is gone")

// process is an emulator's process by descriptors of its files in /proc. They
// stay with this one process: when it has ended they say so, and never show
// another one that got its number.
type process struct {
	pid     int
	born    uint64  // ticks since boot
	started float64 // seconds since 1970

	// Descriptors; none for what may not be read.
	stat, statm, status, io, net int
	network                      uint64 // which namespace; 0 when it is not known
	own                          bool   // it is not the host's
}

const none = -1

// attach opens the process pid that was started at born.
func (h *node) attach(pid int, born uint64) (*process, error) {
	dir, err := unix.Open(filepath.Join(h.proc, strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, procError("open", pid, "", err)
	}
	defer func() { _ = unix.Close(dir) }()
	p := &process{pid: pid, born: born, started: h.boot + float64(born)/userHz, stat: none, statm: none, status: none, io: none, net: none}
	open := func(name string, fd *int) error {
		var err error
		if *fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			*fd = none
			return procError("open", pid, name, err)
		}
		return nil
	}
	for _, f := range []struct {
		name string
		fd   *int
	}{{"stat", &p.stat}, {"statm", &p.statm}, {"status", &p.status}} {
		if err := open(f.name, f.fd); err != nil {
			p.close()
			return nil, err
		}
	}
	buf := make([]byte, 4096)
	s, err := p.readStat(buf)
	if err == nil && s.start != born {
		err = errGone
	}
	if err != nil {
		p.close()
		return nil, err
	}
	_ = open("io", &p.io) // for the process' own user and CAP_SYS_PTRACE alone
	if open("net/dev", &p.net) == nil {
		var st unix.Stat_t
		if err := unix.Fstat(p.net, &st); err == nil {
			p.network = st.Ino
		}
		if p.own = p.network != 0 && h.network != 0 && p.network != h.network; !p.own {
			_ = unix.Close(p.net)
			p.net = none
		}
	}
	return p, nil
}

// readStat is errGone when the process has ended.
func (p *process) readStat(buf []byte) (procStat, error) {
	b, err := readAll(p.stat, buf)
	if err != nil {
		return procStat{}, procError("read", p.pid, "stat", err)
	}
	s, ok := parseStat(b)
	switch {
	case !ok:
		return s, fmt.Errorf("/proc/%d/stat has an unknown form", p.pid)
	case s.ended():
		return s, errGone
	}
	return s, nil
}

func (p *process) close() {
	if p == nil {
		return
	}
	for _, fd := range []*int{&p.stat, &p.statm, &p.status, &p.io, &p.net} {
		if *fd != none {
			_ = unix.Close(*fd)
			*fd = none
		}
	}
}

// node is what is the same for all processes of this node.
type node struct {
	proc    string
	boot    float64 // seconds since 1970
	network uint64  // the host's network namespace; 0 when it is not known
}

// read finds it out. The boot time is read once: the kernel moves it a little
// with the clock, and a start time must stand. Network namespaces are told
// apart by the inode of net/dev, which each has of its own, as the name of a
// namespace (/proc/PID/ns/net) takes CAP_SYS_PTRACE to read.
func (h *node) read() error {
	if h.boot == 0 {
		b, err := readFile(filepath.Join(h.proc, "stat"), 4<<20)
		if err != nil {
			return err
		}
		var ok bool
		if h.boot, ok = parseBootTime(b); !ok {
			return fmt.Errorf("%s/stat has no btime", h.proc)
		}
	}
	for _, of := range [...]string{"1", "self"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(h.proc, of, "net/dev"), &st); err == nil {
			h.network = st.Ino
			return nil
		}
	}
	h.network = 0
	return nil
}

// procError is errGone for what says that a process has ended.
func procError(what string, pid int, file string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return errGone
	}
	return fmt.Errorf("%s /proc/%d/%s: %w", what, pid, file, err)
}

// readAll reads a small file of /proc from its beginning, as far as buf holds
// it.
func readAll(fd int, buf []byte) ([]byte, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case m == 0:
			return buf[:n], nil
		default:
			n += m
		}
	}
	return buf[:n], nil
}

// readFile reads a regular file, or one of /proc, as far as limit. It does not
// wait for the other end of a pipe.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
