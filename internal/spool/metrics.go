package spool

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operations that may fail on a directory.
var operations = [...]string{"write", "read", "position", "remove"}

func (s *Spool) countFailure(operation string) {
	s.mu.Lock()
	s.failures[operation]++
	s.mu.Unlock()
}

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
		memory:    desc("fanin_spool_memory_bytes", "How much of this is in memory only, because the disk can not be written to."),
		disk:      desc("fanin_spool_disk_bytes", "What the spool's files take up, those parts that are delivered included."),
		failures:  desc("fanin_spool_failures_total", "Operations on the spool's directory that failed, by operation.", "operation"),
		limit:     desc("fanin_spool_limit_bytes", "What they may take up at the most."),
		age:       desc("fanin_spool_oldest_age_seconds", "How long the oldest record has been waiting; absent when there is none."),
	})
}

type collector struct {
	spool *Spool

	committed, delivered, dropped, refused, pending *prometheus.Desc

	records, bytes, memory, disk, limit, age, failures *prometheus.Desc
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.committed, c.delivered, c.dropped, c.refused, c.pending, c.records, c.bytes, c.memory, c.disk, c.limit, c.age, c.failures} {
		to <- d
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	l := c.spool.Ledger()
	c.spool.mu.Lock()
	onDisk, failures := c.spool.onDisk, maps.Clone(c.spool.failures)
	c.spool.mu.Unlock()
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
	gauge(c.memory, float64(l.Memory))
	gauge(c.disk, float64(onDisk))
	for _, operation := range slices.Sorted(maps.Keys(failures)) {
		counter(c.failures, failures[operation], operation)
	}
	gauge(c.limit, float64(c.spool.maxBytes))
	if !l.Oldest.IsZero() {
		gauge(c.age, time.Since(l.Oldest).Seconds())
	}
}
