package wire

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"

	"fanin/internal/index"
)

// Memory is the series of one sender's bodies so far, in the order in which
// they came last: most bodies are like the one before, and then one hash over
// the bytes of the labels takes the place of reading them. Hashes are keyed
// and of 64 bits; two series of one sender that share one would pass for one.
// It is used by one goroutine at a time and for bodies of one Version; the
// zero value is ready and, without Max, remembers nothing.
type Memory struct {
	Version Version
	Max     int    // series
	Now     uint32 // seconds since 1970, set before each body
	Epoch   int    // rises when all IDs have lost their meaning

	entries []entry // by ID
	free    []int32
	index   index.Index
	seed    maphash.Seed
	keys    [6]uint64 // as secret as the seed
	seeded  bool
	at      int32 // the series that was read last; its next is guessed

	symbols  []byte // of version 2, as they stand in a body; series are known by their numbers
	count    int    // of symbols
	metadata []byte // of version 1, as it stood in the last body
	scratch  []byte
}

// entry is one series.
type entry struct {
	hash uint64 // of the labels and, in version 2, the metadata
	head int32  // bytes of the labels at the beginning of a message; 0: free
	next int32  // what came after it
	used uint32 // seconds since 1970
}

const none = -1

// guess returns the series that is expected after another one, and how many
// bytes of labels its message begins with; 0: there is none.
func (m *Memory) guess(after int32) (id int32, head int) {
	if m == nil || after < 0 || int(after) >= len(m.entries) {
		return none, 0
	}
	if id = m.entries[after].next; id < 0 || int(id) >= len(m.entries) {
		return none, 0
	}
	return id, int(m.entries[id].head)
}

// is reports whether these labels and this metadata are the series', which
// then has come again.
func (m *Memory) is(id int32, labels, metadata []byte) bool {
	e := &m.entries[id]
	if e.hash != m.hash(labels, metadata) {
		return false
	}
	e.used = m.Now
	return true
}

// hash is over the labels and the metadata. Nearly all are short, and a fold of
// keyed words is done sooner than the call of anything. The length turns a key: added
// to a word, it could make up for a difference in one of the word's bytes.
func (m *Memory) hash(labels, metadata []byte) uint64 {
	n, k := len(labels), &m.keys
	var h uint64
	switch {
	case n >= 8 && n <= 16:
		h = fold(word(labels, 0)^k[0], word(labels, n-8)^bits.RotateLeft64(k[1], n))
	case n > 16 && n <= 32:
		h = fold(word(labels, 0)^k[0], word(labels, 8)^bits.RotateLeft64(k[1], n)) ^ fold(word(labels, n-16)^k[2], word(labels, n-8)^k[3])
	default:
		h = maphash.Bytes(m.seed, labels)
	}
	switch n := len(metadata); {
	case n == 0:
		return h
	case n >= 8 && n <= 16:
		return fold(word(metadata, 0)^k[4]^h, word(metadata, n-8)^bits.RotateLeft64(k[5], n))
	default:
		return fold(maphash.Bytes(m.seed, metadata)^k[4], h^bits.RotateLeft64(k[5], n))
	}
}

func word(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

// fold is both halves of the product in one.
func fold(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

// find looks a series up whose order was not as expected.
func (m *Memory) find(labels, metadata []byte) int32 {
	if m == nil || m.index.Len() == 0 {
		return none
	}
	id := m.byHash(m.hash(labels, metadata))
	if id < 0 || int(m.entries[id].head) != len(labels) {
		return none
	}
	return id
}

func (m *Memory) byHash(hash uint64) int32 {
	id, found := m.index.Find(hash, func(id uint32) bool { return m.entries[id].hash == hash })
	if !found {
		return none
	}
	return int32(id)
}

func (m *Memory) hashOf(id uint32) uint64 { return m.entries[id].hash }

// learn remembers a series that find did not know, if there is room.
func (m *Memory) learn(labels, metadata []byte) int32 {
	if len(labels) == 0 || m.index.Len() >= m.Max {
		return none
	}
	if !m.seeded {
		m.seeded, m.seed = true, maphash.MakeSeed()
		for i := range m.keys {
			m.keys[i] = maphash.Comparable(m.seed, i)
		}
	}
	hash := m.hash(labels, metadata)
	if m.byHash(hash) >= 0 {
		return none
	}
	id := int32(len(m.entries))
	if n := len(m.free); n > 0 {
		id, m.free = m.free[n-1], m.free[:n-1]
	} else {
		m.entries = append(m.entries, entry{})
	}
	m.entries[id] = entry{hash: hash, head: int32(len(labels)), next: none}
	m.index.Add(uint32(id), m.hashOf)
	return id
}

// came notes that a series came after another one.
func (m *Memory) came(after, id int32) {
	if after >= 0 && int(after) < len(m.entries) && m.entries[after].next != id {
		m.entries[after].next = id
	}
	m.entries[id].used = m.Now
}

// remembers reports whether a metadata entry stands where it stood in the body
// before; end is how many bytes of metadata there are up to and with it. All
// entries in front of it must be remembered: else what stands there may be the
// inside of another entry.
func (m *Memory) remembers(entry []byte, end int) bool {
	return m != nil && end <= len(m.metadata) && string(m.metadata[end-len(entry):end]) == string(entry)
}

// remember takes over the metadata of a body.
func (m *Memory) remember(r *Request) {
	m.metadata = m.metadata[:0]
	_ = fields(r.raw, func(f field) error {
		if f.is(requestMetadata) {
			m.metadata = append(m.metadata, r.raw[f.from:f.to]...)
		}
		return nil
	})
}

// Forget drops the series that did not come since a time, in seconds since
// 1970, and calls fn with the ID of each: it may be another series' from then
// on.
func (m *Memory) Forget(since uint32, fn func(id int)) {
	for id := range m.entries {
		if e := &m.entries[id]; e.head > 0 && e.used < since {
			m.index.Remove(uint32(id), m.hashOf)
			*e = entry{next: e.next} // who came after it is still a good guess
			m.free = append(m.free, int32(id))
			fn(id)
		}
	}
}

// Len is how many series are remembered.
func (m *Memory) Len() int { return m.index.Len() }

// reset forgets everything, as the numbers of symbols have lost their meaning.
func (m *Memory) reset() {
	m.entries, m.free, m.index, m.at = nil, nil, index.Index{}, 0
	m.Epoch++
}
