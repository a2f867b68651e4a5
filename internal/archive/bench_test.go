package archive

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"fanin/internal/sample"
)

// BenchmarkArchive: an hour of 1,000 series at a sample a second. It tells how
// much memory is in use at most meanwhile.
func BenchmarkArchive(b *testing.B) {
	l := newLab(b)
	l.store.MaxBytes = 1 << 30
	l.wrote = nil // nothing is waited for
	const series, seconds = 1000, 3600
	began := time.Now().Add(-seconds * time.Second)
	all := make([]*sample.Series, series)
	for i := range all {
		f := sample.NewCounter(fmt.Sprintf("guest_some_bytes%d_total", i%50), "bytes", "Some.")
		all[i] = sample.New(f, of(label("device", fmt.Sprint("eth", i)))...)
	}
	for second := range seconds {
		points := make([]sample.Point, series)
		for i, s := range all {
			points[i] = sample.Point{Series: s, T: began.UnixMilli() + int64(second)*1000, V: float64(second*(i+17)) * 1.25}
		}
		l.measure(points...)
	}
	l.collected()
	run := l.ran("r", began.UnixMilli(), time.Now().UnixMilli()-settle.Milliseconds())
	var most atomic.Uint64
	done := make(chan struct{})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				most.Store(max(most.Load(), now.HeapAlloc))
			}
		}
	}()
	bytes := int64(0)
	for b.Loop() {
		answer, err := l.get("/api/v1/runs/" + run.ID + "/archive")
		if err != nil || answer.StatusCode != http.StatusOK {
			b.Fatal(answer, err)
		}
		n, err := io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		bytes = n
	}
	close(done)
	b.ReportMetric(float64(bytes)/(1<<20), "MiB")
	b.ReportMetric(float64(most.Load())/(1<<20)-float64(before.HeapAlloc)/(1<<20), "MiB-more-heap")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(series*seconds), "ns/sample")
}
