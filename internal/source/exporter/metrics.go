package exporter

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/sample"
)

// What is said of every target, beside what is on its page.
var (
	Up       = sample.NewGauge("testbed_guest_exporter_up", "", "1 when the guest's page of metrics was taken, 0 with a reason otherwise.")
	Duration = sample.NewGauge("testbed_guest_exporter_scrape_duration_seconds", "seconds", "How long the last scrape of the guest's page of metrics took.")
	Series   = sample.NewGauge("testbed_guest_exporter_series", "", "How many series were taken from the guest's page of metrics.")
)

// counts are the source's own.
type counts struct {
	scrapes [reasons]atomic.Uint64
	omitted [omissions]atomic.Uint64
}

// Register exports what the source has done and left out.
func (s *Source) Register(r prometheus.Registerer) error {
	s.setup()
	var errs []error
	for i := range s.counts.scrapes {
		outcome := reason(i).String()
		if reason(i) == fine {
			outcome = "ok"
		}
		errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_exporter_scrapes_total",
			Help:        "Scrapes of guests' pages of metrics, by what came of them.",
			ConstLabels: prometheus.Labels{"outcome": outcome},
		}, func() float64 { return float64(s.counts.scrapes[i].Load()) })))
	}
	for o := reservedName; o < badGuest; o++ {
		errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_exporter_samples_omitted_total",
			Help:        "Samples on guests' pages of metrics that were left out, by reason.",
			ConstLabels: prometheus.Labels{"reason": o.String()},
		}, func() float64 { return float64(s.counts.omitted[o].Load()) })))
	}
	for o := badGuest; o < omissions; o++ {
		errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_exporter_targets_omitted_total",
			Help:        "Pages of metrics in guests that somebody named and that are not scraped, by reason.",
			ConstLabels: prometheus.Labels{"reason": o.String()},
		}, func() float64 { return float64(s.counts.omitted[o].Load()) })))
	}
	errs = append(errs, r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fanin_exporter_targets",
		Help: "Pages of metrics in guests that are being scraped.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.workers))
	})))
	return errors.Join(errs...)
}
