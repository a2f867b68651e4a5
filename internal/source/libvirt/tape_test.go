//go:build cgo

package libvirt

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"fanin/internal/sample"
)

// logBook keeps what a Source says.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// run keeps a Source running until the test ends, or until what it returns is
// called. Run must return at once, whatever hangs.
func run(t *testing.T, s *Source) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
		case <-time.After(2 * time.Second):
			t.Error("Run has not returned 2 s after its context ended")
		}
		_ = s.Close()
	})
	t.Cleanup(stop)
	return stop
}

// tick is one call of Sample.
type tick struct {
	at     time.Time
	took   time.Duration
	err    error
	points []sample.Point
}

// tape samples a Source every so often and keeps what it gives.
type tape struct {
	mu    sync.Mutex
	ticks []tick
	stop  func()
}

func record(t *testing.T, s *Source, every time.Duration) *tape {
	t.Helper()
	p := &tape{}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		clock := time.NewTicker(every)
		defer clock.Stop()
		var before time.Time
		for {
			select {
			case <-quit:
				return
			case <-clock.C:
			}
			var b sample.Batch
			at := time.Now()
			// A ticker catches up after a pause; the sampler's clock does not.
			if at.Sub(before) < every/2 {
				continue
			}
			before = at
			ctx, cancel := context.WithTimeout(context.Background(), every)
			err := s.Sample(ctx, &b)
			cancel()
			p.mu.Lock()
			p.ticks = append(p.ticks, tick{at, time.Since(at), err, b.Points})
			p.mu.Unlock()
		}
	}()
	p.stop = sync.OnceFunc(func() { close(quit); <-done })
	t.Cleanup(p.stop)
	return p
}

// since is what was recorded from at on.
func (p *tape) since(at time.Time) []tick {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.ticks {
		if !p.ticks[i].at.Before(at) {
			return p.ticks[i:len(p.ticks):len(p.ticks)]
		}
	}
	return nil
}

// last is the newest tick; it waits for one.
func (p *tape) last() tick {
	for {
		p.mu.Lock()
		n := len(p.ticks)
		if n > 0 {
			defer p.mu.Unlock()
			return p.ticks[n-1]
		}
		p.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
}

// of are the points of the series with this name and these labels ("a=b"), and
// whatever others.
func of(ticks []tick, name string, labels ...string) []sample.Point {
	var points []sample.Point
	for i := range ticks {
		for _, p := range ticks[i].points {
			if p.Series.Name() == name && has(p.Series, labels) {
				points = append(points, p)
			}
		}
	}
	return points
}

func has(s *sample.Series, labels []string) bool {
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		if s.Label(k) != v {
			return false
		}
	}
	return true
}

// grown is how much a counter rose from the first to the last of its points,
// and in which time.
func grown(points []sample.Point) (by float64, in time.Duration) {
	if len(points) < 2 {
		return 0, 0
	}
	a, b := points[0], points[len(points)-1]
	return b.V - a.V, time.Duration(b.T-a.T) * time.Millisecond
}

// rising reports the first series whose points do not strictly rise in time,
// or repeat themselves in one tick.
func rising(ticks []tick) error {
	last := map[*sample.Series]int64{}
	for i := range ticks {
		for _, p := range ticks[i].points {
			if before, ok := last[p.Series]; ok && p.T <= before {
				return fmt.Errorf("tick %d: %s at %d after %d", i, p.Series.Text(), p.T, before)
			}
			last[p.Series] = p.T
		}
	}
	return nil
}

// page is the last tick as text, for messages.
func page(points []sample.Point) string {
	var b strings.Builder
	for _, p := range points {
		fmt.Fprintf(&b, "%s %v\n", p.Series.Text(), p.V)
	}
	return b.String()
}
