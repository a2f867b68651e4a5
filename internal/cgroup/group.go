package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/kernfile"
)

// A file is one kept descriptor. Reading it again at 0 makes the kernel write
// it anew, at a tenth of what opening it would cost.
type file struct {
	fd    int
	path  string
	parse func([]byte, *reading)
}

// Group is an open group: in every hierarchy where it has one, the
// descriptors of the files that are read. It takes up to 14 descriptors (two
// more with [Group.Disks]), and two for each group around it. One goroutine
// at a time.
type Group struct {
	path   string
	places map[string]place

	files []file // those up to timed are the processor counters
	timed int
	buf   []byte
	now   reading

	// Version 1's cpu.stat stands still while the group has no quota: held is
	// what it said then.
	throttled file // fd 0: there is none
	held      throttling

	changes *changes
	limits  limits

	disks       []Disk
	diskFiles   []diskFile
	disksOpened bool
}

type throttling struct{ periods, throttledPeriods, throttledSeconds Value }

type diskFile struct {
	file
	parseDisks func([]byte, []Disk) []Disk
}

// open opens the files of a group. The places are the same group in the
// hierarchies it has; nested is the group inside that carries limits too.
func (l *Layout) open(path string, places map[string]place, nested string) (*Group, error) {
	g := &Group{path: path, places: places, buf: make([]byte, 4096), changes: l.changes}
	if stale(places) {
		delete(places, unified)
	}
	if err := g.openAll(nested); err != nil {
		_ = g.Close()
		return nil, err
	}
	if len(g.files) == 0 && g.throttled.fd == 0 {
		_ = g.Close()
		return nil, ErrGone
	}
	return g, nil
}

// stale reports whether the runtime made the group in the unified tree of a
// hybrid host and put nobody into it: its zeros are not the group's.
func stale(places map[string]place) bool {
	two, ok := places[unified]
	if !ok || len(places) == 1 {
		return false
	}
	if _, err := firstProcess(two.dir); err == nil {
		return false
	}
	for key, p := range places {
		if key == unified {
			continue
		}
		if _, err := firstProcess(p.dir); err == nil {
			return true
		}
	}
	return false
}

func (g *Group) openAll(nested string) error {
	var err error
	add := func(key, name string, parse func([]byte, *reading)) bool {
		p, ok := g.places[key]
		if !ok || err != nil {
			return false
		}
		var f file
		if f, ok, err = g.openFile(filepath.Join(p.dir, name), parse); ok {
			g.files = append(g.files, f)
		}
		return ok
	}

	add(unified, "cpu.stat", parseCPUStat2)
	// Kernels before 4.15 have no usage in it.
	if !g.now.CPUUsage.OK {
		add("cpuacct", "cpuacct.stat", parseCPUAcctStat)
		add("cpuacct", "cpuacct.usage", parseCPUAcctUsage)
	}
	g.timed = len(g.files)

	// A controller is in one hierarchy only, so at most one of each pair is there.
	add("memory", "memory.usage_in_bytes", parseMemoryUsage)
	add("memory", "memory.stat", parseMemoryStat1)
	add("memory", "memory.oom_control", parseOOMKills)
	add(unified, "memory.current", parseMemoryUsage)
	add(unified, "memory.stat", parseMemoryStat2)
	add(unified, "memory.swap.current", parseMemorySwap)
	add(unified, "memory.events", parseOOMKills)

	add("pids", "pids.current", parsePids)
	add(unified, "pids.current", parsePids)

	add(unified, "cpu.pressure", parsePressureCPU)
	add(unified, "memory.pressure", parsePressureMemory)
	add(unified, "io.pressure", parsePressureIO)
	if p, ok := g.places["cpu"]; ok && err == nil {
		g.throttled, _, err = g.openFile(filepath.Join(p.dir, "cpu.stat"), parseCPUStat1)
	}
	if err != nil {
		return err
	}
	return g.openLimits(nested)
}

// openFile opens and reads a file once. ok is false, without an error, when
// there is no such file or the kernel has it switched off.
func (g *Group) openFile(path string, parse func([]byte, *reading)) (f file, ok bool, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		return file{}, false, nil
	case err != nil:
		return file{}, false, fmt.Errorf("open %s: %w", path, err)
	}
	f = file{fd: fd, path: path, parse: parse}
	b, err := g.read(&f)
	if err != nil {
		_ = unix.Close(fd)
		// A controller that is off, or pressure with psi=0 or cgroup.pressure=0.
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			err = nil
		}
		return file{}, false, err
	}
	if parse != nil {
		parse(b, &g.now)
	}
	return f, true, nil
}

// read returns the whole file, valid until the next read.
func (g *Group) read(f *file) ([]byte, error) {
	for {
		n, err := kernfile.Pread(f.fd, g.buf, 0)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil, ErrGone
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", f.path, err)
		case n < len(g.buf) || n >= 1<<20:
			return g.buf[:n], nil
		default:
			g.buf = make([]byte, 2*len(g.buf))
		}
	}
}

