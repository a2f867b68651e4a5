package android

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// reason says why a process that looks like an emulator, or a part of one, was
// left out.
type reason int

const (
	skipUntrusted  reason = iota // somebody else's process
	skipContainer                // a process of a container, which is measured as such
	skipBadName                  // the AVD's name is not one that a guest can have
	skipSameName                 // another emulator runs the same AVD
	skipLimit                    // over the limit
	skipUnreadable               // its files could not be read; Sample's error names it
	skipADB                      // the adb server did not answer, or not in time
	skipDevices                  // it has more interfaces than are measured
	skipReasons
)

type skipCounters [skipReasons]atomic.Uint64

// Register exports what the source leaves out.
func (s *Source) Register(r prometheus.Registerer) error {
	s.setup()
	var errs []error
	for i, name := range [skipReasons]string{"untrusted", "container", "bad_name", "same_name", "limit", "unreadable", "adb", "devices"} {
		errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_android_skipped_total",
			Help:        "Processes that look like Android emulators, or parts of them, that were left out, by reason.",
			ConstLabels: prometheus.Labels{"reason": name},
		}, func() float64 { return float64(s.skips[i].Load()) })))
	}
	return errors.Join(errs...)
}
