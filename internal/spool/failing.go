package spool

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// rescue reads the records after number back into memory.
func (s *Spool) rescue(number uint64) {
	for {
		s.mu.Lock()
		r, ok := s.findLocked(number)
		s.mu.Unlock()
		if !ok {
			return
		}
		number = r.Number
		if r.segment == nil {
			continue
		}
		body, err := s.readBody(&r)
		s.mu.Lock()
		if err != nil {
			s.loseLocked(number, err)
		} else if i := s.indexLocked(number); i >= 0 {
			one := &s.records[i]
			one.segment.live--
			one.segment, one.Body = nil, body
			s.memory += one.size()
			s.boundMemoryLocked()
		}
		s.mu.Unlock()
	}
}

// fail begins a time in which records are kept in memory.
func (s *Spool) fail(err error) {
	s.countFailure("write")
	s.leaveSegment()
	s.mu.Lock()
	failing, closed := s.failing, s.closed
	s.failing = true
	s.mu.Unlock()
	if closed {
		return
	}
	if !failing {
		s.disk.since, s.disk.backoff = time.Now(), retryFirst
		s.log.Error("the spool's disk can not be used: samples are kept in memory only, and the oldest are dropped when that is full",
			"dir", s.dir, "err", err, "advice", advice(err), "memory", s.maxMemory)
	} else {
		s.disk.backoff = min(2*s.disk.backoff, retryLongest)
	}
	s.disk.retry = time.AfterFunc(s.disk.backoff, s.resume)
}

func advice(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room on it, or set a smaller bound"
	case errors.Is(err, unix.EROFS):
		return "mount it for writing"
	case errors.Is(err, os.ErrPermission):
		return "let this user write to the directory, or choose another one"
	case errors.Is(err, ErrLocked):
		return "stop the other process"
	}
	return "it is tried again until it works"
}

// resume is what the timer calls while failing.
func (s *Spool) resume() {
	for more := true; more; {
		s.io.Lock()
		more = s.recoverSome(catchUp)
		s.io.Unlock()
	}
}

// recoverSome moves at most n records from memory to disk, in order, and
// reports whether there are more and the disk works.
func (s *Spool) recoverSome(n int) bool {
	s.mu.Lock()
	failing, closed := s.failing, s.closed
	s.mu.Unlock()
	if !failing || closed {
		return false
	}
	s.tidy() // which makes room
	if err := s.reopen(); err != nil {
		s.fail(err)
		return false
	}
	for range n {
		s.mu.Lock()
		i := s.firstInMemoryLocked()
		if i == len(s.records) {
			s.failing = false
			s.mu.Unlock()
			s.log.Info("the spool's disk works again: all that was kept in memory is on it", "dir", s.dir, "after", time.Since(s.disk.since).Round(time.Millisecond))
			return false
		}
		s.records[i].stored = true
		r := s.records[i]
		s.mu.Unlock()
		if err := s.store(&r); err != nil {
			s.fail(err)
			return false
		}
		s.mu.Lock()
		if i := s.indexLocked(r.Number); i >= 0 {
			one := &s.records[i]
			s.memory -= one.size()
			one.segment, one.offset, one.crc, one.Body = r.segment, r.offset, r.crc, nil
			one.segment.live++
		}
		s.mu.Unlock()
	}
	return true
}

// reopen makes sure that there is a directory, and that it is the one whose
// path we have: it may have been removed, or something mounted over it.
func (s *Spool) reopen() error {
	if s.disk.dir != nil {
		ours, err := s.disk.dir.Stat()
		if err != nil {
			return err
		}
		theirs, err := os.Stat(s.dir)
		if err == nil && os.SameFile(ours, theirs) {
			s.openPosition()
			return nil
		}
		s.unmount()
	}
	return s.mount(false)
}
