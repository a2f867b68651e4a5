package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	collectEvery  = time.Second
	scrapeEvery   = 5 * time.Second // what carries no timestamp
	maintainEvery = time.Minute
	retryEvery    = 10 * time.Second
	scrubEvery    = 7 * 24 * time.Hour
	doubtEvery    = time.Minute // the same, when a query has failed
	turnEvery     = time.Hour   // at most
	mostLeft      = 3           // databases in memory that could not be closed
)

// task is what takes long and so is done beside collecting.
type task string

const (
	opening     task = "opening"
	maintaining task = "maintaining"
	scrubbing   task = "scrubbing"
)

var tasks = []task{opening, maintaining, scrubbing}

// end is how a task ended.
type end struct {
	task task
	err  error
}

// Run collects from the window until ctx ends. It returns an error only when
// another process has taken the folder.
func (h *History) Run(ctx context.Context) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		h.step(working, time.Now())
		select {
		case <-ctx.Done():
			stop()
			h.stop()
			return nil
		case e := <-h.ended:
			if e.task == opening && errors.Is(e.err, errTaken) {
				return e.err
			}
			h.note(ctx, e)
		case <-tick.C:
		}
	}
}

// step does what is due.
func (h *History) step(ctx context.Context, now time.Time) {
	if h.running[opening] || !h.base.ready() {
		h.beSeen(now)
		if h.due(opening, now, retryEvery) {
			h.start(ctx, opening, func(context.Context) error { return h.open(nil, nil) })
		}
		return
	}
	h.collect(ctx, now)
	if now.Sub(h.untimed.at) >= scrapeEvery {
		h.scrape(now)
	}
	if h.running[maintaining] {
		return
	}
	ahead := h.base.ahead(now) && now.Sub(h.turned) >= turnEvery
	anew := h.base.spoiled && h.due(opening, now, retryEvery) || h.found != nil && !h.running[scrubbing] || ahead
	switch {
	case anew && h.disk() == nil: // opening it writes
		if ahead {
			h.turned = now
			h.Log.Warn("history has samples of the future, as the clock was ahead; they are set aside")
		}
		old, damaged := h.base.detach("its log is being read again"), h.found
		h.found = nil
		h.refs.clear() // the next database numbers its series anew
		h.untimed.clear()
		h.start(ctx, opening, func(context.Context) error {
			if ahead {
				h.turn(old, now)
			}
			return h.open(old, damaged)
		})
	case h.due(maintaining, now, maintainEvery) && h.room() == nil:
		h.refs.age()
		h.start(ctx, maintaining, h.maintain)
	}
	if h.found == nil && (h.due(scrubbing, now, scrubEvery) || h.doubt.Load() && h.due(scrubbing, now, doubtEvery)) {
		rate := int64(scrubRate)
		if h.doubt.Swap(false) {
			rate = 0
		}
		h.start(ctx, scrubbing, func(ctx context.Context) error { return scrub(ctx, h.Path, rate) })
	}
}

func (h *History) due(t task, now time.Time, every time.Duration) bool {
	return !h.running[t] && now.Sub(h.last[t]) >= every
}

func (h *History) start(ctx context.Context, t task, f func(context.Context) error) {
	h.running[t], h.last[t] = true, time.Now()
	go func() {
		err := guarded(func() error { return f(ctx) })
		h.ended <- end{t, err}
	}()
}

// note takes up the end of a task.
func (h *History) note(ctx context.Context, e end) {
	h.running[e.task] = false
	var damaged *blockError
	switch {
	case ctx.Err() != nil:
	case e.task == opening && e.err != nil:
		h.last[opening] = time.Now()
		h.cannotOpen(e.err)
	case e.task == opening:
		if after, times := h.opens.ends(); times > 0 {
			h.Log.Info("history could be opened", "after", after, "failures", times)
		}
		h.last[maintaining] = time.Now()
	case errors.As(e.err, &damaged):
		h.found = damaged
	case e.task == maintaining && e.err != nil:
		if errors.Is(e.err, errPanic) {
			h.base.spoiled, h.base.poisoned = true, true
		} else if !isRoom(e.err) {
			h.doubt.Store(true) // perhaps a block can not be read
		}
		if h.upkeep.begins() {
			h.Log.Error("history can not be compacted", "err", e.err)
		}
	case e.task == maintaining:
		if after, times := h.upkeep.ends(); times > 0 {
			h.Log.Info("history could be compacted", "after", after, "failures", times)
		}
	}
}

func (h *History) cannotOpen(err error) {
	if h.opens.begins() {
		h.Log.Error("history can not be opened; its samples wait in the window and on the nodes", "err", err)
	}
}

