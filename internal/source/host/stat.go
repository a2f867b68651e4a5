package host

import (
	"bytes"
	"errors"
	"fmt"

	"fanin/internal/sample"
)

// modes of a processor, in the order of cpuTimes.
var modes = [...]string{"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest"}

const (
	user = iota
	nice
	system
	idle
	iowait
	irq
	softirq
	steal
	guestTime
)

// cpuTimes are seconds by mode, each second in one mode only.
type cpuTimes [len(modes)]float64

// ticks is the kernel's unit in this file for everybody, whatever its own
// (USER_HZ, proc_stat(5)).
const ticks = 100

// disjoint takes the time of virtual machines out of user and nice, in which
// the kernel counts it a second time (proc_stat(5)). Its fields are those of
// the line of all processors: user, nice, system, idle, iowait, irq, softirq,
// steal, guest, guest_nice; old kernels have fewer.
func disjoint(fields [10]uint64) (c cpuTimes) {
	for i := user; i <= steal; i++ {
		c[i] = float64(fields[i]) / ticks
	}
	guest, guestNice := float64(fields[8])/ticks, float64(fields[9])/ticks
	c[user] -= guest
	c[nice] -= guestNice
	c[guestTime] = guest + guestNice
	return c
}

// statFile is what is read of /proc/stat.
type statFile struct {
	all      [10]uint64
	hasAll   bool
	cpus     int
	bootTime uint64
}

func parseStat(b []byte) (s statFile, ok bool) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		switch name, rest := word(l); {
		case string(name) == "cpu":
			n, ok := readNumbers(rest, s.all[:])
			if !ok || n < 4 {
				return s, false
			}
			s.hasAll = true
		case bytes.HasPrefix(name, []byte("cpu")):
			s.cpus++
		case string(name) == "btime":
			w, _ := word(rest)
			if s.bootTime, ok = whole(w); !ok {
				return s, false
			}
		}
	}
	return s, true
}

// busyPercent is the share of the time the machine was given between two
// readings in which its cores worked, 0 to 100; ok is false when no time
// passed. Idle and iowait are not work: a core that waits for a disk can be
// used. Steal is left out on both sides: in it there was no core, so a machine
// that uses all it is given reads 100.
func busyPercent(before, after cpuTimes) (percent float64, ok bool) {
	var busy, all float64
	for i := range after {
		if i == steal {
			continue
		}
		d := after[i] - before[i]
		all += d
		if i != idle && i != iowait {
			busy += d
		}
	}
	if all <= 0 {
		return 0, false
	}
	return min(max(100*busy/all, 0), 100), true
}

// stepBack is how far one mode may be behind its last reading and still be
// taken for jitter: the kernel says so of iowait and idle
// (Documentation/filesystems/proc.rst), and user and guest are not read in one
// instant. A counter that went back 10 ms would be a reset to its reader.
const stepBack = 5

// cpuState keeps the modes from going back.
type cpuState struct {
	known bool
	last  cpuTimes
}

// next returns c with no mode behind the reading before, and that reading; ok
// is false for the first one and after a true reset.
func (s *cpuState) next(c cpuTimes) (before, after cpuTimes, ok bool) {
	before, ok = s.last, s.known
	for i := range c {
		if s.known && c[i] < before[i] {
			if before[i]-c[i] > stepBack {
				ok = false
				continue
			}
			c[i] = before[i]
		}
	}
	s.last, s.known = c, true
	return before, c, ok
}

func (s *Source) readStat(b *sample.Batch) error {
	content, err := s.files.stat.read()
	t := now()
	if err != nil {
		return fmt.Errorf("read stat: %w", err)
	}
	stat, ok := parseStat(content)
	switch {
	case !ok:
		return errors.New("read stat: it is malformed")
	case !stat.hasAll:
		return errors.New("read stat: it has no line of all processors")
	}
	before, after, ok := s.cpu.next(disjoint(stat.all))
	for i, seconds := range after {
		b.Add(s.fixed.modes[i], t, seconds)
	}
	if ok {
		if percent, ok := busyPercent(before, after); ok {
			b.Add(s.fixed.legacyCPU, t, percent)
		}
	}
	if stat.cpus > 0 {
		b.Add(s.fixed.cpus, t, float64(stat.cpus))
	}
	if stat.bootTime > 0 {
		b.Add(s.fixed.bootTime, t, float64(stat.bootTime))
	}
	return nil
}
