package exporter

import (
	"bufio"
	"bytes"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// What labels and lists may say, and what they may not.
func TestTargets(t *testing.T) {
	inside := func() (*os.File, error) { return nil, nil }
	for _, c := range []struct {
		what   string
		target Target
		want   reason
	}{
		{"plain", Target{Port: "8000"}, fine},
		{"first port", Target{Port: "1"}, fine},
		{"last port", Target{Port: "65535"}, fine},
		{"no port", Target{}, badPort},
		{"port 0", Target{Port: "0"}, badPort},
		{"port too high", Target{Port: "65536"}, badPort},
		{"port far too high", Target{Port: "99999999999999999999"}, badPort},
		{"negative port", Target{Port: "-1"}, badPort},
		{"signed port", Target{Port: "+80"}, badPort},
		{"octal port", Target{Port: "080"}, badPort},
		{"hexadecimal port", Target{Port: "0x50"}, badPort},
		{"port in other digits", Target{Port: "１２"}, badPort},
		{"port with a space", Target{Port: " 80"}, badPort},
		{"port with a line break", Target{Port: "80\n"}, badPort},
		{"port with a host", Target{Port: "80@10.0.0.1:81"}, badPort},
		{"port with a path", Target{Port: "80/x"}, badPort},
		{"port by name", Target{Port: "http"}, badPort},
		{"separated port", Target{Port: "8_0"}, badPort},
		{"port with an exponent", Target{Port: "8e1"}, badPort},

		{"a path", Target{Port: "80", Path: "/a/b-c_d.e~f"}, fine},
		{"the root", Target{Port: "80", Path: "/"}, fine},
		{"percent", Target{Port: "80", Path: "/%2e%2e/%00"}, fine}, // is sent as %25
		{"relative path", Target{Port: "80", Path: "metrics"}, badPath},
		{"path of another host", Target{Port: "80", Path: "//10.0.0.1/metrics"}, badPath},
		{"a whole address", Target{Port: "80", Path: "http://10.0.0.1/metrics"}, badPath},
		{"path that ends the host", Target{Port: "80", Path: "@10.0.0.1/metrics"}, badPath},
		{"path with a user", Target{Port: "80", Path: "/@10.0.0.1/metrics"}, badPath},
		{"query", Target{Port: "80", Path: "/metrics?x=1"}, badPath},
		{"fragment", Target{Port: "80", Path: "/metrics#x"}, badPath},
		{"backslash", Target{Port: "80", Path: `/\10.0.0.1`}, badPath},
		{"line breaks", Target{Port: "80", Path: "/ HTTP/1.1\r\nX: y"}, badPath},
		{"space", Target{Port: "80", Path: "/a b"}, badPath},
		{"null", Target{Port: "80", Path: "/a\x00b"}, badPath},
		{"other characters", Target{Port: "80", Path: "/ä"}, badPath},
		{"long", Target{Port: "80", Path: "/" + strings.Repeat("a", maxPath)}, badPath},

		{"no way in", Target{Port: "80", Addresses: []netip.Addr{}}, badAddress},
		{"not an address", Target{Port: "80", Addresses: []netip.Addr{{}}}, badAddress},
	} {
		if c.target.Addresses == nil {
			c.target.Namespace = inside
		}
		e, failed := c.target.resolve()
		got := fine
		if failed != nil {
			got = failed.reason
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
		if got == fine {
			wantOneRequest(t, (&Source{UserAgent: "test"}).requestFor(&e), e.path)
		}
	}
}

// wantOneRequest reads the bytes as a server does.
func wantOneRequest(t *testing.T, request []byte, path string) {
	t.Helper()
	reader := bufio.NewReader(bytes.NewReader(request))
	r, err := http.ReadRequest(reader)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	if r.URL.Path != path || r.URL.Host != "" || r.URL.RawQuery != "" || r.Host == "" || reader.Buffered() > 0 {
		t.Errorf("%q asks for %+v of %s, want %s; %d bytes are left", request, r.URL, r.Host, path, reader.Buffered())
	}
}

func TestAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"10.0.0.10": true, "172.17.0.2": true, "192.168.1.1": true, "100.64.0.1": true, "203.0.113.7": true,
		"fd00::2": true, "2001:db8::1": true,
		"127.0.0.1": false, "127.255.255.254": false, "0.0.0.0": false, "0.0.0.1": false,
		"169.254.169.254": false, "224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fd00::2%eth0": false, "ff02::1": false,
		"::ffff:10.0.0.10": false, "::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "fec0::1": false,
	} {
		if got := AllowedAddress(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: got %v, want %v", address, got, want)
		}
	}
	if AllowedAddress(netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
	if len(ownAddresses()) == 0 {
		t.Log("this machine has no address of its own")
	}
}

func FuzzTarget(f *testing.F) {
	f.Add("web", "8000", "/metrics", "10.0.0.2")
	f.Add("web", "080", "//10.0.0.1/", "127.0.0.1")
	f.Add("w\nb", "１２", "/@x", "::ffff:127.0.0.1")
	f.Fuzz(func(t *testing.T, guest, port, path, address string) {
		target := Target{Guest: guest, Port: port, Path: path}
		if a, err := netip.ParseAddr(address); err == nil {
			target.Addresses = []netip.Addr{a}
		} else {
			target.Namespace = func() (*os.File, error) { return nil, nil }
		}
		if e, failed := target.resolve(); failed == nil {
			wantOneRequest(t, (&Source{}).requestFor(&e), e.path)
			if e.port == 0 || len(e.addresses) == 1 && (e.addresses[0].IsLoopback() || e.addresses[0].Unmap() != e.addresses[0]) {
				t.Errorf("%+v is taken", target)
			}
		}
		if validGuest(guest) && (len(guest) > maxGuest || strings.ContainsAny(guest, "\n\"\\{} /")) {
			t.Errorf("guest %q is taken", guest)
		}
	})
}
