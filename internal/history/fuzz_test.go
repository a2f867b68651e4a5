package history

import (
	"bytes"
	"testing"

	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// FuzzWalk: whatever stands in a segment, walking it ends, and what it takes
// for whole is what the database reads where nothing is damaged.
func FuzzWalk(f *testing.F) {
	dir := f.TempDir()
	w, err := wlog.NewSize(nil, nil, dir, 8*pageBytes, compression.Snappy)
	if err != nil {
		f.Fatal(err)
	}
	for _, size := range []int{1, 100, pageBytes - partHead, 3 * pageBytes, 0} {
		if err := w.Log(bytes.Repeat([]byte{byte(size), 7}, size/2)); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(read(f, wlog.SegmentName(dir, 0)))
	f.Add([]byte{partFirst, 0, 1, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, segment []byte) {
		var found [][]byte
		damaged, err := walk(bytes.NewReader(segment), func(record []byte) error {
			found = append(found, bytes.Clone(record))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if short := len(segment) % pageBytes; short > 0 {
			segment = append(segment, make([]byte, pageBytes-short)...) // as the database reads it
		}
		r := wlog.NewReader(bytes.NewReader(segment))
		n := 0
		for r.Next() {
			if n >= len(found) || !bytes.Equal(r.Record(), found[n]) {
				t.Fatalf("record %d is not found", n)
			}
			n++
		}
		// It is a little stricter than the database, which overlooks the missing end
		// of a record when zeros follow.
		if damaged == 0 && (r.Err() != nil || n != len(found)) {
			t.Fatalf("the database says %v after %d records, and %d places count as damaged, with %d records found", r.Err(), n, damaged, len(found))
		}
	})
}
