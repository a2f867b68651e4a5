package wire

import (
	"testing"

	"pgregory.net/rapid"
)

// The index says what a map says, with hashes that often meet.
func TestIndexIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		var entries []entry
		known := map[uint64]int32{}
		hash := rapid.Uint64Range(0, 60)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				h := hash.Draw(t, "hash")
				if _, there := known[h]; there {
					return
				}
				id := int32(len(entries))
				entries = append(entries, entry{hash: h})
				known[h] = id
				x.add(id, entries)
			},
			"remove": func(t *rapid.T) {
				h := hash.Draw(t, "hash")
				if id, there := known[h]; there {
					x.remove(id, entries)
					delete(known, h)
				}
			},
			"": func(t *rapid.T) {
				for h := range uint64(61) {
					want, there := known[h]
					if !there {
						want = none
					}
					if got := x.find(h, entries); got != want {
						t.Fatalf("hash %d: got %d, want %d", h, got, want)
					}
				}
				if x.n != len(known) {
					t.Fatalf("%d entries, want %d", x.n, len(known))
				}
			},
		})
	})
}
