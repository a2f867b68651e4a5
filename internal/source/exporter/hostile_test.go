package exporter

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fanin/internal/sample"
)

func isMarker(v float64) bool { return math.Float64bits(v) == math.Float64bits(staleNaN) }

// hostile is a server that a guest may run.
type hostile struct {
	what   string
	answer func(net.Conn) // after the request was read
	want   string         // "1", or the reason
	series int            // that are taken
	left   string         // reasons of what was left out
}

const textHead = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"

func said(s string) func(net.Conn) {
	b := []byte(s)
	return func(c net.Conn) { c.Write(b) }
}

func page(body string) func(net.Conn) { return said(textHead + "\r\n" + body) }

// forever writes s until nobody reads it any more.
func forever(before, s string) func(net.Conn) {
	return func(c net.Conn) {
		fmt.Fprint(c, before)
		block := []byte(strings.Repeat(s, 1+8192/len(s)))
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}
}

// slowly writes a byte now and then.
func slowly(before, s string) func(net.Conn) {
	return func(c net.Conn) {
		fmt.Fprint(c, before)
		for i := 0; ; i++ {
			if _, err := c.Write([]byte{s[i%len(s)]}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func chunked(body string) string {
	return textHead + "Transfer-Encoding: chunked\r\n\r\n" + strconv.FormatInt(int64(len(body)), 16) + "\r\n" + body + "\r\n0\r\n\r\n"
}

func manySeries(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a{x=\"%d\"} 1\n", i)
	}
	return b.String()
}

func bomb(size int) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	block := make([]byte, 1<<20)
	for range size >> 20 {
		z.Write(block)
	}
	z.Close()
	return b.String()
}

// hostiles are all of them. elsewhere is where redirects lead to.
func hostiles(elsewhere string) []hostile {
	redirects := func(to string) func(net.Conn) {
		return said("HTTP/1.1 302 Found\r\nLocation: " + to + "\r\nContent-Length: 0\r\n\r\n")
	}
	return []hostile{
		{what: "plain", answer: page("a 1\n"), want: "1", series: 1},
		{what: "chunked", answer: said(chunked("a 1\n")), want: "1", series: 1},
		{what: "no content type", answer: said("HTTP/1.0 200 OK\r\n\r\na 1\n"), want: "1", series: 1},
		{what: "an interim answer", answer: said("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + textHead + "\r\na 1\n"), want: "1", series: 1},
		{what: "NaN and Inf", answer: page("a NaN\nb +Inf\nc -Inf\n"), want: "1", series: 3},
		{what: "the name of another guest", answer: page(`a{guest="other",guest_name="other",project="p",host_name="h"} 1` + "\n"), want: "1", series: 1},
		{what: "quotes and line breaks", answer: page(`a{x="\"} 1\ntestbed_guest_up{guest=\"other\"} 1\n"} 1` + "\n"), want: "1", series: 1},
		{what: "our names", answer: page("testbed_guest_up{guest=\"other\"} 1\na 1\n"), want: "1", series: 1, left: "reserved_name"},
		{what: "duplicate series", answer: page("a 1\na 2\na 3\n"), want: "1", series: 1, left: "repeated"},
		{what: "a label of 900 KiB", answer: page("a{x=\"" + strings.Repeat("x", 900<<10) + "\"} 1\nb 1\n"), want: "1", series: 1, left: "too_long"},
		{what: "a help of 900 KiB", answer: page("# HELP a " + strings.Repeat("x", 900<<10) + "\na 1\n"), want: "1", series: 1},
		{what: "1 MiB of comments", answer: page(strings.Repeat("# x\n", 1<<18)), want: "1"},
		{what: "1 MiB of types", answer: page(strings.Repeat("# TYPE a gauge\n", 65000)), want: "1"},

		{what: "hangs", answer: func(c net.Conn) { c.Read(make([]byte, 1)) }, want: "timeout"},
		{what: "hangs in the headers", answer: func(c net.Conn) { fmt.Fprint(c, textHead); c.Read(make([]byte, 1)) }, want: "timeout"},
		{what: "hangs in the body", answer: func(c net.Conn) {
			fmt.Fprint(c, textHead+"Content-Length: 100\r\n\r\na 1\n")
			c.Read(make([]byte, 1))
		}, want: "timeout"},
		{what: "slow headers", answer: slowly("HTTP/1.1 200 OK\r\nX: ", "x"), want: "timeout"},
		{what: "slow body", answer: slowly(textHead+"\r\n", "a 1\n"), want: "timeout"},
		{what: "slow chunks", answer: slowly(textHead+"Transfer-Encoding: chunked\r\n\r\n", "1\r\na\r\n"), want: "timeout"},
		{what: "hangs after a redirect", answer: func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 100\r\n\r\n")
			c.Read(make([]byte, 1))
		}, want: "redirect"},

		{what: "endless body", answer: forever(textHead+"\r\n", "a 1\n"), want: "too_large"},
		{what: "endless chunks", answer: forever(textHead+"Transfer-Encoding: chunked\r\n\r\n", "4\r\na 1\n\r\n"), want: "too_large"},
		{what: "endless line", answer: forever(textHead+"\r\n", "a"), want: "too_large"},
		{what: "a length of 4 GiB", answer: said(textHead + "Content-Length: 4294967296\r\n\r\na 1\n"), want: "too_large"},
		{what: "a length of 2^63", answer: said(textHead + "Content-Length: 9223372036854775807\r\n\r\na 1\n"), want: "too_large"},
		{what: "header flood", answer: forever("HTTP/1.1 200 OK\r\n", "X: y\r\n"), want: "too_large"},
		{what: "one endless header", answer: forever("HTTP/1.1 200 OK\r\nX: ", "y"), want: "too_large"},
		{what: "endless status", answer: forever("HTTP/1.1 200 ", "O"), want: "too_large"},
		{what: "10^6 series", answer: page(manySeries(1_000_000)), want: "too_large"},
		{what: "50,000 series", answer: page(manySeries(50_000)), want: "too_many_series"},
		{what: "the same series 200,000 times", answer: page(strings.Repeat("a 1\n", 200_000)), want: "too_many_series"},

		{what: "bytes that are not UTF-8", answer: page("a{x=\"\xff\xfe\"} 1\n"), want: "malformed"},
		{what: "HTML as text", answer: page("<html><body>hello</body></html>"), want: "malformed"},
		{what: "gzip as text", answer: page(bomb(1 << 20)), want: "malformed"},
		{what: "OpenMetrics without an end", answer: said("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0\r\n\r\na 1\n"), want: "malformed"},
		{what: "HTML", answer: said("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\na 1\n"), want: "content_type"},
		{what: "JSON", answer: said("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}"), want: "content_type"},
		{what: "protobuf", answer: said("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited\r\n\r\n"), want: "content_type"},
		{what: "a broken content type", answer: said("HTTP/1.1 200 OK\r\nContent-Type: ;;;\"\r\n\r\na 1\n"), want: "content_type"},
		{what: "gzip bomb", answer: said(textHead + "Content-Encoding: gzip\r\n\r\n" + bomb(128<<20)), want: "encoding"},

		{what: "redirect to the host's loopback", answer: redirects(elsewhere), want: "redirect"},
		{what: "redirect to link-local", answer: redirects("http://169.254.169.254/latest/meta-data/"), want: "redirect"},
		{what: "redirect to itself", answer: redirects("/metrics"), want: "redirect"},
		{what: "redirect by 307", answer: said("HTTP/1.1 307 Temporary Redirect\r\nLocation: " + elsewhere + "\r\n\r\n"), want: "redirect"},
		{what: "redirect with an endless body", answer: forever("HTTP/1.1 301 Moved\r\nLocation: "+elsewhere+"\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\na 1\n\r\n"), want: "redirect"},
		{what: "server error", answer: said("HTTP/1.1 500 Internal Server Error\r\n\r\na 1\n"), want: "status"},
		{what: "not found", answer: said("HTTP/1.1 404 Not Found\r\n\r\n"), want: "status"},
		{what: "asks for a password", answer: said("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n"), want: "status"},
		{what: "another protocol", answer: said("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"), want: "status"},

		{what: "closes at once", answer: func(net.Conn) {}, want: "broken"},
		{what: "resets", answer: func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, want: "broken"},
		{what: "closes in the body", answer: said(textHead + "Content-Length: 100\r\n\r\na 1\n"), want: "broken"},
		{what: "closes in a chunk", answer: said(textHead + "Transfer-Encoding: chunked\r\n\r\n100\r\na 1\n"), want: "broken"},
		{what: "two lengths", answer: said(textHead + "Content-Length: 4\r\nContent-Length: 5\r\n\r\na 1\n"), want: "broken"},
		{what: "no HTTP", answer: said("a 1\na 1\na 1\n"), want: "broken"},
		{what: "TLS", answer: said("\x15\x03\x01\x00\x02\x02\x46"), want: "broken"},
		{what: "HTTP/2", answer: said("\x00\x00\x12\x04\x00\x00\x00\x00\x00"), want: "broken"},
		{what: "interim answers for ever", answer: forever("", "HTTP/1.1 102 Processing\r\n\r\n"), want: "broken"},
		{what: "endless chunk extension", answer: forever(textHead+"Transfer-Encoding: chunked\r\n\r\n", "1;x=y;"), want: "broken"},
		{what: "endless trailer", answer: forever(textHead+"Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n", "X: y\r\n"), want: "broken"},
	}
}

// serve lets a hostile run inside.
func (n *inside) hostile(h hostile) string {
	return n.serve(func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			n.t.Errorf("%s: not a request: %v", h.what, err)
			return
		}
		h.answer(c)
	})
}

// canary counts who follows a redirect.
func canary(t *testing.T) (address string, asked *atomic.Int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		if n := asked.Load(); n > 0 {
			t.Errorf("the host's own server was asked %d times", n)
		}
	})
	return "http://" + l.Addr().String() + "/", asked
}

