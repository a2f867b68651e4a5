package kernfile

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	patience   = time.Second // for one reading
	maxHanging = 8           // readings that are not waited for any more
)

// ErrHanging says that a reading takes too long, or that it was not begun as
// others do.
var ErrHanging = errors.New("it takes too long to read")

// Patience bounds readings that may take forever: the arguments of a process
// are in its own memory, whose lock somebody may hold, and a file system may
// have gone. The zero value is ready, and any goroutine may use it.
type Patience struct {
	mu      sync.Mutex
	pending map[int]bool // guarded by mu: the processes that are being read
}

// Patiently returns what f reads of the process pid. It is ErrHanging when that
// takes longer than a second, and ctx's error when that ends first: f goes on by
// itself then. Until it has come back nothing more is read of that process, so
// that a single one can not use up all of the patience; and nothing of any while
// eight of them hang.
func Patiently[T any](ctx context.Context, p *Patience, pid int, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if !p.begin(pid) {
		return none, ErrHanging
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		p.end(pid)
		done <- result{v, err}
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-timer.C:
		return none, ErrHanging
	}
}

func (p *Patience) begin(pid int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending[pid] || len(p.pending) >= maxHanging {
		return false
	}
	if p.pending == nil {
		p.pending = map[int]bool{}
	}
	p.pending[pid] = true
	return true
}

func (p *Patience) end(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pending, pid)
}
