package docker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
	"fanin/internal/kernfile"
	"fanin/internal/sample"
)

// ticks is the unit of times in /proc/PID/stat: USER_HZ, 100 a second on
// every architecture that Go runs on.
const ticks = 100

// process is a container's first process, by a descriptor on its directory in
// /proc: when the process is gone the descriptor is dead, and a later process
// with its number is never taken for it.
type process struct {
	dir     int // 0: none
	net     int // its net/dev; 0: not open
	netAt   time.Time
	started float64
	decided bool // whether shown is known
	shown   bool // its network is the container's own
	devices map[string]*networkLines
}

// netAge is how long one descriptor of net/dev is read: it shows the network
// that the process had when it was opened, also when it has ended since.
const netAge = 10 * time.Second

func (p *process) close() {
	p.closeNet()
	if p.dir > 0 {
		_ = unix.Close(p.dir)
	}
	*p = process{devices: p.devices}
}

func (p *process) closeNet() {
	if p.net > 0 {
		_ = unix.Close(p.net)
		p.net = 0
	}
}

// readNet reads net/dev. An open one keeps the process' network namespace from
// being removed, but none of its interfaces with a runtime that removes them.
func (p *process) readNet(buf []byte, now time.Time) ([]byte, error) {
	if p.net > 0 && now.Sub(p.netAt) >= netAge {
		p.closeNet()
	}
	if p.net == 0 {
		fd, err := unix.Openat(p.dir, "net/dev", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: "net/dev", Err: err}
		}
		p.net, p.netAt = fd, now
	}
	return readFrom(p.net, "net/dev", buf)
}

// attach opens the container's first process. That it is the container's is read
// through the same descriptor as all else: its number may have been given to
// another process meanwhile. Then it is [cgroup.ErrGone].
func (s *Source) attach(c *container) error {
	c.process.close()
	pid, err := c.group.PID()
	if err != nil {
		return err
	}
	pid = first(s.ProcRoot, pid)
	name := filepath.Join(s.ProcRoot, strconv.Itoa(pid))
	dir, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	groups, err := readAt(dir, "cgroup", s.buf)
	if err == nil {
		s.buf = groups
		if !bytes.Contains(groups, []byte(c.id)) {
			err = cgroup.ErrGone
		}
	}
	if err != nil {
		_ = unix.Close(dir)
		return err
	}
	c.process.dir = dir
	if stat, err := readAt(dir, "stat", s.buf); err == nil {
		s.buf = stat
		if t, ok := parseStartTime(stat); ok && s.node.boot > 0 {
			c.process.started = s.node.boot + t
		}
	}
	return nil
}

// first goes up from a process in a PID namespace to the namespace's first
// one. The lowest number in a group is not always it: numbers begin anew.
func first(proc string, pid int) int {
	depth := 0
	for range 32 {
		b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "status"))
		if err != nil {
			return pid
		}
		parent, levels, inner := parseStatus(b)
		if depth == 0 {
			depth = levels
		}
		// The host's own namespace: nothing to tell them apart by.
		if depth < 2 || levels != depth || inner == 1 || parent <= 1 {
			return pid
		}
		above, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(parent), "status"))
		if err != nil {
			return pid
		}
		if _, l, _ := parseStatus(above); l != depth {
			return pid
		}
		pid = parent
	}
	return pid
}

// measureNetwork appends the counters of the container's interfaces, all but
// lo, from /proc/PID/net/dev (proc_pid_net(5)), which needs no capability and
// no change of namespace. A container on the host's network has none of its
// own: what is there are the host's, and they are absent here.
func (s *Source) measureNetwork(c *container, b *sample.Batch) error {
	for range 2 {
		if c.process.dir == 0 || c.network == networkHost {
			return nil
		}
		if !c.process.decided {
			c.process.shown = s.ownNetwork(c)
			c.process.decided = true
		}
		if !c.process.shown {
			return nil
		}
		table, err := c.process.readNet(s.buf, time.Now())
		if err == nil {
			s.buf = table
			if c.addDevices(b, table) {
				s.skips[skipDevices].Add(1)
			}
			return nil
		}
		if !ended(err) {
			return fmt.Errorf("read its network: %w", err)
		}
		// It was not the container's first process, or that has just ended.
		c.process.close()
		if err := s.attend(c); err != nil {
			return err
		}
	}
	return nil
}

// attend sees to it that c.process is open. That a container ends, or that
// its processes are not visible here, is counted and no error.
func (s *Source) attend(c *container) error {
	if c.process.dir > 0 {
		return nil
	}
	err := s.attach(c)
	if errors.Is(err, cgroup.ErrGone) || ended(err) {
		s.skips[skipNoProcess].Add(1)
		return nil
	}
	return err
}

// ended reports whether an error of /proc says that the process has ended.
func ended(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}

