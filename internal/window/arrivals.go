package window

import (
	"math"
	"unsafe"
)

// Position numbers points in the order of their arrival, from 1. A page is
// the points of an interval (from, to] of positions.
type Position uint64

// A block fills eight pages of the allocator, with the space for its head.
const (
	blockPoints = 4080
	blockBytes  = 64 << 10
	maxSpare    = 64
	shareBytes  = int64(unsafe.Sizeof(share{}))
)

var _ [blockBytes - unsafe.Sizeof(block{})]struct{} // it fits

// block is points in columns. What has been written below n never changes, so
// that a page is read without the lock.
type block struct {
	shares []share // who has sent how many of these
	start  Position
	arrive int64 // when the newest came, nanoseconds since 1970
	base   int64 // milliseconds
	n      int
	values [blockPoints]float64
	refs   [blockPoints]uint32
	times  [blockPoints]int32 // after base
}

func (b *block) end() Position    { return b.start + Position(b.n) }
func (b *block) full() bool       { return b.n == blockPoints }
func (b *block) time(i int) int64 { return b.base + int64(b.times[i]) }

// index is that of the first point behind p.
func (b *block) index(p Position) int { return int(max(p, b.start) - b.start) }

type share struct {
	sender *sender
	points int
}

// sender is a node.
type sender struct {
	points int    // that no reader has collected
	first  uint32 // cell of its last batch
}

// arrivals is the log: the points (start, end] in blocks, oldest first.
type arrivals struct {
	blocks     []*block
	open       *block // the last of them, nil when there is none
	start, end Position
	bytes      int64
	// collected counts the leading blocks that some reader has collected.
	collected int
	spare     []*block
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
	if b == nil || b.full() || t-b.base < math.MinInt32 || t-b.base > math.MaxInt32 {
		b = a.block()
		b.start, b.base = a.end, t
		a.blocks, a.open = append(a.blocks, b), b
		a.bytes += blockBytes
	}
	b.refs[b.n], b.times[b.n], b.values[b.n] = ref, int32(t-b.base), v
	b.n++
	b.arrive = now
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
	b.shares[i].points++
	if from.points == 0 {
		a.holding++
	}
	from.points++
	return a.end
}

// need is how many more bytes n points of one sender take at the most.
func (a *arrivals) need(n int) int64 {
	bytes := shareBytes
	if last := len(a.blocks) - 1; last >= 0 {
		n -= blockPoints - a.blocks[last].n
	}
	if n > 0 {
		bytes += int64((n+blockPoints-1)/blockPoints) * (blockBytes + shareBytes)
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
		s.sender.points -= s.points
		if s.sender.points == 0 {
			a.holding--
		}
	}
}

// block is an empty one.
func (a *arrivals) block() *block {
	n := len(a.spare)
	if n == 0 {
		return new(block)
	}
	b := a.spare[n-1]
	a.spare = a.spare[:n-1]
	b.n, b.shares = 0, b.shares[:0]
	return b
}

// remove takes the oldest block out. It is used again, unless somebody may
// still look at it.
func (a *arrivals) remove(lent bool) {
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
	if !lent && len(a.spare) < maxSpare {
		clear(b.shares)
		a.spare = append(a.spare, b)
	}
}

// idle reports whether the oldest block is complete and older than t.
func (a *arrivals) idle(t int64) bool {
	return len(a.blocks) > 0 && a.blocks[0].arrive < t
}

// from is the blocks that hold points behind p.
func (a *arrivals) from(p Position) []*block {
	i := 0
	for i < len(a.blocks) && a.blocks[i].end() <= p {
		i++
	}
	return a.blocks[i:]
}