// stop closes the database. Reading it from the disk is not waited for.
func (h *History) stop() {
	for h.running[maintaining] || h.running[scrubbing] || h.running[opening] && h.base.ready() {
		h.running[(<-h.ended).task] = false
	}
	if h.base.ready() {
		h.endUntimed(time.Now())
	}
	if h.disk() == nil { // closing writes
		if err := h.base.detach("the gateway stops").close(); err != nil {
			h.Log.Warn("history was not closed well; its log is read again at the next start", "err", err)
		}
	}
	if !h.running[opening] && h.lock != nil {
		_ = h.lock.Close()
		h.lock = nil
	}
}

// open closes what was open, sets aside what is damaged and opens the
// database.
func (h *History) open(old *detached, damaged *blockError) error {
	began := time.Now()
	if err := h.takeFolder(); err != nil {
		h.base.say(err.Error())
		return err
	}
	if err := old.close(); err != nil {
		h.Log.Warn("history was not closed well; its log is read again now", "err", err)
		if errors.Is(err, errPanic) {
			h.left++
		}
	}
	if h.left >= mostLeft {
		err := errors.New("the database has failed too often: restart the gateway when its disk is well")
		h.base.say(err.Error())
		return err
	}
	d := &doctor{path: h.Path, log: h.Log, counts: &h.counts, now: began}
	d.tidy(h.RetentionTime)
	err := h.disk()
	if err == nil && damaged != nil {
		err = d.aside(damaged.dir, partBlock, damaged.why)
	}
	if err == nil {
		err = d.examine()
	}
	for try := 0; err == nil; try++ {
		if err = guarded(func() error { return h.base.open(&h.Options) }); err == nil || isRoom(err) || try == 2 {
			break
		}
		err = d.everything(err, try == 1)
	}
	if err != nil {
		h.base.say(err.Error())
		return err
	}
	h.Log.Info("history is open", "path", h.Path, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// turn sets aside what is of the future. The rest becomes blocks before, so
// that the logs can go, which have both.
func (h *History) turn(old *detached, now time.Time) {
	if old.poisoned {
		return
	}
	if err := old.turn(now); err != nil {
		h.Log.Warn("samples of the future can not be set aside; samples of now are refused until then", "err", err)
		return
	}
	if err := old.close(); err != nil {
		h.Log.Warn("history was not closed well; its log is read again now", "err", err)
		return
	}
	d := &doctor{path: h.Path, log: h.Log, counts: &h.counts, now: now}
	for _, name := range []string{"wal", "wbl", "chunks_head"} {
		if err := d.aside(filepath.Join(h.Path, name), partFuture, errFuture); err != nil {
			h.Log.Warn("samples of the future can not be set aside", "err", err)
		}
	}
}

// maintain does what keeps the database in shape: full chunks to disk, two
// hours to a block, blocks together, old ones away. When ctx ends, what it is
// about to write is left to the next start.
func (h *History) maintain(ctx context.Context) error {
	defer context.AfterFunc(ctx, h.base.cancel)()
	h.base.db.ForceHeadMMap()
	err := h.base.db.Compact(ctx)
	h.counts.size.Store(folderSize(h.Path))
	return err
}

func folderSize(path string) (bytes int64) {
	_ = filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil // what is gone meanwhile has no size
	})
	return bytes
}

// room says why nothing may be written now.
func (h *History) room() error {
	if h.base.spoiled {
		return errors.New("a write to its log has failed, and the log must be read again first")
	}
	return h.disk()
}

// disk says why the disk can not be written to. The database must not find out
// by itself: half a record in its log, or a chunk that can not be written, is
// worse than to wait.
func (h *History) disk() error {
	var disk unix.Statfs_t
	if err := unix.Statfs(h.Path, &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: h.Path, Err: err}
	}
	if disk.Flags&unix.ST_RDONLY != 0 {
		return &os.PathError{Op: "write", Path: h.Path, Err: unix.EROFS}
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < h.reserve {
		return fmt.Errorf("%s: %d MiB of the disk are free, and %d MiB stay free: %w", h.Path, free>>20, h.reserve>>20, unix.ENOSPC)
	}
	return nil
}

// trouble is a state that lasts and is said once.
type trouble struct {
	since time.Time
	times int
}

// begins reports whether this is the first time.
func (t *trouble) begins() bool {
	t.times++
	if t.times == 1 {
		t.since = time.Now()
	}
	return t.times == 1
}

// ends says for how long it was so and how often; 0 times when it was not.
func (t *trouble) ends() (after time.Duration, times int) {
	if times = t.times; times > 0 {
		after = time.Since(t.since).Round(time.Second)
		*t = trouble{}
	}
	return after, times
}
