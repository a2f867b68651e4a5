package sampler

import (
	"context"

	"fanin/internal/sample"
)

// Source measures one kind of thing on this node.
//
// A source may also have a method Run(ctx) error that keeps a connection or a
// list of guests up to date; it returns nil when ctx ends. Sample must work
// without it: a source whose Run is not running lists its guests by itself.
type Source interface {
	// Name is the source's constant name, such as "docker".
	Name() string

	// Sample appends the points of everything the source sees now, each with
	// the time right after it was read. It is never called twice at once. The
	// context ends at the source's deadline; what has been appended by then
	// counts. An error names what could not be read and does not take back
	// the points appended before it. A guest that vanished meanwhile is no
	// error; a runtime that is not installed on this node is none either.
	Sample(ctx context.Context, b *sample.Batch) error
}
