package ingest

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests        *prometheus.CounterVec
	unauthenticated prometheus.Counter
	stored          *prometheus.CounterVec
	duplicates      *prometheus.CounterVec
	refused         *prometheus.CounterVec
}

func newMetrics() metrics {
	return metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fanin_ingest_requests_total", Help: "Pushes by status code of the answer.",
		}, []string{"code"}),
		unauthenticated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fanin_ingest_unauthenticated_total", Help: "Pushes refused for want of valid credentials.",
		}),
		stored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fanin_ingest_samples_total", Help: "Samples taken into the window, by sending host; senders outside the cluster are unknown.",
		}, []string{"node"}),
		duplicates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fanin_ingest_duplicate_samples_total", Help: "Samples that had been taken before.",
		}, []string{"node"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fanin_ingest_refused_samples_total", Help: "Samples refused, by sending host and reason.",
		}, []string{"node", "reason"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.unauthenticated, m.stored, m.duplicates, m.refused} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}
