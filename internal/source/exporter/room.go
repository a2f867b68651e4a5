package exporter

import (
	"sync"

	"fanin/internal/sample"
)

// bytesOfSeries is how long the text of a series may be on average over all
// targets.
const bytesOfSeries = 400

// usage is how many series somebody holds, and the length of their texts.
type usage struct{ series, bytes int }

func (u usage) plus(o usage) usage { return usage{u.series + o.series, u.bytes + o.bytes} }
func (u usage) within(l usage) bool {
	return u.series <= l.series && u.bytes <= l.bytes
}

// room is what all targets of the node share: a number of series, and the
// families. When it is full, those that hold more than a fair part of it (the
// limit by the number of targets) get no more, and the others do: so it never
// holds more than twice its limit.
//
// Families are shared by name over all targets, as there is one of a name on
// a page: who names it first says its type and help, for as long as somebody
// has a series of it.
type room struct {
	limit usage // immutable

	mu       sync.Mutex
	used     usage
	targets  int
	families map[string]*family
}

type family struct {
	sample.Family
	series int // that are of it
}

// shareOut notes how many targets there are.
func (r *room) shareOut(targets int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets = targets
}

// take makes room for more, beside what its target holds already, or reports
// that there is none.
func (r *room) take(held, more usage) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := max(r.targets, 1)
	share := usage{r.limit.series / n, r.limit.bytes / n}
	if !r.used.plus(more).within(r.limit) && !held.plus(more).within(share) {
		return false
	}
	r.used = r.used.plus(more)
	return true
}

// give is the opposite of take.
func (r *room) give(u usage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used.series -= u.series
	r.used.bytes -= u.bytes
}

// enter returns the family of that name for one more series.
func (r *room) enter(f sample.Family) *family {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.families == nil {
		r.families = map[string]*family{}
	}
	known := r.families[f.Name]
	if known == nil {
		known = &family{Family: f}
		r.families[f.Name] = known
	}
	known.series++
	return known
}

// leave is the opposite of enter.
func (r *room) leave(f *family) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.series--; f.series == 0 && r.families[f.Name] == f {
		delete(r.families, f.Name)
	}
}

// forget begins anew, when there are no targets any more.
func (r *room) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used, r.targets = usage{}, 0
	clear(r.families)
}