// Each hostile server for itself: what is said of it, how long it takes and
// how much memory, all told.
func TestHostile(t *testing.T) {
	n := newInside(t)
	elsewhere, _ := canary(t)
	const limit = time.Second
	for _, h := range hostiles(elsewhere) {
		s := &Source{Targets: these(n.target("web", n.hostile(h))), Timeout: limit}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		got := onePage(t, s)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		memory := after.TotalAlloc - before.TotalAlloc

		up := upOf(got, "web")
		series := 0
		for text := range got {
			if !strings.HasPrefix(text, "testbed_") {
				series++
			}
			if !strings.Contains(text, `,guest="web"`) && !strings.Contains(text, `{guest="web"`) {
				t.Errorf("%s: %s is not the guest's", h.what, text)
			}
		}
		t.Logf("%-34s %-16s %3d series %9.1f ms %7.2f MiB", h.what, up, series, took.Seconds()*1000, float64(memory)/(1<<20))
		if up != h.want || series != h.series {
			t.Errorf("%s: got %s and %d series, want %s and %d", h.what, up, series, h.want, h.series)
		}
		// The page, twice, as its buffer grows, and what 2,000 series take
		// that are new and not wanted.
		if memory > 8<<20 {
			t.Errorf("%s: took %d bytes, want at most 8 MiB", h.what, memory)
		}
		if took > limit+time.Second || h.want != "timeout" && took >= limit {
			t.Errorf("%s: took %s", h.what, took)
		}
		left := ""
		for o := range reason(0) + reason(ofPages) {
			if s.counts.omitted[o].Load() > 0 {
				left += omission(o).String()
			}
		}
		if left != h.left {
			t.Errorf("%s: left out %q, want %q", h.what, left, h.left)
		}
	}
}

