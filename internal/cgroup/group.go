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
)

// How often the limits of the groups around a group are read again.
const limitsAge = 5 * time.Second

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

	limits   [][]file  // of the groups around this one, and libvirt's inside it
	limitsAt time.Time // when they were read last
	cpuQuota Value     // smallest of limits
	memory   Value

	disks       []Disk
	diskFiles   []diskFile
	disksOpened bool
}

type diskFile struct {
	file
	parseDisks func([]byte, []Disk) []Disk
}

// open opens the files of a group. The places are the same group in the
// hierarchies it has; nested is the group inside that carries limits too.
func open(path string, places map[string]place, nested string) (*Group, error) {
	g := &Group{path: path, places: places, buf: make([]byte, 4096)}
	if stale(places) {
		delete(places, unified)
	}
	if err := g.openAll(nested); err != nil {
		_ = g.Close()
		return nil, err
	}
	if len(g.files) == 0 {
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
	add("cpu", "cpu.stat", parseCPUStat1)
	add("cpu", "cpu.cfs_quota_us", parseCFSQuota)
	add("cpu", "cpu.cfs_period_us", parseCFSPeriod)
	add(unified, "cpu.max", parseCPUMax)

	add("memory", "memory.usage_in_bytes", parseMemoryUsage)
	add("memory", "memory.stat", parseMemoryStat1)
	add("memory", "memory.oom_control", parseOOMKills)
	add(unified, "memory.current", parseMemoryUsage)
	add(unified, "memory.stat", parseMemoryStat2)
	add(unified, "memory.max", parseMemoryMax)
	add(unified, "memory.swap.current", parseMemorySwap)
	add(unified, "memory.events", parseOOMKills)

	add("pids", "pids.current", parsePids)
	add(unified, "pids.current", parsePids)

	add(unified, "cpu.pressure", parsePressureCPU)
	add(unified, "memory.pressure", parsePressureMemory)
	add(unified, "io.pressure", parsePressureIO)
	if err != nil {
		return err
	}
	return g.openLimits(nested)
}

// openLimits opens what the groups around this one allow. Version 1 says the
// memory limit of all of them in memory.stat.
func (g *Group) openLimits(nested string) error {
	bound := func(dir string, names map[string]func([]byte, *reading)) error {
		var files []file
		for name, parse := range names {
			f, ok, err := g.openFile(filepath.Join(dir, name), parse)
			if ok {
				files = append(files, f)
			}
			if err != nil {
				return err
			}
		}
		if len(files) > 0 {
			g.limits = append(g.limits, files)
		}
		return nil
	}
	two := map[string]func([]byte, *reading){"cpu.max": parseCPUMax, "memory.max": parseMemoryMax}
	one := map[string]func([]byte, *reading){"cpu.cfs_quota_us": parseCFSQuota, "cpu.cfs_period_us": parseCFSPeriod}
	if p, ok := g.places[unified]; ok {
		if nested != "" {
			if err := bound(filepath.Join(p.dir, nested), two); err != nil {
				return err
			}
		}
		for dir := p.dir; dir != p.top; {
			dir = filepath.Dir(dir)
			if err := bound(dir, two); err != nil {
				return err
			}
		}
	}
	if p, ok := g.places["cpu"]; ok {
		for dir := p.dir; dir != p.top; {
			dir = filepath.Dir(dir)
			if err := bound(dir, one); err != nil {
				return err
			}
		}
	}
	return nil
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
		n, err := unix.Pread(f.fd, g.buf, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.ENODEV:
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
// it may have to share that with others. Those of the groups around it are
// read again every 5 s.
func (g *Group) Read(s *Stats) error {
	var failed error
	if len(g.files) == 0 {
		return os.ErrClosed
	}
	g.now = reading{}
	for i := range g.files {
		f := &g.files[i]
		if i == g.timed {
			g.now.At = time.Now()
		}
		b, err := g.read(f)
		switch {
		case errors.Is(err, ErrGone):
			*s = Stats{}
			return ErrGone
		case err != nil && failed == nil:
			failed = err
		case err == nil:
			f.parse(b, &g.now)
		}
	}
	if g.now.At.IsZero() {
		g.now.At = time.Now()
	}
	g.now.finish()
	if g.now.At.Sub(g.limitsAt) >= limitsAge {
		if err := g.readLimits(g.now.At); err != nil {
			*s = Stats{}
			return err
		}
	}
	*s = g.now.Stats
	s.CPUQuota = smaller(s.CPUQuota, g.cpuQuota)
	s.MemoryLimit = smaller(s.MemoryLimit, g.memory)
	return failed
}

func (g *Group) readLimits(at time.Time) error {
	g.limitsAt, g.cpuQuota, g.memory = at, Value{}, Value{}
	for _, files := range g.limits {
		var r reading
		for i := range files {
			b, err := g.read(&files[i])
			if errors.Is(err, ErrGone) {
				return err
			}
			if err == nil {
				files[i].parse(b, &r)
			}
		}
		r.finish()
		g.cpuQuota = smaller(g.cpuQuota, r.CPUQuota)
		g.memory = smaller(g.memory, r.MemoryLimit)
	}
	return nil
}

func smaller(a, b Value) Value {
	if !a.OK || b.OK && b.V < a.V {
		return b
	}
	return a
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
	for _, files := range g.limits {
		for i := range files {
			errs = append(errs, unix.Close(files[i].fd))
		}
	}
	g.closeDisks()
	g.files, g.limits = nil, nil
	return errors.Join(errs...)
}
