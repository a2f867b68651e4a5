package wire

import "testing"

// What a pusher does for a receiver that takes no version 2, and with a body
// that was too large: 2,000 series.
func BenchmarkConvert(b *testing.B) {
	ps := tick()
	body := encode(b, V2, ps)
	old := encode(b, V1, ps)
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"downgrade", func() error { _, err := Downgrade(body); return err }},
		{"split/version=" + V1.String(), func() error { _, _, err := Split(old); return err }},
		{"split/version=" + V2.String(), func() error { _, _, err := Split(body); return err }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.do(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ps)), "ns/sample")
		})
	}
}
