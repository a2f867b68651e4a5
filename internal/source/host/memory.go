package host

import (
	"fmt"

	"fanin/internal/sample"
)

func (s *Source) readMeminfo(b *sample.Batch) error {
	m, err := s.proc.Meminfo()
	t := now()
	if err != nil {
		return fmt.Errorf("read meminfo: %w", err)
	}
	f := &s.fixed
	for _, one := range [...]struct {
		series *sample.Series
		bytes  *uint64
	}{
		{f.total, m.MemTotalBytes},
		{f.available, m.MemAvailableBytes},
		{f.free, m.MemFreeBytes},
		{f.cached, m.CachedBytes},
		{f.buffers, m.BuffersBytes},
		{f.swapTotal, m.SwapTotalBytes},
		{f.swapFree, m.SwapFreeBytes},
	} {
		if one.bytes != nil {
			b.Add(one.series, t, float64(*one.bytes))
		}
	}
	if m.MemTotalBytes != nil && m.MemAvailableBytes != nil && *m.MemAvailableBytes <= *m.MemTotalBytes {
		b.Add(f.legacyMemory, t, float64(*m.MemTotalBytes-*m.MemAvailableBytes)/1e9)
	}
	return nil
}

func (s *Source) readLoadavg(b *sample.Batch) error {
	load, err := s.proc.LoadAvg()
	t := now()
	if err != nil {
		return fmt.Errorf("read loadavg: %w", err)
	}
	b.Add(s.fixed.load1, t, load.Load1)
	b.Add(s.fixed.load5, t, load.Load5)
	b.Add(s.fixed.load15, t, load.Load15)
	return nil
}

// resources are the files under /proc/pressure. For the whole system the full
// line of cpu is there since Linux 5.13 and always 0, which means undefined.
var resources = [...]struct {
	file             string
	waiting, stalled *sample.Family
}{
	{"cpu", PressureCPUWaiting, nil},
	{"memory", PressureMemoryWaiting, PressureMemoryStalled},
	{"io", PressureIOWaiting, PressureIOStalled},
}

func (s *Source) readPressure(b *sample.Batch) error {
	for i, r := range resources {
		p, err := s.proc.PSIStatsForResource(r.file)
		t := now()
		if absent(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read pressure: %w", err)
		}
		if p.Some != nil {
			b.Add(s.fixed.waiting[i], t, float64(p.Some.Total)/1e6)
		}
		if p.Full != nil && r.stalled != nil {
			b.Add(s.fixed.stalled[i], t, float64(p.Full.Total)/1e6)
		}
	}
	return nil
}
