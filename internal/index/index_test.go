package index

import (
	"testing"

	"pgregory.net/rapid"
)

// The index says what a map says, with hashes that often meet.
func TestIndexIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x Index
		var names []int // by number
		hash := func(number uint32) uint64 { return uint64(names[number] / 3) }
		known := map[int]uint32{}
		drawn := rapid.IntRange(0, 60)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				name := drawn.Draw(t, "name")
				if _, there := known[name]; there {
					return
				}
				known[name] = uint32(len(names))
				names = append(names, name)
				x.Add(known[name], hash)
			},
			"remove": func(t *rapid.T) {
				name := drawn.Draw(t, "name")
				if number, there := known[name]; there {
					x.Remove(number, hash)
					x.Remove(number, hash) // is nothing
					delete(known, name)
				}
			},
			"": func(t *rapid.T) {
				for name := range 61 {
					want, there := known[name]
					got, found := x.Find(uint64(name/3), func(number uint32) bool { return names[number] == name })
					if found != there || got != want {
						t.Fatalf("name %d: got %d, %v, want %d, %v", name, got, found, want, there)
					}
				}
				if x.Len() != len(known) {
					t.Fatalf("%d things, want %d", x.Len(), len(known))
				}
			},
		})
	})
}
