// Package libvirt measures the domains of the libvirt daemon on this node.
//
// Who they are and in what state comes from one read-only connection that
// lives as long as the daemon does, by its events and a listing every 30 s.
// What they use every tick comes from their QEMU process (found by the UUID on
// its command line): its control group, /proc/PID/stat, and the host's side of
// their network interfaces. None of these ever waits, neither for the daemon
// nor for QEMU. What only QEMU knows (balloon, disks, virtual processors) is
// asked for on further connections, one call for each domain at a time, and
// comes when it comes: its points carry the moment they were read, every
// [Source.SlowInterval]. A domain that hangs keeps its fast numbers and loses
// its slow ones; nobody else loses any.
//
// Without access to the process (another PID namespace, hidepid) CPU time and
// network are asked for like the slow numbers. So they are of a libvirt in a
// container: processes in a PID namespace of their own are not believed, as
// anybody's container can start one under any name and with any UUID.
//
// The label device is the interface's name on the host (vnet0) and the disk's
// target (vda), the names that `virsh domstats` shows. A user-mode interface
// (type='user') has no counters and is absent.
//
// Built without cgo the package has no libvirt and says so.
package libvirt

import (
	"log/slog"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
)

// DefaultURI is what is connected to unless [Source.URI] says otherwise.
const DefaultURI = "qemu:///system"

// Source is the sampler's source "libvirt". Its zero value measures
// [DefaultURI]; the fields must not change after the first call.
type Source struct {
	URI          string         // of the connection, opened read-only; "" for DefaultURI
	ProcRoot     string         // where the host's procfs is mounted; "" for /proc
	Layout       *cgroup.Layout // nil: detected when there is a domain to measure
	Interval     time.Duration  // of the sampler; 0 for 1 s. A daemon silent for two of them (and 1 s) is an error
	Rescan       time.Duration  // how often the domains are listed anew and a missing daemon is looked for; 0 for 30 s
	SlowInterval time.Duration  // how often each domain is asked for what only QEMU knows; 0 for 5 s
	SlowDeadline time.Duration  // when such a call is given up; 0 for 10 s
	Limit        int            // domains at the most; 0 for 5,000
	Log          *slog.Logger   // nil: silent

	// MemoryStatsPeriod, unless it is 0, has the balloon driver of each running
	// domain asked this often (whole seconds), where nobody else has said how
	// often. Without that its numbers stay what they were at boot. It changes
	// the running domain, until that stops, and not its definition; it is the
	// only thing here that changes any, and for it alone a connection that may
	// write is opened. Only Run does it.
	MemoryStatsPeriod time.Duration

	inner
}

// Name is "libvirt".
func (s *Source) Name() string { return guest.Libvirt }
