package history

import (
	"sync"

	"fanin/internal/sample"
)

// words is what is known of each family: the type, the unit and the help that
// came last. It is bounded, as pages inside guests name families of theirs.
type words struct {
	mu     sync.RWMutex
	byName map[string]*sample.Family
}

const maxFamilies = 20_000

func (w *words) note(s *sample.Series) {
	f := s.Family()
	w.mu.RLock()
	known, n := w.byName[f.Name], len(w.byName)
	w.mu.RUnlock()
	if known == f || known == nil && n >= maxFamilies || known != nil && *known == *f {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byName == nil {
		w.byName = map[string]*sample.Family{}
	}
	w.byName[f.Name] = f
}

// each calls yield with every family, or with the one that is named.
func (w *words) each(name string, yield func(*sample.Family)) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if name != "" {
		if f := w.byName[name]; f != nil {
			yield(f)
		}
		return
	}
	for _, f := range w.byName {
		yield(f)
	}
}
