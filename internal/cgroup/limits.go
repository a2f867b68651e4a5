package cgroup

import (
	"encoding/binary"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/kernfile"
)

// How often limits are read again without a word from the kernel.
const limitsAge = 5 * time.Second

// limits is what a group and those around it are allowed. The files change
// only when somebody writes them, which inotify(7) tells: they are not read in
// between.
type limits struct {
	groups  [][]file // the group's own first, then libvirt's inside it and those around it
	watches []int
	blind   bool // a file is not watched, so all are read each time
	at      time.Time
	version uint64 // of what was read

	cpuQuota, memory Value // the smallest
	own              bool  // a quota is among the group's own
}

// openLimits opens the limits' files. Version 1 says the memory limit of all
// groups in memory.stat.
func (g *Group) openLimits(nested string) error {
	two := map[string]func([]byte, *reading){"cpu.max": parseCPUMax, "memory.max": parseMemoryMax}
	one := map[string]func([]byte, *reading){"cpu.cfs_quota_us": parseCFSQuota, "cpu.cfs_period_us": parseCFSPeriod}
	version2, has2 := g.places[unified]
	version1, has1 := g.places["cpu"]
	g.limits.groups = make([][]file, 1)
	own := &g.limits.groups[0] // in its place from the start, so that Close finds what an error leaves
	if has2 {
		if err := g.openAllowed(own, version2.dir, two); err != nil {
			return err
		}
	}
	if has1 {
		if err := g.openAllowed(own, version1.dir, one); err != nil {
			return err
		}
	}
	around := func(dir string, names map[string]func([]byte, *reading)) error {
		var files []file
		err := g.openAllowed(&files, dir, names)
		if len(files) > 0 {
			g.limits.groups = append(g.limits.groups, files)
		}
		return err
	}
	if has2 {
		if nested != "" {
			if err := around(filepath.Join(version2.dir, nested), two); err != nil {
				return err
			}
		}
		for dir := version2.dir; dir != version2.top; {
			dir = filepath.Dir(dir)
			if err := around(dir, two); err != nil {
				return err
			}
		}
	}
	if has1 {
		for dir := version1.dir; dir != version1.top; {
			dir = filepath.Dir(dir)
			if err := around(dir, one); err != nil {
				return err
			}
		}
	}
	return nil
}

// openAllowed appends the files of one group that are there.
func (g *Group) openAllowed(files *[]file, dir string, names map[string]func([]byte, *reading)) error {
	for name, parse := range names {
		path := filepath.Join(dir, name)
		f, ok, err := g.openFile(path, parse)
		if ok {
			*files = append(*files, f)
			if watch, ok := g.changes.watch(path); ok {
				g.limits.watches = append(g.limits.watches, watch)
			} else {
				g.limits.blind = true
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readLimits reads the limits if they may have changed, and reports whether it
// did.
func (g *Group) readLimits(now time.Time) (changed bool, failed error) {
	l := &g.limits
	version := g.changes.version()
	if version == l.version && !l.blind && !l.at.IsZero() && now.Sub(l.at) < limitsAge {
		return false, nil
	}
	l.version, l.at, l.cpuQuota, l.memory = version, now, Value{}, Value{}
	for i, files := range l.groups {
		var r reading
		for k := range files {
			b, err := g.read(&files[k])
			if err == nil {
				files[k].parse(b, &r)
			}
			failed = first(failed, err)
		}
		r.finish()
		if i == 0 {
			l.own = r.CPUQuota.OK
		}
		l.cpuQuota = smaller(l.cpuQuota, r.CPUQuota)
		l.memory = smaller(l.memory, r.MemoryLimit)
	}
	return true, failed
}

func smaller(a, b Value) Value {
	if !a.OK || b.OK && b.V < a.V {
		return b
	}
	return a
}

func (g *Group) closeLimits() (errs []error) {
	for _, files := range g.limits.groups {
		for i := range files {
			errs = append(errs, unix.Close(files[i].fd))
		}
	}
	g.changes.unwatch(g.limits.watches)
	g.limits = limits{}
	return errs
}

// changes counts how often one of the watched files was written. It does not
// say which: they are few, and hardly ever written.
type changes struct {
	mu      sync.Mutex
	fd      int         // 0: none yet
	watches map[int]int // how many groups want each; those of a file are one
	count   uint64
	buf     [4096]byte
}

// watch reports whether the kernel will tell when the file is written.
func (c *changes) watch(path string) (watch int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd == 0 {
		fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			return 0, false // too many instances of this user's
		}
		c.fd, c.watches = fd, map[int]int{}
	}
	watch, err := unix.InotifyAddWatch(c.fd, path, unix.IN_MODIFY)
	if err != nil {
		return 0, false // too many watches of this user's
	}
	c.watches[watch]++
	return watch, true
}

// unwatch gives up watches, and with the last one the descriptor. The kernel
// keeps those of a group that it has removed, and the memory of their files,
// until they are given up.
func (c *changes) unwatch(watches []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, watch := range watches {
		if c.watches[watch]--; c.watches[watch] == 0 {
			delete(c.watches, watch)
			_, _ = unix.InotifyRmWatch(c.fd, uint32(watch))
		}
	}
	if c.fd > 0 && len(c.watches) == 0 {
		_ = unix.Close(c.fd) // a user may have 128 of them
		c.fd = 0
	}
}

// version is another number after each change. A write that has returned is
// told at once.
func (c *changes) version() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd == 0 {
		return c.count
	}
	// What these readings leave is another change the next time.
	for range 16 {
		n, err := kernfile.Read(c.fd, c.buf[:])
		if n == 0 || err != nil {
			break
		}
		if written(c.buf[:n]) {
			c.count++
		}
	}
	return c.count
}

// written reports whether one of the events says that a file was written, or
// that some were lost.
func written(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		// struct inotify_event: wd, mask, cookie, len, name.
		mask, name := binary.NativeEndian.Uint32(events[4:]), binary.NativeEndian.Uint32(events[12:])
		if mask&(unix.IN_MODIFY|unix.IN_Q_OVERFLOW) != 0 {
			return true
		}
		events = events[min(len(events), unix.SizeofInotifyEvent+int(name)):]
	}
	return false
}
