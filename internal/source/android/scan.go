package android

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fanin/internal/kernfile"
)

const (
	// maxKnown bounds what is remembered of processes that are called like an
	// emulator, and how many command lines one look reads. Of containers'
	// processes as many again are remembered, and none is read.
	maxKnown = 4096

	// maxStatus bounds what is read of a process' status, where the depth of its
	// PID namespace stands behind its groups: 65,536 of them take 720 KiB.
	maxStatus = 1 << 20
)

// scanner looks for emulators among all processes. One goroutine at a time.
type scanner struct {
	node
	users []uint32 // who is believed
	names string   // the folder of named network namespaces
	skip  func(reason)
	log   *slog.Logger

	// A command line is in the process' own memory, and an AVD's folder may be
	// on a file system that has gone.
	arguments, folders kernfile.Patience

	dir    int // descriptor of /proc; 0: not open
	most   int // how many are known; maxKnown
	buf    []byte
	known  map[int]*found
	inside map[int]*found // those of containers
	turn   uint64
	spaces map[uint64]string // inode -> name of network namespaces; nil: not listed in this look
	told   map[uint32]bool   // users whose emulators were said not to be believed
}

// found is a process that is called like an emulator, and what became of it.
type found struct {
	pid, parent int
	born, args  uint64
	program     string
	role        role
	line        commandLine // no avd: it is none, or not believed
	early       bool        // its arguments were not to be read yet when it was judged
	named       bool        // it is in the network namespace NAME-nmspc
	turn        uint64
}

// look goes through /proc once. It returns the process to measure for each
// AVD; they are shared with later looks and must not be changed. What it costs
// is one readlink for each process of the node.
func (s *scanner) look(ctx context.Context) (map[string]*found, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	s.turn++
	s.spaces = nil
	err := s.eachProcess(func(pid int) {
		program := s.program(pid)
		if role := roleOf(program); role != other {
			s.consider(ctx, pid, program, role)
		}
	})
	if err != nil {
		return nil, err
	}
	for pid, f := range s.inside {
		if f.turn != s.turn {
			delete(s.inside, pid)
		}
	}
	byName := map[string][]*found{}
	for pid, f := range s.known {
		if f.turn != s.turn {
			delete(s.known, pid)
			continue
		}
		if f.line.avd != "" {
			byName[f.line.avd] = append(byName[f.line.avd], f)
		}
	}
	chosen := make(map[string]*found, len(byName))
	for name, all := range byName {
		chosen[name] = s.choose(all)
	}
	return chosen, nil
}

func (s *scanner) open() error {
	if s.dir == 0 {
		dir, err := unix.Open(s.proc, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: s.proc, Err: err}
		}
		s.dir = dir
		s.buf = make([]byte, 8<<10)
		s.known, s.inside, s.told = map[int]*found{}, map[int]*found{}, map[uint32]bool{}
	}
	return s.read()
}

func (s *scanner) close() {
	if s.dir != 0 {
		_ = unix.Close(s.dir)
		s.dir = 0
	}
}

// eachProcess calls f for every process, without a string for each as
// os.ReadDir makes one.
func (s *scanner) eachProcess(f func(pid int)) error {
	if _, err := unix.Seek(s.dir, 0, unix.SEEK_SET); err != nil {
		return &os.PathError{Op: "seek", Path: s.proc, Err: err}
	}
	var entries [8 << 10]byte
	for {
		n, err := unix.Getdents(s.dir, entries[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "list", Path: s.proc, Err: err}
		}
		if n == 0 {
			return nil
		}
		// struct linux_dirent64 (getdents64(2)): ino, off, reclen, type, name.
		for b := entries[:n]; len(b) > 19; {
			length := int(binary.NativeEndian.Uint16(b[16:]))
			if length < 19 || length > len(b) {
				break
			}
			pid := 0
			for _, c := range b[19:length] {
				if c < '0' || c > '9' {
					if c != 0 {
						pid = 0
					}
					break
				}
				pid = 10*pid + int(c-'0')
			}
			if pid > 0 {
				f(pid)
			}
			b = b[length:]
		}
	}
}

// program is the name of the program that a process runs. exe is the kernel's
// word, and may be read by root and the process' own user; comm is the process'
// own, and everybody's to read.
func (s *scanner) program(pid int) string {
	dir := strconv.Itoa(pid)
	n, err := unix.Readlinkat(s.dir, dir+"/exe", s.buf)
	if err == nil {
		name := string(s.buf[:n])
		return strings.TrimSuffix(path.Base(name), " (deleted)") // by an update
	}
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return "" // a thread of the kernel, or gone
	}
	comm, err := s.readAt(dir + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(comm), "\n")
}

