package verdict

import (
	"fmt"
	"testing"
	"time"

	"fanin/internal/sample"
)

// ofFleet are the wanted series of 2,000 guests on one host, as a gateway of
// 100,000 series has them, and a bench that knows the guests.
func ofFleet(b *testing.B) (*bench, []*sample.Series) {
	b.Helper()
	names := make([]string, 2000)
	for i := range names {
		names[i] = fmt.Sprintf("web-%d@h1", i)
	}
	t := newBench(b, names...)
	var all []*sample.Series
	for i := range names {
		labels := sample.NewLabels(sample.Label{Name: sample.HostName, Value: "h1"}, sample.Label{Name: sample.Project, Value: "signal"},
			sample.Label{Name: sample.GuestName, Value: fmt.Sprint("web-", i)}, sample.Label{Name: sample.GuestType, Value: "docker"})
		for name, kind := range ofGuests {
			if kind < vcpuDelay {
				all = append(all, labels.Of(&sample.Family{Name: name}, name))
			}
		}
	}
	return t, all
}

// tick brings a point of each.
func (b *bench) tick(all []*sample.Series, points []sample.Point) []sample.Point {
	b.now = b.now.Add(time.Second)
	if len(points) == 0 {
		for _, s := range all {
			points = append(points, sample.Point{Series: s, T: start.UnixMilli()})
		}
	}
	for i := range points {
		points[i].T += 1000
		points[i].V += 0.25
	}
	b.handed = append(b.handed[:0], points...)
	b.waiting = b.handed
	return points
}

// BenchmarkCollect is what comes in a second from 2,000 containers; a series of
// 100,000 is one of theirs in eight.
func BenchmarkCollect(b *testing.B) {
	t, all := ofFleet(b)
	var points []sample.Point
	b.ReportAllocs()
	for b.Loop() {
		points = t.tick(all, points)
		t.judge.Collect(t.now)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(all)), "ns/point")
}

// BenchmarkVerdicts is the verdicts on 2,000 containers, and the points that say
// them, as each page has them.
func BenchmarkVerdicts(b *testing.B) {
	t, all := ofFleet(b)
	var arrived, points []sample.Point
	for range 20 {
		arrived = t.tick(all, arrived)
		t.judge.Collect(t.now)
	}
	for i := range 2000 {
		t.hears(fmt.Sprint("web-", i))
	}
	report := t.book.Report(t.roster, t.now)
	b.ReportAllocs()
	for b.Loop() {
		t.judge.made = nil
		points = t.judge.Verdicts(report).AppendPoints(points[:0])
	}
	if len(points) < 2000*2 {
		b.Fatalf("%d points", len(points))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2000), "ns/guest")
	b.ReportMetric(float64(len(points))/2000, "points/guest")
}
