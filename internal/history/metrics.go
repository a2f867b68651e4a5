package history

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// counts are the history's own metrics.
type counts struct {
	samples prometheus.Counter
	refused *prometheus.CounterVec
	damaged *prometheus.CounterVec
	queries *prometheus.CounterVec
	up      atomic.Bool
	size    atomic.Int64

	mu     sync.Mutex
	caught time.Time // when all that the window had was written
}

func (c *counts) init() {
	c.samples = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fanin_history_samples_total", Help: "Samples written to the history, also those that it had before.",
	})
	c.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanin_history_refused_samples_total", Help: "Samples that the history does not take, by reason: too_old, duplicate (another value at that time is there), too_many (a new series, and there is no room in memory), invalid.",
	}, []string{"reason"})
	for _, reason := range []string{reasonTooOld, reasonDuplicate, reasonTooMany, reasonInvalid} {
		c.refused.WithLabelValues(reason)
	}
	c.damaged = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanin_history_damaged_total", Help: "Damaged parts of the history that were set aside, by what they were: block, wal, wbl, chunks, database; future: what was written while the clock was ahead.",
	}, []string{"part"})
	for _, part := range []string{partBlock, partLog, partLateLog, partChunks, partDatabase, partFuture} {
		c.damaged.WithLabelValues(part)
	}
	c.queries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanin_history_queries_total", Help: "Requests to the query API, by what came of them: success or the type of the error.",
	}, []string{"outcome"})
	c.queries.WithLabelValues("success")
	c.caught = time.Now()
}

// collected notes a commit, and whether nothing was left then.
func (c *counts) collected(now time.Time, all bool) {
	if all {
		c.mu.Lock()
		c.caught = now
		c.mu.Unlock()
	}
}

// behind is for how long something has been waiting.
func (c *counts) behind(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, now.Sub(c.caught))
}

// Register adds the history's metrics.
func (h *History) Register(registerer prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{
		h.counts.samples, h.counts.refused, h.counts.damaged, h.counts.queries,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fanin_history_up", Help: "1 while the history is open and could be written to the last time.",
		}, func() float64 {
			if h.base.ready() && h.counts.up.Load() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fanin_history_behind_seconds", Help: "For how long there have been samples that are not in the history yet.",
		}, func() float64 { return h.counts.behind(time.Now()).Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fanin_history_series", Help: "Series of the last two to three hours, which are in memory.",
		}, func() float64 { return float64(h.base.head()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fanin_history_size_bytes", Help: "What the history takes on disk, what was set aside included, looked at once a minute.",
		}, func() float64 { return float64(h.counts.size.Load()) }),
	} {
		if err := registerer.Register(c); err != nil {
			return err
		}
	}
	return nil
}
