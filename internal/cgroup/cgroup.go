// Package cgroup reads the kernel's cgroup files, version 1, version 2 and
// hybrid hosts alike, and gives both the same words. It knows where groups are
// (mountinfo, /proc/PID/cgroup, the paths that container runtimes use) and
// nothing of guests.
package cgroup

import (
	"errors"
	"time"
)

// ErrGone is returned when a group or its process does not exist any more.
var ErrGone = errors.New("cgroup is gone")

// Value is a number that may be unknown: the zero Value is "absent".
type Value struct {
	V  float64
	OK bool
}

// Stats is one reading of a group. Seconds and bytes; counters are
// cumulative since the group was made. What the kernel or the hierarchy does
// not tell is absent, never 0.
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
