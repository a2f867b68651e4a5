package runs

import "github.com/prometheus/client_golang/prometheus"

// counts are the records' own metrics.
type counts struct {
	started, marks, deleted, failures, damaged prometheus.Counter
	ended, refused                             *prometheus.CounterVec
}

func (c *counts) init() {
	c.started = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fanin_runs_started_total", Help: "Runs that were started.",
	})
	c.marks = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fanin_runs_marks_total", Help: "Marks that were added to runs.",
	})
	c.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanin_runs_ended_total", Help: "Runs that have ended, by reason: stopped, deployment_inactive.",
	}, []string{"reason"})
	for _, reason := range []string{Stopped, Inactive} {
		c.ended.WithLabelValues(reason)
	}
	c.deleted = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fanin_runs_deleted_total", Help: "Runs whose records were deleted.",
	})
	c.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fanin_runs_write_failures_total", Help: "Changes of runs that could not be written to the disk, and were refused.",
	})
	c.damaged = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fanin_runs_damaged_total", Help: "Records of runs that were damaged and set aside.",
	})
	c.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanin_runs_refused_requests_total", Help: "Requests about runs that were refused, by HTTP status.",
	}, []string{"code"})
}

// Register adds the records' metrics.
func (r *Records) Register(registerer prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{
		r.counts.started, r.counts.marks, r.counts.ended, r.counts.deleted, r.counts.failures, r.counts.damaged, r.counts.refused,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fanin_runs", Help: "Runs whose records are kept.",
		}, func() float64 {
			r.mu.RLock()
			defer r.mu.RUnlock()
			return float64(len(r.byID))
		}),
	} {
		if err := registerer.Register(c); err != nil {
			return err
		}
	}
	return nil
}
