package admission

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const mainToken, clientToken = "main-token-0123456789", "client-token-0123456789"

func nodesFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nodes.yml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func hashed(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func TestAuthenticate(t *testing.T) {
	nodes, err := NewNodes(nodesFile(t, "nodes:\n  main-host: {token: "+mainToken+"}\n  client-1: {token_sha256: "+hashed(clientToken)+"}\n"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		set  func(*http.Request)
		want string
		err  error
	}{
		{"bearer", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+mainToken) }, "main-host", nil},
		{"bearer by hash", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+clientToken) }, "client-1", nil},
		{"basic", func(r *http.Request) { r.SetBasicAuth("main-host", mainToken) }, "main-host", nil},
		{"basic under another name", func(r *http.Request) { r.SetBasicAuth("client-1", mainToken) }, "", ErrBadCredentials},
		{"the hash is no token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+hashed(clientToken)) }, "", ErrBadCredentials},
		{"wrong", func(r *http.Request) { r.Header.Set("Authorization", "Bearer nonsense") }, "", ErrBadCredentials},
		{"empty", func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") }, "", ErrBadCredentials},
		{"none", func(*http.Request) {}, "", ErrNoCredentials},
		{"only a claim, from loopback", func(r *http.Request) { r.RemoteAddr = "127.0.0.1:5"; r.Header.Set(NodeHeader, "main-host") }, "", ErrNoCredentials},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/api/v1/write", nil)
			c.set(r)
			got, err := nodes.Authenticate(r)
			if got != c.want || !errors.Is(err, c.err) {
				t.Fatalf("got %q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestLoopbackIsBelievedWithoutAFile(t *testing.T) {
	nodes, err := NewNodes("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, from, node, forwarded string
		err                         error
	}{
		{"IPv4", "127.0.0.1:1234", "main-host", "", nil},
		{"IPv6", "[::1]:1234", "main-host", "", nil},
		{"without a name", "127.0.0.1:1234", "", "", ErrNoName},
		{"through a proxy", "127.0.0.1:1234", "main-host", "10.0.0.9", ErrNotLoopback},
		{"from elsewhere", "10.0.0.9:1234", "main-host", "", ErrNotLoopback},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/api/v1/write", nil)
			r.RemoteAddr = c.from
			r.Header.Set(NodeHeader, c.node)
			if c.forwarded != "" {
				r.Header.Set("X-Forwarded-For", c.forwarded)
			}
			got, err := nodes.Authenticate(r)
			if !errors.Is(err, c.err) || err == nil && got != c.node {
				t.Fatalf("got %q, %v; want %v", got, err, c.err)
			}
		})
	}
}

// A page whose name was pointed here may say any name as its own site.
func TestPagesAreNotBelieved(t *testing.T) {
	nodes, err := NewNodes("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for header, value := range map[string]string{"Origin": "http://lab.example:9370", "Sec-Fetch-Site": "same-origin"} {
		r := httptest.NewRequest(http.MethodPost, "http://lab.example:9370/api/v1/write", nil)
		r.RemoteAddr = "127.0.0.1:1234"
		r.Header.Set(NodeHeader, "main-host")
		r.Header.Set(header, value)
		if got, err := nodes.Authenticate(r); !errors.Is(err, ErrBrowser) {
			t.Errorf("with %s: got %q, %v; want %v", header, got, err, ErrBrowser)
		}
	}
}

// TestTokenTakenBack: another file of the same length and time is another one.
func TestTokenTakenBack(t *testing.T) {
	path := nodesFile(t, "nodes:\n  main-host: {token: "+mainToken+"}\n")
	at := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	nodes, err := NewNodes(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	next := nodesFile(t, "nodes:\n  main-host: {token: "+strings.ToUpper(mainToken)+"}\n")
	if err := errors.Join(os.Chtimes(next, at, at), os.Rename(next, path)); err != nil {
		t.Fatal(err)
	}
	nodes.checked = time.Time{}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/write", nil)
	r.Header.Set("Authorization", "Bearer "+mainToken)
	if host, err := nodes.Authenticate(r); err == nil {
		t.Errorf("the token before still opens for %s", host)
	}
}

func TestNameFromBasicAuth(t *testing.T) {
	nodes, err := NewNodes("", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/write", nil)
	r.RemoteAddr = "127.0.0.1:1234"
	r.SetBasicAuth("main-host", "whatever")
	if got, err := nodes.Authenticate(r); got != "main-host" || err != nil {
		t.Fatalf("got %q, %v, want main-host", got, err)
	}
	r.Header.Set(NodeHeader, "client-1") // says it better
	if got, err := nodes.Authenticate(r); got != "client-1" || err != nil {
		t.Fatalf("got %q, %v, want client-1", got, err)
	}
}

func TestBadNodesFiles(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"empty":            {"", "EOF"},
		"no node":          {"nodes: {}", "names no node"},
		"unknown key":      {"nodes:\n  a: {tokn: " + mainToken + "}", "line 2"},
		"no token":         {"nodes:\n  a: {}", "either token or token_sha256"},
		"both":             {"nodes:\n  a: {token: " + mainToken + ", token_sha256: ab}", "either token or token_sha256"},
		"short":            {"nodes:\n  a: {token: short}", "at least 16"},
		"not hexadecimal":  {"nodes:\n  a: {token_sha256: xyz}", "64 hexadecimal"},
		"hash is too long": {"nodes:\n  a: {token_sha256: " + hashed("a") + "00}", "64 hexadecimal"},
		"bad name":         {"nodes:\n  'a b': {token: " + mainToken + "}", "no valid host name"},
		"shared":           {"nodes:\n  a: {token: " + mainToken + "}\n  b: {token: " + mainToken + "}", "share a token"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckNodes(nodesFile(t, c.content))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestNodesFileIsReadAgain(t *testing.T) {
	path := nodesFile(t, "nodes:\n  a: {token: "+mainToken+"}\n")
	nodes, err := NewNodes(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.Header.Set("Authorization", "Bearer "+clientToken)
	try := func(content, want string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		nodes.checked = time.Time{}
		if got, _ := nodes.Authenticate(r); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	try("nodes:\n  a: {token: "+mainToken+"}\n  b: {token: "+clientToken+"}\n", "b")
	try("nodes:\n  half", "b") // a bad version changes nothing
	try("nodes:\n  a: {token: "+mainToken+"}\n  other: {token: "+clientToken+"}\n", "other")
}
