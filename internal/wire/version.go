package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// VersionOf finds the version of a body that this package has made, without
// decompressing it: by its first byte, which a snappy block always has as it
// is.
func VersionOf(body []byte) Version {
	_, n := binary.Uvarint(body)
	if n <= 0 || len(body) <= n {
		return V1
	}
	at := n + 1
	if size := body[n] >> 2; size >= 60 { // a long literal, whose length follows
		at += int(size) - 59
	}
	if at < len(body) && body[at] == request2Symbols<<3|wireBytes {
		return V2
	}
	return V1
}

// Downgrade makes a body of version 1 out of one of version 2, for a receiver
// that takes no other.
func Downgrade(body []byte) ([]byte, error) {
	d := Decoder{Limits: Limits{Decoded: maxSplit, Series: maxSplit, Samples: maxSplit, Labels: maxSplit}}
	r, err := d.Decode(body, &Memory{Version: V2})
	if err != nil {
		return nil, err
	}
	var w prompb.WriteRequest
	told := map[string]bool{}
	r.EachSeries(func(s *Series) {
		var series prompb.TimeSeries
		labels, _ := s.Labels()
		for _, l := range labels {
			series.Labels = append(series.Labels, prompb.Label{Name: string(l.Name), Value: string(l.Value)})
		}
		for _, p := range s.Points {
			series.Samples = append(series.Samples, prompb.Sample{Timestamp: p.T, Value: p.V})
		}
		w.Timeseries = append(w.Timeseries, series)
		if m, ok := s.Metadata(); ok && !told[string(m.Family)] {
			told[string(m.Family)] = true
			w.Metadata = append(w.Metadata, prompb.MetricMetadata{
				Type: prompb.MetricMetadata_MetricType(m.Type), MetricFamilyName: string(m.Family), Help: string(m.Help), Unit: string(m.Unit),
			})
		}
	})
	raw, err := w.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode remote-write body: %w", err)
	}
	return snappy.Encode(nil, raw), nil
}
