package window

import (
	"iter"
	"math"
	"sort"
	"unsafe"
)

// Position numbers points in the order of their arrival, from 1. A page is
// the points of an interval (from, to] of positions.
type Position uint64

const (
	blockBytes = 64 << 10 // of its words
	blockWords = blockBytes / 8
	pointWords = 1 // of a point that goes on with a run
	runWords   = 2 // of a run beside its points
	shareBytes = int64(unsafe.Sizeof(share{}))
)

// block is points in the order of their arrival. Their values stand in words
// from the front. Those of cells that stand side by side, of one time, are a
// run, as most of a node's are: what it is stands in words from the back, in
// place of the cell and the time of each. What has been written never changes, so
// that a page is read without the lock.
type block struct {
	shares []share // who has sent how much of it
	start  Position
	arrive int64 // when the newest came, nanoseconds since the first point
	base   int64 // milliseconds
	n      int   // points
	runs   int
	left   int    // words
	at     int64  // the last run's time
	next   uint32 // the cell that goes on with it
	words  *words
}

func (b *block) end() Position { return b.start + Position(b.n) }

// full reports whether there is no room for any point.
func (b *block) full() bool { return b.left < pointWords+runWords }

// begin begins a run.
func (b *block) begin(ref uint32, t int64) {
	b.runs++
	at := blockWords - b.runs*runWords
	b.words[at], b.words[at+1] = uint64(ref)<<32|uint64(uint32(t-b.base)), uint64(b.n)
	b.at, b.next = t, ref
}

// put adds a point to the last run.
func (b *block) put(v float64, now int64) {
	b.words[b.n] = math.Float64bits(v)
	b.n++
	b.next++
	b.arrive = now
}

// run is the k-th one: its first cell, the time, and which point is its first.
func (b *block) run(k int) (ref uint32, t int64, first int) {
	at := blockWords - (k+1)*runWords
	what := b.words[at]
	return uint32(what >> 32), b.base + int64(int32(what)), int(b.words[at+1])
}

type share struct {
	sender *sender
	words  int
}

// sender is a node.
type sender struct {
	words int    // of points that no reader has collected
	first uint32 // cell of its last batch
}

// arrivals is the log: the points (start, end] in blocks, oldest first.
type arrivals struct {
	blocks     []*block
	open       *block // the last of them, nil when there is none
	start, end Position
	bytes      int64
	// collected counts the leading blocks that some reader has collected.
	collected int
	unused    unused
	senders   map[string]*sender
	holding   int // senders with points that nobody has collected
}

func (a *arrivals) sender(host string) *sender {
	from := a.senders[host]
	if from == nil {
		if a.senders == nil {
			a.senders = map[string]*sender{}
		}
		from = &sender{}
		a.senders[host] = from
	}
	return from
}

func (a *arrivals) append(ref uint32, t int64, v float64, now int64, from *sender) Position {
	b := a.open
	if b != nil && ref == b.next && t == b.at && !b.full() {
		if last := &b.shares[len(b.shares)-1]; last.sender == from { // as nearly all are
			last.words += pointWords
			from.words += pointWords
			b.left -= pointWords
			b.put(v, now)
			a.end++
			return a.end
		}
	}
	if b == nil || b.full() || t-b.base < math.MinInt32 || t-b.base > math.MaxInt32 {
		b = a.unused.take()
		b.start, b.base = a.end, t
		a.blocks, a.open = append(a.blocks, b), b
		a.bytes += blockBytes
	}
	words := pointWords
	if b.runs == 0 || ref != b.next || t != b.at {
		b.begin(ref, t)
		words += runWords
	}
	b.put(v, now)
	a.end++
	i := len(b.shares) - 1
	for i >= 0 && b.shares[i].sender != from {
		i--
	}
	if i < 0 {
		i = len(b.shares)
		b.shares = append(b.shares, share{sender: from})
		a.bytes += shareBytes
	}
	b.left -= words
	b.shares[i].words += words
	if from.words == 0 {
		a.holding++
	}
	from.words += words
	return a.end
}

// need is how many more bytes n points of one sender take at the most: when each
// is a run of its own.
func (a *arrivals) need(n int) int64 {
	const most = pointWords + runWords
	bytes := shareBytes
	if last := len(a.blocks) - 1; last >= 0 {
		n -= a.blocks[last].left / most
	}
	if n > 0 {
		const least = blockWords / most
		bytes += int64((n+least-1)/least) * (blockBytes + shareBytes)
	}
	return bytes
}

// uncollected is the bytes of points that no reader has.
func (a *arrivals) uncollected() int64 {
	return int64(len(a.blocks)-a.collected) * blockBytes
}

// advance notes that some reader has collected everything up to p.
func (a *arrivals) advance(p Position) {
	for a.collected < len(a.blocks) {
		b := a.blocks[a.collected]
		if b.end() > p || !b.full() && a.collected == len(a.blocks)-1 {
			return
		}
		a.release(b)
		a.collected++
	}
}

func (a *arrivals) release(b *block) {
	for _, s := range b.shares {
		s.sender.words -= s.words
		if s.sender.words == 0 {
			a.holding--
		}
	}
}

// remove takes the oldest block out, to be used again as soon as nobody looks at
// it any more.
func (a *arrivals) remove(looking *looking) {
	b := a.blocks[0]
	if a.collected > 0 {
		a.collected--
	} else {
		a.release(b)
	}
	a.blocks[0] = nil
	a.blocks = a.blocks[1:]
	if len(a.blocks) == 0 {
		a.open = nil
	}
	a.start = b.end()
	a.bytes -= blockBytes + int64(len(b.shares))*shareBytes
	clear(b.shares)
	if looking.over(looking.begun) {
		a.unused.put(b)
	} else {
		a.unused.lend(b, looking.begun)
	}
}

// idle reports whether the oldest block is complete and older than t.
func (a *arrivals) idle(t int64) bool {
	return len(a.blocks) > 0 && a.blocks[0].arrive < t
}

// from is the blocks that hold points behind p, as they are now.
func (a *arrivals) from(p Position) []piece {
	i := 0
	for i < len(a.blocks) && a.blocks[i].end() <= p {
		i++
	}
	pieces := make([]piece, 0, len(a.blocks)-i)
	for _, b := range a.blocks[i:] {
		pieces = append(pieces, b.piece())
	}
	return pieces
}

// piece is a block up to a point. It does not change when the block grows.
type piece struct {
	b       *block
	n, runs int
}

func (b *block) piece() piece { return piece{b, b.n, b.runs} }

func (p piece) end() Position { return p.b.start + Position(p.n) }

// run is points of cells that stand side by side, of one time.
type run struct {
	behind Position // the one in front of its first point
	ref    uint32   // of its first point
	t      int64
	bits   []uint64 // its values
}

// each is the points (from, to], as far as they are in the piece.
func (p piece) each(from, to Position) iter.Seq[run] {
	return func(yield func(run) bool) {
		b := p.b
		i, end := int(max(from, b.start)-b.start), min(p.n, int(max(to, b.start)-b.start))
		if i >= end {
			return
		}
		k := sort.Search(p.runs, func(k int) bool { _, _, first := b.run(k); return first > i }) - 1
		for ; i < end; k++ {
			ref, t, first := b.run(k)
			last := p.n
			if k+1 < p.runs {
				_, _, last = b.run(k + 1)
			}
			last = min(last, end)
			if !yield(run{b.start + Position(i), ref + uint32(i-first), t, b.words[i:last]}) {
				return
			}
			i = last
		}
	}
}

func isStale(bits uint64) bool { return bits == staleNaN }