// readAt reads the beginning of a file in /proc, valid until the next one.
func (s *scanner) readAt(name string) ([]byte, error) {
	fd, err := unix.Openat(s.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return readAll(fd, s.buf)
}

// consider takes a process into s.known. One that it knows, by number, start
// and the place of its arguments, it does not judge again: reading a command
// line waits for the process' own memory lock.
func (s *scanner) consider(ctx context.Context, pid int, program string, r role) {
	b, err := s.readAt(strconv.Itoa(pid) + "/stat")
	if err != nil {
		s.unread(err)
		return
	}
	st, ok := parseStat(b)
	if !ok || st.ended() {
		return
	}
	f := cmp.Or(s.known[pid], s.inside[pid])
	if f != nil && !f.early && f.born == st.start && f.args == st.args && f.program == program {
		f.turn, f.parent = s.turn, st.parent
		return
	}
	delete(s.known, pid)
	delete(s.inside, pid)
	f = &found{pid: pid, parent: st.parent, born: st.start, args: st.args, program: program, role: r, turn: s.turn}
	user, inside, ok := s.owner(pid)
	switch {
	case !ok:
	case inside:
		s.skip(skipContainer)
		if len(s.inside) < s.most { // the others are asked for their owner again
			s.inside[pid] = f
		}
	case len(s.known) >= s.most:
		s.skip(skipLimit)
	default:
		s.judge(ctx, f, user)
		s.known[pid] = f
	}
}

// owner is the user of a process, and whether it is a container's: they have
// namespaces of their own.
func (s *scanner) owner(pid int) (user uint32, inside, ok bool) {
	b, err := readFile(filepath.Join(s.proc, strconv.Itoa(pid), "status"), maxStatus)
	if err != nil {
		s.unread(err)
		return 0, false, false
	}
	user, depth, ok := parseOwner(b)
	ok = ok && len(b) < maxStatus // read to its end
	return user, !ok || depth > 1, true
}

// judge finds out which AVD a process of the host runs, when it does and is
// believed.
func (s *scanner) judge(ctx context.Context, f *found, user uint32) {
	dir := strconv.Itoa(f.pid)
	b, err := kernfile.Patiently(ctx, &s.arguments, f.pid, func() ([]byte, error) {
		return readFile(filepath.Join(s.proc, dir, "cmdline"), maxCommandLine)
	})
	if err != nil {
		f.early = errors.Is(err, kernfile.ErrHanging) || ctx.Err() != nil
		s.unread(err)
		return
	}
	if len(b) == 0 {
		// While execve(2) loads the program, the place of its arguments is
		// already known (mm->arg_start) and their end is not.
		f.early = true
		return
	}
	line := parseCommandLine(b)
	f.named = line.avd != "" && s.space(dir) == line.avd+"-nmspc"
	switch {
	case line.avd == "": // some other QEMU
	case !validName(line.avd):
		s.skip(skipBadName)
	case !f.named && !slices.Contains(s.users, user):
		s.skip(skipUntrusted)
		if !s.told[user] && len(s.told) < 100 {
			s.told[user] = true
			s.log.Info("emulators of another user are not believed; --android.user takes them in", "user", user, "pid", f.pid, "avd", line.avd)
		}
	default:
		f.line = line
	}
}

// unread counts what could not be read, unless the process has just ended.
func (s *scanner) unread(err error) {
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		s.skip(skipUnreadable)
		s.log.Debug("a process that is called like an emulator can not be read", "err", err)
	}
}

// space is the name of the network namespace of a process, "" when it has none
// or that may not be known.
func (s *scanner) space(dir string) string {
	var st unix.Stat_t
	if err := unix.Fstatat(s.dir, dir+"/ns/net", &st, 0); err != nil {
		return ""
	}
	if s.spaces == nil {
		s.spaces = map[uint64]string{}
		entries, _ := os.ReadDir(s.names)
		for _, e := range entries {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(s.names, e.Name()), &st); err == nil {
				s.spaces[st.Ino] = e.Name()
			}
		}
	}
	return s.spaces[st.Ino]
}

// choose picks the process to measure of those that run one AVD. The others
// are its launcher and its children, or else another emulator of that name.
func (s *scanner) choose(all []*found) *found {
	best := slices.MinFunc(all, func(a, b *found) int {
		return cmp.Or(-compare(a.named, b.named), -cmp.Compare(a.role, b.role), cmp.Compare(a.born, b.born), cmp.Compare(a.pid, b.pid))
	})
	for _, f := range all {
		if f != best && !s.related(f, best) && !s.related(best, f) {
			s.skip(skipSameName)
		}
	}
	return best
}

// related reports whether a is a child of b, or a child's child among those
// that are known.
func (s *scanner) related(a, b *found) bool {
	for range 8 {
		if a.parent == b.pid {
			return true
		}
		if a = s.known[a.parent]; a == nil {
			return false
		}
	}
	return false
}

func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
