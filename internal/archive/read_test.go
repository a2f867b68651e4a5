package archive

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"fanin/internal/history"
	"fanin/internal/sample"
)

func differ(t *testing.T, what string, got, want map[string]map[int64]float64) {
	t.Helper()
	for text := range want {
		for at, v := range want[text] {
			if have, is := got[text][at]; !is {
				t.Errorf("%s: %s at %d is missing", what, text, at)
				return
			} else if math.Float64bits(have) != math.Float64bits(v) && !(math.IsNaN(have) && math.IsNaN(v)) {
				t.Errorf("%s: %s at %d is %v, want %v", what, text, at, have, v)
				return
			}
		}
	}
	for text := range got {
		for at := range got[text] {
			if _, is := want[text][at]; !is {
				t.Errorf("%s: %s at %d does not belong there", what, text, at)
				return
			}
		}
	}
}

// ended wants an end of a guest's series in the history.
func (l *lab) ended(from int64) error {
	past, err := l.History.Past(from, math.MaxInt64)
	if err != nil {
		return err
	}
	defer past.Close()
	lines, err := past.Lines(l.t.Context(), history.Match{Label: history.NameLabel, OneOf: []string{odd.Name}})
	if err != nil || len(lines) != 1 {
		return fmt.Errorf("%d lines, %w", len(lines), err)
	}
	for points := lines[0].Points(nil); points.Next(); {
		if points.Ends() {
			return nil
		}
	}
	return errors.New("the series has no end, so that this test shows nothing")
}

// openMetricsOf reads a page, and wants what OpenMetrics wants: each family
// once, with its samples together; each series' samples together, or those of
// a histogram, in order of time; the end.
func openMetricsOf(t *testing.T, page string) map[string]map[int64]float64 {
	t.Helper()
	if !strings.HasSuffix(page, "\n# EOF\n") {
		t.Fatalf("the page ends with %q", page[max(0, len(page)-100):])
	}
	all := map[string]map[int64]float64{}
	parser := textparse.NewOpenMetricsParser([]byte(page), labels.NewSymbolTable())
	families, metrics := map[string]bool{}, map[string]bool{}
	family, kind, metric, last := "", "", "", int64(0)
	for {
		entry, err := parser.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch entry {
		case textparse.EntryHelp:
			name, text := parser.Help()
			if string(name) == "guest_level" && string(text) != gauge.Help {
				t.Errorf("the help of %s is %q", name, text)
			}
		case textparse.EntryType:
			name, is := parser.Type()
			family, kind, metric = string(name), string(is), ""
			if families[family] {
				t.Errorf("the family %s is there twice", family)
			}
			families[family] = true
		case textparse.EntrySeries:
			_, at, v := parser.Series()
			var set labels.Labels
			parser.Labels(&set)
			var own, rest []sample.Label
			name := ""
			set.Range(func(l labels.Label) {
				if l.Name == "__name__" {
					name = l.Value
					return
				}
				own = append(own, label(l.Name, l.Value))
				if kind != "histogram" && kind != "summary" || l.Name != "le" && l.Name != "quantile" {
					rest = append(rest, label(l.Name, l.Value))
				}
			})
			text := name + sample.NewLabels(own...).Text()
			if !strings.HasPrefix(name, family) || kind == "counter" && name != family+"_total" {
				t.Errorf("%s stands in the family %s, a %s", name, family, kind)
			}
			key := family + sample.NewLabels(rest...).Text()
			if key != metric {
				if metrics[key] {
					t.Errorf("%s comes again", key)
				}
				metrics[key], metric, last = true, key, 0
			}
			if *at < last {
				t.Errorf("%s goes back in time", key)
			}
			last = *at
			if all[text] == nil {
				all[text] = map[int64]float64{}
			}
			if _, twice := all[text][*at]; twice {
				t.Errorf("%s at %d is there twice", text, *at)
			}
			all[text][*at] = v
		}
	}
}

// tablesOf reads all tables, as a program would.
func tablesOf(t *testing.T, files map[string]string) map[string]map[int64]float64 {
	t.Helper()
	all := map[string]map[int64]float64{}
	for file, content := range files {
		name, is := strings.CutPrefix(file, "csv/")
		if !is {
			continue
		}
		name = strings.ReplaceAll(strings.TrimSuffix(name, ".csv"), "-", ":")
		rows, err := csv.NewReader(strings.NewReader(content)).ReadAll()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		head := rows[0]
		for _, row := range rows[1:] {
			at, err := time.Parse(time.RFC3339, row[0])
			if err != nil {
				t.Fatal(err)
			}
			v, err := strconv.ParseFloat(row[len(row)-1], 64)
			if err != nil {
				t.Fatal(err)
			}
			var own []sample.Label
			for i := 1; i < len(row)-1; i++ {
				column, text := head[i], row[i]
				switch column {
				case "time__":
					column = "time"
				case "value_":
					column = "value"
				}
				if len(text) > 1 && text[0] == '\'' && strings.IndexByte("=+-@\t\r\n", text[1]) >= 0 {
					text = text[1:]
				}
				if text == "\n=1" {
					text = "\r\n=1" // as the reader of this language has it
				}
				own = append(own, label(column, text))
			}
			key := name + sample.NewLabels(own...).Text()
			if all[key] == nil {
				all[key] = map[int64]float64{}
			}
			all[key][at.UnixMilli()] = v
		}
	}
	return all
}
