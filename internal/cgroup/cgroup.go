// Package cgroup reads the kernel's cgroup files, version 1, version 2 and
// hybrid hosts alike, and gives both the same words. It knows where groups are
// (mountinfo, /proc/PID/cgroup, the paths that container runtimes use) and
// nothing of guests.
//
// What the numbers mean is the kernel's word: Documentation/admin-guide/
// cgroup-v2.rst, cgroup-v1/{cpuacct,memory,pids,blkio-controller}.rst,
// scheduler/sched-bwc.rst and accounting/psi.rst.
package cgroup

import (
	"errors"
	"time"
)

// ErrGone is returned when a group or its process does not exist any more.
var ErrGone = errors.New("cgroup is gone")

// ErrNoGroup is returned when a process lives, and has no group of its own
// that could be read: it is in the root group of every hierarchy, or only in
// groups that this process does not see mounted.
var ErrNoGroup = errors.New("process has no cgroup of its own")

// Value is a number that may be unknown: the zero Value is "absent".
type Value struct {
	V  float64
	OK bool
}

// Stats is one reading of a group. Seconds and bytes; counters are
// cumulative since the group was made. What the kernel or the hierarchy does
// not tell is absent, never 0.
//
// A number covers the group and all groups below it, with these exceptions of
// the kernel's: periods, throttling (version 1 and 2) and OOM kills (version 1
// only) are the group's own.
type Stats struct {
	At time.Time // right after the processor counters were read

	CPUUsage, CPUUser, CPUSystem Value // seconds
	CPUQuota                     Value // cores: quota / period; absent without a limit
	Periods, ThrottledPeriods    Value
	ThrottledSeconds             Value

	MemoryUsage      Value // memory.current or memory.usage_in_bytes
	MemoryWorkingSet Value // usage - inactive_file
	MemoryCache      Value
	MemorySwap       Value
	MemoryLimit      Value // absent without a limit
	OOMKills         Value

	Processes Value // pids.current

	Pressure struct {
		CPUWaiting, CPUStalled, MemoryWaiting, MemoryStalled, IOWaiting, IOStalled Value // seconds
	}
}

// Disk is what a group has read from and written to one block device, as far
// as the kernel could charge it to the group. Counters, cumulative.
type Disk struct {
	Major, Minor            uint32
	ReadBytes, WrittenBytes Value
	Reads, Writes           Value
}
