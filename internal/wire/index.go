package wire

// index finds entries by their hashes. It holds numbers only, as the hashes
// stand in the entries, and takes 6 to 11 bytes for each of them, where a map
// takes 20 to 40.
type index struct {
	slots []int32 // ID + 1, 0: free; a power of two of them
	n     int
}

func (x *index) find(hash uint64, entries []entry) int32 {
	if x.n == 0 {
		return none
	}
	mask := len(x.slots) - 1
	for at := int(hash) & mask; ; at = (at + 1) & mask {
		id := x.slots[at] - 1
		if id < 0 || entries[id].hash == hash {
			return id // none is -1
		}
	}
}

// add takes an entry that is not in it.
func (x *index) add(id int32, entries []entry) {
	if 4*(x.n+1) > 3*len(x.slots) {
		old := x.slots
		x.slots = make([]int32, max(16, 2*len(old)))
		for _, slot := range old {
			if slot > 0 {
				x.put(slot-1, entries)
			}
		}
	}
	x.put(id, entries)
	x.n++
}

func (x *index) put(id int32, entries []entry) {
	mask := len(x.slots) - 1
	at := int(entries[id].hash) & mask
	for x.slots[at] > 0 {
		at = (at + 1) & mask
	}
	x.slots[at] = id + 1
}

// remove takes an entry out and moves those behind it up, where they would not
// be found any more.
func (x *index) remove(id int32, entries []entry) {
	if x.n == 0 {
		return
	}
	mask := len(x.slots) - 1
	at := int(entries[id].hash) & mask
	for x.slots[at] != id+1 {
		if x.slots[at] == 0 {
			return
		}
		at = (at + 1) & mask
	}
	x.n--
	hole := at
	for next := (at + 1) & mask; x.slots[next] > 0; next = (next + 1) & mask {
		home := int(entries[x.slots[next]-1].hash) & mask
		if (next-home)&mask >= (next-hole)&mask {
			x.slots[hole] = x.slots[next]
			hole = next
		}
	}
	x.slots[hole] = 0
}
