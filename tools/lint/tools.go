//go:build tools

// Package tools names the linter that this module builds, apart from the
// requirements of what is shipped.
package tools

import _ "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"
