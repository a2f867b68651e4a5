package presence

import (
	"fmt"
	"testing"
	"time"

	"fanin/internal/sample"
)

// BenchmarkReport is what each page asks for: hosts and guests against what was
// heard, and the points that say it.
func BenchmarkReport(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("guests=%d", n), func(b *testing.B) {
			names := make([]string, n)
			for i := range names {
				names[i] = fmt.Sprintf("web-%d@h%d", i, 1+i%2)
			}
			roster := roster(b, names...)
			var book Book
			book.HostHeard("h1", start, time.Second)
			book.HostHeard("h2", start, time.Second)
			var owners []*sample.Owner
			for i := range n {
				owners = append(owners, new(owner(fmt.Sprint("web-", i), fmt.Sprint("h", 1+i%2))))
			}
			book.GuestsHeard(owners, start)
			now := start.Add(time.Second)
			points := 0
			b.ReportAllocs()
			for b.Loop() {
				points = len(book.Report(roster, now).Points())
			}
			if points < n {
				b.Fatalf("%d points, want at least %d", points, n)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/guest")
		})
	}
}

// BenchmarkHeard is the word of bodies on 40 guests each, of many.
func BenchmarkHeard(b *testing.B) {
	var book Book
	owners := make([]*sample.Owner, 10_000)
	for i := range owners {
		owners[i] = new(owner(fmt.Sprint("web-", i), "h1"))
	}
	book.GuestsHeard(owners, start)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		at := n % (len(owners) / 40) * 40
		book.GuestsHeard(owners[at:at+40], start)
		n++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*40), "ns/guest")
}
