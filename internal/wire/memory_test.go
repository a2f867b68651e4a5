package wire

import (
	"bytes"
	"testing"
)

// What a series is known by tells apart whatever differs in a bit, in where the
// labels end, or in a zero more at an end.
func TestHashTellsApart(t *testing.T) {
	m := Memory{Max: 1}
	m.learn([]byte("seeds it"), nil)
	seen := map[uint64]string{}
	add := func(labels, metadata []byte) {
		t.Helper()
		what := string(labels) + "|" + string(metadata)
		h := m.hash(labels, metadata)
		if before, known := seen[h]; known && before != what {
			t.Fatalf("%q and %q have one hash", before, what)
		}
		seen[h] = what
		if again := m.hash(bytes.Clone(labels), bytes.Clone(metadata)); again != h {
			t.Fatalf("%q has two hashes", what)
		}
	}
	for n := 1; n <= 40; n++ {
		for k := range 21 {
			both := bytes.Repeat([]byte{0xa5}, n+k)
			for i := range both {
				for bit := range 8 {
					both[i] ^= 1 << bit
					add(both[:n], both[n:])
					both[i] ^= 1 << bit
				}
			}
			zeros := make([]byte, n+k)
			add(zeros[:n], zeros[n:])
		}
	}
}
