package cgroup

import "bytes"

// A reading is a Stats in the making: what several files tell together is
// kept until all of them are read.
type reading struct {
	Stats
	quota, period Value // microseconds
	inactiveFile  Value
}

// finish works out what takes more than one file.
func (r *reading) finish() {
	if r.quota.OK && r.period.OK && r.period.V > 0 {
		r.CPUQuota = Value{r.quota.V / r.period.V, true}
	}
	if r.MemoryUsage.OK && r.inactiveFile.OK {
		r.MemoryWorkingSet = Value{max(0, r.MemoryUsage.V-r.inactiveFile.V), true}
	}
}

const (
	microseconds = 1e6
	nanoseconds  = 1e9
	// userHZ is the unit of cpuacct.stat: USER_HZ, which is 100 on every
	// architecture that Go runs on.
	userHZ = 100
	// unlimited is where version 1's "no limit" begins: the largest long
	// rounded down to a page, whatever the size of a page, or all ones on old
	// kernels.
	unlimited = 1 << 62
)

// parseCPUStat2 reads cpu.stat of version 2. Without the cpu controller, as
// on a hybrid host, it has only the usage.
func parseCPUStat2(b []byte, r *reading) {
	for len(b) > 0 {
		var key []byte
		var v Value
		key, v, b = keyed(b)
		switch string(key) {
		case "usage_usec":
			r.CPUUsage = v.per(microseconds)
		case "user_usec":
			r.CPUUser = v.per(microseconds)
		case "system_usec":
			r.CPUSystem = v.per(microseconds)
		case "nr_periods":
			r.Periods = v
		case "nr_throttled":
			r.ThrottledPeriods = v
		case "throttled_usec":
			r.ThrottledSeconds = v.per(microseconds)
		}
	}
}

// parseCPUStat1 reads cpu.stat of version 1.
func parseCPUStat1(b []byte, r *reading) {
	for len(b) > 0 {
		var key []byte
		var v Value
		key, v, b = keyed(b)
		switch string(key) {
		case "nr_periods":
			r.Periods = v
		case "nr_throttled":
			r.ThrottledPeriods = v
		case "throttled_time":
			r.ThrottledSeconds = v.per(nanoseconds)
		}
	}
}

// parseCPUAcctUsage reads cpuacct.usage.
func parseCPUAcctUsage(b []byte, r *reading) { r.CPUUsage = single(b).per(nanoseconds) }

// parseCPUAcctStat reads cpuacct.stat, whose two numbers the kernel has scaled
// to add up to the usage; usage_user and usage_sys are raw ticks.
func parseCPUAcctStat(b []byte, r *reading) {
	for len(b) > 0 {
		var key []byte
		var v Value
		key, v, b = keyed(b)
		switch string(key) {
		case "user":
			r.CPUUser = v.per(userHZ)
		case "system":
			r.CPUSystem = v.per(userHZ)
		}
	}
}

// parseCPUMax reads cpu.max: "max 100000" or "50000 100000".
func parseCPUMax(b []byte, r *reading) {
	quota, rest := word(b)
	period, _ := word(rest)
	r.quota, r.period = number(quota), number(period)
}

// parseCFSQuota reads cpu.cfs_quota_us; -1 is no limit.
func parseCFSQuota(b []byte, r *reading) { r.quota = single(b) }

// parseCFSPeriod reads cpu.cfs_period_us.
func parseCFSPeriod(b []byte, r *reading) { r.period = single(b) }

// parseMemoryUsage reads memory.current and memory.usage_in_bytes.
func parseMemoryUsage(b []byte, r *reading) { r.MemoryUsage = single(b) }

// parseMemoryMax reads memory.max; "max" is no limit.
func parseMemoryMax(b []byte, r *reading) { r.MemoryLimit = single(b) }

// parseMemorySwap reads memory.swap.current.
func parseMemorySwap(b []byte, r *reading) { r.MemorySwap = single(b) }

// parseMemoryStat2 reads memory.stat of version 2.
func parseMemoryStat2(b []byte, r *reading) {
	for len(b) > 0 {
		var key []byte
		var v Value
		key, v, b = keyed(b)
		switch string(key) {
		case "file":
			r.MemoryCache = v
		case "inactive_file":
			r.inactiveFile = v
		}
	}
}

// parseMemoryStat1 reads memory.stat of version 1. Its hierarchical limit is
// the smallest of the group and all that are around it.
func parseMemoryStat1(b []byte, r *reading) {
	for len(b) > 0 {
		var key []byte
		var v Value
		key, v, b = keyed(b)
		switch string(key) {
		case "total_cache":
			r.MemoryCache = v
		case "total_swap":
			r.MemorySwap = v
		case "total_inactive_file":
			r.inactiveFile = v
		case "hierarchical_memory_limit":
			if v.V < unlimited {
				r.MemoryLimit = v
			}
		}
	}
}

// parseOOMKills reads memory.events and memory.oom_control, which say it with
// the same word.
func parseOOMKills(b []byte, r *reading) {
	for len(b) > 0 {
		var key []byte
		var v Value
		key, v, b = keyed(b)
		if string(key) == "oom_kill" {
			r.OOMKills = v
		}
	}
}

// parsePids reads pids.current.
func parsePids(b []byte, r *reading) { r.Processes = single(b) }

func parsePressureCPU(b []byte, r *reading) {
	r.Pressure.CPUWaiting, r.Pressure.CPUStalled = pressure(b)
}

func parsePressureMemory(b []byte, r *reading) {
	r.Pressure.MemoryWaiting, r.Pressure.MemoryStalled = pressure(b)
}

