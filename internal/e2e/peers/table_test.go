package peers

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// results are the figures of a run.
type results struct {
	rows    []*row
	missing []string
}

// row is a program, and where figures depend on it how it was spoken to.
type row struct {
	peer     *peer
	title    string
	protocol string
	figures  map[string]float64
}

func (r *results) put(p *peer, protocol, what string, v float64) {
	for _, known := range r.rows {
		if known.peer == p && known.protocol == protocol {
			known.figures[what] = v
			return
		}
	}
	title := p.name
	if v := p.version(); v != "" {
		title += " " + v
	}
	switch protocol {
	case "":
	case text:
		title += ", text"
	default:
		title += ", remote write " + protocol + ".0"
	}
	if p.note != "" {
		title += " (" + p.note + ")"
	}
	r.rows = append(r.rows, &row{p, title, protocol, map[string]float64{what: v}})
}

// column is a figure of every row; times: followed by how many times ours it is.
type column struct {
	title, form, name string
	times             bool
}

type table struct {
	file       string
	byProtocol bool
	columns    []column
}

var layout = []table{
	{"receive.md", true, []column{
		{"10k series", "%.3f", "receive 10k", false},
		{"100k", "%.3f", "receive 100k", true},
		{"1M", "%.3f", "receive 1M", false},
		{"100k, while the window grows", "%.3f", "growing 100k", false},
		{"new series", "%.1f", "churn", true},
		{"% of a core at 100k samples/s", "%.1f", "paced alone", true},
		{"and a page a second", "%.1f", "paced", true},
		{"B a sample on the wire", "%.1f", "wire", false},
	}},
	{"page.md", false, []column{
		{"10k series", "%.0f", "page 10k plain", false},
		{"100k", "%.0f", "page 100k plain", true},
		{"gzip", "%.0f", "page 100k gzip", true},
		{"protobuf", "%.0f", "page 100k protobuf", false},
		{"p50, ms", "%.0f", "page 100k plain p50", false},
		{"MB", "%.1f", "page 100k plain MB", false},
		{"gzip, MB", "%.1f", "page 100k gzip MB", false},
		{"100k samples/s coming in", "%.0f", "paced page", true},
		{"p99, ms", "%.0f", "paced p99", false},
		{"10k series and 50k samples/s: p50, ms", "%.1f", "quickly p50", false},
		{"p99, ms", "%.1f", "quickly p99", false},
	}},
	{"memory.md", false, []column{
		{"RSS, 1 point", "%.0f", "memory 1", true},
		{"10 points", "%.0f", "memory 10", true},
		{"heap, 1 point", "%.0f", "memory 1 heap", false},
		{"10 points", "%.0f", "memory 10 heap", false},
	}},
}

func (t *table) markdown(all *results) string {
	var b strings.Builder
	b.WriteString("| |")
	for _, c := range t.columns {
		b.WriteString(" " + c.title + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(t.columns)) + "\n")
	for _, r := range all.rows {
		cells := ""
		empty := true
		for _, c := range t.columns {
			cell := c.cell(r, all.ours(r.protocol))
			cells, empty = cells+" "+cell+" |", empty && cell == ""
		}
		if (r.protocol != "") == t.byProtocol && !empty {
			b.WriteString("| " + r.title + " |" + cells + "\n")
		}
	}
	if len(all.missing) > 0 {
		b.WriteString("\nNot installed where this was measured: " + strings.Join(all.missing, ", ") + ".\n")
	}
	return b.String()
}

// ours is what a row is held against: the gateway in the same version of the
// protocol, or in 1.0.
func (r *results) ours(protocol string) (found *row) {
	for _, row := range r.rows {
		if row.peer.name == gatewayName && (row.protocol == protocol || found == nil && row.protocol == "1" && protocol != "") {
			found = row
		}
	}
	return found
}

func (c *column) cell(r, ours *row) string {
	v, ok := r.figures[c.name]
	if !ok {
		return ""
	}
	text := fmt.Sprintf(c.form, v)
	if c.times && ours != nil && ours != r && ours.figures[c.name] > 0 {
		text += fmt.Sprintf(" (%.1f x)", v/ours.figures[c.name])
	}
	return text
}

// write prints tables, and leaves each in a file of its own.
func (r *results) write(b *testing.B, all []table) {
	b.Helper()
	for i := range all {
		markdown := all[i].markdown(r)
		if strings.Count(markdown, "\n") <= 2 {
			continue // a run of something else
		}
		fmt.Printf("\n%s\n%s", all[i].file, markdown)
		if *tables == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(*tables, all[i].file), []byte(markdown), 0o644); err != nil {
			b.Error(err)
		}
	}
}

// machine says where and when, how much else is going on, and what a system
// call takes: from one virtual machine to another that differs by ten times, and
// with it all that is made of system calls.
func machine() string {
	load, _ := os.ReadFile("/proc/loadavg")
	model := "unknown processor"
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpu)) {
		if name, is := strings.CutPrefix(line, "model name"); is {
			model = strings.Trim(name, " :\t\n")
			break
		}
	}
	first, _, _ := strings.Cut(string(load), " ")
	const calls = 100_000
	began := time.Now()
	for range calls {
		_ = syscall.Getppid()
	}
	call := time.Since(began) / calls
	return fmt.Sprintf("%s, %s, %d processors, %s, a system call takes %s and a page of fresh memory %s, load average %s",
		time.Now().UTC().Format("2006-01-02 15:04"), model, runtime.NumCPU(), runtime.Version(), call, freshPage(), first)
}

// freshPage is what it takes to write to a page of memory for the first time.
func freshPage() time.Duration {
	const pages = 4096
	size := os.Getpagesize()
	memory, err := syscall.Mmap(-1, 0, pages*size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return 0
	}
	defer func() { _ = syscall.Munmap(memory) }()
	began := time.Now()
	for i := 0; i < len(memory); i += size {
		memory[i] = 1
	}
	return time.Since(began) / pages
}
