package history

import (
	"runtime"
	"testing"
	"time"

	"fanin/internal/sample"
)

// BenchmarkCollect stores a sample of each of 20,000 series a second, as the
// history of 20,000 samples/s does, without the window's own part. One
// iteration is one second; ns/sample is the whole of it, the sync of the log
// included.
func BenchmarkCollect(b *testing.B) {
	const series = 20_000
	p := begin(b, b.TempDir(), Options{})
	batch := make([]sample.Point, series)
	at := time.Now().Add(-time.Hour).UnixMilli()
	for i := range batch {
		batch[i].Series = testSeries(i)
	}
	second := func() {
		at += 1000
		for i := range batch {
			batch[i].T, batch[i].V = at, float64(i)+float64(at%1_000_000)*0.001
		}
		if err := p.write(func(a *appending) { p.appendPage(a, batch) }); err != nil {
			b.Fatal(err)
		}
	}
	second()
	b.ReportAllocs()
	for b.Loop() {
		second()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/series, "ns/sample")
}

// BenchmarkSeries says what a series takes in memory once it has been there
// for so many minutes, at a sample a second.
func BenchmarkSeries(b *testing.B) {
	for _, form := range []struct {
		name            string
		series, minutes int
	}{{"10m", 20_000, 10}, {"3h", 2_000, 179}} {
		b.Run(form.name, func(b *testing.B) {
			for b.Loop() {
				p := begin(b, b.TempDir(), Options{})
				series := make([]*sample.Series, form.series)
				for i := range series {
					series[i] = testSeries(i)
				}
				before := heap()
				at := time.Now().Add(-4 * time.Hour)
				for range form.minutes {
					for i := 0; i < len(series); i += 1000 {
						if err := p.write(func(a *appending) { p.appendPage(a, minute(series[i:i+1000], at)) }); err != nil {
							b.Fatal(err)
						}
					}
					at = at.Add(time.Minute)
					p.base.db.ForceHeadMMap()
				}
				b.ReportMetric(float64(heap()-before)/float64(form.series), "B/series")
				b.ReportMetric(float64(folderSize(p.Path))/float64(form.series*form.minutes*60), "disk-B/sample")
				p.stop()
			}
		})
	}
}

// minute are points of series for a minute, a second apart.
func minute(of []*sample.Series, at time.Time) (all []sample.Point) {
	for i, s := range of {
		for k := range 60 {
			all = append(all, sample.Point{Series: s, T: at.UnixMilli() + int64(k)*1000, V: float64(i) + float64(k)*0.1})
		}
	}
	return all
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
