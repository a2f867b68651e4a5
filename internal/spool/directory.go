package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	positionName = "position"
	holderName   = "pid" // of the process that has the directory; the lock itself is on the directory

	// zerosAtOnce is how many zeros are written at once. The kernel keeps in one
	// piece what was written in one, and looks through all of the piece when a
	// part of it is written: of a megabyte that costs 40 us more each time.
	zerosAtOnce = 64 << 10
)

// segmentName is the first record's number. A second file of the same number
// is one that was begun anew after an error.
var segmentName = regexp.MustCompile(`^[0-9]{20}(-[0-9]{1,3})?\.spool$`)

// ErrLocked is what [Open] returns when another process has the directory.
var ErrLocked = errors.New("in use by another process")

// segment is one file of records. Its path is immutable, the rest is guarded
// by the spool's mu.
type segment struct {
	path string
	size int64 // of the file
	live int   // records that are pending
}

// findings is what lies in a directory.
type findings struct {
	segments []*segment
	loose    []loose
	records  []found // by number, each once
	position position
	known    bool // the position could be read
	fresh    bool // there is no trace of a spool
	odd      []string
}

type found struct {
	sighting
	segment *segment
}

// loose is a segment with zeros at its end that nothing will be written over:
// the process that had begun it is gone.
type loose struct {
	*segment
	end int64
}

// used is how much of a segment is not the zeros at its end.
func used(b []byte, records []sighting) (end int64) {
	end = int64(len(bytes.TrimRight(b, "\x00")))
	if n := len(records); n > 0 {
		// The last byte of a record may be zero, too.
		last := &records[n-1]
		end = max(end, min(last.offset+int64(last.length)+frameSize, int64(len(b))))
	}
	return end
}

// trim gives back the zeros at the ends of segments.
func (f *findings) trim() {
	for _, one := range f.loose {
		if os.Truncate(one.path, one.end) == nil {
			one.size = one.end
		}
	}
}

// lockDirectory makes the directory and takes it for this process.
func lockDirectory(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if parent, err := os.Open(filepath.Dir(dir)); err == nil {
		_ = syncDirectory(parent) // it may be new
		parent.Close()
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	holder := filepath.Join(dir, holderName)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
		}
		pid := "unknown"
		if said, err := os.ReadFile(holder); err == nil {
			if n, err := strconv.Atoi(strings.TrimSpace(string(said))); err == nil && n > 0 {
				pid = strconv.Itoa(n)
			}
		}
		return nil, fmt.Errorf("spool %s: %w (pid %s): two can not share a directory; stop the other one or give this one a directory of its own", dir, ErrLocked, pid)
	}
	// Only for the message above.
	_ = os.WriteFile(holder, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	return f, nil
}

// holderOf names this directory on this machine since it booted
// (/proc/sys/kernel/random/boot_id, random(4)).
func holderOf(dir *os.File) string {
	said, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if dir != nil {
		var status unix.Stat_t
		if unix.Fstat(int(dir.Fd()), &status) == nil {
			said = fmt.Appendf(said, "%d %d", status.Dev, status.Ino)
		}
	}
	sum := sha256.Sum256(said)
	return hex.EncodeToString(sum[:8])
}

// openRegular opens a file for reading and never waits, follows a link or
// opens a device.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readSegment(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSegment {
		return nil, fmt.Errorf("%s: %d bytes are more than a segment has", path, info.Size())
	}
	return io.ReadAll(io.LimitReader(f, maxSegment))
}

// look reads a directory and changes nothing in it. What can not be read is
// odd and left alone. A directory without a spool gets the id of one.
func look(dir string, fresh spoolID) (f findings, err error) {
	entries, err := os.ReadDir(dir) // in order of names, which is that of numbers
	if err != nil {
		return f, err
	}
	said, err := readPosition(filepath.Join(dir, positionName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.odd = append(f.odd, err.Error())
	}
	if f.position, f.known = parsePosition(said); !f.known && err == nil {
		f.odd = append(f.odd, positionName+": damaged: what is on disk is sent again")
	}
	var names []string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == positionName || name == holderName:
		case !segmentName.MatchString(name):
			f.odd = append(f.odd, name+": does not belong here")
		default:
			names = append(names, name)
		}
	}
	if !f.known {
		if f.position.id, f.fresh = identify(dir, names); f.fresh {
			f.position.id = fresh
		}
	}
	seen := make(map[uint64]int)
	for _, name := range names {
		path := filepath.Join(dir, name)
		b, err := readSegment(path)
		if err != nil {
			f.odd = append(f.odd, err.Error())
			continue
		}
		all := scan(b, f.position.id)
		head, whole := parseHead(b)
		switch {
		case len(all) > 0 || whole && head == f.position.id || bytes.HasPrefix(appendHead(nil, f.position.id), b):
		case used(b, nil) == 0 && len(b) > headSize: // begun, and never written before the power went
		case whole:
			f.odd = append(f.odd, name+": of another spool")
			continue
		default:
			f.odd = append(f.odd, name+": nothing in it can be read")
			continue
		}
		s := &segment{path: path, size: int64(len(b))}
		f.segments = append(f.segments, s)
		if end := used(b, all); end < s.size {
			f.loose = append(f.loose, loose{s, end})
		}
		for _, one := range all {
			i, twice := seen[one.number]
			if twice && (f.records[i].intact || !one.intact) {
				continue
			}
			if twice {
				f.records[i] = found{one, s}
				continue
			}
			seen[one.number] = len(f.records)
			f.records = append(f.records, found{one, s})
		}
	}
	return f, nil
}

// identify finds the spool's id in its segments, the newest first.
func identify(dir string, names []string) (id spoolID, none bool) {
	for i := len(names) - 1; i >= 0; i-- {
		b, err := readHead(filepath.Join(dir, names[i]))
		if err != nil {
			continue
		}
		if id, ok := parseHead(b); ok {
			return id, false
		}
	}
	return id, true
}

func readHead(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(headSize)))
}

// syncDirectory makes the names of new files last.
func syncDirectory(dir *os.File) error {
	if err := unix.Fsync(int(dir.Fd())); err != nil && !errors.Is(err, unix.EINVAL) {
		return &os.PathError{Op: "sync", Path: dir.Name(), Err: err}
	}
	return nil
}

// createSegment makes a file for records from number on, with its head and,
// up to its size, zeros: what is written over them later changes neither the
// file's length nor where it lies, so that to sync a record is to write this
// record and nothing else. Where there is no room for them they are left out.
func createSegment(dir *os.File, number uint64, id spoolID, size int64) (f *os.File, length int64, err error) {
	base := filepath.Join(dir.Name(), fmt.Sprintf("%020d", number))
	path := base + ".spool"
	for again := 1; ; again++ {
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) || again >= 1000 {
			break
		}
		path = fmt.Sprintf("%s-%d.spool", base, again)
	}
	if err != nil {
		return nil, 0, err
	}
	if _, err = f.Write(appendHead(nil, id)); err == nil {
		length, err = reserveZeros(f, size)
	}
	if err == nil {
		err = syncDirectory(dir)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(path)
		return nil, 0, err
	}
	return f, length, nil
}

// reserveZeros fills a file that has only its head and returns its length.
func reserveZeros(f *os.File, size int64) (length int64, err error) {
	zeros := make([]byte, zerosAtOnce)
	for length = int64(headSize); length < size; {
		n, err := f.WriteAt(zeros[:min(size-length, zerosAtOnce-length%zerosAtOnce)], length)
		if length += int64(n); err != nil {
			return int64(headSize), f.Truncate(int64(headSize))
		}
	}
	return length, nil
}
