//go:build cgo

package libvirt

import (
	"time"

	"fanin/internal/cgroup"
)

// reading is what a domain's QEMU has told. Seconds and bytes.
type reading struct {
	at time.Time

	current, rss                     cgroup.Value
	updated                          time.Time // by the driver in the guest; zero: there is none
	unused, available, usable, cache cgroup.Value

	vcpus []vcpuReading // by number
	disks []diskReading

	// Only when the process can not be read.
	cpu, cpuUser, cpuSystem cgroup.Value
	nets                    []netReading
}

type vcpuReading struct{ time, wait, delay cgroup.Value }

type diskReading struct {
	device string
	values [diskFamilies]cgroup.Value // in the order of diskSeries
}

type netReading struct {
	device string
	values [netFamilies]cgroup.Value // in the order of netSeries, the guest's view
}
