package history

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// scrubRate is how many bytes a second are read while all is well.
const scrubRate = 32 << 20

// lookEvery is after how many chunks the context is looked at.
const lookEvery = 64

// blockError is a block that is damaged inside.
type blockError struct {
	dir string
	why error
}

// Error implements error.
func (e *blockError) Error() string { return fmt.Sprintf("%s: %v", e.dir, e.why) }

// scrub reads every block to its end, as opening one reads little of it. It
// returns a *blockError for the first that is damaged.
func scrub(ctx context.Context, path string, rate int64) error {
	metas, err := filepath.Glob(filepath.Join(path, "[0-9A-Z]*", "meta.json"))
	if err != nil {
		return err
	}
	for _, meta := range metas {
		dir := filepath.Dir(meta)
		err := guarded(func() error { return readBlock(ctx, dir, rate) })
		if err == nil || isRoom(err) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, gone := os.Stat(meta); gone == nil {
			return &blockError{dir, err}
		}
	}
	return ctx.Err()
}

// readBlock checks the sums of all series and chunks of a block.
func readBlock(ctx context.Context, dir string, rate int64) (err error) {
	block, err := tsdb.OpenBlock(slog.New(slog.DiscardHandler), dir, nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, block.Close()) }()
	series, err := block.Index()
	if err != nil {
		return err
	}
	defer func() { _ = series.Close() }()
	data, err := block.Chunks()
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	meta := block.Meta()
	name, value := index.AllPostingsKey()
	postings, err := series.Postings(ctx, name, value)
	if err != nil {
		return err
	}
	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	began, read, n, looked := time.Now(), int64(0), uint64(0), 0
	for postings.Next() {
		if err := series.Series(postings.At(), &builder, &metas); err != nil {
			return err
		}
		n++
		for _, m := range metas {
			if looked++; looked%lookEvery == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			if m.MinTime < meta.MinTime || m.MaxTime >= meta.MaxTime {
				return errors.New("a chunk is not of the block's time")
			}
			chunk, _, err := data.ChunkOrIterable(m)
			if err != nil {
				return err
			}
			if chunk == nil || !chunkenc.IsValidEncoding(chunk.Encoding()) {
				return errors.New("a chunk is of no known kind")
			}
			read += int64(len(chunk.Bytes()))
		}
		if rate > 0 && n%64 == 0 {
			if ahead := time.Duration(float64(read)/float64(rate)*1e9) - time.Since(began); ahead > 10*time.Millisecond {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(ahead):
				}
			}
		}
	}
	if err := postings.Err(); err != nil {
		return err
	}
	if n != meta.Stats.NumSeries {
		return fmt.Errorf("it has %d series, and says %d", n, meta.Stats.NumSeries)
	}
	return readPostings(ctx, series)
}

// readPostings checks the sums of all lists of series by label.
func readPostings(ctx context.Context, of tsdb.IndexReader) error {
	names, err := of.LabelNames(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		values, err := of.LabelValues(ctx, name, nil)
		if err != nil {
			return err
		}
		for _, value := range values {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			postings, err := of.Postings(ctx, name, value)
			if err != nil {
				return err
			}
			if _, err := index.ExpandPostings(postings); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// damages reports whether an error of a query may come from a damaged block.
// Others quote what a client wrote: words are looked for in those of storage.
func damages(err error) bool {
	var stored *storedError
	text := err.Error()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case strings.HasPrefix(text, "cannot populate chunk "): // of an iterator
		return true
	}
	return errors.As(err, &stored) &&
		(strings.Contains(text, "checksum") || strings.Contains(text, "chunk") || strings.Contains(text, "invalid size"))
}
