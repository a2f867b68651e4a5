package host

import (
	"errors"
	"fmt"

	"github.com/prometheus/procfs"

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

// disjoint takes the time of virtual machines out of user and nice, in which
// the kernel counts it a second time (proc_stat(5)).
func disjoint(c procfs.CPUStat) cpuTimes {
	return cpuTimes{
		user:      c.User - c.Guest,
		nice:      c.Nice - c.GuestNice,
		system:    c.System,
		idle:      c.Idle,
		iowait:    c.Iowait,
		irq:       c.IRQ,
		softirq:   c.SoftIRQ,
		steal:     c.Steal,
		guestTime: c.Guest + c.GuestNice,
	}
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
	stat, err := s.proc.Stat()
	t := now()
	if err != nil {
		return fmt.Errorf("read stat: %w", err)
	}
	if stat.CPUTotal == (procfs.CPUStat{}) {
		return errors.New("read stat: it has no line of all processors")
	}
	before, after, ok := s.cpu.next(disjoint(stat.CPUTotal))
	for i, seconds := range after {
		b.Add(s.fixed.modes[i], t, seconds)
	}
	if ok {
		if percent, ok := busyPercent(before, after); ok {
			b.Add(s.fixed.legacyCPU, t, percent)
		}
	}
	if n := len(stat.CPU); n > 0 {
		b.Add(s.fixed.cpus, t, float64(n))
	}
	if stat.BootTime > 0 {
		b.Add(s.fixed.bootTime, t, float64(stat.BootTime))
	}
	return nil
}
