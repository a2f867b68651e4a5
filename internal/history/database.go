package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/compression"
)

// lateness is how much older than the newest sample one may be.
const lateness = 3 * time.Hour

// base is the database, which may be closed and opened again while queries
// come.
type base struct {
	mu    sync.Mutex // guards these
	db    *tsdb.DB   // nil: not open; only Run and its tasks change it
	state string     // why not
	users *users     // of db

	// Owned by Run while db is open.
	failed   *failures
	cancel   context.CancelFunc // ends a compaction, and all later ones
	spoiled  bool               // a record may stand half in the log: to be opened anew
	poisoned bool               // a lock may be held for good
	synced   [2]int             // the segments of the logs that were written to last
}

// users are the queriers of one opening of the database.
type users struct {
	n    int
	gone chan struct{} // nil until the last of them is waited for
}

var errClosed = errors.New("the history is not open")

func (b *base) ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.db != nil
}

// head is how many series are in memory.
func (b *base) head() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return 0
	}
	return b.db.Head().NumSeries()
}

// say notes why there is no database.
func (b *base) say(state string) {
	b.mu.Lock()
	b.state = state
	b.mu.Unlock()
}

// Querier implements [storage.Queryable].
func (b *base) Querier(mint, maxt int64) (storage.Querier, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return nil, fmt.Errorf("%w: %s", errClosed, b.state)
	}
	q, err := b.db.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	b.users.n++
	users := b.users
	return &querier{Querier: q, leave: sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if users.n--; users.n == 0 && users.gone != nil {
			close(users.gone)
		}
	})}, nil
}

type querier struct {
	storage.Querier
	leave func()
}

// Close implements [storage.Querier].
func (q *querier) Close() error {
	defer q.leave()
	return q.Querier.Close()
}

// Select implements [storage.Querier].
func (q *querier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, of ...*labels.Matcher) storage.SeriesSet {
	return set{q.Querier.Select(ctx, sorted, hints, of...)}
}

// LabelValues implements [storage.LabelQuerier].
func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, of ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	values, notes, err := q.Querier.LabelValues(ctx, name, hints, of...)
	return values, notes, stored(err)
}

// LabelNames implements [storage.LabelQuerier].
func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, of ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	names, notes, err := q.Querier.LabelNames(ctx, hints, of...)
	return names, notes, stored(err)
}

type set struct{ storage.SeriesSet }

// Err implements [storage.SeriesSet].
func (s set) Err() error { return stored(s.SeriesSet.Err()) }

// storedError tells what the database says from what the engine says, which
// hands its errors on among its own.
type storedError struct{ error }

// Unwrap is for [errors.Is].
func (e *storedError) Unwrap() error { return e.error }

func stored(err error) error {
	if err == nil {
		return nil
	}
	return &storedError{err}
}

// open opens the database.
func (b *base) open(o *Options) error {
	failed := &failures{Registry: prometheus.NewRegistry()}
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = o.RetentionTime.Milliseconds()
	opts.MaxBytes = o.RetentionSize
	// As in Prometheus: a block is at most a tenth of what is kept.
	opts.MaxBlockDuration = max(opts.MinBlockDuration, min(o.RetentionTime/10, 31*24*time.Hour).Milliseconds())
	opts.OutOfOrderTimeWindow = lateness.Milliseconds()
	opts.WALCompression = compression.Snappy
	room := &room{most: uint64(o.MaxSeries)}
	opts.SeriesLifecycleCallback = room
	opts.IsolationDisabled = true // one writer; half a commit is of no harm to a query
	// The database panics where it can not write chunks, and in a goroutine of
	// its own that would end the gateway. So that goroutine does nothing, and
	// maintain does its work.
	opts.BlockReloadInterval = math.MaxInt64
	// Compactions do not end with the context that they are asked for with.
	var cancel context.CancelFunc
	opts.NewCompactorFunc = func(ctx context.Context, r prometheus.Registerer, log *slog.Logger, ranges []int64, pool chunkenc.Pool, opts *tsdb.Options) (tsdb.Compactor, error) {
		ctx, cancel = context.WithCancel(ctx)
		return tsdb.NewLeveledCompactorWithOptions(ctx, r, log, ranges, pool, tsdb.LeveledCompactorOptions{
			MaxBlockChunkSegmentSize:    opts.MaxBlockChunkSegmentSize,
			EnableOverlappingCompaction: opts.EnableOverlappingCompaction,
		})
	}
	db, err := tsdb.Open(o.Path, quiet(o.Log), failed, opts, nil)
	if err != nil {
		return err
	}
	db.DisableCompactions()
	room.of.Store(db.Head())
	b.mu.Lock()
	defer b.mu.Unlock()
	b.db, b.users, b.failed, b.cancel, b.spoiled, b.poisoned = db, &users{}, failed, cancel, false, false
	b.synced = [2]int{math.MaxInt, math.MaxInt}
	return nil
}

