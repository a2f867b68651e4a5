//go:build cgo

package libvirt

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"fanin/internal/kernfile"
)

// netCounters is one line of /proc/net/dev as the host sees the device.
type netCounters struct {
	receive, transmit [4]float64 // bytes, packets, errors, drops
	tick              uint64     // of the table, when it was read last
}

// netTable reads /proc/PID/net/dev of one network namespace, once for all
// domains in it. A process outside of it can read it without any privilege,
// and the descriptor outlives the process through which it was opened.
type netTable struct {
	fd   int
	tick uint64
	rows map[string]*netCounters // the devices somebody wants
	buf  []byte
}

func openNetTable(proc string, pid int) (*netTable, error) {
	name := filepath.Join(proc, strconv.Itoa(pid), "net/dev")
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return &netTable{fd: fd, rows: map[string]*netCounters{}, buf: make([]byte, 16<<10)}, nil
}

// read fills the rows; those that it finds have the table's tick.
func (t *netTable) read() error {
	t.tick++
	n := 0
	for {
		if n == len(t.buf) {
			t.buf = append(t.buf, make([]byte, len(t.buf))...)
		}
		m, err := kernfile.Pread(t.fd, t.buf[n:], int64(n))
		if err != nil {
			return fmt.Errorf("read /proc/net/dev: %w", err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	parseNetDev(t.buf[:n], t.tick, t.rows)
	return nil
}

func (t *netTable) close() { _ = unix.Close(t.fd) }

// parseNetDev reads the lines of the wanted devices.
func parseNetDev(b []byte, tick uint64, rows map[string]*netCounters) {
	for len(b) > 0 {
		line := b
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		i := bytes.IndexByte(line, ':')
		if i < 0 {
			continue
		}
		row := rows[string(bytes.TrimSpace(line[:i]))]
		if row == nil {
			continue
		}
		// bytes packets errs drop fifo frame compressed multicast, then
		// bytes packets errs drop fifo colls carrier compressed
		var values [12]float64
		rest, ok := line[i+1:], true
		for j := range values {
			rest = bytes.TrimLeft(rest, " ")
			k := bytes.IndexByte(rest, ' ')
			if k < 0 {
				k = len(rest)
			}
			var n uint64
			n, ok = number(rest[:k], ok)
			values[j], rest = float64(n), rest[k:]
		}
		if ok {
			copy(row.receive[:], values[0:4])
			copy(row.transmit[:], values[8:12])
			row.tick = tick
		}
	}
}
