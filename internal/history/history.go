// Package history owns the gateway's own memory of the past: a reader of the
// window that stores what arrives in a Prometheus database on this machine,
// and Prometheus' query API on it
// (https://prometheus.io/docs/prometheus/latest/querying/api/). Nothing else
// in the gateway depends on it: while the database can not be written to, the
// reader lags, and what it lacks waits in the window and on the nodes.
package history

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"golang.org/x/sys/unix"

	"fanin/internal/sample"
)

// Defaults of [Options].
const (
	DefaultRetention    = 15 * 24 * time.Hour
	DefaultMaxSeries    = 200_000
	DefaultQueryTimeout = 30 * time.Second
	DefaultMaxSamples   = 10_000_000
	DefaultMaxQueries   = 4
)

// reserve is what must be free on the disk before anything is written: more
// than the database writes at once, full chunks of a minute included.
const reserve = 64 << 20

// Options of a history. Path and Window are needed.
type Options struct {
	Path   string // a folder of its own, made when it is not there
	Window *Window

	// Now returns the points that a scrape page carries without a timestamp;
	// they are stored with the time at which they are asked for. May be nil.
	Now func() []sample.Point
	// Own are the gateway's own metrics, stored under job="gateway" and
	// Instance. May be nil.
	Own      prometheus.Gatherer
	Instance string

	RetentionTime time.Duration // of what is older nothing is kept, default 15 days
	RetentionSize int64         // bytes of blocks and logs on disk, 0: no bound
	MaxSeries     int           // in memory, which are those of the last two to three hours, default 200,000

	QueryTimeout time.Duration // of one query, default 30 s
	MaxSamples   int           // that one query may hold in memory, default 10,000,000
	MaxQueries   int           // at once from outside, and as many of this program itself; more wait for at most QueryTimeout. Default 4

	Log *slog.Logger // nil: nothing is logged
}

// History stores and answers. Its handlers may be called from any goroutine,
// before [History.Run] and after it.
type History struct {
	Options

	lock   *os.File
	base   base
	engine *promql.Engine
	parser parser.Parser
	slots  chan struct{} // one for each query at once from outside
	own    chan struct{} // the same for [History.Ask]
	counts counts
	words  words
	doubt  atomic.Bool // a query has met something that can not be read

	reserve uint64 // bytes that stay free on the disk

	// Owned by Run.
	refs    refs
	points  []sample.Point
	untimed untimed
	writes  trouble
	opens   trouble
	upkeep  trouble
	running map[task]bool
	ended   chan end
	last    map[task]time.Time // when it was started
	found   *blockError
	turned  time.Time // when the future was last made a block
	left    int       // databases that could not be closed
}

// New returns a history on a folder, which it takes for itself: an error says
// that the options are wrong or that another process has it. A folder that
// can not be written to now is no error.
func New(o Options) (*History, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.RetentionTime = positive(o.RetentionTime, DefaultRetention)
	o.MaxSeries = positive(o.MaxSeries, DefaultMaxSeries)
	o.QueryTimeout = positive(o.QueryTimeout, DefaultQueryTimeout)
	o.MaxSamples = positive(o.MaxSamples, DefaultMaxSamples)
	o.MaxQueries = positive(o.MaxQueries, DefaultMaxQueries)
	h := &History{
		Options: o, slots: make(chan struct{}, o.MaxQueries), own: make(chan struct{}, o.MaxQueries),
		parser:  parser.NewParser(parser.Options{}),
		reserve: reserve, running: map[task]bool{}, ended: make(chan end, len(tasks)), last: map[task]time.Time{},
	}
	h.counts.init()
	h.base.state = "it is being read from the disk"
	if err := h.takeFolder(); errors.Is(err, errTaken) {
		return nil, err
	} else if err != nil {
		h.cannotOpen(err)
	}
	h.engine = promql.NewEngine(promql.EngineOpts{
		MaxSamples: o.MaxSamples, Timeout: o.QueryTimeout, Parser: h.parser,
		EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 { return scrapeEvery.Milliseconds() },
	})
	return h, nil
}

func positive[T ~int | ~int64](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

var errTaken = errors.New("another gateway keeps its history there")

// takeFolder locks the folder for this process. The lock of the database
// itself comes too late: it cleans up before it looks.
func (h *History) takeFolder() error {
	if h.lock != nil {
		return nil
	}
	if err := os.MkdirAll(h.Path, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(h.Path, "gateway.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", h.Path, errTaken)
		}
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	h.lock = f
	return nil
}
