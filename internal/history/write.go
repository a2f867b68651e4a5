package history

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"golang.org/x/sys/unix"
)

// failures is a registry that keeps hold of the counters of writes that
// failed, as the database says only in its log when what came late is not on
// disk.
type failures struct {
	*prometheus.Registry
	mu  sync.Mutex
	all []prometheus.Collector
}

// Register implements [prometheus.Registerer].
func (f *failures) Register(c prometheus.Collector) error {
	f.keep(c)
	return f.Registry.Register(c)
}

// MustRegister implements [prometheus.Registerer].
func (f *failures) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		f.keep(c)
	}
	f.Registry.MustRegister(all...)
}

func (f *failures) keep(c prometheus.Collector) {
	all := make(chan *prometheus.Desc)
	go func() {
		defer close(all)
		c.Describe(all)
	}()
	counts := false
	for d := range all {
		counts = counts || strings.Contains(d.String(), `_writes_failed_total"`)
	}
	if counts {
		f.mu.Lock()
		f.all = append(f.all, c)
		f.mu.Unlock()
	}
}

func (f *failures) count() (n float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.all {
		metrics := make(chan prometheus.Metric, 1) // each is a single counter
		c.Collect(metrics)
		var m dto.Metric
		if (<-metrics).Write(&m) == nil {
			n += m.GetCounter().GetValue()
		}
	}
	return n
}

// sync brings the logs to the disk. A commit leaves them with the kernel, which
// survives kill -9 of the gateway and no power cut.
func (b *base) sync(path string) error {
	for i, name := range []string{"wal", "wbl"} {
		dir := filepath.Join(path, name)
		_, last, err := wlog.Segments(dir)
		if err != nil {
			return err
		}
		for n := max(0, min(b.synced[i], last)); n <= last; n++ {
			if err := syncFile(wlog.SegmentName(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if last != b.synced[i] {
			if err := syncFile(dir); err != nil {
				return err
			}
			b.synced[i] = last
		}
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: path, Err: err}
	}
	return nil
}

// write commits what fill appends. After an error nothing of it counts as
// written.
func (h *History) write(fill func(*appending)) error {
	if err := h.room(); err != nil {
		h.cannotWrite(err)
		return err
	}
	before := h.base.failed.count()
	a := &appending{counts: &h.counts}
	err := guarded(func() error {
		a.to = h.base.db.Appender(context.Background())
		fill(a)
		return a.to.Commit()
	})
	if err == nil && h.base.failed.count() > before {
		err = errors.New("what came late could not be written to its log")
	}
	if err == nil {
		err = h.base.sync(h.Path)
	}
	if err != nil {
		h.base.spoiled = true
		h.base.poisoned = h.base.poisoned || errors.Is(err, errPanic)
		h.cannotWrite(err)
		return err
	}
	h.counts.up.Store(true)
	if after, times := h.writes.ends(); times > 0 {
		h.Log.Info("history writes again", "after", after, "failures", times)
	}
	h.counts.samples.Add(float64(a.points))
	return nil
}

func (h *History) cannotWrite(err error) {
	h.counts.up.Store(false)
	if h.writes.begins() {
		h.Log.Error("history can not write; its samples wait in the window and on the nodes", "err", err)
	}
}
