package exporter

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"
)

// Target is a page as somebody outside says where it is: nothing in it is
// trusted but that the addresses, when they are allowed, and the namespace are
// the guest's own.
type Target struct {
	Guest    string        // its runtime name
	Instance string        // another one when the guest is another one of the same name
	Port     string        // decimal
	Path     string        // "" for /metrics
	Interval time.Duration // 0 for the source's

	// Addresses of the guest, tried in this order. Those that are no guest's
	// (loopback, link-local, multicast and so on) are passed over.
	Addresses []netip.Addr

	// Namespace opens the network namespace of the guest, nil when there is no
	// such way. It is dialled in there when no address leads to it.
	Namespace func() (*os.File, error)
	// Inside: the namespace is the way, and the addresses only when it may not
	// be entered. From the host they may lead to another machine.
	Inside bool
}

const (
	defaultPath = "/metrics"
	maxPath     = 512
	maxGuest    = 127
	maxDialled  = 4 // addresses
)

// page is the path that is asked for.
func (t *Target) page() string {
	if t.Path == "" {
		return defaultPath
	}
	return t.Path
}

// same reports whether t and o are scraped in the same way.
func (t *Target) same(o *Target) bool {
	return t.Guest == o.Guest && t.Instance == o.Instance && t.Port == o.Port && t.Path == o.Path && t.Interval == o.Interval && t.Inside == o.Inside &&
		slices.Equal(t.Addresses, o.Addresses) && (t.Namespace == nil) == (o.Namespace == nil)
}

// endpoint is a target that was found to be one.
type endpoint struct {
	port      uint16
	path      string
	addresses []netip.Addr
	namespace func() (*os.File, error)
	inside    bool
}

// resolve checks a target, and says why it can not be scraped.
func (t *Target) resolve() (e endpoint, bad *failure) {
	if !validPort(t.Port) {
		return e, &failure{reason: badPort, err: fmt.Errorf("%.40q is no port", t.Port)}
	}
	port, _ := strconv.ParseUint(t.Port, 10, 16) // is valid
	e.port, e.path = uint16(port), t.page()
	if !validPath(e.path) {
		return e, &failure{reason: badPath, err: fmt.Errorf("%.80q is no path", t.Path)}
	}
	for _, a := range t.Addresses {
		if AllowedAddress(a) && len(e.addresses) < maxDialled {
			e.addresses = append(e.addresses, a)
		}
	}
	e.namespace, e.inside = t.Namespace, t.Inside
	if len(e.addresses) == 0 && e.namespace == nil {
		return e, &failure{reason: badAddress, err: fmt.Errorf("among %v is no address that a guest can have", t.Addresses)}
	}
	return e, nil
}

// AllowedAddress reports whether a can be a guest's address: global or
// private unicast, and no other notation of anything else.
func AllowedAddress(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	if !a.Is4() {
		// By what there is and not by what there is not: the rest of IPv6 has
		// room for many a form of 127.0.0.1 (RFC 4291, 6052).
		return netip.MustParsePrefix("2000::/3").Contains(a) || netip.MustParsePrefix("fc00::/7").Contains(a)
	}
	first := a.As4()[0]
	return first != 0 && first < 240 && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// validPort takes decimal digits as a person writes them, and nothing that
// only some readers take for a number.
func validPort(s string) bool {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// validPath takes an absolute path in visible ASCII, without query and
// fragment, which no client and no server can take for another host's.
func validPath(s string) bool {
	if len(s) > maxPath || s == "" || s[0] != '/' || len(s) > 1 && s[1] == '/' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f, c == '@', c == '#', c == '?', c == '\\':
			return false
		}
	}
	return true
}

// validGuest takes what can be a runtime name.
func validGuest(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxGuest
}
