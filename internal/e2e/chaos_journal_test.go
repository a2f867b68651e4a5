package e2e

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
	"fanin/internal/spool"
	"fanin/internal/wire"
)

// spoolJournal keeps everything that is ever committed to a spool: it links
// each segment as soon as it appears. A segment is appended to and at the end
// removed, so that the link holds all that was ever in it; the pusher looks
// only whether its file has no name at all.
type spoolJournal struct {
	t          *testing.T
	spool, dir string

	stop   chan struct{}
	ended  chan struct{}
	once   sync.Once
	mu     sync.Mutex // guards what follows
	linked map[string]os.FileInfo
}

const lookEvery = 20 * time.Millisecond

// keepJournal begins a journal of the spool in a directory that is still
// empty. The journal's own lies on the same file system.
func keepJournal(t *testing.T, dir, journal string) *spoolJournal {
	t.Helper()
	if err := os.MkdirAll(journal, 0o700); err != nil {
		t.Fatal(err)
	}
	j := &spoolJournal{
		t: t, spool: dir, dir: journal, linked: map[string]os.FileInfo{},
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go func() {
		defer close(j.ended)
		for {
			j.look()
			select {
			case <-j.stop:
				return
			case <-time.After(lookEvery):
			}
		}
	}()
	t.Cleanup(j.close)
	return j
}

// look links what is new. It is called between the end of a pusher and its
// next start too, so that a pusher's short life is not overlooked.
func (j *spoolJournal) look() {
	j.mu.Lock()
	defer j.mu.Unlock()
	segments, err := filepath.Glob(filepath.Join(j.spool, "*.spool"))
	if err != nil {
		j.t.Error(err)
	}
	for _, path := range segments {
		name := filepath.Base(path)
		link := filepath.Join(j.dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was linked before, or the count of samples tells
		}
		if err != nil {
			j.t.Error(err)
			continue
		}
		if known := j.linked[name]; known != nil {
			if !os.SameFile(known, info) {
				j.t.Errorf("%s is another file than the one of that name before", path)
			}
			continue
		}
		if err := os.Link(path, link); err != nil && !errors.Is(err, os.ErrNotExist) {
			j.t.Error(err)
		} else if err == nil {
			j.linked[name] = info
		}
	}
}

// close looks for the last time.
func (j *spoolJournal) close() {
	j.once.Do(func() {
		close(j.stop)
		<-j.ended
		j.look()
	})
}

// history is samples by the canonical text of their series, in the order of
// time.
type history map[string][]rig.Point

func (h history) samples() (n int) {
	for _, points := range h {
		n += len(points)
	}
	return n
}

// record says which samples came in one record of a spool.
type record struct {
	number      uint64
	samples     int
	appended    time.Time
	first, last int64
}

func (r *record) note(t int64) {
	if r.first == 0 || t < r.first {
		r.first = t
	}
	r.last = max(r.last, t)
}

// read returns what is in the journal, as it will be called once the gateway
// has said whose it is. It reads a copy with the spool's own eyes: without a
// position everything is pending.
//
// A record that a kill -9 has cut off was never committed, and neither the
// pusher nor this reads it; one that is whole counts as committed, whether or
// not the pusher lived to know it. The spool counts the samples that are
// missing between two records, so that a segment that was overlooked shows.
func (j *spoolJournal) read(host string) (history, []record) {
	j.t.Helper()
	all, records, damaged := j.load(host)
	if damaged != 0 {
		j.t.Errorf("%d samples are missing in the journal of %s", damaged, host)
	}
	return all, records
}

// load is read for a journal that may be damaged, and says how many samples
// are missing in it.
func (j *spoolJournal) load(host string) (all history, records []record, damaged int) {
	j.t.Helper()
	copied := j.t.TempDir()
	j.mu.Lock()
	err := os.CopyFS(copied, os.DirFS(j.dir))
	j.mu.Unlock()
	if err != nil {
		j.t.Fatal(err)
	}
	queue, err := spool.Open(spool.Options{Dir: copied, MaxBytes: 1 << 40, MaxAge: 1000 * time.Hour})
	if err != nil {
		j.t.Fatal(err)
	}
	defer queue.Close()
	queue.Finish()
	all = history{}
	var decoder wire.Decoder
	for last := uint64(0); ; {
		r, err := queue.Next(j.t.Context(), last)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			j.t.Fatal(err)
		}
		last = r.Number
		request, err := decoder.Decode(r.Body, &wire.Memory{Version: wire.VersionOf(r.Body)})
		if err != nil {
			j.t.Fatalf("record %d of %s: %v", r.Number, host, err)
		}
		if request.Samples != r.Samples {
			j.t.Errorf("record %d of %s has %d samples and says %d", r.Number, host, request.Samples, r.Samples)
		}
		one := record{number: r.Number, samples: r.Samples, appended: r.Appended}
		request.EachSeries(func(s *wire.Series) {
			text := textOf(s, host)
			for _, p := range s.Points {
				one.note(p.T)
				points := all[text]
				if n := len(points); n > 0 && points[n-1].T >= p.T {
					j.t.Errorf("%s: %d was committed after %d", text, p.T, points[n-1].T)
					continue
				}
				all[text] = append(points, rig.Point{T: p.T, V: p.V})
			}
		})
		records = append(records, one)
	}
	if len(records) == 0 || records[0].number != 1 {
		j.t.Errorf("the journal of %s has %d records and does not begin with the first", host, len(records))
	}
	return all, records, int(queue.Ledger().Dropped[spool.Damaged])
}

// textOf is the series a claim becomes when host has made it.
func textOf(claim *wire.Series, host string) string {
	name, labels := "", []sample.Label{{Name: sample.HostName, Value: host}}
	said, _ := claim.Labels()
	for _, l := range said {
		if string(l.Name) == "__name__" {
			name = string(l.Value)
		} else {
			labels = append(labels, sample.Label{Name: string(l.Name), Value: string(l.Value)})
		}
	}
	return sample.NewNamed(&sample.Family{Name: name}, name, labels...).Text()
}

// stored is the series that Prometheus answers with, less what it adds itself.
func stored(labels map[string]string) string {
	var own []sample.Label
	for name, value := range labels {
		if name != "__name__" && name != "job" && name != "instance" {
			own = append(own, sample.Label{Name: name, Value: value})
		}
	}
	name := labels["__name__"]
	return sample.NewNamed(&sample.Family{Name: name}, name, own...).Text()
}

func at(t int64) string { return time.UnixMilli(t).Format("15:04:05.000") }
