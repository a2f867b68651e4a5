package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// fetch gets the body of a record; false: the record is not there any more, or
// has to be asked for again.
func (s *Spool) fetch(ctx context.Context, r *Record) (bool, error) {
	if r.segment == nil {
		return true, nil
	}
	body, wait, err := s.body(r)
	if err == nil {
		r.Body = body
		return true, nil
	}
	if wait == 0 {
		s.mu.Lock()
		s.loseLocked(r.Number, err)
		s.mu.Unlock()
		s.tidy()
		return false, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// loseLocked drops a record that can not be read, if it is still wanted.
func (s *Spool) loseLocked(number uint64, err error) {
	i := s.indexLocked(number)
	if i < 0 || s.records[i].segment == nil {
		return
	}
	if !s.harmed {
		s.harmed = true
		s.log.Error("the spool is damaged: samples on disk can not be read and are dropped; check the disk", "err", err, "samples", s.records[i].Samples)
	}
	s.dropLocked(i, Damaged)
}

var errChecksum = errors.New("the checksum is wrong")

// body reads a record's bytes, and tries again when the disk says that it can
// not. wait is how long to wait before the next attempt; 0 with an error means
// that the record is lost.
func (s *Spool) body(r *Record) (body []byte, wait time.Duration, err error) {
	body, err = s.readBody(r)
	read := &s.disk.read
	read.Lock()
	defer read.Unlock()
	switch {
	case err == nil:
		read.failures = 0
		return body, 0, nil
	case errors.Is(err, errChecksum), errors.Is(err, io.EOF), errors.Is(err, os.ErrNotExist):
		return nil, 0, err
	}
	s.countFailure("read")
	if read.failures++; read.failures%readAttempts == 0 {
		return nil, 0, err
	}
	// A single bad sector costs a second; a disk that is away for a while must
	// not cost all that is on it.
	return nil, min(retryFirst<<min(read.failures/readAttempts, 6), retryLongest), err
}

func (s *Spool) closeRead() {
	if s.disk.read.file != nil {
		s.disk.read.file.Close()
	}
	s.disk.read.segment, s.disk.read.file = nil, nil
}

func (s *Spool) readBody(r *Record) ([]byte, error) {
	read := &s.disk.read
	read.Lock()
	defer read.Unlock()
	if read.segment != r.segment {
		s.closeRead()
		f, err := openRegular(r.segment.path)
		if err != nil {
			return nil, err
		}
		read.segment, read.file = r.segment, f
	}
	body := make([]byte, r.length)
	if _, err := read.file.ReadAt(body, r.offset); err != nil {
		s.closeRead() // a disk that comes back needs a new handle
		return nil, fmt.Errorf("%s: %w", r.segment.path, err)
	}
	if checksum(body) != r.crc {
		return nil, fmt.Errorf("%s: record %d: %w", r.segment.path, r.Number, errChecksum)
	}
	return body, nil
}
