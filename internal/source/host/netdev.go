package host

import (
	"bytes"
	"fmt"

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

// deviceColumns are where in a line of /proc/net/dev the values of a series
// stand (proc_net(5)): bytes, packets, errs, drop, fifo, frame, compressed,
// multicast, and the same for what is sent.
var deviceColumns = [8]int{0, 1, 2, 3, 8, 9, 10, 11}

func (s *Source) readNetDev(b *sample.Batch) error {
	content, err := s.files.netDev.read()
	t := now()
	if err != nil {
		return fmt.Errorf("read net/dev: %w", err)
	}
	for len(content) > 0 {
		var l []byte
		l, content = line(content)
		name, rest, found := bytes.Cut(l, []byte(":"))
		if name = bytes.TrimSpace(name); !found {
			continue // the heading
		}
		n := s.devices[string(name)]
		if n == nil {
			n = s.interfaceSeries(string(name))
			s.devices[string(name)] = n
		}
		n.seen = true
		if n.skip {
			continue
		}
		var columns [16]uint64
		if have, ok := readNumbers(rest, columns[:]); !ok || have < len(columns) {
			return fmt.Errorf("read net/dev: the line of %s is malformed", name)
		}
		for i, column := range deviceColumns {
			b.Add(n.series[i], t, float64(columns[column]))
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
