//go:build tools

// Package tools names the programs that this module builds. It holds no code
// of its own; the module exists so that the server of the tests does not add
// to the requirements of what is shipped.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
