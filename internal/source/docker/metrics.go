package docker

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Why a container was left out of a sample or of the list.
const (
	skipGone      = iota // its group vanished between list and reading
	skipBroken           // its files could not be read; Sample's error names it
	skipNameless         // the engine gave no name for it
	skipSameName         // another one has its name
	skipLimit            // over the limit
	skipNoProcess        // its process is not visible from here: no network, no start time
	skipDevices          // it has more interfaces than are measured
	skipReasons
)

type skipCounters [skipReasons]atomic.Uint64

// Register exports what the source leaves out and how often it has had to
// look for the engine again.
func (s *Source) Register(r prometheus.Registerer) error {
	var errs []error
	for i, reason := range [skipReasons]string{"gone", "broken", "nameless", "same_name", "limit", "no_process", "devices"} {
		errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_docker_skipped_total",
			Help:        "Containers, or parts of them, that were left out, by reason.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(s.skips[i].Load()) })))
	}
	errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "fanin_docker_reconnects_total",
		Help: "How often the connection to the Docker engine ended or could not be made.",
	}, func() float64 { return float64(s.retries.Load()) })))
	return errors.Join(errs...)
}
