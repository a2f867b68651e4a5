package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// retryFirst and retryLongest bound the time between two attempts to use a
	// disk that failed.
	retryFirst   = 250 * time.Millisecond
	retryLongest = 5 * time.Second
	// catchUp is how many records move from memory to disk before others get
	// their turn.
	catchUp = 32
	// readAttempts is how often a record is read before it counts as damaged.
	readAttempts = 4
	// positionEvery is how old the position on disk may become while records
	// are acknowledged and no segment is removed.
	positionEvery = 5 * time.Second
)

// disk is the spool's directory as its writer sees it; guarded by the spool's
// io, but for what says otherwise.
type disk struct {
	dir     *os.File // locked; nil while there is none
	active  *os.File // records are appended to it; nil: the next one begins a segment
	end     int64    // where the next one goes; from here on it is zero
	dirty   bool     // it holds records that are not synced
	buffer  []byte
	timer   *time.Timer // to sync
	retry   *time.Timer // while failing
	backoff time.Duration
	since   time.Time // failing since then

	// place guards the position's file, and is taken before mu.
	place struct {
		sync.Mutex
		file   *os.File
		turn   uint64
		at     time.Time // when it was written last
		failed bool      // said so
	}
	// read is owned by the reader.
	read struct {
		sync.Mutex
		segment  *segment
		file     *os.File
		failures int // in a row
	}
}

