package host

import (
	"fmt"

	"github.com/prometheus/procfs"

	"fanin/internal/sample"
)

// interfaceSeries are the series of one interface, in the order of values.
type interfaceSeries struct {
	skip   bool
	seen   bool
	series [8]*sample.Series
}

func (s *Source) interfaceSeries(name string) *interfaceSeries {
	if s.SkipInterfaces.MatchString(name) {
		return &interfaceSeries{skip: true}
	}
	n := new(interfaceSeries)
	for i, f := range [...]*sample.Family{
		ReceiveBytes, ReceivePackets, ReceiveErrors, ReceiveDrops,
		TransmitBytes, TransmitPackets, TransmitErrors, TransmitDrops,
	} {
		n.series[i] = sample.New(f, sample.Label{Name: "device", Value: name})
	}
	return n
}

func (s *Source) readNetDev(b *sample.Batch) error {
	devices, err := s.netDev()
	t := now()
	if err != nil {
		return fmt.Errorf("read net/dev: %w", err)
	}
	for name, d := range devices {
		n := s.devices[name]
		if n == nil {
			n = s.interfaceSeries(name)
			s.devices[name] = n
		}
		n.seen = true
		if n.skip {
			continue
		}
		for i, v := range [...]uint64{
			d.RxBytes, d.RxPackets, d.RxErrors, d.RxDropped,
			d.TxBytes, d.TxPackets, d.TxErrors, d.TxDropped,
		} {
			b.Add(n.series[i], t, float64(v))
		}
	}
	for name, n := range s.devices {
		if !n.seen {
			delete(s.devices, name)
		}
		n.seen = false
	}
	return nil
}

// netDev reads the host's interfaces. net is a link to the reader's own
// network, so that in a container the first process is asked instead.
func (s *Source) netDev() (procfs.NetDev, error) {
	if !s.foreign() {
		return s.proc.NetDev()
	}
	first, err := s.proc.Proc(1)
	if err != nil {
		return nil, err
	}
	return first.NetDev()
}
