package dashboard

import (
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"fanin/internal/charts"
	"fanin/internal/deployment"
	"fanin/internal/presence"
)

// words are the functions of the templates.
func words() template.FuncMap {
	return template.FuncMap{
		"percent": percent, "size": size, "rate": rate, "age": age, "plain": plain,
		"load":   func(n number) string { return written(n, "%.2f", 1) },
		"offset": offset,
		"clock":  func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"kind":   kindName,
		"count": func(n int, what string) string {
			if n == 1 {
				return "1 " + what
			}
			return fmt.Sprintf("%d %ss", n, what)
		},
		"short": short,
		"value": value,
	}
}

// value is that by which a table is sorted, "" when it is unknown.
func value(n number) string {
	if !n.OK {
		return ""
	}
	return strconv.FormatFloat(n.V, 'g', -1, 64)
}

// none stands where a value is unknown.
const none = "–"

func written(n number, format string, times float64) string {
	if !n.OK {
		return none
	}
	return fmt.Sprintf(format, n.V*times)
}

// offset is a clock's, to the millisecond.
func offset(n number) string {
	if !n.OK {
		return none
	}
	return fmt.Sprintf("%+d ms", int64(math.Round(n.V*1000)))
}

func percent(n number) string { return scaled(n, charts.Percent) }
func size(n number) string    { return scaled(n, charts.Bytes) }
func rate(n number) string    { return scaled(n, charts.BytesPerSecond) }

func scaled(n number, unit string) string {
	if !n.OK {
		return none
	}
	return charts.Written(unit, n.V)
}

// age is how long ago something was, given in seconds.
func age(n number) string {
	switch s := n.V; {
	case !n.OK:
		return "never"
	case s < 10:
		return fmt.Sprintf("%.1f s ago", s)
	case s < 120:
		return fmt.Sprintf("%.0f s ago", s)
	case s < 2*3600:
		return fmt.Sprintf("%.0f min ago", math.Floor(s/60))
	case s < 48*3600:
		return fmt.Sprintf("%.0f h ago", math.Floor(s/3600))
	default:
		return fmt.Sprintf("%.0f days ago", math.Floor(s/86400))
	}
}

func kindName(kind string) string {
	switch kind {
	case deployment.Libvirt:
		return "VM (libvirt)"
	case deployment.Docker:
		return "container (Docker)"
	case deployment.Android:
		return "Android emulator"
	}
	return kind
}

// plain says in words why a guest is not up.
func plain(reason string) string {
	switch reason {
	case "":
		return ""
	case presence.NotPlaced:
		return "it has not been placed on a host yet"
	case presence.HostSilent:
		return "its host has not been heard of lately"
	case presence.NotSeen:
		return "its host is heard, and does not see it"
	case presence.Stopped:
		return "its host says that it does not run"
	case presence.Refused:
		return "another host than its own reports it, which is refused"
	case notActive:
		return "its deployment is not up"
	case ambiguous:
		return "another guest of an active deployment has the same runtime name, so neither can be told apart"
	}
	return "its host says: " + short(strings.ReplaceAll(reason, "_", " "))
}

// short is text from outside, cut to 100 characters, without control and
// formatting characters.
func short(s string) string {
	out := make([]rune, 0, 100)
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = '\uFFFD'
		}
		if len(out) == 100 {
			return string(out) + "…"
		}
		out = append(out, r)
	}
	return string(out)
}
