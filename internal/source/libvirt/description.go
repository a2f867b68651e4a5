//go:build cgo

package libvirt

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// state is a domain's state in the words of the reason and state labels.
type state string

const (
	running   state = "running"
	paused    state = "paused"
	stopped   state = "stopped"
	crashed   state = "crashed"
	suspended state = "suspended" // by the guest itself (S3)
)

// states are all of them, in the order in which they are counted.
func states() [5]state { return [...]state{running, paused, stopped, crashed, suspended} }

// description is what libvirt says about a domain. It is immutable.
type description struct {
	uuid, name string
	id         int // of this run, -1 when the domain does not run
	state      state
	persistent bool
	definition
}

func (d *description) equal(o *description) bool {
	return d.uuid == o.uuid && d.name == o.name && d.id == o.id && d.state == o.state &&
		d.persistent == o.persistent && d.definition.equal(&o.definition)
}

// definition is what is read of a domain's XML
// (https://libvirt.org/formatdomain.html).
type definition struct {
	vcpus  int     // present now; 0 when unknown
	memory float64 // bytes the balloon leaves to the guest; 0 when unknown
	nics   []nic

	balloon bool          // there is a balloon device, with a driver in the guest or without
	period  time.Duration // how often libvirt has its driver asked; 0: not after the boot
}

func (d *definition) equal(o *definition) bool {
	return d.vcpus == o.vcpus && d.memory == o.memory && slices.Equal(d.nics, o.nics) &&
		d.balloon == o.balloon && d.period == o.period
}

// nic is one network interface that has a device on the host.
type nic struct {
	device string
	// direct: a macvtap, whose counters are the guest's own. A tap is the
	// other end of the cable: what the host sends there the guest receives.
	direct bool
}

func parseDefinition(b []byte) (definition, error) {
	var x struct {
		Memory        xmlSize `xml:"memory"`
		CurrentMemory xmlSize `xml:"currentMemory"`
		VCPU          struct {
			Current string `xml:"current,attr"`
			Text    string `xml:",chardata"`
		} `xml:"vcpu"`
		Devices struct {
			Interfaces []struct {
				Type   string `xml:"type,attr"`
				Target struct {
					Dev string `xml:"dev,attr"`
				} `xml:"target"`
			} `xml:"interface"`
			Balloon struct {
				Model string `xml:"model,attr"`
				Stats struct {
					Period string `xml:"period,attr"`
				} `xml:"stats"`
			} `xml:"memballoon"`
		} `xml:"devices"`
	}
	if err := xml.Unmarshal(b, &x); err != nil {
		return definition{}, fmt.Errorf("domain XML: %w", err)
	}
	var d definition
	count := x.VCPU.Current
	if count == "" {
		count = strings.TrimSpace(x.VCPU.Text)
	}
	if n, err := strconv.ParseUint(count, 10, 31); err == nil {
		d.vcpus = int(n)
	}
	d.memory = x.CurrentMemory.bytes()
	if d.memory == 0 {
		d.memory = x.Memory.bytes()
	}
	for _, i := range x.Devices.Interfaces {
		n := nic{device: i.Target.Dev, direct: i.Type == "direct"}
		if n.device != "" && !slices.ContainsFunc(d.nics, func(o nic) bool { return o.device == n.device }) {
			d.nics = append(d.nics, n)
		}
	}
	d.balloon = x.Devices.Balloon.Model != "" && x.Devices.Balloon.Model != "none"
	if n, err := strconv.ParseUint(x.Devices.Balloon.Stats.Period, 10, 31); err == nil {
		d.period = time.Duration(n) * time.Second
	}
	return d, nil
}

// xmlSize is a scaled integer of libvirt.
type xmlSize struct {
	Unit string `xml:"unit,attr"`
	Text string `xml:",chardata"`
}

// bytes is 0 for what can not be understood.
func (s xmlSize) bytes() float64 {
	n, err := strconv.ParseUint(strings.TrimSpace(s.Text), 10, 63)
	if err != nil {
		return 0
	}
	scale := 1024.0 // the unit when none is written
	switch unit := strings.ToLower(s.Unit); unit {
	case "":
	case "b", "bytes":
		scale = 1
	default:
		power := strings.IndexByte("kmgtpe", unit[0]) + 1
		switch {
		case power == 0:
			return 0
		case unit[1:] == "" || unit[1:] == "ib":
			scale = math.Pow(1024, float64(power))
		case unit[1:] == "b":
			scale = math.Pow(1000, float64(power))
		default:
			return 0
		}
	}
	return float64(n) * scale
}
