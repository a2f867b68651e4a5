package deployment

import (
	"errors"
	"time"
)

// readWithin is how long the file system may take for one state file.
const readWithin = time.Second

// StateFile is the content of a deployment's state file as it is now, of a
// version that is whole and of that deployment. It waits for half a second for
// one that is being rewritten.
func (w *Watcher) StateFile(project string) ([]byte, error) {
	path := w.statePath(project)
	if path == "" {
		return nil, errors.New("no state file of this deployment is known")
	}
	if !w.reading.TryLock() {
		return nil, errors.New("the file system does not answer")
	}
	type read struct {
		data []byte
		err  *Error
	}
	done := make(chan read, 1)
	go func() {
		var got read
		for range retries {
			l := readFile(path, MaxFileBytes, signature{})
			got = read{data: l.data, err: l.err}
			if got.err == nil {
				_, got.err = parseState(l.data, project)
			}
			if got.err == nil {
				break
			}
			time.Sleep(retryEvery)
		}
		w.reading.Unlock() // who asks again as soon as this is told finds it free
		done <- got
	}()
	timer := time.NewTimer(readWithin)
	defer timer.Stop()
	select {
	case got := <-done:
		if got.err != nil {
			return nil, errors.New("the state file " + got.err.plain())
		}
		return got.data, nil
	case <-timer.C:
		return nil, errors.New("the file system does not answer")
	}
}

// statePath is where the state file in use is, "" when there is none.
func (w *Watcher) statePath(project string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range w.keys() {
		if t := w.tracked[key]; t.name == project && t.stateFile != nil {
			return t.stateFile.path
		}
	}
	return ""
}
