package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// A log of the database is a folder of numbered segments. A segment is pages;
// a page is parts of records, and zeros
// (https://github.com/prometheus/prometheus/blob/main/tsdb/docs/format/wal.md).
const (
	pageBytes   = 32 << 10
	partHead    = 7 // type, length, checksum
	partZeros   = 0
	partFull    = 1
	partFirst   = 2
	partMiddle  = 3
	partLast    = 4
	partKind    = 7 // the bits that say which of these
	partSnappy  = 8
	partZstd    = 16
	maxSegments = 100_000 // missing ones that are made up for
	anySegment  = -1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errDamaged = errors.New("records in it are damaged")

// logOf looks through a log. A damaged segment is replaced by one with all its
// records that are whole, where the database would drop all segments behind.
func (d *doctor) logOf(name, part string) (damaged bool, err error) {
	dir := filepath.Join(d.path, name)
	if d.empty(name) {
		return false, nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return true, d.aside(dir, part, errors.New("it is no folder"))
	}
	next := anySegment
	if checkpoint, n, err := wlog.LastCheckpoint(dir); err == nil {
		next = n + 1
		if damaged, err = d.segments(checkpoint, part, 0); err != nil {
			return false, err
		}
	}
	more, err := d.segments(dir, part, next)
	damaged = damaged || more
	if err != nil || part == partLateLog || next != anySegment {
		return damaged, err
	}
	first, _, err := wlog.Segments(dir)
	if err != nil || first <= 0 {
		return damaged, err
	}
	return true, d.noCheckpoint(dir, part, first-1)
}

// noCheckpoint makes up for a checkpoint that is missing by one that has
// nothing in it, as the database would look for all segments since the first.
func (d *doctor) noCheckpoint(dir, part string, number int) error {
	path := filepath.Join(dir, fmt.Sprintf("checkpoint.%08d", number))
	work := path + wlog.CheckpointTempFileSuffix
	if err := os.MkdirAll(work, 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(wlog.SegmentName(work, 0), nil, 0o644); err != nil {
		return err
	}
	if err := os.Rename(work, path); err != nil {
		return err
	}
	d.counts.damaged.WithLabelValues(part).Inc()
	d.log.Error("the beginning of the history's log is missing", "file", path)
	return nil
}

// segments looks through the segments of a folder, of which the one with the
// number next must be there ([anySegment]: none in particular).
func (d *doctor) segments(dir, part string, next int) (damaged bool, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	var numbers []int
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		n, err := strconv.Atoi(e.Name())
		switch {
		case err != nil:
			continue // the database does not look at it
		case !e.Type().IsRegular() || filepath.Base(wlog.SegmentName(dir, n)) != e.Name():
			damaged = true
			if err := d.aside(path, part, errors.New("it is no segment")); err != nil {
				return false, err
			}
			continue
		}
		numbers = append(numbers, n)
		whole, err := intact(path)
		if err != nil && isRoom(err) {
			return false, err
		}
		if err != nil || !whole {
			damaged = true
			if err := d.salvage(path, part); err != nil {
				return false, err
			}
		}
	}
	slices.Sort(numbers)
	if len(numbers) > 0 && (numbers[0] < next || next == anySegment) {
		next = numbers[0]
	}
	for i, n := range numbers {
		if n-next > maxSegments {
			for _, n := range numbers[i:] {
				if err := d.aside(wlog.SegmentName(dir, n), part, errors.New("its number is none that this log can have")); err != nil {
					return false, err
				}
			}
			return true, nil
		}
		if next < n {
			damaged = true
			d.counts.damaged.WithLabelValues(part).Add(float64(n - next))
			d.log.Error("segments of the history's log are missing", "first", wlog.SegmentName(dir, next), "segments", n-next)
		}
		for ; next < n; next++ {
			if err := os.WriteFile(wlog.SegmentName(dir, next), nil, 0o644); err != nil {
				return false, err
			}
		}
		next = n + 1
	}
	return damaged, nil
}

// intact reports whether all records of a segment are whole.
func intact(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	damaged, err := walk(f, nil)
	return damaged == 0, err
}

// salvage puts a segment with what is whole of it in its place.
func (d *doctor) salvage(path, part string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	work := path + ".salvage"
	if err := os.RemoveAll(work); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	// One segment, whatever its records weigh when they are packed again.
	size := (int(2*info.Size())/pageBytes + 2) * pageBytes
	to, err := wlog.NewSize(nil, nil, work, size, compression.Snappy)
	if err != nil {
		return err
	}
	records := 0
	lost, err := walk(f, func(record []byte) error {
		records++
		return to.Log(record)
	})
	if e := to.Close(); e != nil {
		err = e
	}
	if err != nil && isRoom(err) {
		return err
	}
	why := fmt.Errorf("%w: %d places, and %d records are whole", errDamaged, lost, records)
	if err := d.aside(path, part, why); err != nil {
		return err
	}
	return os.Rename(wlog.SegmentName(work, 0), path)
}

// walk calls yield, which may be nil, with every whole record, and counts the
// places that are damaged. Behind one of them it goes on with the next page.
func walk(r io.Reader, yield func(record []byte) error) (damaged int, err error) {
	page := make([]byte, pageBytes)
	var packed []byte
	decode := compression.NewSyncDecodeBuffer()
	under := false // a record is under way
	for {
		n, err := io.ReadFull(r, page)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return damaged, err
		}
		clear(page[n:]) // as the database takes it
		rest := page
		for n > 0 && len(rest) > 0 {
			kind := rest[0] & partKind
			if kind == partZeros {
				if len(bytes.Trim(rest[1:], "\x00")) > 0 {
					damaged++
					under = false
				}
				break
			}
			body, ok := partOf(rest)
			if !ok || kind > partLast {
				damaged++
				under = false
				break
			}
			packing := compression.None
			if rest[0]&partSnappy != 0 {
				packing = compression.Snappy
			} else if rest[0]&partZstd != 0 {
				packing = compression.Zstd
			}
			rest = rest[partHead+len(body):]
			begins := kind == partFull || kind == partFirst
			if begins == under { // its end is missing, or its beginning
				damaged++
			}
			if begins {
				packed = packed[:0]
			} else if !under {
				continue
			}
			packed = append(packed, body...)
			under = kind == partFirst || kind == partMiddle
			if under || yield == nil {
				continue
			}
			record, err := compression.Decode(packing, packed, decode)
			if err != nil {
				damaged++
				continue
			}
			if err := yield(record); err != nil {
				return damaged, err
			}
		}
		if n < pageBytes {
			if under {
				damaged++
			}
			return damaged, nil
		}
	}
}

