package sample

import (
	"testing"

	"pgregory.net/rapid"
)

// A builder's sets are those that NewLabels makes, and equal ones of one owner
// that come one after another are one.
func TestBuilder(t *testing.T) {
	var b Builder
	owners := []*Owner{{Host: "h"}, {Host: "h", Project: "p", Guest: "g", Kind: "docker"}}
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.MapOfN(rapid.StringMatching(`[a-z]{1,3}`), rapid.OneOf(rapid.String(), rapid.StringMatching(`[\\"n\n,={}]{0,5}`)), 0, 5).Draw(t, "labels")
		owner := rapid.SampledFrom(owners).Draw(t, "owner")
		var labels []Label
		for name, value := range values {
			labels = append(labels, Label{name, value})
		}
		want := NewLabels(labels...)
		build := func(owner *Owner) *Labels {
			b.Begin()
			for name, value := range want.Each {
				b.Add([]byte(name), []byte(value))
			}
			return b.Labels(owner)
		}
		got := build(owner)
		if got.Text() != want.Text() || got.Owner() != owner {
			t.Fatalf("got %s of %v, want %s of %v", got.Text(), got.Owner(), want.Text(), owner)
		}
		if build(owner) != got {
			t.Fatalf("%s was made twice", got.Text())
		}
		other := owners[0]
		if other == owner {
			other = owners[1]
		}
		if build(other).Owner() != other {
			t.Fatalf("%s of another owner belongs to the first one", got.Text())
		}
	})
}
