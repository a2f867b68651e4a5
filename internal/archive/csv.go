package archive

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"fanin/internal/exposition"
	"fanin/internal/history"
)

// writeCSV writes the lines of one metric as a table, a row for each value:
// the time, the labels, the value. It returns how many.
func writeCSV(w io.Writer, lines []history.Line) (rows int, err error) {
	var columns []string
	for i := range lines {
		for name := range lines[i].Labels.Each {
			if at, known := slices.BinarySearch(columns, name); !known {
				columns = slices.Insert(columns, at, name)
			}
		}
	}
	b := append([]byte(nil), "time"...)
	for _, name := range columns {
		b = append(append(b, ','), column(name, columns)...)
	}
	b = append(b, ",value\n"...)
	var points *history.Points
	var middle []byte
	for i := range lines {
		middle = middle[:0]
		for _, name := range columns {
			middle = appendField(append(middle, ','), lines[i].Labels.Value(name))
		}
		points = lines[i].Points(points)
		for points.Next() {
			if points.Ends() {
				continue
			}
			t, v := points.At()
			b = time.UnixMilli(t).UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
			b = append(append(b, middle...), ',')
			b = append(exposition.AppendValue(b, v), '\n')
			rows++
			if len(b) >= pieceBytes {
				if _, err := w.Write(b); err != nil {
					return rows, err
				}
				b = b[:0]
			}
		}
		if err := points.Err(); err != nil {
			return rows, err
		}
	}
	_, err = w.Write(b)
	return rows, err
}

// column is the head of a label's column: one that is called as a column of
// ours gets underscores.
func column(name string, all []string) string {
	if name == "time" || name == "value" {
		for name += "_"; slices.Contains(all, name); {
			name += "_"
		}
	}
	return name
}

// appendField writes a text from outside. Spreadsheets take what begins with
// one of =+-@ for a formula, and run it: such a text gets an apostrophe ahead,
// unless it is a number.
func appendField(b []byte, text string) []byte {
	if text != "" && strings.IndexByte("=+-@\t\r\n", text[0]) >= 0 {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			text = "'" + text
		}
	}
	if !strings.ContainsAny(text, "\",\n\r;\t") && text != `\.` && !strings.HasPrefix(text, " ") {
		return append(b, text...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(text, `"`, `""`)...)
	return append(b, '"')
}

// fileName is a metric's name as that of a file: a colon is none on Windows.
func fileName(metric string) string { return strings.ReplaceAll(metric, ":", "-") }
