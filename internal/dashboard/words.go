package dashboard

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
	"unicode"

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
	}
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

func percent(n number) string { return written(n, "%.1f %%", 1) }

// size is bytes in powers of 1024.
func size(n number) string {
	return scaled(n, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB")
}

// rate is bytes a second in powers of 1000.
func rate(n number) string {
	return scaled(n, 1000, "B/s", "kB/s", "MB/s", "GB/s", "TB/s")
}

func scaled(n number, base float64, units ...string) string {
	if !n.OK {
		return none
	}
	v, i := n.V, 0
	for math.Abs(v) >= base*0.9995 && i < len(units)-1 {
		v /= base
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%.0f %s", v, units[0])
	}
	return fmt.Sprintf("%.*f %s", max(0, 2-int(math.Log10(math.Max(math.Abs(v), 1)))), v, units[i])
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
