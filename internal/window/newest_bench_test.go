package window

import (
	"fmt"
	"testing"
	"time"

	"fanin/internal/sample"
)

// filled is a window in which each series has one point. Somebody reads, so
// that it stays small.
func filled(b *testing.B, all []*sample.Series) *Store {
	b.Helper()
	s := &Store{Expected: []ReaderID{first}, MaxSeries: len(all)}
	points := make([]sample.Point, 0, 2000)
	for i, one := range all {
		points = append(points, sample.Point{Series: one, T: 1000, V: float64(i)})
		if len(points) == cap(points) || i == len(all)-1 {
			if k, _, err := s.Append(points, start, time.Minute, nil); k != len(points) || err != nil {
				b.Fatal(k, err)
			}
			points = points[:0]
		}
	}
	return s
}

// BenchmarkNewest is the newest point of each of 100,000 series, in the order of
// a page.
func BenchmarkNewest(b *testing.B) {
	all := many(100_000)
	s := filled(b, all)
	var dst []sample.Point
	b.ReportAllocs()
	for b.Loop() {
		if dst = s.Newest(dst[:0], nil); len(dst) != len(all) {
			b.Fatalf("%d points, want %d", len(dst), len(all))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/series")
}

// BenchmarkSweep is what the gateway does each second, with nothing to end.
func BenchmarkSweep(b *testing.B) {
	all := many(100_000)
	s := filled(b, all)
	b.ReportAllocs()
	for b.Loop() {
		if n := s.Sweep(start.Add(time.Second), anyone); n != len(all) {
			b.Fatalf("%d series are left, want %d", n, len(all))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/series")
}

// BenchmarkNewSeries is a series' first point, and the first page with it, as
// that is when new ones are put in order.
func BenchmarkNewSeries(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("series=%d", n), func(b *testing.B) {
			all := many(n)
			b.ReportAllocs()
			for b.Loop() {
				if got := len(filled(b, all).Newest(nil, nil)); got != n {
					b.Fatalf("%d points, want %d", got, n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/series")
		})
	}
}
