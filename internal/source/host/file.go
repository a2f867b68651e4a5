package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"fanin/internal/kernfile"
)

// firstRead is room for most of the files that are read; statBusy machines
// need more for their interrupts.
const firstRead = 8 << 10

// file is one of the kernel's files, kept open: reading it from its beginning
// makes the kernel tell anew, without the cost of the way to it. The bytes of
// a reading are valid until the next.
type file struct {
	path   string
	handle *os.File
	kernel bool // it is the kernel's, and no copy of one
	waits  bool // to read it may wait for others
	bytes  []byte
}

// read returns what the file holds now.
func (f *file) read() ([]byte, error) {
	for fresh := false; ; fresh = true {
		if f.handle == nil {
			// Not by os.Open, whose poller would take the events of the file.
			fd, err := unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, &os.PathError{Op: "open", Path: f.path, Err: err}
			}
			f.handle, fresh = os.NewFile(uintptr(fd), f.path), true
			var status unix.Statfs_t
			f.kernel = unix.Fstatfs(fd, &status) == nil && status.Type == unix.PROC_SUPER_MAGIC
		}
		b, err := f.whole()
		if err == nil && (fresh || !f.replaced()) {
			return b, nil
		}
		f.close()
		if fresh {
			return nil, err
		}
	}
}

// replaced reports whether another file has the name now, as in a tree of
// ordinary files; those of the kernel are always linked.
func (f *file) replaced() bool {
	var status unix.Stat_t
	return !f.kernel && (unix.Fstat(int(f.handle.Fd()), &status) != nil || status.Nlink == 0)
}

func (f *file) whole() ([]byte, error) {
	if f.bytes == nil {
		f.bytes = make([]byte, firstRead)
	}
	for n := 0; ; {
		m, err := f.readAt(f.bytes[n:], int64(n))
		switch {
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: f.path, Err: err}
		case m == 0:
			return f.bytes[:n], nil
		}
		if n += m; n == len(f.bytes) {
			f.bytes = append(f.bytes, make([]byte, len(f.bytes))...)
		}
	}
}

func (f *file) readAt(b []byte, at int64) (int, error) {
	if f.kernel && !f.waits {
		return kernfile.Pread(int(f.handle.Fd()), b, at)
	}
	for {
		n, err := unix.Pread(int(f.handle.Fd()), b, at)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (f *file) close() {
	if f.handle != nil {
		_ = f.handle.Close()
		f.handle = nil
	}
}

// files are those of the host.
type files struct {
	stat, loadavg, meminfo, netDev, diskstats, mountinfo file
	pressure                                             [len(resources)]file
}

func (s *Source) openFiles() error {
	if _, err := os.Stat(s.ProcRoot); err != nil {
		return fmt.Errorf("open procfs: %w", err)
	}
	who := "self"
	if s.foreign() {
		// net and mounts are links to the reader's own, so that in a container
		// the first process is asked instead.
		who = "1"
	}
	at := func(parts ...string) file {
		return file{path: filepath.Join(append([]string{s.ProcRoot}, parts...)...)}
	}
	s.files = files{
		stat: at("stat"), loadavg: at("loadavg"), meminfo: at("meminfo"), diskstats: at("diskstats"),
		netDev: at(who, "net/dev"), mountinfo: at(who, "mountinfo"),
	}
	s.files.mountinfo.waits = true // for who mounts something meanwhile
	for i, r := range resources {
		s.files.pressure[i] = at("pressure", r.file)
	}
	return nil
}

// Close lets go of the files. The source can be used again.
func (s *Source) Close() error {
	f := &s.files
	for _, one := range []*file{&f.stat, &f.loadavg, &f.meminfo, &f.netDev, &f.diskstats, &f.mountinfo} {
		one.close()
	}
	for i := range f.pressure {
		f.pressure[i].close()
	}
	return nil
}
