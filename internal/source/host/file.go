package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
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
	return unix.Fstat(int(f.handle.Fd()), &status) != nil || status.Nlink == 0
}

func (f *file) whole() ([]byte, error) {
	if f.bytes == nil {
		f.bytes = make([]byte, firstRead)
	}
	for n := 0; ; {
		m, err := f.handle.ReadAt(f.bytes[n:], int64(n))
		n += m
		switch {
		case errors.Is(err, io.EOF):
			return f.bytes[:n], nil
		case err != nil:
			return nil, err
		}
		f.bytes = append(f.bytes, make([]byte, len(f.bytes))...)
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
