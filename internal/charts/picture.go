package charts

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// A picture's size in its own units.
const (
	width, height = 640, 240
	top, bottom   = 16, 200 // of the lines
	maxTitles     = 8       // names below
)

// colours are told apart on light and on dark ground.
var colours = [...]string{"#3b82d6", "#d9622b", "#2f9e58", "#b0529c", "#b58900", "#0f9aa8", "#c94f6d", "#7a68d8", "#708238", "#8a6d5b"}

// Picture draws one panel of an answer as SVG, for pages without a script and
// for print: lines, the largest value, and the newest of each line by name.
func Picture(p Panel, a *Answer) []byte {
	var drawn Drawn
	for _, d := range a.Panels {
		if d.ID == p.ID {
			drawn = d
		}
	}
	most := 0.0
	if p.Unit == Percent {
		most = 1
	}
	for _, l := range drawn.Lines {
		for _, v := range l.Values {
			if f := float64(v); f > most { // not for NaN
				most = f
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" fill="none">`, width, height)
	fmt.Fprintf(&b, `<title>%s</title>`, html.EscapeString(p.Title))
	fmt.Fprintf(&b, `<path d="M0 %d.5H%d" stroke="#808080"/><text x="0" y="11" fill="#808080">%s</text>`, bottom, width, html.EscapeString(Written(p.Unit, most)))
	if most == 0 {
		most = 1
	}
	for i, l := range drawn.Lines {
		fmt.Fprintf(&b, `<path stroke-width="1.5" stroke="%s" d="%s"/>`, colours[i%len(colours)], path(l.Values, most))
	}
	x := 0.0
	for i, l := range drawn.Lines {
		if i == maxTitles {
			break
		}
		text := clipped(l.Name)
		if newest := last(l.Values); !math.IsNaN(newest) {
			text += " " + Written(p.Unit, newest)
		}
		fmt.Fprintf(&b, `<text x="%g" y="%d" fill="%s">%s</text>`, math.Mod(x, width), bottom+16+16*int(x/width), colours[i%len(colours)], html.EscapeString(text))
		x += width / 4
	}
	if len(drawn.Lines) == 0 {
		fmt.Fprintf(&b, `<text x="%d" y="110" text-anchor="middle" fill="#808080">no samples in this time</text>`, width/2)
	}
	b.WriteString(`</svg>`)
	return []byte(b.String())
}

// path is a line with a gap where there is no value.
func path(values []Value, most float64) string {
	var b []byte
	across := float64(width) / float64(max(1, len(values)-1))
	pen := byte('M')
	for i, v := range values {
		f := float64(v)
		if math.IsNaN(f) {
			pen = 'M'
			continue
		}
		b = append(b, pen)
		b = strconv.AppendFloat(b, float64(i)*across, 'f', 1, 64)
		b = append(b, ' ')
		b = strconv.AppendFloat(b, bottom-(bottom-top)*max(0, min(1, f/most)), 'f', 1, 64)
		if pen == 'M' {
			b = append(b, "h0.1"...) // so that a single value shows
		}
		pen = 'L'
	}
	return string(b)
}

func last(values []Value) float64 {
	for i := len(values) - 1; i >= 0 && i >= len(values)-3; i-- {
		if f := float64(values[i]); !math.IsNaN(f) {
			return f
		}
	}
	return math.NaN()
}

func clipped(name string) string {
	if r := []rune(name); len(r) > 14 {
		return string(r[:13]) + "…"
	}
	return name
}

// Written is a value with its unit, in three digits: bytes in powers of 1024,
// bytes a second in powers of 1000.
func Written(unit string, v float64) string {
	var base float64
	var units []string
	switch unit {
	case Bytes:
		base, units = 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	case BytesPerSecond:
		base, units = 1000, []string{"B/s", "kB/s", "MB/s", "GB/s", "TB/s"}
	default:
		return fmt.Sprintf("%.1f %%", v)
	}
	i := 0
	for math.Abs(v) >= base*0.9995 && i < len(units)-1 {
		v /= base
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", v, units[0])
	}
	return fmt.Sprintf("%.*f %s", max(0, 2-int(math.Log10(math.Max(math.Abs(v), 1)))), v, units[i])
}
