package docker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"fanin/internal/cgroup"
)

// node is what the host has, which is a container's limit when it has none of
// its own, and how the host calls its disks.
type node struct {
	read  time.Time
	cores float64
	bytes float64           // of memory
	boot  float64           // seconds since 1970
	disks map[uint64]string // by device number
}

const nodeAge = 30 * time.Second // cores and memory can be plugged

func (n *node) refresh(proc string, now time.Time) error {
	if !n.read.IsZero() && now.Sub(n.read) < nodeAge {
		return nil
	}
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return fmt.Errorf("read the host's cores: %w", err)
	}
	meminfo, err := os.ReadFile(filepath.Join(proc, "meminfo"))
	if err != nil {
		return fmt.Errorf("read the host's memory: %w", err)
	}
	var boot float64
	n.cores, boot = parseStat(stat)
	if n.boot == 0 {
		n.boot = boot // the kernel moves it a little with the clock; a start time must stand
	}
	n.bytes, n.read = parseMeminfo(meminfo), now
	return nil
}

// coresFor is how many cores a container may use: its quota, else the host's.
func (n *node) coresFor(st *cgroup.Stats) float64 {
	if st.CPUQuota.OK && (n.cores == 0 || st.CPUQuota.V < n.cores) {
		return st.CPUQuota.V
	}
	return n.cores
}

// memoryFor is how much memory a container may use, in bytes.
func (n *node) memoryFor(st *cgroup.Stats) float64 {
	if st.MemoryLimit.OK && (n.bytes == 0 || st.MemoryLimit.V < n.bytes) {
		return st.MemoryLimit.V
	}
	return n.bytes
}

// disk is the kernel's name of a block device, "MAJOR:MINOR" when it has none
// any more. A name stays as it was when it was first asked for.
func (n *node) disk(sys string, major, minor uint32) string {
	key := uint64(major)<<32 | uint64(minor)
	if name, ok := n.disks[key]; ok {
		return name
	}
	number := fmt.Sprintf("%d:%d", major, minor)
	name := number
	if target, err := os.Readlink(filepath.Join(sys, "dev/block", number)); err == nil {
		name = filepath.Base(target)
	}
	if n.disks == nil || len(n.disks) > 10000 {
		n.disks = map[uint64]string{}
	}
	n.disks[key] = name
	return name
}

// parseStat takes the online processors and the boot time out of /proc/stat
// (proc_stat(5)); 0 is unknown.
func parseStat(b []byte) (cores, boot float64) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("cpu")); ok && len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
			cores++
		}
		if rest, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			if v, err := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64); err == nil && v > 0 {
				boot = float64(v)
			}
		}
	}
	return cores, boot
}

// parseMeminfo takes MemTotal out of /proc/meminfo (proc_meminfo(5)), in
// bytes; 0 is unknown.
func parseMeminfo(b []byte) float64 {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("MemTotal:")); ok {
			f := bytes.Fields(rest)
			if len(f) == 2 && string(f[1]) == "kB" {
				if v, err := strconv.ParseUint(string(f[0]), 10, 50); err == nil {
					return float64(v) * 1024
				}
			}
		}
	}
	return 0
}