// partOf is what the part of a record holds that b begins with.
func partOf(b []byte) (body []byte, ok bool) {
	if len(b) < partHead {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < partHead+n {
		return nil, false
	}
	body = b[partHead : partHead+n]
	return body, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(b[3:])
}

// numbersUsed makes the database go on with numbers of series above all that
// stand in its logs: those whose names are lost must not become another's.
func (d *doctor) numbersUsed() error {
	highest := chunks.HeadSeriesRef(0)
	decoder := record.NewDecoder(labels.NewSymbolTable(), d.log)
	var series []record.RefSeries
	var samples []record.RefSample
	note := func(rec []byte) error {
		// What can not be decoded is passed over by the database, too.
		switch decoder.Type(rec) {
		case record.Series:
			series, _ = decoder.Series(rec, series[:0])
			for _, s := range series {
				highest = max(highest, s.Ref)
			}
		case record.Samples, record.SamplesV2:
			samples, _ = decoder.Samples(rec, samples[:0])
			for _, s := range samples {
				highest = max(highest, s.Ref)
			}
		}
		return nil
	}
	for _, pattern := range []string{"wal/[0-9]*", "wal/checkpoint.*/[0-9]*", "wbl/[0-9]*"} {
		files, err := filepath.Glob(filepath.Join(d.path, pattern))
		if err != nil {
			return err
		}
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			_, err = walk(f, note)
			_ = f.Close()
			if err != nil && isRoom(err) {
				return err
			}
		}
	}
	w, err := wlog.NewSize(nil, nil, filepath.Join(d.path, "wal"), wlog.DefaultSegmentSize, compression.Snappy)
	if err != nil {
		return err
	}
	encoder := record.Encoder{}
	err = w.Log(encoder.Series([]record.RefSeries{{
		Ref: highest + 1, Labels: labels.FromStrings(model.MetricNameLabel, "fanin_history_numbers_used"),
	}}, nil))
	return errors.Join(err, w.Close())
}
