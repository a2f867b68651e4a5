package verdict

import "fanin/internal/sample"

// kind is what a series tells. The kinds of guests and those of hosts are
// counted apart.
type kind uint8

const (
	usage     kind = iota // seconds on cores, of all of the guest's threads
	throttled             // seconds kept off cores by the guest's own quota, of all cores
	processes             // gauge: threads
	waitCPU               // seconds in which some thread waited
	waitMemory
	waitIO
	vcpuDelay // seconds runnable and not running, of one virtual processor
	vcpuWait  // the same, as the scheduler's statistics have it
	kinds     // of guests, and of hosts
)

const (
	hostWaitCPU kind = iota
	hostWaitMemory
	hostWaitIO
	hostIdle  // seconds of all cores, iowait included
	hostSteal // the same, that another machine was given
	hostBusy  // the same, in every other mode
	hostCPUs  // gauge
	hostLoad  // gauge
)

var ofGuests = map[string]kind{
	"testbed_guest_cpu_usage_seconds_total":               usage,
	"testbed_guest_cpu_throttled_seconds_total":           throttled,
	"testbed_guest_processes":                             processes,
	"testbed_guest_pressure_cpu_waiting_seconds_total":    waitCPU,
	"testbed_guest_pressure_memory_waiting_seconds_total": waitMemory,
	"testbed_guest_pressure_io_waiting_seconds_total":     waitIO,
	"testbed_guest_vcpu_delay_seconds_total":              vcpuDelay,
	"testbed_guest_vcpu_wait_seconds_total":               vcpuWait,
}

const hostSeconds = "testbed_host_cpu_seconds_total"

var ofHosts = map[string]kind{
	"testbed_host_pressure_cpu_waiting_seconds_total":    hostWaitCPU,
	"testbed_host_pressure_memory_waiting_seconds_total": hostWaitMemory,
	"testbed_host_pressure_io_waiting_seconds_total":     hostWaitIO,
	hostSeconds:          hostBusy,
	"testbed_host_cpus":  hostCPUs,
	"testbed_host_load1": hostLoad,
}

// Wanted reports whether verdicts are made of a series.
func Wanted(s *sample.Series) bool {
	_, guest := ofGuests[s.Name()]
	_, host := ofHosts[s.Name()]
	return guest || host
}

func hostKind(s *sample.Series) (kind, bool) {
	k, ok := ofHosts[s.Name()]
	if s.Name() == hostSeconds {
		switch s.Label("mode") {
		case "idle", "iowait":
			k = hostIdle
		case "steal":
			k = hostSteal
		}
	}
	return k, ok
}
