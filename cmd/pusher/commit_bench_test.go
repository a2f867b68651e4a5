package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"fanin/internal/sample"
	"fanin/internal/sampler"
	"fanin/internal/source/host"
	"fanin/internal/spool"
)

// BenchmarkTick is what a tick of a node without guests costs in processor
// time, the kernel's on our behalf included: the host's real /proc and /sys,
// the sampler, the encoder, and what each kind of spool adds for a record that
// is appended, read and acknowledged. An iteration is 20 ticks of each kind, in
// turns; what is reported are medians, and of what is added those of the
// differences within an iteration, for the machine is not the same all the
// time. The spools are on the file system of the temporary directory.
//
// The pace matters: at ten ticks a second every wait finds the processor asleep
// and every cache cold, which costs more than the work. The other pace is for
// comparing changes in less time.
func BenchmarkTick(b *testing.B) {
	const ticks = 20
	for _, interval := range []time.Duration{100 * time.Millisecond, 10 * time.Millisecond} {
		b.Run(interval.String(), func(b *testing.B) {
			none := &way{name: "none"}
			ways := []*way{
				none,
				{name: "memory", options: &spool.Options{}},
				{name: "1s", options: &spool.Options{Dir: b.TempDir(), Sync: time.Second}},
				{name: "always", options: &spool.Options{Dir: b.TempDir()}},
			}
			for _, w := range ways {
				w.open(b)
			}
			for b.Loop() {
				for range ways {
					ways[0].run(b, interval, ticks)
					ways = append(ways[1:], ways[0])
				}
				ways = append(ways[1:], ways[0])
			}
			for _, w := range ways {
				b.ReportMetric(median(w.used), w.name+"-cpu-us/tick")
				if w != none {
					more := slices.Clone(w.used)
					for i := range more {
						more[i] = 100 * (more[i]/none.used[i] - 1)
					}
					b.ReportMetric(median(more), w.name+"-more-%")
				}
			}
			b.ReportMetric(0, "ns/op") // says nothing here
		})
	}
}

func median(of []float64) float64 {
	return slices.Sorted(slices.Values(of))[len(of)/2]
}

// way is what becomes of a tick's points.
type way struct {
	name    string
	options *spool.Options // nil: they are encoded and forgotten
	source  host.Source
	commit  *committer
	used    []float64 // microseconds for a tick, one of each run
}

func (w *way) open(b *testing.B) {
	o := spool.Options{}
	if w.options != nil {
		o = *w.options
	}
	queue, err := spool.Open(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = queue.Close() })
	w.commit = newCommitter(queue, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

func (w *way) points(points []sample.Point) {
	if w.options != nil {
		w.commit.points(points)
		return
	}
	c := w.commit
	c.batch = c.vitals.append(append(c.batch[:0], points...), c.queue.Ledger(), time.Now())
	c.body = c.encoder.Append(c.body[:0], c.batch)
}

// run ticks n times.
func (w *way) run(b *testing.B, interval time.Duration, n int) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	delivered := make(chan error, 1)
	go func() { delivered <- deliverAll(ctx, w.commit.queue) }()
	ticks := 0
	var before time.Duration
	clock := sampler.Sampler{Interval: interval, Sources: []sampler.Source{&w.source}, Output: func(points []sample.Point) {
		if ticks++; ticks > n+1 {
			return // what comes at the end
		}
		w.points(points)
		switch ticks {
		case 1: // which finds everything cold
			before = processorTime(b)
		case n + 1:
			w.used = append(w.used, float64((processorTime(b)-before).Nanoseconds())/1e3/float64(n))
			cancel()
		}
	}}
	if err := clock.Run(ctx); err != nil {
		b.Fatal(err)
	}
	if err := <-delivered; err != nil {
		b.Fatal(err)
	}
}

// deliverAll takes and acknowledges as push does, without the network.
func deliverAll(ctx context.Context, queue *spool.Spool) error {
	for last := uint64(0); ; {
		r, err := queue.Next(ctx, last)
		if errors.Is(err, context.Canceled) {
			return nil
		} else if err != nil {
			return fmt.Errorf("after record %d: %w", last, err)
		}
		last = r.Number
		queue.Ack(last)
	}
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
