package runs

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Writers are those who may start, mark, stop and delete runs. Reading is open
// to whoever reaches the port.
type Writers uint8

// Who may write.
const (
	Local  Writers = iota // requests from this machine that no proxy has handed on
	All                   // whoever reaches the port
	Nobody                // the records are read-only
)

// WritersNames are what [ParseWriters] takes.
var WritersNames = []string{"local", "all", "none"}

// String is the name of w.
func (w Writers) String() string { return WritersNames[w] }

// ParseWriters reads a name of [WritersNames]; another one is Local.
func ParseWriters(name string) Writers {
	for i, known := range WritersNames {
		if name == known {
			return Writers(i)
		}
	}
	return Local
}

// allow says why a request may change nothing.
func (w Writers) allow(r *http.Request) error {
	switch w {
	case All:
		return nil
	case Nobody:
		return refuse(http.StatusForbidden, "runs are read-only here: the gateway was started with --runs.writers=none")
	}
	const elsewhere = "runs are changed from the gateway's own machine only: ask there, or start the gateway with --runs.writers=all when all who reach it may"
	for _, h := range [...]string{"X-Forwarded-For", "Forwarded", "Via", "X-Real-Ip"} {
		if r.Header.Get(h) != "" {
			return refuse(http.StatusForbidden, elsewhere)
		}
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() {
		return refuse(http.StatusForbidden, elsewhere)
	}
	if !ownName(r.Host) {
		return refuse(http.StatusForbidden, "ask for the gateway by its address or as localhost: another site may have given its name to this machine")
	}
	return nil
}

// ownName reports whether a Host header names this machine in a way that no
// public name can: a site may point its name here (DNS rebinding), and its
// pages would count as the gateway's own.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return !strings.Contains(strings.TrimSuffix(host, "."), ".") || strings.HasSuffix(host, ".localhost")
}
