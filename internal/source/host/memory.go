package host

import (
	"bytes"
	"errors"
	"fmt"

	"fanin/internal/sample"
)

// memory is what is read of /proc/meminfo (proc_meminfo(5)), in bytes.
type memory [7]uint64

const (
	memTotal = iota
	memAvailable
	memFree
	memCached
	memBuffers
	swapTotal
	swapFree
)

var memoryFields = [len(memory{})]string{"MemTotal:", "MemAvailable:", "MemFree:", "Cached:", "Buffers:", "SwapTotal:", "SwapFree:"}

// parseMeminfo reports which of the fields there are; ok is false when one of
// them is no number of kB.
func parseMeminfo(b []byte) (m memory, has [len(memory{})]bool, ok bool) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, rest := word(l)
		for i, field := range memoryFields {
			if string(name) != field {
				continue
			}
			w, rest := word(rest)
			n, good := whole(w)
			if unit, _ := word(rest); !good || string(unit) != "kB" || n > 1<<53 {
				return m, has, false
			}
			m[i], has[i] = n*1024, true
		}
	}
	return m, has, true
}

func (s *Source) readMeminfo(b *sample.Batch) error {
	content, err := s.files.meminfo.read()
	t := now()
	if err != nil {
		return fmt.Errorf("read meminfo: %w", err)
	}
	m, has, ok := parseMeminfo(content)
	if !ok || !has[memTotal] {
		return errors.New("read meminfo: it is malformed")
	}
	f := &s.fixed
	for i, series := range [...]*sample.Series{f.total, f.available, f.free, f.cached, f.buffers, f.swapTotal, f.swapFree} {
		if has[i] {
			b.Add(series, t, float64(m[i]))
		}
	}
	if has[memTotal] && has[memAvailable] && m[memAvailable] <= m[memTotal] {
		b.Add(f.legacyMemory, t, float64(m[memTotal]-m[memAvailable])/1e9)
	}
	return nil
}

func parseLoadavg(b []byte) (load [3]float64, ok bool) {
	b, _ = line(b)
	for i := range load {
		var w []byte
		w, b = word(b)
		if load[i], ok = decimal(w); !ok {
			return load, false
		}
	}
	return load, true
}

func (s *Source) readLoadavg(b *sample.Batch) error {
	content, err := s.files.loadavg.read()
	t := now()
	if err != nil {
		return fmt.Errorf("read loadavg: %w", err)
	}
	load, ok := parseLoadavg(content)
	if !ok {
		return errors.New("read loadavg: it is malformed")
	}
	for i, series := range [...]*sample.Series{s.fixed.load1, s.fixed.load5, s.fixed.load15} {
		b.Add(series, t, load[i])
	}
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

// parsePressure reads the totals, in microseconds, of a line "some ..." and a
// line "full ..." (Documentation/accounting/psi.rst).
func parsePressure(b []byte) (some, full uint64, hasSome, hasFull, ok bool) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		kind, rest := word(l)
		if string(kind) != "some" && string(kind) != "full" {
			continue
		}
		_, text, found := bytes.Cut(rest, []byte("total="))
		w, _ := word(text)
		n, good := whole(w)
		if !found || !good {
			return some, full, hasSome, hasFull, false
		}
		if string(kind) == "some" {
			some, hasSome = n, true
		} else {
			full, hasFull = n, true
		}
	}
	return some, full, hasSome, hasFull, true
}

func (s *Source) readPressure(b *sample.Batch) error {
	for i, r := range resources {
		content, err := s.files.pressure[i].read()
		t := now()
		if absent(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read pressure: %w", err)
		}
		some, full, hasSome, hasFull, ok := parsePressure(content)
		if !ok {
			return fmt.Errorf("read pressure: %s is malformed", r.file)
		}
		if hasSome {
			b.Add(s.fixed.waiting[i], t, float64(some)/1e6)
		}
		if hasFull && r.stalled != nil {
			b.Add(s.fixed.stalled[i], t, float64(full)/1e6)
		}
	}
	return nil
}