// room bounds the series in memory. What is read from the disk has its place.
type room struct {
	most uint64
	of   atomic.Pointer[tsdb.Head]
}

var errTooMany = errors.New("there are too many series in memory")

// PreCreation implements [tsdb.SeriesLifecycleCallback].
func (r *room) PreCreation(labels.Labels) error {
	if head := r.of.Load(); head != nil && head.NumSeries() >= r.most {
		return errTooMany
	}
	return nil
}

// PostCreation implements [tsdb.SeriesLifecycleCallback].
func (r *room) PostCreation(labels.Labels) {}

// PostDeletion implements [tsdb.SeriesLifecycleCallback].
func (r *room) PostDeletion(map[chunks.HeadSeriesRef]labels.Labels) {}

// detached is a database that gets no new queries.
type detached struct {
	db       *tsdb.DB
	gone     chan struct{}
	poisoned bool
}

// detach takes the database away, because of state.
func (b *base) detach(state string) *detached {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return nil
	}
	d := &detached{db: b.db, gone: make(chan struct{}), poisoned: b.poisoned}
	b.db, b.state = nil, state
	if b.users.n == 0 {
		close(d.gone)
	} else {
		b.users.gone = d.gone
	}
	return d
}

// leaveAfter is how long is waited for a database in which a lock may be held
// for good. It is given up then; its memory is lost until the gateway ends.
const leaveAfter = 10 * time.Second

// close waits for the queries under way, as what they read goes away with the
// database.
func (d *detached) close() error {
	if d == nil {
		return nil
	}
	closed := make(chan error, 1)
	go func() {
		<-d.gone
		closed <- guarded(d.db.Close)
	}()
	if !d.poisoned {
		return <-closed
	}
	select {
	case err := <-closed:
		return err
	case <-time.After(leaveAfter):
		return errPanic
	}
}

// aheadBy is how far in the future a sample may be: behind it, what is of now
// still counts as late. The gateway admits none that is more than a minute
// ahead of its clock; so the clock was set back.
const aheadBy = lateness / 2

// ahead reports whether the database has samples of the future, behind which it
// would take what is of now for late, or too old.
func (b *base) ahead(now time.Time) bool {
	newest := b.db.Head().MaxTime()
	return newest != math.MinInt64 && newest > now.Add(aheadBy).UnixMilli()
}

// turn makes blocks of all that is in memory, one of them of what is of the
// future.
func (d *detached) turn(now time.Time) error {
	head, from := d.db.Head(), now.Add(aheadBy).UnixMilli()
	return guarded(func() error {
		if err := d.db.CompactOOOHead(context.Background()); err != nil {
			return err
		}
		if head.MinTime() < from {
			if err := d.db.CompactHead(tsdb.NewRangeHead(head, head.MinTime(), from-1)); err != nil {
				return err
			}
		}
		return d.db.CompactHead(tsdb.NewRangeHead(head, from, head.MaxTime()))
	})
}

// guarded turns a panic of the database into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if cause, ok := p.(error); ok {
				err = fmt.Errorf("%w: %w", errPanic, cause)
			} else {
				err = fmt.Errorf("%w: %v", errPanic, p)
			}
		}
	}()
	return f()
}

var errPanic = errors.New("the database has panicked")

// quiet hands on only what the database warns of.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(above{log.Handler()}) }

type above struct{ slog.Handler }

// Enabled implements [slog.Handler].
func (a above) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && a.Handler.Enabled(ctx, level)
}

// WithAttrs implements [slog.Handler].
func (a above) WithAttrs(attrs []slog.Attr) slog.Handler { return above{a.Handler.WithAttrs(attrs)} }

// WithGroup implements [slog.Handler].
func (a above) WithGroup(name string) slog.Handler { return above{a.Handler.WithGroup(name)} }
