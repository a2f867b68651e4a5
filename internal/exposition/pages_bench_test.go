package exposition

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"fanin/internal/sample"
	"fanin/internal/window"
)

// fetched is an answer of which only the size is kept.
type fetched struct {
	header http.Header
	code   int
	bytes  int
}

func (f *fetched) Header() http.Header  { return f.header }
func (f *fetched) WriteHeader(code int) { f.code = code }

func (f *fetched) Write(b []byte) (int, error) {
	f.bytes += len(b)
	return len(b), nil
}

// guests are series of 25 families on 2,000 guests, in the order in which nodes
// say them.
func guests(n int) []*sample.Series {
	families := make([]*sample.Family, 25)
	for i := range families {
		families[i] = sample.NewCounter(fmt.Sprintf("testbed_guest_network_receive_%c_bytes_total", 'a'+i), "bytes", "Bytes received by the guest on one of its interfaces.")
	}
	all := make([]*sample.Series, n)
	for i := range all {
		guest := i / (n / 2000)
		all[i] = sample.New(families[i%25], label("device", fmt.Sprint("eth", i/25%2)), label("guest_name", fmt.Sprint("web-", guest)),
			label("guest_type", "docker"), label("host_name", fmt.Sprint("node-", guest/40)), label("project", "signal"))
	}
	return all
}

// BenchmarkPages is a scrape of 100,000 series, HTTP left out: the newest point
// of each for whoever asks, and for a reader that must have everything one point
// or ten of each since its last page.
func BenchmarkPages(b *testing.B) {
	const n = 100_000
	all := guests(n)
	for _, c := range []struct {
		name, query, accept, encoding string
		rounds                        int64 // of points since the last page
	}{
		{"newest/format=text", "", "text/plain", "", 0},
		{"newest/format=gzip", "", "text/plain", "gzip", 0},
		{"newest/format=openmetrics", "", "application/openmetrics-text;version=1.0.0", "", 0},
		{"newest/format=protobuf", "", delimited, "", 0},
		{"reader/format=text/points=1", "?scraper=a", "text/plain", "", 1},
		{"reader/format=protobuf/points=1", "?scraper=a", delimited, "", 1},
		{"reader/format=text/points=10", "?scraper=a", "text/plain", "", 10},
		{"reader/format=protobuf/points=10", "?scraper=a", delimited, "", 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			store := &window.Store{Expected: []window.ReaderID{{Name: "a", Path: "/"}}}
			p := &Pages{Window: store, Now: func() []sample.Point { return nil }, MaxPoints: 10 * n}
			handler := p.Handler(nil)
			round := time.Now().Add(-30*time.Minute).UnixMilli() / 100
			append1 := func() {
				round++
				points := make([]sample.Point, 0, 2000)
				for i, s := range all {
					points = append(points, sample.Point{Series: s, T: 100 * round, V: float64(i)*1.25 + float64(round)})
					if len(points) == cap(points) {
						if k, _, err := store.Append(points, time.Now(), time.Hour, nil); k != len(points) || err != nil {
							b.Fatal(k, err)
						}
						points = points[:0]
					}
				}
			}
			size := 0
			fetch := func() {
				r := httptest.NewRequest(http.MethodGet, "/"+c.query, nil)
				r.Header.Set("Accept", c.accept)
				r.Header.Set("Accept-Encoding", c.encoding)
				w := &fetched{header: http.Header{}, code: http.StatusOK}
				handler.ServeHTTP(w, r)
				if size = w.bytes; w.code != http.StatusOK || size < n {
					b.Fatalf("status %d, %d bytes", w.code, size)
				}
			}
			for range max(1, c.rounds) {
				append1()
			}
			fetch()
			b.ReportAllocs()
			for b.Loop() {
				if c.rounds > 0 {
					b.StopTimer()
					for range c.rounds {
						append1()
					}
					b.StartTimer()
				}
				fetch()
			}
			samples := float64(n * max(1, c.rounds))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/samples, "ns/sample")
			b.ReportMetric(float64(size)/samples, "B/sample")
		})
	}
}
