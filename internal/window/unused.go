package window

import (
	"runtime"
	"slices"
)

// words is what a block's points are written into.
type words [blockWords]uint64

const (
	// maxWarm is how many unused blocks keep their memory.
	maxWarm = 128
	// chunkBlocks are mapped at once: a huge page, where there are any, so that the
	// kernel is asked once for what would be 512 pages.
	chunkBlocks = 2 << 20 / blockBytes
)

// unused is the blocks that hold nothing. Their words are outside of Go's heap:
// the log is most of the memory, it grows as long as a reader is away, and each
// time that the heap has grown by so much the collector would look at all series
// for nothing.
type unused struct {
	warm, cold []*block // the words of cold ones are the system's until they are written
	lent       []lent
	fresh      []words // that no block has had yet
	mapped     *mapped
}

// lent is a block at which pages may still look that had begun by then.
type lent struct {
	block *block
	begun uint64
}

// take is an empty block.
func (u *unused) take() *block {
	for _, from := range [...]*[]*block{&u.warm, &u.cold} {
		if last := len(*from) - 1; last >= 0 {
			b := (*from)[last]
			(*from)[last] = nil
			*from = (*from)[:last]
			*b = block{shares: b.shares[:0], left: blockWords, words: b.words}
			return b
		}
	}
	if len(u.fresh) == 0 {
		if u.mapped == nil {
			u.mapped = &mapped{}
		}
		u.fresh = u.mapped.more()
	}
	b := &block{left: blockWords, words: &u.fresh[0]}
	u.fresh = u.fresh[1:]
	return b
}

// put takes a block back.
func (u *unused) put(b *block) {
	if len(u.warm) < maxWarm {
		u.warm = append(u.warm, b)
		return
	}
	giveBack(b.words)
	u.cold = append(u.cold, b)
}

// lend takes a block back that pages which have begun may look at.
func (u *unused) lend(b *block, begun uint64) { u.lent = append(u.lent, lent{b, begun}) }

// returned puts the blocks back that nobody looks at any more.
func (u *unused) returned(looking *looking) {
	n := 0
	for n < len(u.lent) && looking.over(u.lent[n].begun) {
		u.put(u.lent[n].block)
		n++
	}
	u.lent = slices.Delete(u.lent, 0, n)
}

// mapped is the memory of one store. It is unmapped when the store can not be
// reached any more; whoever has words must have the store.
type mapped struct{ chunks [][]words }

// more is the words of another chunk.
func (m *mapped) more() []words {
	fresh, unmap := mapWords()
	if unmap == nil {
		return make([]words, 1) // the system has none for us, and Go may have
	}
	m.chunks = append(m.chunks, fresh)
	runtime.AddCleanup(m, func(unmap func()) { unmap() }, unmap)
	return fresh
}
