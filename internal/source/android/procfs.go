package android

import "bytes"

// userHz is the unit of the times in /proc/PID/stat. The kernel promises 100
// to user space on every architecture that runs the emulator.
const userHz = 100

// procStat is what is read of /proc/PID/stat (proc_pid_stat(5)).
type procStat struct {
	state        byte
	parent       int
	user, system float64 // seconds
	threads      float64
	start        uint64 // ticks since boot; with the number it names a process for good
	args         uint64 // where its arguments are: another place after most execs; 0 when that may not be known
}

func parseStat(b []byte) (s procStat, ok bool) {
	// The name may hold anything, parentheses too.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return s, false
	}
	b, ok = bytes.TrimSpace(b[i+1:]), true
	for field := 3; field <= 48; field++ {
		b = bytes.TrimLeft(b, " ")
		end := bytes.IndexByte(b, ' ')
		if end < 0 {
			end = len(b)
		}
		word := b[:end]
		if b = b[end:]; len(word) == 0 {
			// Kernels before 3.5 have no arguments here.
			return s, ok && field > 22
		}
		var n uint64
		switch field {
		case 3:
			s.state = word[0]
		case 4:
			n, ok = number(word, ok)
			s.parent = int(n)
		case 14:
			n, ok = number(word, ok)
			s.user = float64(n) / userHz
		case 15:
			n, ok = number(word, ok)
			s.system = float64(n) / userHz
		case 20:
			n, ok = number(word, ok)
			s.threads = float64(n)
		case 22:
			s.start, ok = number(word, ok)
		case 48:
			s.args, ok = number(word, ok)
		}
	}
	return s, ok
}

// ended reports whether the process only waits to be forgotten.
func (s *procStat) ended() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// parseStatm takes the resident pages out of /proc/PID/statm.
func parseStatm(b []byte) (resident float64, ok bool) {
	_, rest, found := bytes.Cut(b, []byte(" "))
	word, _, _ := bytes.Cut(rest, []byte(" "))
	n, ok := number(word, found)
	return float64(n), ok
}

// parseSwap takes VmSwap out of /proc/PID/status, in bytes.
func parseSwap(b []byte) (swap float64, ok bool) {
	word, ok := field(b, "VmSwap:")
	kilobytes, unit, found := bytes.Cut(word, []byte(" "))
	n, ok := number(kilobytes, ok && found && string(bytes.TrimSpace(unit)) == "kB")
	return float64(n) * 1024, ok
}

// parseOwner takes the real user and the depth of the PID namespace, as seen
// from the one whose procfs it is, out of /proc/PID/status. Kernels before 4.1
// do not tell the depth; then it is 1.
func parseOwner(b []byte) (user uint32, depth int, ok bool) {
	word, ok := field(b, "Uid:")
	first, _, _ := bytes.Cut(word, []byte("\t"))
	n, ok := number(first, ok)
	depth = 1
	if word, found := field(b, "NSpid:"); found {
		depth = len(bytes.Fields(word))
	}
	return uint32(n), depth, ok && n < 1<<32
}

// parseIO takes what went to and came from disks out of /proc/PID/io
// (proc_pid_io(5)), in bytes.
func parseIO(b []byte) (read, written float64, ok bool) {
	word, ok := field(b, "read_bytes:")
	r, ok := number(word, ok)
	word, found := field(b, "write_bytes:")
	w, ok := number(word, ok && found)
	return float64(r), float64(w), ok
}

// field is the rest of the line that begins with key, without white space
// around it.
func field(b []byte, key string) (value []byte, ok bool) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if len(line) > len(key) && string(line[:len(key)]) == key {
			return bytes.TrimSpace(line[len(key):]), true
		}
	}
	return nil, false
}

// number reads digits without allocating; ok is false from the first wrong
// one on.
func number(b []byte, ok bool) (uint64, bool) {
	var n uint64
	for _, c := range b {
		d := uint64(c - '0')
		if c < '0' || c > '9' || n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, ok && len(b) > 0
}

// parseBootTime takes btime out of /proc/stat.
func parseBootTime(b []byte) (float64, bool) {
	word, ok := field(b, "btime ")
	n, ok := number(word, ok)
	return float64(n), ok
}

// cutNetDev takes the next interface but the loopback off /proc/PID/net/dev,
// with its received bytes, packets, errors and drops and the same four sent. ok
// is false at the end. Lines of another form are passed over.
func cutNetDev(b []byte) (device []byte, v [netFamilies]float64, rest []byte, ok bool) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		// A name may hold colons, numbers may not.
		colon := bytes.LastIndexByte(line, ':')
		if colon < 0 {
			continue
		}
		device = bytes.TrimSpace(line[:colon])
		ok = len(device) > 0 && string(device) != "lo"
		line = line[colon+1:]
		// bytes packets errs drop fifo frame compressed multicast, then
		// bytes packets errs drop fifo colls carrier compressed
		for column := 0; ok && column < 12; column++ {
			line = bytes.TrimLeft(line, " ")
			end := bytes.IndexByte(line, ' ')
			if end < 0 {
				end = len(line)
			}
			var n uint64
			n, ok = number(line[:end], ok)
			line = line[end:]
			switch {
			case column < 4:
				v[column] = float64(n)
			case column >= 8:
				v[column-4] = float64(n)
			}
		}
		if ok {
			return device, v, b, true
		}
	}
	return nil, v, nil, false
}