// mount takes the directory into use. Only at the start does it take the
// records in it over.
func (s *Spool) mount(start bool) error {
	dir, err := lockDirectory(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	id := s.id
	s.mu.Unlock()
	f, err := look(s.dir, id)
	if err != nil {
		dir.Close()
		return err
	}
	if len(f.odd) > 0 {
		s.log.Warn("files in the spool's directory are left alone or can not be used", "dir", s.dir, "files", f.odd[:min(len(f.odd), 10)], "count", len(f.odd))
	}
	if start {
		f.trim()
	}
	s.mu.Lock()
	returned := s.known && f.position.id == s.id
	s.id, s.known = f.position.id, true
	if start {
		s.restoreLocked(&f)
	} else if len(f.records) > 0 && !returned {
		// The numbers of what is there are lower than those that have been
		// given to the receiver already: it can not be put in front of them.
		s.late = true
		s.log.Warn("the spool's directory could be opened only now; what it holds from before is delivered after the next start", "dir", s.dir, "records", len(f.records))
	}
	s.mu.Unlock()
	s.disk.dir = dir
	s.disk.place.Lock()
	s.disk.place.turn = f.position.turn
	s.disk.place.Unlock()
	s.openPosition()
	if s.late && f.known && s.disk.place.file != nil {
		// It stays as it is, but the next start must not go on from its numbers.
		f.position.clean = false
		s.sayPosition(f.position.write(s.disk.place.file, true))
	}
	return nil
}

// openPosition makes the position's file. The spool works without it, too.
func (s *Spool) openPosition() {
	p := &s.disk.place
	p.Lock()
	defer p.Unlock()
	if p.file != nil {
		return
	}
	path := filepath.Join(s.dir, positionName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		s.sayPosition(err)
		return
	}
	p.file = f
	// From here on the numbers after the last one count as used. Both slots are
	// written, so that they have their room on the disk.
	if s.savePositionPlaced(false, false) == nil && s.savePositionPlaced(true, false) == nil {
		_ = syncDirectory(s.disk.dir)
	}
}

// sayPosition says that the position can not be written, or is again, once.
func (s *Spool) sayPosition(err error) {
	if p := &s.disk.place; err != nil && !p.failed {
		s.countFailure("position")
		s.log.Error("the spool's position can not be written: after a restart samples are sent again", "err", err)
	}
	s.disk.place.failed = err != nil
}

// savePosition writes where the spool is.
func (s *Spool) savePosition(sync, clean bool) error {
	p := &s.disk.place
	p.Lock()
	defer p.Unlock()
	return s.savePositionPlaced(sync, clean)
}

func (s *Spool) savePositionPlaced(sync, clean bool) error {
	p := &s.disk.place
	if p.file == nil {
		return nil
	}
	s.mu.Lock()
	now, late := s.positionLocked(), s.late
	s.mu.Unlock()
	if late {
		return nil
	}
	now.turn, now.clean = p.turn, clean
	err := now.write(p.file, sync)
	p.turn, p.at = now.turn, time.Now()
	s.sayPosition(err)
	return err
}

// tidy removes the segments that nothing waits in, and notes the position
// before it does. Otherwise the position may be old: what was acknowledged
// since is sent again by the next process when this one is killed, and
// receivers take it as repeats. To write it each time is a write more for every
// record.
func (s *Spool) tidy() {
	if s.dir == "" {
		return
	}
	s.disk.place.Lock()
	defer s.disk.place.Unlock()
	s.mu.Lock()
	var dead []*segment
	s.segments = slices.DeleteFunc(s.segments, func(g *segment) bool {
		if g.live > 0 || g == s.active {
			return false
		}
		dead = append(dead, g)
		s.onDisk -= g.size
		return true
	})
	s.mu.Unlock()
	if len(dead) == 0 {
		if time.Since(s.disk.place.at) >= positionEvery {
			_ = s.savePositionPlaced(false, false)
		}
		return
	}
	// First the position, in both slots: what is removed must not look lost.
	_ = s.savePositionPlaced(true, false)
	_ = s.savePositionPlaced(false, false)
	for _, g := range dead {
		s.disk.read.Lock()
		if s.disk.read.segment == g {
			s.closeRead() // or its room is not free
		}
		s.disk.read.Unlock()
		if err := os.Remove(g.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.countFailure("remove")
			s.log.Warn("a segment of the spool that is done with can not be removed", "err", err)
		}
	}
}

// store writes a record to the active segment. After an error that segment is
// left as it was before, and no more is written to it.
func (s *Spool) store(r *Record) error {
	d := &s.disk
	if d.dir == nil {
		return errors.New("the directory is not open")
	}
	size := int64(len(r.Body)) + 2*frameSize
	if d.active != nil && d.end > int64(headSize) && d.end+size > s.segmentSize {
		if err := s.endSegment(); err != nil {
			return err
		}
	}
	if d.active == nil {
		if err := s.beginSegment(r.Number); err != nil {
			return err
		}
	}
	f := frame{number: r.Number, before: r.before, samples: uint32(r.total), length: uint32(len(r.Body)), micros: r.Appended.UnixMicro(), crc: checksum(r.Body)}
	d.buffer = appendRecord(d.buffer[:0], s.id, f, r.Body)
	begin := d.end
	_, err := d.active.WriteAt(d.buffer, begin)
	if err == nil {
		err = s.stillThere()
	}
	if err == nil && s.sync == 0 {
		err = s.syncActive()
	}
	if err != nil {
		s.trim()
		_ = s.flushActive()
		s.leaveSegment()
		return err
	}
	d.end += size
	if s.sync > 0 && !d.dirty {
		d.dirty = true
		d.timer = time.AfterFunc(s.sync, s.flush)
	}
	r.segment, r.offset, r.crc = s.active, begin+frameSize, f.crc
	s.mu.Lock()
	grown := max(d.end-s.active.size, 0)
	s.active.size += grown
	s.onDisk += grown
	s.written = r.Number
	s.mu.Unlock()
	return nil
}

// growthLocked is how much longer the files are when a record of so many bytes
// is stored next. The caller has io, too.
func (s *Spool) growthLocked(length int) int64 {
	size := int64(length) + 2*frameSize
	switch end := s.disk.end; {
	case s.dir == "":
		return 0
	case s.active == nil || end > int64(headSize) && end+size > s.segmentSize:
		return max(s.segmentSize, int64(headSize)+size)
	default:
		return max(end+size-s.active.size, 0)
	}
}

func (s *Spool) beginSegment(number uint64) error {
	f, size, err := createSegment(s.disk.dir, number, s.id, s.segmentSize)
	if err != nil {
		return err
	}
	s.disk.active, s.disk.end = f, int64(headSize)
	s.mu.Lock()
	s.active = &segment{path: f.Name(), size: size}
	s.segments = append(s.segments, s.active)
	s.onDisk += s.active.size
	s.mu.Unlock()
	return nil
}

// endSegment is for a full one.
func (s *Spool) endSegment() error {
	err := s.flushActive()
	s.trim()
	s.leaveSegment()
	return err
}

// trim gives back what the active segment does not need, when no more is
// written to it.
func (s *Spool) trim() {
	d := &s.disk
	if d.active == nil || d.active.Truncate(d.end) != nil {
		return // then it is zero, or not a record
	}
	s.mu.Lock()
	s.onDisk -= s.active.size - d.end
	s.active.size = d.end
	s.mu.Unlock()
}

func (s *Spool) leaveSegment() {
	if s.disk.active == nil {
		return
	}
	s.disk.active.Close()
	s.disk.active, s.disk.dirty = nil, false
	s.mu.Lock()
	s.active = nil
	s.mu.Unlock()
}

func (s *Spool) syncActive() error {
	if err := unix.Fdatasync(int(s.disk.active.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: s.disk.active.Name(), Err: err}
	}
	return nil
}

// stillThere finds out that somebody has removed the active segment.
func (s *Spool) stillThere() error {
	var status unix.Stat_t
	if err := unix.Fstat(int(s.disk.active.Fd()), &status); err != nil {
		return &os.PathError{Op: "stat", Path: s.disk.active.Name(), Err: err}
	}
	if status.Nlink == 0 {
		return fmt.Errorf("%s: was removed while it was in use", s.disk.active.Name())
	}
	return nil
}

// flush is what the timer calls.
func (s *Spool) flush() {
	s.io.Lock()
	defer s.io.Unlock()
	if err := s.flushActive(); err != nil {
		s.fail(err)
	}
}

// flushActive syncs what was written since the last time. The kernel forgets
// what it could not write once it has said so: those records go back into
// memory, from where they are written again.
func (s *Spool) flushActive() error {
	if !s.disk.dirty {
		return nil
	}
	s.disk.dirty = false
	s.disk.timer.Stop()
	err := s.syncActive()
	s.mu.Lock()
	from := s.synced
	if err == nil {
		s.synced = s.written
	}
	s.mu.Unlock()
	if err == nil {
		return nil
	}
	s.trim()
	s.rescue(from)
	s.leaveSegment()
	return err
}

func (s *Spool) unmount() {
	s.leaveSegment()
	s.disk.place.Lock()
	if s.disk.place.file != nil {
		s.disk.place.file.Close()
		s.disk.place.file = nil
	}
	s.disk.place.Unlock()
	if s.disk.dir != nil {
		s.disk.dir.Close() // which ends the lock
		s.disk.dir = nil
	}
}
