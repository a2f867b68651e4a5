package wire

import (
	"bytes"
	"errors"
	"flag"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
)

var repeats = flag.Int("repeats", 2, "how often a bomb that has to be decompressed is sent; those that have not come 10,000 times")

// processorTime is what this process has used so far.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// each is what one of n calls costs.
func each(t *testing.T, n int, fn func()) (processor time.Duration, allocated uint64) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := processorTime(t)
	for range n {
		fn()
	}
	processor = (processorTime(t) - start) / time.Duration(n)
	runtime.ReadMemStats(&after)
	return processor, (after.TotalAlloc - before.TotalAlloc) / uint64(n)
}

// What is small on the wire and huge behind it. Beyond the limit of a
// decompressed body it costs nothing but a look at its head. Inside, it costs
// its decompression and a walk that keeps nothing beyond a limit.
func TestBombs(t *testing.T) {
	const limit = 8 << 20
	many := func(piece string, size int) []byte {
		return snappy.Encode(nil, bytes.Repeat([]byte(piece), size/len(piece)))
	}
	one := func(piece string) []byte {
		return snappy.Encode(nil, appendMessage(nil, requestTimeseries, bytes.Repeat([]byte(piece), limit/len(piece)-100)))
	}
	for _, c := range []struct {
		name string
		v    Version
		body []byte
		want error
	}{
		{"7 bytes that declare 4 GiB", V1, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}, ErrTooLarge},
		{"7 bytes that declare 4 GiB", V2, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0}, ErrTooLarge},
		{"7 bytes that declare more than 64 bits", V1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, ErrMalformed},
		{"32 MiB of empty series", V1, many("\x0a\x00", 4*limit), ErrTooLarge},
		{"32 MiB of empty series", V2, many("\x2a\x00", 4*limit), ErrTooLarge},
		{"16 M symbols", V2, many("\x22\x00", 4*limit), ErrTooLarge},
		{"4 M empty series", V1, many("\x0a\x00", limit), ErrTooLarge},
		{"4 M empty series", V2, many("\x2a\x00", limit), ErrTooLarge},
		{"4 M symbols", V2, many("\x22\x00", limit), ErrTooLarge},
		{"4 M metadata entries", V1, many("\x1a\x00", limit), ErrTooLarge},
		{"4 M samples of one series", V1, one("\x12\x00"), ErrTooLarge},
		{"4 M labels of one series", V1, one("\x0a\x00"), nil},
		{"4 M histograms of one series", V1, one("\x22\x00"), nil},
		{"8 M symbols of one series", V2, snappy.Encode(nil, append([]byte{0x22, 0}, appendMessage(nil, request2Timeseries, appendMessage(nil, series2Refs, make([]byte, limit-100)))...)), nil},
		{"4 M fields that nobody knows", V2, many("\x48\x00", limit), nil},
		{"a declaration of 8 MiB and no more", V1, []byte{0x80, 0x80, 0x80, 0x04, 0, 0}, ErrMalformed},
	} {
		t.Run(c.v.String()+"/"+c.name, func(t *testing.T) {
			var d Decoder
			m := Memory{Version: c.v, Max: 1000}
			decode := func() {
				r, err := d.Decode(c.body, &m)
				if !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if err == nil {
					r.EachMetadata(func(Metadata) {})
					r.EachSeries(func(s *Series) { s.Labels() })
				}
			}
			size, _ := snappy.DecodedLen(c.body)
			if size == 0 || size > limit {
				if took, allocated := each(t, 10_000, decode); took > time.Millisecond || allocated > 64<<10 {
					t.Fatalf("one costs %s of processor time and %d bytes, want at most 1ms and 64 KiB", took, allocated)
				}
				return
			}
			if _, allocated := each(t, 1, decode); allocated > 2*limit {
				t.Errorf("the first costs %d bytes, want at most twice what it decompresses into", allocated)
			}
			into := make([]byte, limit)
			decompressing, _ := each(t, 5, func() { _, _ = snappy.Decode(into, c.body) })
			took, allocated := each(t, *repeats, decode)
			if allocated > 1<<20 {
				t.Errorf("the next ones allocate %d bytes each, want at most 1 MiB", allocated)
			}
			t.Logf("one costs %s of processor time, %s of it for decompressing, and %d bytes", took, decompressing, allocated)
		})
	}
}
