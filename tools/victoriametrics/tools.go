//go:build tools

// Package tools names the programs that this module builds. It holds no code
// of its own; the module exists so that what the gateway is measured against
// does not add to the requirements of what is shipped.
package tools

import (
	_ "github.com/VictoriaMetrics/VictoriaMetrics/app/victoria-metrics"
	_ "github.com/VictoriaMetrics/VictoriaMetrics/app/vmagent"
)
