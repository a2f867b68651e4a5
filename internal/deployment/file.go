package deployment

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// young is how long a file is read again although its times do not change: two
// rewrites in place within one tick of the file system's clock (up to 10 ms on
// ext4, 1 s on some NFS servers, 2 s on FAT) look the same to stat. It is
// measured on our own clock from the first look, as a file server's may differ.
const young = 2 * time.Second

// retryEvery and retries say how a file that could not be read is tried
// again before it counts as broken. A writer that truncates and rewrites is
// done in less.
const (
	retryEvery = 100 * time.Millisecond
	retries    = 5
)

// signature is what stat tells of a version of a file.
type signature struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// file is one watched file; owned by the watcher's lock.
type file struct {
	path string
	kind string // "record", "state" or "cluster"

	sig     signature
	first   time.Time // look that found sig first; zero when there is no sig
	settled bool      // the content was read when sig was no longer young
	seed    maphash.Seed
	hash    uint64 // of the content in use

	err    *Error    // of the last look, nil when it was good
	failed time.Time // when the failing began
	tries  int       // failing looks in a row
	good   time.Time // last look at which the content in use was on disk
	told   bool      // the log has been told of err

	pending chan look // a look that did not come back in time
}

// look is what the file system said.
type look struct {
	sig       signature
	unchanged bool // sig is the one given, data was not read
	data      []byte
	err       *Error
}

// retrying reports whether the file should be looked at again soon.
func (f *file) retrying() bool { return f.err != nil && f.tries < retries }

// broken reports whether failing has outlasted the retries.
func (f *file) broken() bool { return f.err != nil && f.tries >= retries }

// awaited reports whether the file fails and never had a good version. One that
// is not there is waited for as long as it takes to be replaced.
func (f *file) awaited() bool {
	return f != nil && f.err != nil && f.good.IsZero() && (f.err.Reason != ReasonMissing || f.retrying())
}

// poll looks at the file and calls parse with its content when that is new;
// parse returns what is wrong with it. failed is told the reason whenever the
// file begins to fail or fails in another way.
func (f *file) poll(now time.Time, wait time.Duration, parse func([]byte) *Error, failed func(*Error)) {
	l, ok := f.look(wait)
	if !ok {
		l = look{err: &Error{Reason: ReasonUnreadable, Detail: "the file system does not answer"}}
	}
	err := l.err
	switch {
	case l.unchanged:
		err = f.err
	case l.sig == signature{}:
		f.first = time.Time{}
	default:
		if l.sig != f.sig || f.first.IsZero() {
			f.sig, f.first = l.sig, now
		}
		f.settled = now.Sub(f.first) >= young
		if err != nil {
			break
		}
		h := maphash.Bytes(f.seed, l.data)
		if f.hash == h && !f.good.IsZero() {
			break // the version in use, perhaps again after a torn one
		}
		if err = parse(l.data); err == nil {
			f.hash = h
		}
	}
	if err == nil {
		f.err, f.tries, f.good = nil, 0, now
		return
	}
	err.Path = f.path
	if f.err == nil {
		f.failed, f.tries = now, 0
	}
	if f.err == nil || f.err.Reason != err.Reason {
		failed(err)
	}
	f.err = err
	f.tries++
}

// look reads the file unless it is the version known already. A file system
// that hangs (NFS, FUSE) holds up this file only: after wait the answer is
// left to a later call.
func (f *file) look(wait time.Duration) (look, bool) {
	if f.pending != nil {
		select {
		case l := <-f.pending:
			f.pending = nil
			return l, true
		default:
			return look{}, false
		}
	}
	known, path, out := signature{}, f.path, make(chan look, 1)
	if !f.first.IsZero() && f.settled {
		known = f.sig
	}
	f.pending = out
	go func() { out <- readFile(path, MaxFileBytes, known) }()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case l := <-f.pending:
		f.pending = nil
		return l, true
	case <-timer.C:
		return look{}, false
	}
}

// readFile reads a regular file of at most limit bytes. Files of other users
// are among those it is used for, so the last element of the path must not be
// a symbolic link (the folders before it may be), nothing but a regular file
// is opened, and opening never waits (a FIFO, a lease).
func readFile(path string, limit int64, known signature) look {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return look{err: pathError(err)}
	}
	sig := signatureOf(&st)
	if sig == known {
		return look{sig: sig, unchanged: true}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return look{sig: sig, err: &Error{Reason: ReasonNotRegular, Detail: fileKind(st.Mode)}}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return look{err: pathError(err)}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Fstat(fd, &st); err != nil {
		return look{err: pathError(err)}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return look{err: &Error{Reason: ReasonNotRegular, Detail: fileKind(st.Mode)}}
	}
	sig = signatureOf(&st)
	l := look{sig: sig}
	if st.Size > limit {
		l.err = &Error{Reason: ReasonTooLarge, Detail: fmt.Sprintf("%d bytes, at most %d are read", st.Size, limit)}
		return l
	}
	l.data = make([]byte, st.Size+1)
	n, err := io.ReadFull(f, l.data)
	l.data = l.data[:n]
	switch {
	case err == nil:
		return look{err: &Error{Reason: ReasonTorn, Detail: "it grew while it was read"}}
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return look{err: pathError(err)}
	}
	if err := unix.Fstat(fd, &st); err != nil || signatureOf(&st) != sig {
		return look{err: &Error{Reason: ReasonTorn, Detail: "it changed while it was read"}}
	}
	return l
}

func signatureOf(st *unix.Stat_t) signature {
	return signature{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

func pathError(err error) *Error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &Error{Reason: ReasonMissing, Detail: "no such file"}
	}
	if errors.Is(err, unix.ELOOP) {
		return &Error{Reason: ReasonNotRegular, Detail: "a symbolic link"}
	}
	return &Error{Reason: ReasonUnreadable, Detail: err.Error()}
}

func fileKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}
