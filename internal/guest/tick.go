package guest

import "time"

// UntilTick is how long after now the next multiple of d on the wall clock
// comes, which is when the sampler asks its sources. What a source does beside
// its samples it does then: to wake up threads that are awake costs a fraction of
// what it costs in between.
func UntilTick(d time.Duration, now time.Time) time.Duration {
	return now.Truncate(d).Add(d).Sub(now)
}
