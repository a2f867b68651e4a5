package push

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fanin/internal/admission"
	"fanin/internal/deployment"
	"fanin/internal/ingest"
	"fanin/internal/presence"
	"fanin/internal/sample"
	"fanin/internal/spool"
	"fanin/internal/window"
	"fanin/internal/wire"
)

var counted = sample.NewCounter("catch_up_total", "", "Counts up.")

// far is a way to the gateway that takes its time.
type far struct {
	http.RoundTripper
	delay time.Duration
}

func (f far) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(f.delay)
	return f.RoundTripper.RoundTrip(r)
}

// BenchmarkCatchUp is how fast a backlog on disk goes to the gateway: records
// of a tick each, of a host alone and with fifty guests, next door and 5 ms
// away. times-real-at-1s and -100ms are how much faster that is than it was
// sampled.
func BenchmarkCatchUp(b *testing.B) {
	for _, series := range []int{75, 1500} {
		for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
			b.Run(fmt.Sprintf("series=%d/away=%s", series, delay), func(b *testing.B) { catchUp(b, series, delay) })
		}
	}
}

func catchUp(b *testing.B, series int, delay time.Duration) {
	file := filepath.Join(b.TempDir(), "lab-state.json")
	if err := os.WriteFile(file, []byte(`{"project_name": "lab", "testbed_hosts": {"h1": {"ip": "10.0.0.1"}}, "testbed_guests": {}}`), 0o600); err != nil {
		b.Fatal(err)
	}
	roster, err := deployment.CheckSettings("", file)
	if err != nil {
		b.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	nodes, err := admission.NewNodes("", log)
	if err != nil {
		b.Fatal(err)
	}
	of := func() *deployment.Roster { return roster }
	server := httptest.NewServer(&ingest.Handler{
		Nodes: nodes, Gate: &admission.Gate{Roster: of}, Window: &window.Store{MaxBytes: 1 << 30}, Presence: &presence.Book{}, Roster: of, Log: log,
	})
	defer server.Close()
	queue, err := spool.Open(spool.Options{Dir: b.TempDir(), Sync: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer queue.Close()
	points := make([]sample.Point, series)
	for i := range points {
		points[i].Series = sample.New(counted, sample.Label{Name: "device", Value: fmt.Sprint("eth", i)})
	}
	var encoder wire.Encoder
	begin := time.Now().Add(-40 * time.Minute).UnixMilli()
	for n := range b.N {
		for i := range points {
			points[i].T, points[i].V = begin+int64(n)*100, float64(n*i)
		}
		if _, err := queue.Append(encoder.Append(nil, points), series); err != nil {
			b.Fatal(err)
		}
	}
	queue.Finish()
	delivery := &Pusher{URL: server.URL, Client: &http.Client{Transport: far{http.DefaultTransport, delay}}, Spool: queue, Node: "h1", Message: func(body []byte, _ bool) (Message, error) {
		return Message{Body: body, ContentType: wire.V2.ContentType(), Version: wire.V2.String()}, nil
	}}
	b.ReportAllocs()
	before := processorTime()
	b.ResetTimer()
	if err := delivery.Run(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	perRecord := b.Elapsed().Seconds() / float64(b.N)
	b.ReportMetric(1/perRecord, "times-real-at-1s")
	b.ReportMetric(0.1/perRecord, "times-real-at-100ms")
	b.ReportMetric(float64((processorTime()-before).Microseconds())/float64(b.N), "cpu-us/op")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
