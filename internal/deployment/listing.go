package deployment

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listing looks which files there are. A file system that hangs holds it up
// only as long as it is told to wait: the answer is left to a later look.
type listing struct {
	pending chan folders // a look that did not come back in time
	records folder       // owned by the look under way
}

// folders are the names and paths of files.
type folders struct {
	records []string // names
	err     error    // why there are none
	files   []files  // by pattern
}

type files struct {
	paths []string
	err   error // of a folder that could not be read
}

var errNoAnswer = errors.New("the file system does not answer")

func (l *listing) look(settings string, patterns []string, now time.Time, wait time.Duration) folders {
	if l.pending == nil {
		out := make(chan folders, 1)
		l.pending = out
		go func() {
			var f folders
			if settings != "" {
				f.records, f.err = l.records.list(filepath.Join(settings, "deployments"), now)
			}
			for _, pattern := range patterns {
				paths, err := expand(pattern)
				f.files = append(f.files, files{paths, err})
			}
			out <- f
		}()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case f := <-out:
			l.pending = nil
			return f
		case <-timer.C:
		}
	}
	select {
	case f := <-l.pending:
		l.pending = nil
		return f
	default:
	}
	f := folders{err: errNoAnswer}
	for range patterns {
		f.files = append(f.files, files{err: errNoAnswer})
	}
	return f
}

// expand is [filepath.Glob], but says what it could not read. The paths are
// those of the other folders then.
func expand(pattern string) (paths []string, err error) {
	if _, err := filepath.Match(pattern, ""); err != nil {
		return nil, err
	}
	if !strings.ContainsAny(pattern, `*?[\`) {
		if _, err := os.Lstat(pattern); err != nil {
			return nil, unlessGone(err)
		}
		return []string{pattern}, nil
	}
	folder, name := filepath.Split(pattern)
	folders := []string{folder} // "/", or "" for the one we are in
	if above := strings.TrimRight(folder, "/"); above != "" {
		folders, err = expand(above)
	}
	for _, folder := range folders {
		entries, failed := os.ReadDir(cmp.Or(folder, "."))
		err = errors.Join(err, unlessGone(failed))
		for _, e := range entries {
			if ok, _ := filepath.Match(name, e.Name()); ok {
				paths = append(paths, filepath.Join(folder, e.Name()))
			}
		}
	}
	return paths, err
}

// unlessGone is nil for an error that says that something is not there.
func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

// folder lists a folder again only when it has changed.
type folder struct {
	sig   signature
	first time.Time
	kept  bool
	names []string
}

// list returns the names of deployment records in dir, sorted.
func (d *folder) list(dir string, now time.Time) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		d.first = time.Time{}
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	if sig := signatureOf(&st); sig != d.sig || d.first.IsZero() {
		d.sig, d.first, d.kept = sig, now, false
	}
	if d.kept {
		return d.names, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		d.first = time.Time{}
		return nil, err
	}
	d.names = nil
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, "-logs.json") {
			d.names = append(d.names, name)
		}
	}
	d.kept = now.Sub(d.first) >= young
	return d.names, nil
}
