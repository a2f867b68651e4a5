// Package guest owns the names of what is measured on every kind of guest, so
// that the same thing has the same name, unit and meaning whether a VM, a
// container or an emulator is behind it. It does not measure.
//
// Network direction is always the guest's own view: receive is into the guest.
package guest

import (
	"time"

	"fanin/internal/sample"
)

// Kinds of guests, the values of guest_type.
const (
	Libvirt = "libvirt"
	Docker  = "docker"
	Android = "android"
)

// Label is the label under which a node says which guest it means, by its
// runtime name (the domain's, container's or AVD's name). The gateway
// replaces it by project, guest_name and guest_type.
const Label = "guest"

// Named is the guest label for a runtime name.
func Named(name string) sample.Label { return sample.Label{Name: Label, Value: name} }

// Description is what a node can say about one of its guests without
// measuring it.
type Description struct {
	Name     string  // runtime name
	Kind     string  // Libvirt, Docker or Android
	Running  bool    //
	Image    string  // container image, "" otherwise
	CPUs     float64 // 0 when unknown
	MemoryMB int64   // 0 when unknown
}

// Share turns a guest's cumulative CPU seconds into the share of its limit
// that it used between two readings. The zero value is ready.
type Share struct {
	at    time.Time
	usage float64
}

// Percent takes a reading of usage (CPU seconds since the guest's start) made
// at the moment at, and returns 100 * seconds used / (elapsed * limit) since
// the reading before, with limit in cores. ok is false for the first reading,
// after a reset of the counter, and when the limit is unknown (0).
func (s *Share) Percent(at time.Time, usage, limit float64) (percent float64, ok bool) {
	before := *s
	*s = Share{at: at, usage: usage}
	elapsed := at.Sub(before.at).Seconds()
	if before.at.IsZero() || usage < before.usage || elapsed <= 0 || limit <= 0 {
		return 0, false
	}
	return 100 * (usage - before.usage) / (elapsed * limit), true
}
