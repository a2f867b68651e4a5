// Package index finds things that have numbers by their hashes. It keeps the
// numbers only, 6 to 11 bytes for each of them, where a map takes 20 to 40: there
// may be a million of them.
package index

// Index is a table with open addressing and linear probing. Whoever keeps the
// things says what their hashes are. The zero value is ready.
type Index struct {
	slots []uint32 // number + 1, 0: free; a power of two of them
	n     int
}

// Len is how many things are in it.
func (x *Index) Len() int { return x.n }

// Find returns the first thing that is the one, of those whose hashes may be
// this. is is asked for others too: it compares hashes first.
func (x *Index) Find(hash uint64, is func(number uint32) bool) (number uint32, found bool) {
	if x.n == 0 {
		return 0, false
	}
	mask := len(x.slots) - 1
	for at := int(hash) & mask; x.slots[at] > 0; at = (at + 1) & mask {
		if number := x.slots[at] - 1; is(number) {
			return number, true
		}
	}
	return 0, false
}

// Add takes a thing that is not in it.
func (x *Index) Add(number uint32, hash func(number uint32) uint64) {
	if 4*(x.n+1) > 3*len(x.slots) {
		old := x.slots
		x.slots = make([]uint32, max(16, 2*len(old)))
		for _, slot := range old {
			if slot > 0 {
				x.put(slot-1, hash)
			}
		}
	}
	x.put(number, hash)
	x.n++
}

func (x *Index) put(number uint32, hash func(number uint32) uint64) {
	mask := len(x.slots) - 1
	at := int(hash(number)) & mask
	for x.slots[at] > 0 {
		at = (at + 1) & mask
	}
	x.slots[at] = number + 1
}

// Remove takes a thing out, if it is there, and moves those behind it up, where
// they would not be found any more.
func (x *Index) Remove(number uint32, hash func(number uint32) uint64) {
	if x.n == 0 {
		return
	}
	mask := len(x.slots) - 1
	at := int(hash(number)) & mask
	for x.slots[at] != number+1 {
		if x.slots[at] == 0 {
			return
		}
		at = (at + 1) & mask
	}
	x.n--
	hole := at
	for next := (at + 1) & mask; x.slots[next] > 0; next = (next + 1) & mask {
		home := int(hash(x.slots[next]-1)) & mask
		if (next-home)&mask >= (next-hole)&mask {
			x.slots[hole] = x.slots[next]
			hole = next
		}
	}
	x.slots[hole] = 0
}