// Path is the group's path in its hierarchy, as /proc/PID/cgroup has it,
// without what libvirt makes inside a machine's group. It is for messages and
// for a look at whose group it is.
func (g *Group) Path() string { return g.path }

// Read reads the group. A steady Read allocates nothing. When a file can not
// be read, the others are, and the first such error is returned with them.
// [ErrGone] when the group has been removed; s holds nothing then.
//
// CPUQuota and MemoryLimit are the smallest of the group and all groups
// around it, up to the root of what is mounted: it may never use more, though
// it may have to share that with others.
func (g *Group) Read(s *Stats) error {
	if len(g.files) == 0 && g.throttled.fd == 0 {
		return os.ErrClosed
	}
	g.now = reading{}
	var failed error
	for i := range g.files {
		if i == g.timed {
			g.now.At = time.Now()
		}
		failed = first(failed, g.parse(&g.files[i]))
	}
	if g.now.At.IsZero() {
		g.now.At = time.Now()
	}
	changed, err := g.readLimits(g.now.At)
	failed = first(failed, err)
	if g.throttled.fd != 0 {
		failed = first(failed, g.readThrottling(changed))
	}
	if errors.Is(failed, ErrGone) {
		*s = Stats{}
		return ErrGone
	}
	g.now.finish()
	*s = g.now.Stats
	s.CPUQuota, s.MemoryLimit = g.limits.cpuQuota, smaller(s.MemoryLimit, g.limits.memory)
	return failed
}

// first is the error to return: that the group is gone, else the one that was
// first.
func first(a, b error) error {
	if a == nil || errors.Is(b, ErrGone) {
		return b
	}
	return a
}

func (g *Group) parse(f *file) error {
	b, err := g.read(f)
	if err == nil {
		f.parse(b, &g.now)
	}
	return err
}

// readThrottling reads version 1's counters of throttling, or takes what they
// were when the limits were read and no quota was among them.
func (g *Group) readThrottling(changed bool) error {
	st := &g.now.Stats
	if !changed && !g.limits.own {
		st.Periods, st.ThrottledPeriods, st.ThrottledSeconds = g.held.periods, g.held.throttledPeriods, g.held.throttledSeconds
		return nil
	}
	err := g.parse(&g.throttled)
	g.held = throttling{st.Periods, st.ThrottledPeriods, st.ThrottledSeconds}
	return err
}

// PID is the first process of the group, or of the first group inside it that
// has one, in the numbers of this process's PID namespace. [ErrGone] when
// there is none.
func (g *Group) PID() (int, error) {
	err := ErrGone
	for _, key := range keys {
		p, ok := g.places[key]
		if !ok {
			continue
		}
		pid, e := firstProcess(p.dir)
		if e == nil {
			return pid, nil
		}
		if !errors.Is(e, ErrGone) {
			err = e
		}
	}
	return 0, err
}

// firstProcess looks into cgroup.procs of a group and of those inside it.
func firstProcess(dir string) (int, error) {
	queue, failed := []string{dir}, ErrGone
	for seen := 0; len(queue) > 0 && seen < 1024; seen++ {
		at := queue[0]
		queue = queue[1:]
		pid, err := readProcs(filepath.Join(at, "cgroup.procs"))
		if pid > 0 {
			return pid, nil
		}
		if err != nil && errors.Is(failed, ErrGone) {
			failed = err
		}
		entries, _ := os.ReadDir(at)
		for _, e := range entries {
			if e.IsDir() {
				queue = append(queue, filepath.Join(at, e.Name()))
			}
		}
	}
	return 0, failed
}

func readProcs(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, missing(err)
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := f.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, missing(err)
	}
	return parseProcs(buf[:n]), nil
}

// missing is nil for what says that a group went away or, on version 2, that
// it is threaded and its processes are listed further up.
func missing(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}

// parseProcs is the first process in cgroup.procs; 0 stands there for one of
// another PID namespace.
func parseProcs(b []byte) int {
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		if v := number(bytes.TrimSpace(line)); v.OK && v.V > 0 && v.V < 1<<31 {
			return int(v.V)
		}
	}
	return 0
}

// Close closes the descriptors, of which the group is read no more; the
// kernel's group lives on.
func (g *Group) Close() error {
	var errs []error
	for i := range g.files {
		errs = append(errs, unix.Close(g.files[i].fd))
	}
	if g.throttled.fd != 0 {
		errs = append(errs, unix.Close(g.throttled.fd))
	}
	errs = append(errs, g.closeLimits()...)
	g.closeDisks()
	g.files, g.throttled = nil, file{}
	return errors.Join(errs...)
}
