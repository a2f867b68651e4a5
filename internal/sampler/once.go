package sampler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fanin/internal/sample"
)

// onceLimit is how long Once waits for a source at the least.
const onceLimit = 5 * time.Second

// Once asks every source twice, an interval apart, and returns what the second
// time gave (what is a share of a span of time needs two readings), each
// series once. The error joins those of all sources, each with the source's
// name; what the others gave is returned all the same. Output is not called.
func (s *Sampler) Once(ctx context.Context) ([]sample.Point, error) {
	r := s.newRun()
	var failed error
	for round := range 2 {
		if round > 0 && !sleep(ctx, r.interval) {
			return nil, ctx.Err()
		}
		failed = nil
		r.tick++
		r.points = r.points[:0]
		r.order = newOrder()
		for _, w := range r.sources {
			if !w.busy {
				w.busy, w.tick = true, r.tick
				go func() { r.results <- call(ctx, w, max(onceLimit, 2*r.interval)) }()
			}
		}
		timeout := time.After(max(onceLimit, 2*r.interval) + stopGrace)
		for waiting := len(r.sources); waiting > 0; waiting-- {
			select {
			case res := <-r.results:
				if res.err != nil {
					failed = errors.Join(failed, fmt.Errorf("source %s: %w", res.w.source.Name(), res.err))
				}
				r.finish(res)
			case <-timeout:
				waiting = 0
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		for _, w := range r.sources {
			if w.busy {
				r.failed(w, reasonHung, nil)
				failed = errors.Join(failed, fmt.Errorf("source %s: no answer", w.source.Name()))
			}
		}
	}
	t := r.clock.wall().UnixMilli()
	for _, w := range r.sources {
		v := 1.0
		if w.down != "" {
			v = 0
		}
		r.add(sample.Point{Series: w.up, T: t, V: v})
	}
	return r.points, failed
}