// ownNetwork compares network namespaces where that is allowed (it takes
// CAP_SYS_PTRACE), and goes by the engine's list otherwise.
func (s *Source) ownNetwork(c *container) bool {
	own, err := readlinkAt(c.process.dir, "ns/net")
	if err == nil {
		for _, of := range [...]string{"1", "self"} {
			if host, err := os.Readlink(filepath.Join(s.ProcRoot, of, "ns/net")); err == nil {
				return host != own
			}
		}
	}
	return c.network == networkOwn
}

// networkLines are the series of one interface of a container.
type networkLines [8]*sample.Series

// maxDevices bounds the interfaces of a container, which with CAP_NET_ADMIN makes
// as many as it likes: a node has 20,000 series, and an interface has eight.
const maxDevices = 256

// addDevices reports whether it left some out: those at the end of the table.
func (c *container) addDevices(b *sample.Batch, table []byte) (more bool) {
	at := time.Now().UnixMilli()
	devices := 0
	parseNetDev(table, func(device []byte, v *[8]uint64) {
		if string(device) == "lo" {
			return
		}
		if devices++; devices > maxDevices {
			more = true
			return
		}
		l := c.process.devices[string(device)]
		if l == nil {
			labels := [...]sample.Label{guest.Named(c.name), {Name: "device", Value: string(device)}}
			l = &networkLines{}
			for i, f := range [...]*sample.Family{
				guest.ReceiveBytes, guest.ReceivePackets, guest.ReceiveErrors, guest.ReceiveDrops,
				guest.TransmitBytes, guest.TransmitPackets, guest.TransmitErrors, guest.TransmitDrops,
			} {
				l[i] = sample.New(f, labels[:]...)
			}
			// A container that makes interfaces under ever new names.
			if c.process.devices == nil || len(c.process.devices) >= maxDevices {
				c.process.devices = map[string]*networkLines{}
			}
			c.process.devices[string(device)] = l
		}
		for i, n := range v {
			b.Add(l[i], at, float64(n))
		}
	})
	return more
}

// readAt reads a file below a directory in /proc, into buf or a larger one.
func readAt(dir int, name string, buf []byte) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	return readFrom(fd, name, buf)
}

// readFrom reads an open file from its beginning, which makes the kernel tell
// anew.
func readFrom(fd int, name string, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for {
		if len(buf) == cap(buf) {
			if cap(buf) >= 1<<20 {
				return nil, fmt.Errorf("%s is longer than %d bytes", name, cap(buf))
			}
			buf = append(make([]byte, 0, max(8192, 2*cap(buf))), buf...)
		}
		n, err := kernfile.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)))
		switch {
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		case n == 0:
			return buf, nil
		default:
			buf = buf[:len(buf)+n]
			// The kernel fills a page with whole lines before it returns
			// (seq_read_iter), so that another line would have had room.
			if len(buf) < seqPage-longestLine {
				return buf, nil
			}
		}
	}
}

const (
	seqPage     = 4096 // the smallest that an architecture has
	longestLine = 1024
)

func readlinkAt(dir int, name string) (string, error) {
	var b [128]byte
	n, err := unix.Readlinkat(dir, name, b[:])
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// parseNetDev calls f for every interface in /proc/PID/net/dev with its
// received bytes, packets, errors and drops and the same four transmitted. f
// must not keep the pointers. Lines of another form are passed over.
func parseNetDev(b []byte, f func(device []byte, v *[8]uint64)) {
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
		device := bytes.TrimSpace(line[:colon])
		var v [8]uint64
		at, ok := 0, len(device) > 0
		for rest := line[colon+1:]; ok && at < 12; at++ {
			var n uint64
			n, rest, ok = number(rest)
			// receive: bytes packets errs drop fifo frame compressed multicast;
			// transmit: bytes packets errs drop ...
			switch {
			case at < 4:
				v[at] = n
			case at >= 8:
				v[at-4] = n
			}
		}
		if ok {
			f(device, &v)
		}
	}
}

// number takes the next decimal number off b.
func number(b []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && b[i] == ' ' {
		i++
	}
	from := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if n > (1<<64-1-d)/10 {
			return 0, nil, false
		}
		n = n*10 + d
	}
	return n, b[i:], i > from
}

// parseStartTime takes the start time, in seconds since boot, out of
// /proc/PID/stat (proc_pid_stat(5)). The name in it may hold anything.
func parseStartTime(b []byte) (float64, bool) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, false
	}
	f := bytes.Fields(b[i+1:])
	const starttime = 22 - 3 // fields are counted from 1, and the third follows the name
	if len(f) <= starttime {
		return 0, false
	}
	v, err := strconv.ParseUint(string(f[starttime]), 10, 63)
	return float64(v) / ticks, err == nil
}

// parseStatus takes the parent, the depth of the PID namespace and the number
// in the innermost one out of /proc/PID/status (proc_pid_status(5)); 0 is
// unknown.
func parseStatus(b []byte) (parent, levels, inner int) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("PPid:")); ok {
			parent, _ = strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			f := bytes.Fields(rest)
			levels = len(f)
			if levels > 0 {
				inner, _ = strconv.Atoi(string(f[levels-1]))
			}
		}
	}
	return parent, levels, inner
}
