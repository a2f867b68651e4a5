package fanin

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fanin/internal/admission"
)

type metric struct{ name, kind, unit, help, room string }

// TestMetricsPage generates METRICS.md from the declarations in the code.
func TestMetricsPage(t *testing.T) {
	declared := declarations(t)
	names := map[string]metric{}
	for _, m := range declared {
		if m.help == "" || strings.ContainsAny(m.help, "\n|") || !strings.HasSuffix(m.help, ".") {
			t.Errorf("%s: help must be one sentence: %q", m.name, m.help)
		}
		if (m.kind == "counter") != strings.HasSuffix(m.name, "_total") {
			t.Errorf("%s is a %s", m.name, m.kind)
		}
		if m.unit != "" && m.unit != "percent" && !strings.Contains(m.name, "_"+m.unit) {
			t.Errorf("%s: its unit %s is not in its name", m.name, m.unit)
		}
		if other, ok := names[m.name]; ok && (other.kind != m.kind || other.help != m.help) {
			t.Errorf("%s is declared twice, and not alike: %+v, %+v", m.name, m, other)
		}
		names[m.name] = m
	}
	got := page(declared)
	const file = "METRICS.md"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("METRICS.md is not what the code declares; `go test . -update` rewrites it. It would be:\n%s", got)
	}
}

// TestReservedNames: nobody else can say what the gateway says for itself. That a
// guest is up is a pusher's to claim.
func TestReservedNames(t *testing.T) {
	n := 0
	for _, m := range declarations(t) {
		gateways := slices.Contains([]string{"internal/presence", "internal/verdict", "internal/runs"}, m.room)
		if !gateways || !strings.HasPrefix(m.name, "testbed_") || m.name == "testbed_guest_up" {
			continue
		}
		if n++; !admission.Reserved(m.name) {
			t.Errorf("a pusher could say %s", m.name)
		}
	}
	if n < 7 {
		t.Errorf("%d names, want all of the gateway's", n)
	}
}

// declarations finds the families and the programs' own metrics. All of them
// are declared with literal strings, so that they can be found by name.
func declarations(t *testing.T) (all []metric) {
	t.Helper()
	for _, root := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == "e2e"):
				return filepath.SkipDir
			case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			room := filepath.Dir(path)
			ast.Inspect(file, func(n ast.Node) bool {
				if m, ok := declaration(n); ok && (strings.HasPrefix(m.name, "testbed_") || strings.HasPrefix(m.name, "fanin_")) {
					m.room = room
					all = append(all, m)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 50 {
		t.Fatalf("found %d declarations", len(all))
	}
	return all
}

func declaration(n ast.Node) (m metric, ok bool) {
	call, isCall := n.(*ast.CallExpr)
	if !isCall || len(call.Args) == 0 {
		return m, false
	}
	name := called(call)
	if _, local := call.Fun.(*ast.Ident); local && len(call.Args) > 1 && strings.HasPrefix(literal(call.Args[0]), "fanin_") {
		name = "prometheus.NewDesc" // by a function of the room's own, for short
	}
	switch name {
	case "sample.NewCounter", "sample.NewGauge":
		m.kind = strings.ToLower(strings.TrimPrefix(name, "sample.New"))
		m.name, m.unit, m.help = literal(call.Args[0]), literal(call.Args[1]), literal(call.Args[2])
		return m, true
	case "prometheus.NewDesc":
		// The type of such a metric is given where it is collected; its name
		// says as much.
		m.name, m.help, m.kind = literal(call.Args[0]), literal(call.Args[1]), "gauge"
		if strings.HasSuffix(m.name, "_total") {
			m.kind = "counter"
		}
		return m, true
	}
	_, rest, own := strings.Cut(name, ".New") // of prometheus, or of a promauto.Factory
	options, literalOptions := call.Args[0].(*ast.CompositeLit)
	if !own || !literalOptions {
		return m, false
	}
	m.kind = strings.ToLower(strings.TrimSuffix(strings.TrimSuffix(rest, "Vec"), "Func"))
	for _, e := range options.Elts {
		pair, isPair := e.(*ast.KeyValueExpr)
		if !isPair {
			continue
		}
		switch key, _ := pair.Key.(*ast.Ident); key.Name {
		case "Name":
			m.name = literal(pair.Value)
		case "Help":
			m.help = literal(pair.Value)
		}
	}
	return m, true
}

func called(call *ast.CallExpr) string {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := selector.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + selector.Sel.Name
}

func literal(e ast.Expr) string {
	basic, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, err := strconv.Unquote(basic.Value)
	if err != nil {
		return ""
	}
	return s
}

func page(all []metric) string {
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	all = slices.CompactFunc(all, func(a, b metric) bool { return a.name == b.name })
	var b strings.Builder
	b.WriteString("# Metrics\n\nGenerated from the declarations in the code by `go test . -update`.\n\n" +
		"On the gateway's pages every series carries `host_name`, and those of guests `project`, `guest_name` and `guest_type` too; " +
		"other labels are `device`, `vcpu`, `mode`, `state`, `port`, `cause` and `reason` where they apply. " +
		"What programs inside guests say of themselves has their names, and `port` beside the labels of its guest. " +
		"What is not known is absent; it is never 0.\n")
	for _, section := range []struct{ title, prefix string }{
		{"Guests", "testbed_guest_"}, {"Hosts", "testbed_host_"}, {"Deployments", "testbed_deployment_"}, {"Runs", "testbed_run_"}, {"The system about itself", "fanin_"},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| metric | type | unit | meaning |\n|---|---|---|---|\n", section.title)
		for _, m := range all {
			if strings.HasPrefix(m.name, section.prefix) {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.unit, m.help)
			}
		}
	}
	return b.String()
}