// All of them at once beside a guest that does nothing wrong.
func TestHostileNeighbours(t *testing.T) {
	n := newInside(t)
	elsewhere, _ := canary(t)
	targets := []Target{n.target("good", n.page("a 1\n"))}
	all := hostiles(elsewhere)
	for i, h := range all {
		targets = append(targets, n.target(fmt.Sprint("h", i), n.hostile(h)))
	}
	s := &Source{Targets: these(targets...)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()

	const long = 12 * time.Second
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	before, peak := memory.HeapAlloc, uint64(0)
	var times []int64
	last := map[string]float64{}
	slowest := time.Duration(0)
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var b sample.Batch
		began := time.Now()
		if err := s.Sample(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(began))
		for _, p := range b.Points {
			if strings.HasPrefix(p.Series.Text(), `a{guest="good"`) {
				times = append(times, p.T)
			}
			last[p.Series.Text()] = p.V
		}
		runtime.ReadMemStats(&memory)
		peak = max(peak, memory.HeapAlloc)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
	gap := int64(0)
	for i := 1; i < len(times); i++ {
		gap = max(gap, times[i]-times[i-1])
	}
	t.Logf("beside %d hostile guests: %d samples of the good one in %s, at most %d ms apart; a Sample took %s at the most; the heap grew by %.1f MiB",
		len(all), len(times), long, gap, slowest.Round(time.Microsecond), float64(peak-min(before, peak))/(1<<20))
	if len(times) < 11 || gap > 1500 {
		t.Errorf("the good guest: got %d samples, at most %d ms apart; want at least 11, a second apart", len(times), gap)
	}
	for i, h := range all {
		if up := upOf(last, fmt.Sprint("h", i)); up != h.want {
			t.Errorf("%s: got %s, want %s", h.what, up, h.want)
		}
	}
	if most := uint64(100 << 20); peak > before+most {
		t.Errorf("the heap grew by %d bytes, want at most %d", peak-before, most)
	}
}
