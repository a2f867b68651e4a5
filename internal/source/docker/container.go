package docker

import (
	"errors"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
	"fanin/internal/sample"
)

// settling is how long after a group was found it is opened a second time.
// On version 1 the engine makes a container's groups one hierarchy after
// another, and a group found right after a restart may lack some.
const settling = 2 * time.Second

// lostAfter is how long after a running container's group was missed the
// engine has to list it as running still, before that is an error and not a
// matter of order.
const lostAfter = 5 * time.Second

// container is one container and the handles that were made when it was first
// seen running. Sample's goroutine owns it.
type container struct {
	entry
	version uint64 // of the roster that it was in last

	down  *sample.Series // testbed_guest_up with a reason, while it does not run
	lines *lines         // nil until it runs, and after a change of name or image

	group   *cgroup.Group
	run     uint32 // starts, when the group was opened
	process process
	settled bool
	since   time.Time // when the group was opened, or was first found gone
	retry   time.Time // when it is looked for again, while gone
	share   guest.Share
	disks   map[uint64]*diskLines
	kills   kills
}

// become takes what the roster says now.
func (c *container) become(e entry, version uint64) {
	c.version = version
	if e.name != c.name || e.image != c.image {
		c.lines, c.disks, c.process.devices = nil, nil, nil
		c.down = nil
	}
	if e.state != c.state {
		c.down = nil
		if e.state != running && e.state != paused {
			c.release()
			c.kills.end(e.ooms)
		}
		c.since, c.retry = time.Time{}, time.Time{}
	}
	if e.network != c.network {
		c.process.decided = false
	}
	if e.starts != c.starts {
		c.settled = false // opened anew, the group is of this run for certain
	}
	c.entry = e
}

// release closes the descriptors. The next reading opens them anew.
func (c *container) release() {
	if c.group != nil {
		_ = c.group.Close()
		c.group = nil
		c.since = time.Time{}
	}
	c.process.close()
	c.settled, c.share = false, guest.Share{}
}

// measure appends the points of one container. A container that vanishes
// meanwhile is left out in silence.
func (s *Source) measure(c *container, b *sample.Batch) error {
	if c.state != running {
		if c.down == nil {
			c.down = sample.New(guest.Up, guest.Named(c.name), sample.Label{Name: "reason", Value: string(c.state)})
		}
		b.Add(c.down, time.Now().UnixMilli(), 0)
		return nil
	}
	err := s.read(c)
	if errors.Is(err, cgroup.ErrGone) {
		s.skips[skipGone].Add(1)
		return s.missing(c)
	}
	if c.group == nil {
		return err
	}
	// What could be read counts, also with an error.
	if c.lines == nil {
		c.lines = newLines(c.entry)
	}
	at := s.stats.At
	following := s.following.Load()
	s.stats.OOMKills = c.kills.total(&s.stats, c.ooms, following)
	unseen := s.attend(c)
	c.lines.add(b, at.UnixMilli(), &s.stats, &s.node, c.process.started)
	if following {
		b.Add(c.lines.restarts, at.UnixMilli(), float64(c.restarts))
	}
	if s.stats.CPUUsage.OK {
		if percent, ok := c.share.Percent(at, s.stats.CPUUsage.V, s.node.coresFor(&s.stats)); ok {
			b.Add(c.lines.legacyCPU, at.UnixMilli(), percent)
		}
	}
	return errors.Join(err, unseen, s.measureDisks(c, b), s.measureNetwork(c, b))
}

// read fills s.stats. A group that has gone is looked for once more, as the
// container may have been started again since.
func (s *Source) read(c *container) error {
	now := time.Now()
	for {
		found := c.group == nil
		if found {
			if err := s.open(c, now); err != nil {
				return err
			}
		}
		err := c.group.Read(&s.stats)
		switch {
		case errors.Is(err, cgroup.ErrGone):
			c.release()
			c.kills.over = true
			if s.roster.unlocate(c.id, c.run) {
				s.tell()
			}
			if found {
				return err
			}
		case !c.settled && now.Sub(c.since) >= settling:
			share := c.share
			c.release()
			c.share, c.settled = share, true
		default:
			return err
		}
	}
}

func (s *Source) open(c *container, now time.Time) error {
	if now.Before(c.retry) {
		return cgroup.ErrGone
	}
	g, err := s.groups.Container(c.id)
	if err != nil {
		return err
	}
	c.group, c.run, c.since, c.retry = g, c.starts, now, time.Time{}
	if c.kills.over {
		c.kills.end(c.ooms)
	}
	return nil
}

// missing handles a container without a group: just ended, or about to begin,
// or not to be found at all.
func (s *Source) missing(c *container) error {
	now := time.Now()
	if c.since.IsZero() {
		c.since = now
	}
	if now.Sub(c.since) < lostAfter {
		return nil
	}
	// It may take a walk through all groups.
	if !now.Before(c.retry) {
		c.retry = now.Add(lostAfter)
	}
	s.roster.mu.Lock()
	listed := s.roster.listed
	s.roster.mu.Unlock()
	if listed.Sub(c.since) < lostAfter {
		return nil
	}
	return errors.New("docker says that it runs, and it has no control group here; mount the host's /sys/fs/cgroup read-only if this is a container")
}

