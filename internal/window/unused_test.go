//go:build linux

package window

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

// A block that was lent is not used again before it is returned, and one that
// is used again is empty.
func TestUnusedBlocks(t *testing.T) {
	var u unused
	first, second := u.take(), u.take()
	for _, b := range []*block{first, second} {
		b.begin(7, 1000)
		b.put(1, 2)
		b.shares = append(b.shares, share{words: 3})
	}
	var l looking
	one := l.begin()
	u.lend(first, l.begun)
	two := l.begin()
	l.end(two)
	u.returned(&l)
	if b := u.take(); b.words == first.words {
		t.Fatal("a lent block was taken")
	}
	u.put(second)
	if b := u.take(); b.words != second.words || b.n != 0 || b.runs != 0 || len(b.shares) != 0 || b.left != blockWords {
		t.Fatalf("got %p with %d points in %d runs of %d senders, %d words left, want %p, empty", b.words, b.n, b.runs, len(b.shares), b.left, second.words)
	}
	l.begin()
	l.end(one)
	u.returned(&l)
	if b := u.take(); b.words != first.words {
		t.Fatal("a block that was returned is not used again")
	}
	if len(u.lent) != 0 {
		t.Fatal("it is lent still")
	}
}

// What is unused beyond some blocks is the system's again, and can be written
// all the same; all of it goes with the store.
func TestUnusedMemory(t *testing.T) {
	s := &Store{}
	var all []*block
	for range maxWarm + 10 {
		b := s.log.unused.take()
		b.begin(7, 1000)
		b.put(1, 2)
		all = append(all, b)
	}
	for _, b := range all {
		s.log.unused.put(b)
	}
	if got := len(s.log.unused.cold); got != 10 {
		t.Fatalf("%d blocks are cold, want 10", got)
	}
	if got := s.log.unused.cold[0].words[0]; got != 0 {
		t.Errorf("a cold block holds %x, want nothing", got)
	}
	s.log.unused.warm = nil
	b := s.log.unused.take()
	b.put(1, 2)
	if b.words[0] != 0x3ff0000000000000 {
		t.Errorf("a block that was cold: got %x, want what was written", b.words[0])
	}
	at := uintptr(unsafe.Pointer(&s.log.unused.mapped.chunks[0][0]))
	if !isMapped(t, at) {
		t.Fatal("the memory of a store in use is not mapped")
	}
	for deadline := time.Now().Add(10 * time.Second); isMapped(t, at); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the memory of a store that is gone is still mapped")
		}
		runtime.GC()
	}
}

func isMapped(t *testing.T, at uintptr) bool {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(maps) {
		var from, to uintptr
		if _, err := fmt.Sscanf(string(line), "%x-%x", &from, &to); err != nil {
			t.Fatal(err)
		}
		if from <= at && at < to {
			return true
		}
	}
	return false
}
