package verdict

import (
	"math"
	"slices"
)

// Cause is why a guest could not run as it would have on a machine of its own.
type Cause uint8

// Causes of guests. Those before [CPUThrottled] are the testbed's; the others
// are, or may be, the guest's own.
const (
	CPUDelay Cause = iota // a virtual processor waited for a core
	CPUPressure
	MemoryPressure
	HostCPU   // the host's cores were wanted by more than they could serve; only where the guest's own waiting is not known
	HostSteal // the host is a virtual machine, and did not get its cores
	CPUThrottled
	IOPressure
	AnyOfTestbed // the worst of the testbed's
	causes

	firstOwn = CPUThrottled
)

var causeNames = [causes]string{"cpu_delay", "cpu_pressure", "memory_pressure", "host_cpu", "host_steal", "cpu_throttled", "io_pressure", "any"}

// String is the value of the label cause.
func (c Cause) String() string { return causeNames[c] }

// Causes of hosts.
const (
	atHostCPU = iota
	atHostSteal
	atHostMemory
	atHostIO
	hostCauses
)

var hostCauseNames = [hostCauses]string{"cpu_pressure", "steal", "memory_pressure", "io_pressure"}

// number may be unknown.
type number struct {
	v  float64
	ok bool
}

func share(v float64) number { return number{min(max(v, 0), 1), true} }

func minOf(a, b number) number {
	if !a.ok || b.ok && b.v < a.v {
		return b
	}
	return a
}

// tracks are the series of one owner by kind. Mostly there is one of a kind.
type tracks struct {
	all  []*track
	ends [kinds]uint16 // where those of a kind end in all
}

// maxTracks is how many series of one owner are taken, which is more than the
// host of 800 cores has.
const maxTracks = 8192

func (ts *tracks) of(k kind) []*track {
	from := uint16(0)
	if k > 0 {
		from = ts.ends[k-1]
	}
	return ts.all[from:ts.ends[k]]
}

func (ts *tracks) add(k kind, t *track) {
	if len(ts.all) == maxTracks {
		return
	}
	ts.all = slices.Insert(ts.all, int(ts.ends[k]), t)
	for ; k < kinds; k++ {
		ts.ends[k]++
	}
}

// prune takes out the tracks that are given up and reports whether any is left.
func (ts *tracks) prune() bool {
	still := tracks{all: ts.all[:0]}
	for k := range kinds {
		for _, t := range ts.of(k) {
			if t.series != nil {
				still.all = append(still.all, t)
			}
		}
		still.ends[k] = uint16(len(still.all))
	}
	clear(ts.all[len(still.all):])
	*ts = still
	return len(still.all) > 0
}

// rate is that of the first series that is of now.
func (ts *tracks) rate(k kind, now clock) (n number) {
	for _, t := range ts.of(k) {
		if n.v, n.ok = t.rate(now); n.ok {
			return n
		}
	}
	return number{}
}

func (ts *tracks) highest(k kind, now clock) (highest number) {
	for _, t := range ts.of(k) {
		if v, ok := t.rate(now); ok && (!highest.ok || v > highest.v) {
			highest = number{v, true}
		}
	}
	return highest
}

func (ts *tracks) sum(k kind, now clock) (sum number) {
	for _, t := range ts.of(k) {
		if v, ok := t.rate(now); ok {
			sum = number{sum.v + v, true}
		}
	}
	return sum
}

func (ts *tracks) newest(k kind, now clock) (n number) {
	for _, t := range ts.of(k) {
		if n.v, n.ok = t.newest(now); n.ok {
			return n
		}
	}
	return number{}
}

// hostShares are a host's own.
func hostShares(ts *tracks, now clock) (of [hostCauses]number) {
	if n := ts.rate(hostWaitCPU, now); n.ok {
		of[atHostCPU] = share(n.v)
	} else {
		of[atHostCPU] = saturated(ts, now)
	}
	of[atHostSteal] = stolen(ts, now)
	if n := ts.rate(hostWaitMemory, now); n.ok {
		of[atHostMemory] = share(n.v)
	}
	if n := ts.rate(hostWaitIO, now); n.ok {
		of[atHostIO] = share(n.v)
	}
	return of
}

// saturated stands in for pressure where the kernel does not tell it: nobody
// waits while a core is idle, nor while fewer want to run than there are cores.
func saturated(ts *tracks, now clock) number {
	idle, load, cores := ts.sum(hostIdle, now), ts.newest(hostLoad, now), ts.newest(hostCPUs, now)
	switch {
	case !idle.ok || !load.ok || !cores.ok:
		return number{}
	case load.v <= cores.v:
		return share(0)
	default:
		return share(1 - idle.v)
	}
}

// stolen is which part of the time that a host wanted its cores they were
// given to somebody else. A counter that has never risen tells nothing: the
// host is no virtual machine, or is not told.
func stolen(ts *tracks, now clock) number {
	total := ts.newest(hostSteal, now)
	lost, had := ts.rate(hostSteal, now), ts.sum(hostBusy, now)
	if !total.ok || total.v == 0 || !lost.ok || !had.ok {
		return number{}
	}
	if lost.v+had.v == 0 {
		return share(0)
	}
	return share(lost.v / (lost.v + had.v))
}

// shares are those of a guest, by cause.
type shares [causes]number

// take works them out for a guest on a host with these shares and reports
// whether any is known. They are zero before.
func (of *shares) take(ts *tracks, now clock, host *[hostCauses]number) (known bool) {
	used := ts.rate(usage, now)
	if n := ts.rate(throttled, now); n.ok {
		// The kernel adds up what it counts of each core. A guest that wants k
		// cores all the time is on them or throttled for k seconds in a second.
		of[CPUThrottled] = share(n.v / max(1, n.v+used.v))
	}
	// A thread that is throttled is runnable and does not run, and so is counted
	// as waiting as well.
	beside := func(n number) number { return share(n.v - of[CPUThrottled].v) }

	delay := ts.highest(vcpuDelay, now)
	if !delay.ok {
		delay = ts.highest(vcpuWait, now)
	}
	if delay.ok {
		of[CPUDelay] = beside(delay)
	}
	if n := ts.rate(waitCPU, now); n.ok {
		of[CPUPressure] = beside(n)
	}
	if n := ts.rate(waitMemory, now); n.ok {
		of[MemoryPressure] = share(n.v)
	}
	if n := ts.rate(waitIO, now); n.ok {
		of[IOPressure] = share(n.v)
	}
	if used.ok && host[atHostCPU].ok && !of[CPUDelay].ok && !of[CPUPressure].ok {
		most := minOf(host[atHostCPU], used)
		if threads := ts.newest(processes, now); threads.ok {
			most = minOf(most, number{threads.v - used.v, true})
		}
		of[HostCPU] = share(most.v)
	}
	if used.ok && host[atHostSteal].ok {
		of[HostSteal] = share(host[atHostSteal].v * min(1, used.v))
	}
	of[AnyOfTestbed] = of.worst()
	for c := range of {
		known = known || of[c].ok
	}
	return known
}

// worst is the highest of those that are the testbed's.
func (of *shares) worst() (highest number) {
	for _, n := range of[:firstOwn] {
		if n.ok && (!highest.ok || n.v > highest.v) {
			highest = n
		}
	}
	return highest
}

// rounded is to four digits, which is more than a sample a second can tell.
func rounded(v float64) float64 { return math.Round(v*1e4) / 1e4 }