// lines are the series of a running container.
type lines struct {
	up, info, start                                   *sample.Series
	usage, user, system, limit                        *sample.Series
	periods, throttledPeriods, throttledSeconds       *sample.Series
	memory, workingSet, memoryLimit, cache, swap, oom *sample.Series
	processes, restarts                               *sample.Series
	pressure                                          [6]*sample.Series
	legacyCPU, legacyMemory                           *sample.Series
}

func newLines(e entry) *lines {
	named := guest.Named(e.name)
	of := func(f *sample.Family) *sample.Series { return sample.New(f, named) }
	mode := func(m string) *sample.Series {
		return sample.New(guest.CPUMode, named, sample.Label{Name: "mode", Value: m})
	}
	return &lines{
		up:    of(guest.Up),
		info:  sample.New(guest.Info, named, sample.Label{Name: "backend_id", Value: e.id}, sample.Label{Name: "image", Value: e.image}),
		start: of(guest.StartTime),
		usage: of(guest.CPUUsage), user: mode("user"), system: mode("system"), limit: of(guest.CPULimit),
		periods: of(guest.Periods), throttledPeriods: of(guest.ThrottledPeriods), throttledSeconds: of(guest.ThrottledSeconds),
		memory: of(guest.MemoryUsage), workingSet: of(guest.MemoryWorkingSet), memoryLimit: of(guest.MemoryLimit),
		cache: of(guest.MemoryCache), swap: of(guest.MemorySwap), oom: of(guest.OOMKills),
		processes: of(guest.Processes), restarts: of(guest.Restarts),
		pressure: [...]*sample.Series{
			of(guest.PressureCPUWaiting), of(guest.PressureCPUStalled), of(guest.PressureMemoryWaiting),
			of(guest.PressureMemoryStalled), of(guest.PressureIOWaiting), of(guest.PressureIOStalled),
		},
		legacyCPU: of(guest.LegacyCPU), legacyMemory: of(guest.LegacyMemory),
	}
}

// add appends what one reading of the group tells.
func (l *lines) add(b *sample.Batch, t int64, st *cgroup.Stats, n *node, start float64) {
	b.Add(l.up, t, 1)
	b.Add(l.info, t, 1)
	if start > 0 {
		b.Add(l.start, t, start)
	}
	add := func(s *sample.Series, v cgroup.Value) {
		if v.OK {
			b.Add(s, t, v.V)
		}
	}
	add(l.usage, st.CPUUsage)
	add(l.user, st.CPUUser)
	add(l.system, st.CPUSystem)
	if cores := n.coresFor(st); cores > 0 {
		b.Add(l.limit, t, cores)
	}
	add(l.periods, st.Periods)
	add(l.throttledPeriods, st.ThrottledPeriods)
	add(l.throttledSeconds, st.ThrottledSeconds)
	add(l.memory, st.MemoryUsage)
	add(l.workingSet, st.MemoryWorkingSet)
	add(l.cache, st.MemoryCache)
	add(l.swap, st.MemorySwap)
	add(l.oom, st.OOMKills)
	if limit := n.memoryFor(st); limit > 0 {
		b.Add(l.memoryLimit, t, limit)
		if st.MemoryWorkingSet.OK {
			b.Add(l.legacyMemory, t, 100*st.MemoryWorkingSet.V/limit)
		}
	}
	add(l.processes, st.Processes)
	p := &st.Pressure
	for i, v := range [...]cgroup.Value{p.CPUWaiting, p.CPUStalled, p.MemoryWaiting, p.MemoryStalled, p.IOWaiting, p.IOStalled} {
		add(l.pressure[i], v)
	}
}

// diskLines are the series of one disk of a container. The kernel accounts no
// times by group.
type diskLines struct{ readBytes, writtenBytes, reads, writes *sample.Series }

func (s *Source) measureDisks(c *container, b *sample.Batch) error {
	at := int64(0)
	err := c.group.Disks(func(d *cgroup.Disk) {
		if at == 0 {
			at = time.Now().UnixMilli()
		}
		key := uint64(d.Major)<<32 | uint64(d.Minor)
		l := c.disks[key]
		if l == nil {
			labels := [...]sample.Label{guest.Named(c.name), {Name: "device", Value: s.node.disk(s.SysRoot, d.Major, d.Minor)}}
			l = &diskLines{
				readBytes: sample.New(guest.DiskReadBytes, labels[:]...), writtenBytes: sample.New(guest.DiskWrittenBytes, labels[:]...),
				reads: sample.New(guest.DiskReads, labels[:]...), writes: sample.New(guest.DiskWrites, labels[:]...),
			}
			if c.disks == nil {
				c.disks = map[uint64]*diskLines{}
			}
			c.disks[key] = l
		}
		for _, p := range [...]struct {
			series *sample.Series
			value  cgroup.Value
		}{{l.readBytes, d.ReadBytes}, {l.writtenBytes, d.WrittenBytes}, {l.reads, d.Reads}, {l.writes, d.Writes}} {
			if p.value.OK {
				b.Add(p.series, at, p.value.V)
			}
		}
	})
	if errors.Is(err, cgroup.ErrGone) {
		return nil
	}
	return err
}
