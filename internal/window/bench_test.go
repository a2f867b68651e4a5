package window

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"fanin/internal/sample"
)

func many(n int) []*sample.Series {
	all := make([]*sample.Series, n)
	for i := range all {
		all[i] = sample.New(cpu, sample.Label{Name: sample.HostName, Value: fmt.Sprint("client-", i/2000)}, sample.Label{Name: sample.GuestName, Value: fmt.Sprint("guest-", i/50)},
			sample.Label{Name: sample.GuestType, Value: "docker"}, sample.Label{Name: sample.Project, Value: "signal"}, sample.Label{Name: "i", Value: fmt.Sprint(i % 50)})
	}
	return all
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// 100,000 series of 50 nodes, 2,000 points a batch.
func BenchmarkAppend(b *testing.B) { benchmarkAppend(b, nil) }

// BenchmarkAppendWatched is the same with one series in eight watched, and asked
// for once a round.
func BenchmarkAppendWatched(b *testing.B) {
	benchmarkAppend(b, func(s *sample.Series) bool { return s.Label("i") < "14" })
}

func benchmarkAppend(b *testing.B, watch func(*sample.Series) bool) {
	all := many(100_000)
	s := Store{Grace: time.Nanosecond, Watch: watch} // nobody reads, nobody is waited for
	var watched []sample.Point
	s.Sweep(start.Add(-time.Second), anyone)
	points := make([]sample.Point, 2000)
	round := int64(0)
	before := heap()
	tick := func() {
		round++
		for n := 0; n < len(all); n += len(points) {
			for i := range points {
				points[i] = sample.Point{Series: all[n+i], T: round * 1000, V: float64(i)}
			}
			if k, _, err := s.Append(points, start, time.Minute, nil); k != len(points) || err != nil {
				b.Fatal(k, err)
			}
		}
		watched = s.Watched(watched)
	}
	tick()
	one := heap()
	for range 10 {
		tick()
	}
	perPoint := float64(heap()-one) / float64(10*len(all))
	b.ReportAllocs()
	for b.Loop() {
		tick()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/point")
	b.ReportMetric(perPoint, "B/point")
	b.ReportMetric(float64(one-before)/float64(len(all))-perPoint, "B/series")
}

func BenchmarkPage(b *testing.B) {
	all := many(100_000)
	var s Store
	points := make([]sample.Point, 2000)
	const rounds = 10
	for round := range int64(rounds) {
		for n := 0; n < len(all); n += len(points) {
			for i := range points {
				points[i] = sample.Point{Series: all[n+i], T: round*1000 + 1, V: float64(i)}
			}
			s.Append(points, start, time.Minute, nil)
		}
	}
	var dst []sample.Point
	b.ReportAllocs()
	for b.Loop() {
		p, err := s.Next(dst, first, Request{Now: start, MaxPoints: 1 << 30})
		if err != nil || len(p.Points) != rounds*len(all) {
			b.Fatal(err, len(p.Points))
		}
		dst = p.Points
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rounds*len(all)), "ns/point")
}
