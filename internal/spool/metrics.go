package spool

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Register exports the ledger. All its numbers are of one moment, so that it
// balances on every page.
func (s *Spool) Register(r prometheus.Registerer) error {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return r.Register(&collector{
		spool:     s,
		committed: desc("fanin_samples_committed_total", "Samples that the spool took: those delivered, dropped, refused and pending."),
		delivered: desc("fanin_samples_delivered_total", "Samples that the receiver took."),
		dropped:   desc("fanin_samples_dropped_total", "Samples that were given up before the receiver took them, by reason.", "reason"),
		refused:   desc("fanin_samples_refused_total", "Samples that the receiver did not want, by the reason it gave.", "reason"),
		pending:   desc("fanin_samples_pending", "Samples that wait for delivery."),
		records:   desc("fanin_spool_records", "Records that wait for delivery."),
		bytes:     desc("fanin_spool_bytes", "What the records that wait for delivery take up."),
		limit:     desc("fanin_spool_limit_bytes", "What they may take up at the most."),
		age:       desc("fanin_spool_oldest_age_seconds", "How long the oldest record has been waiting; absent when there is none."),
	})
}

type collector struct {
	spool                                                                       *Spool
	committed, delivered, dropped, refused, pending, records, bytes, limit, age *prometheus.Desc
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.committed, c.delivered, c.dropped, c.refused, c.pending, c.records, c.bytes, c.limit, c.age} {
		to <- d
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	l := c.spool.Ledger()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter(c.committed, l.Committed)
	counter(c.delivered, l.Delivered)
	for _, reason := range slices.Sorted(maps.Keys(l.Dropped)) {
		counter(c.dropped, l.Dropped[reason], reason)
	}
	for _, reason := range slices.Sorted(maps.Keys(l.Refused)) {
		counter(c.refused, l.Refused[reason], reason)
	}
	gauge(c.pending, float64(l.Pending))
	gauge(c.records, float64(l.Records))
	gauge(c.bytes, float64(l.Bytes))
	gauge(c.limit, float64(c.spool.maxBytes))
	if !l.Oldest.IsZero() {
		gauge(c.age, time.Since(l.Oldest).Seconds())
	}
}
