package history

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// What can be damaged: the values of "part".
const (
	partBlock    = "block"    // two hours or more of samples
	partLog      = "wal"      // the log of what is not in a block yet
	partLateLog  = "wbl"      // that of what came late
	partChunks   = "chunks"   // full chunks of the same; the logs have them too
	partDatabase = "database" // all of these, when nothing else helps
	partFuture   = "future"   // what was written while the clock was ahead, and logs with some of it
)

// asideFolder holds what was damaged, inside the history's own.
const asideFolder = "damaged"

var errFuture = errors.New("it has samples of the future: the clock was ahead")

// doctor looks at a database before it is opened, as the database itself
// would not open, or would throw away more than is damaged.
type doctor struct {
	path   string
	log    *slog.Logger
	counts *counts
	now    time.Time
}

// examine sets aside what is damaged. An error says that the disk can not be
// read or written now.
func (d *doctor) examine() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := ulid.ParseStrict(e.Name()); err != nil {
			continue
		}
		if err := d.block(filepath.Join(d.path, e.Name())); err != nil {
			return err
		}
	}
	damaged, err := d.logOf("wal", partLog)
	if err != nil {
		return err
	}
	if d.empty("wal") && (!d.empty("wbl") || !d.empty("chunks_head")) {
		damaged = true
		d.counts.damaged.WithLabelValues(partLog).Inc()
		d.log.Error("the history's log is missing, and what it was the only one to have", "folder", filepath.Join(d.path, "wal"))
	}
	if damaged {
		if err := d.numbersUsed(); err != nil {
			return err
		}
	}
	if _, err := d.logOf("wbl", partLateLog); err != nil {
		return err
	}
	return d.chunks(damaged)
}

// block opens a block and looks at what that reads: its description, the table
// of its index, the heads of its chunks' files. The rest is read by scrub.
func (d *doctor) block(dir string) error {
	b, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), dir, nil, nil)
	if err != nil {
		return d.aside(dir, partBlock, err)
	}
	meta := b.Meta()
	if err := b.Close(); err != nil {
		return err
	}
	if meta.MaxTime > d.now.Add(aheadBy).UnixMilli() {
		return d.aside(dir, partFuture, errFuture)
	}
	if meta.ULID.String() != filepath.Base(dir) || meta.MinTime >= meta.MaxTime {
		return d.aside(dir, partBlock, errors.New("its meta.json does not tell of this block"))
	}
	return nil
}

// chunks reads the chunks of the head. All of them go aside together: the logs
// have the same samples, and chunks do not name their series but by numbers
// that only a whole log explains.
func (d *doctor) chunks(logDamaged bool) error {
	dir := filepath.Join(d.path, "chunks_head")
	if d.empty("chunks_head") {
		return nil
	}
	if logDamaged {
		return d.aside(dir, partChunks, errors.New("the log that names their series is damaged"))
	}
	mapper, err := chunks.NewChunkDiskMapper(nil, dir, chunkenc.NewPool(), chunks.DefaultWriteBufferSize, 0)
	if err != nil {
		return d.aside(dir, partChunks, err)
	}
	err = mapper.IterateAllChunks(func(chunks.HeadSeriesRef, chunks.ChunkDiskMapperRef, int64, int64, uint16, chunkenc.Encoding, bool) error {
		return nil
	})
	if e := mapper.Close(); e != nil && err == nil {
		return e
	}
	if err != nil {
		return d.aside(dir, partChunks, err)
	}
	return nil
}

// empty reports whether a folder holds nothing, or is not there.
func (d *doctor) empty(name string) bool {
	entries, err := os.ReadDir(filepath.Join(d.path, name))
	return err == nil && len(entries) == 0 || errors.Is(err, fs.ErrNotExist)
}

// aside moves a file or folder out of the database, because of why. What is
// the disk's fault and not the file's is an error.
func (d *doctor) aside(path, part string, why error) error {
	if isRoom(why) {
		return why
	}
	folder := filepath.Join(d.path, asideFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	below, err := filepath.Rel(d.path, path)
	if err != nil {
		below = filepath.Base(path)
	}
	name := d.now.UTC().Format(asideTime) + "-" + strings.ReplaceAll(below, string(filepath.Separator), "-")
	to := filepath.Join(folder, name)
	for i := 2; ; i++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = filepath.Join(folder, fmt.Sprintf("%s-%d", name, i))
	}
	err = os.Rename(path, to)
	if errors.Is(err, syscall.EXDEV) { // a log on a disk of its own
		to = path + "." + asideFolder
		err = os.Rename(path, to)
	}
	if err != nil {
		return err
	}
	d.counts.damaged.WithLabelValues(part).Inc()
	d.log.Error("a damaged part of the history is set aside", "part", part, "was", path, "is", to, "err", why)
	return nil
}

const asideTime = "20060102T150405Z"

// tidy removes what was set aside longer ago than the history reaches.
func (d *doctor) tidy(keep time.Duration) {
	folder := filepath.Join(d.path, asideFolder)
	entries, _ := os.ReadDir(folder) // most have none
	for _, e := range entries {
		stamp, _, _ := strings.Cut(e.Name(), "-")
		if at, err := time.Parse(asideTime, stamp); err == nil && d.now.Sub(at) > keep {
			_ = os.RemoveAll(filepath.Join(folder, e.Name()))
		}
	}
}

// everything is what is done when the database does not open although nothing
// was found: the head goes aside, and if that was so before, the blocks too.
func (d *doctor) everything(why error, blocks bool) error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, notBlock := ulid.ParseStrict(e.Name())
		head := e.Name() == "wal" || e.Name() == "wbl" || e.Name() == "chunks_head"
		if head || blocks && notBlock == nil {
			if err := d.aside(filepath.Join(d.path, e.Name()), partDatabase, why); err != nil {
				return err
			}
		}
	}
	return nil
}

// isRoom reports whether an error speaks of the disk or the process, and not
// of what a file holds.
func isRoom(err error) bool {
	for _, errno := range []error{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EPERM,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN, syscall.EINTR,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