func parsePressureIO(b []byte, r *reading) {
	r.Pressure.IOWaiting, r.Pressure.IOStalled = pressure(b)
}

// pressure reads the totals of a PSI file, in seconds. Kernels before 5.13
// have no "full" line for the processor.
func pressure(b []byte) (some, full Value) {
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		kind, line := word(line)
		for len(line) > 0 {
			var w []byte
			w, line = word(line)
			total, ok := bytes.CutPrefix(w, []byte("total="))
			if !ok {
				continue
			}
			switch string(kind) {
			case "some":
				some = number(total).per(microseconds)
			case "full":
				full = number(total).per(microseconds)
			}
		}
	}
	return some, full
}

// parseIOStat reads io.stat of version 2 into disks. Kernels of some years
// forget the line break behind a device without numbers, so a word that looks
// like a device begins one wherever it stands.
func parseIOStat(b []byte, disks []Disk) []Disk {
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		at := -1
		for len(line) > 0 {
			var w []byte
			w, line = word(line)
			if major, minor, ok := device(w); ok {
				disks, at = diskOf(disks, major, minor)
				continue
			}
			key, value, ok := bytes.Cut(w, []byte("="))
			if !ok || at < 0 {
				continue
			}
			d := &disks[at]
			switch string(key) {
			case "rbytes":
				d.ReadBytes = number(value)
			case "wbytes":
				d.WrittenBytes = number(value)
			case "rios":
				d.Reads = number(value)
			case "wios":
				d.Writes = number(value)
			}
		}
	}
	return disks
}

// parseBlkioBytes reads blkio.throttle.io_service_bytes and its _recursive
// twin into disks. A 0 is absent: see [Group.Disks].
func parseBlkioBytes(b []byte, disks []Disk) []Disk {
	for len(b) > 0 {
		var l blkioLine
		l, disks, b = cutBlkio(b, disks)
		switch {
		case l.count.V == 0:
		case string(l.op) == "Read":
			disks[l.at].ReadBytes = l.count
		case string(l.op) == "Write":
			disks[l.at].WrittenBytes = l.count
		}
	}
	return disks
}

// parseBlkioOps reads blkio.throttle.io_serviced and its _recursive twin into
// disks. A 0 is absent: see [Group.Disks].
func parseBlkioOps(b []byte, disks []Disk) []Disk {
	for len(b) > 0 {
		var l blkioLine
		l, disks, b = cutBlkio(b, disks)
		switch {
		case l.count.V == 0:
		case string(l.op) == "Read":
			disks[l.at].Reads = l.count
		case string(l.op) == "Write":
			disks[l.at].Writes = l.count
		}
	}
	return disks
}

type blkioLine struct {
	at    int // of the device in disks
	op    []byte
	count Value
}

// cutBlkio takes "8:0 Read 4096" off b. A line that is no device's, such as
// the "Total 4096" at the end, is the zero blkioLine.
func cutBlkio(b []byte, disks []Disk) (l blkioLine, _ []Disk, rest []byte) {
	line, rest := cutLine(b)
	dev, line := word(line)
	op, line := word(line)
	count, _ := word(line)
	major, minor, ok := device(dev)
	if !ok {
		return blkioLine{}, disks, rest
	}
	disks, at := diskOf(disks, major, minor)
	return blkioLine{at: at, op: op, count: number(count)}, disks, rest
}

// diskOf finds a device among disks, or appends it.
func diskOf(disks []Disk, major, minor uint32) ([]Disk, int) {
	for i := range disks {
		if disks[i].Major == major && disks[i].Minor == minor {
			return disks, i
		}
	}
	return append(disks, Disk{Major: major, Minor: minor}), len(disks)
}

// device reads "major:minor".
func device(w []byte) (major, minor uint32, ok bool) {
	a, b, ok := bytes.Cut(w, []byte(":"))
	x, y := number(a), number(b)
	if !ok || !x.OK || !y.OK || x.V > 1<<20 || y.V > 1<<20 {
		return 0, 0, false
	}
	return uint32(x.V), uint32(y.V), true
}

// per turns a count of parts of a second into seconds, each of which has so many.
// A division is rounded once, so that 76 µs are 7.6e-05 s; 76 * 1e-6 is a little
// less.
func (v Value) per(parts float64) Value { return Value{v.V / parts, v.OK} }

// keyed takes a line "key value" off b.
func keyed(b []byte) (key []byte, v Value, rest []byte) {
	line, rest := cutLine(b)
	key, line = word(line)
	value, _ := word(line)
	return key, number(value), rest
}

// single reads a file that is one number.
func single(b []byte) Value {
	w, _ := word(b)
	return number(w)
}

func cutLine(b []byte) (line, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// word takes the next run of bytes that are no white space off b.
func word(b []byte) (w, rest []byte) {
	for len(b) > 0 && space(b[0]) {
		b = b[1:]
	}
	for i, c := range b {
		if space(c) {
			return b[:i], b[i:]
		}
	}
	return b, nil
}

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\t' }

// number reads a decimal without sign that fits 64 bits; anything else,
// "max" and -1 among it, is absent.
func number(w []byte) Value {
	if len(w) == 0 || len(w) > 20 {
		return Value{}
	}
	var n uint64
	for _, c := range w {
		d := uint64(c - '0')
		if c < '0' || c > '9' || n > (1<<64-1-d)/10 {
			return Value{}
		}
		n = n*10 + d
	}
	return Value{float64(n), true}
}
