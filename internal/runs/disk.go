package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// folder is where the records are: ID.json, and beside it ID.state.json and
// ID.families.json. A file is there whole or not at all.
type folder struct {
	path string
	lock *os.File
}

// What is kept beside a record.
const (
	kindState    = "state"
	kindFamilies = "families"
)

const (
	maxRecord = 2 << 20  // bytes of one record
	maxBeside = 32 << 20 // of what is kept beside it
	aside     = "damaged"
	temporary = ".tmp"
)

var (
	errTaken   = errors.New("another gateway keeps its runs there")
	errNotOurs = errors.New("the folder can not be used")
)

// take makes the folder and locks it for this process.
func (f *folder) take() error {
	if f.lock != nil {
		return nil
	}
	if err := os.MkdirAll(f.path, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(f.path, "gateway.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s: %w", f.path, errTaken)
		}
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	f.lock = lock
	return nil
}

func (f *folder) release() {
	if f.lock != nil {
		f.lock.Close()
		f.lock = nil
	}
}

type stored struct {
	*Run
	size int
}

// damage is a file that could not be used, and where it is now.
type damage struct {
	file, now string
	err       error
}

// read reads all records. What is no record is set aside; what a process left
// half-written, or belongs to no record, is removed.
func (f *folder) read() (found []stored, damaged []damage, err error) {
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, nil, err
	}
	known := map[string]bool{}
	var beside []string
	for _, e := range entries {
		name := e.Name()
		stem, isRecord := strings.CutSuffix(name, ".json")
		id, kind, isBeside := strings.Cut(stem, ".")
		switch {
		case strings.HasSuffix(name, temporary):
			_ = os.Remove(f.file(name)) // the next start tries again
		case !isRecord || !validID(id):
		case isBeside && (kind == kindState || kind == kindFamilies):
			beside = append(beside, name)
		case len(found) == MaxRuns:
			known[id] = true // of another version with another bound: it stays
		default:
			known[id] = true
			run, why := f.record(name, id)
			if why == nil {
				found = append(found, run)
				continue
			}
			if _, unread := errors.AsType[*fs.PathError](why); unread && !errors.Is(why, unix.ELOOP) && !errors.Is(why, unix.ENXIO) {
				return nil, damaged, why // no descriptor is left, say: nothing is known of it
			}
			now, err := f.aside(name)
			if err != nil {
				return nil, damaged, err
			}
			damaged = append(damaged, damage{f.file(name), now, why})
		}
	}
	for _, name := range beside {
		if id, _, _ := strings.Cut(name, "."); !known[id] {
			_ = os.Remove(f.file(name))
		}
	}
	return found, damaged, nil
}

func (f *folder) record(name, id string) (stored, error) {
	content, err := f.content(name, maxRecord)
	if err != nil {
		return stored{}, err
	}
	run := &Run{}
	if err := json.Unmarshal(content, run); err != nil {
		return stored{}, err
	}
	return stored{run, len(content)}, run.check(id)
}

func (f *folder) file(name string) string { return filepath.Join(f.path, name) }

func (f *folder) content(name string, most int64) ([]byte, error) {
	file, err := os.OpenFile(f.file(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	content, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(content)) > most {
		err = fmt.Errorf("it is larger than %d bytes", most)
	}
	return content, err
}

// aside moves a file out of the way.
func (f *folder) aside(name string) (string, error) {
	if err := os.MkdirAll(f.file(aside), 0o755); err != nil {
		return "", err
	}
	to := filepath.Join(f.path, aside, time.Now().UTC().Format("20060102T150405.000Z")+"-"+name)
	return to, os.Rename(f.file(name), to)
}

// write brings a file to the disk: after an error the one before is there.
func (f *folder) write(name string, content []byte) (err error) {
	if f.lock == nil {
		return errNotOurs
	}
	temp, err := os.CreateTemp(f.path, "*"+temporary)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp.Name()) // the next start tries again
		}
	}()
	_, err = temp.Write(content)
	if err == nil {
		err = temp.Sync()
	}
	if e := temp.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temp.Name(), f.file(name))
	}
	if err != nil {
		return err
	}
	return f.sync()
}

// remove takes a record and what is beside it away, the record first.
func (f *folder) remove(id string) error {
	if f.lock == nil {
		return errNotOurs
	}
	if err := os.Remove(f.file(id + ".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, kind := range []string{kindState, kindFamilies} {
		_ = os.Remove(f.file(id + "." + kind + ".json")) // without its record it goes at the next start
	}
	return f.sync()
}

func (f *folder) sync() error {
	dir, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func (f *folder) save(run *Run) (size int, err error) {
	content, err := json.Marshal(run)
	if err != nil {
		return 0, err
	}
	return len(content), f.write(run.ID+".json", content)
}

func (f *folder) readBeside(id, kind string) ([]byte, error) {
	return f.content(id+"."+kind+".json", maxBeside)
}

func (f *folder) writeBeside(id, kind string, content []byte) error {
	return f.write(id+"."+kind+".json", content)
}
