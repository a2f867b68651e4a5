package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// stackFile is a file of stack/.
func stackFile(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{rig.Root(t), "stack"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stackNginx is the shipped configuration of Nginx, filled in as the image's
// start script does it, with addresses (host:port) of backends on loopback.
func stackNginx(t testing.TB, gateway, grafana, prometheus string) string {
	t.Helper()
	server := strings.NewReplacer(
		"${STACK_LISTEN}", rig.NginxListen,
		"${STACK_RESOLVER}", "127.0.0.1",
		"${STACK_GATEWAY}", gateway,
		"${STACK_GRAFANA}", grafana,
		"${STACK_PROMETHEUS}", prometheus,
	).Replace(stackFile(t, "nginx", "templates", "default.conf.template"))
	config := strings.NewReplacer(
		"include /tmp/*.conf;", "include "+rig.NginxDir+"/*.conf;",
		"/tmp/", rig.NginxDir+"/",
		"/dev/stderr", "stderr",
		"/dev/stdout", rig.NginxDir+"/access.log",
	).Replace(stackFile(t, "nginx", "nginx.conf"))
	// One file is enough for the test: the server in place of its include.
	const include = "include " + rig.NginxDir + "/*.conf;"
	if !strings.Contains(config, include) {
		t.Fatalf("nginx.conf has no %q", "include /tmp/*.conf;")
	}
	return strings.Replace(config, include, server, 1)
}

// backend stands in for one of the servers behind Nginx and records what
// reaches it.
type backend struct {
	*httptest.Server
	name string

	mu       sync.Mutex
	requests []received // guarded by mu
}

type received struct {
	method, uri string
	header      http.Header
	host        string
	body        int64
}

func newBackend(t testing.TB, name string, handler http.HandlerFunc) *backend {
	t.Helper()
	b := &backend{name: name}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			n = -1
		}
		b.mu.Lock()
		b.requests = append(b.requests, received{r.Method, r.RequestURI, r.Header.Clone(), r.Host, n})
		b.mu.Unlock()
		w.Header().Set("X-Backend", name)
		if handler != nil {
			handler(w, r)
			return
		}
		fmt.Fprintf(w, "%s %s", name, r.RequestURI)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) address() string { return b.Listener.Addr().String() }

func (b *backend) last(t testing.TB) received {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.requests) == 0 {
		t.Fatalf("%s: nothing arrived", b.name)
	}
	return b.requests[len(b.requests)-1]
}

func noRedirects() *http.Client {
	return &http.Client{
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// sendRaw asks for a path exactly as it is written, dots and all.
func sendRaw(t testing.TB, base, method, path string, header http.Header, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequest(method, base, body)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = path
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := noRedirects().Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestStackNginxPaths(t *testing.T) {
	t.Parallel()
	gateway := newBackend(t, "gateway", nil)
	grafana := newBackend(t, "grafana stand-in", nil)
	prometheus := newBackend(t, "prometheus stand-in", nil)
	config := stackNginx(t, gateway.address(), grafana.address(), prometheus.address())
	if out, err := rig.NginxCheck(t, config); err != nil || strings.Contains(out, "[warn]") {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	n := rig.Nginx(t, config)

	for _, c := range []struct {
		method, path string
		status       int
		want         string // backend and path that it got; else the Location; "" for neither
	}{
		{"GET", "/", 302, "/resource-monitoring/"},
		{"GET", "/resource-monitoring", 301, "/resource-monitoring/"},
		{"GET", "/resource-monitoring/", 200, "gateway /dashboard/"},
		{"HEAD", "/resource-monitoring/", 200, ""},
		{"GET", "/resource-monitoring/signal", 200, "gateway /dashboard/signal"},
		{"GET", "/resource-monitoring/signal?a=b&c=%2F", 200, "gateway /dashboard/signal?a=b&c=%2F"},
		{"GET", "/resource-monitoring/static/page.css", 200, "gateway /dashboard/static/page.css"},
		{"GET", "/resource-monitoring/a%20b%3Cc%3E%22", 200, "gateway /dashboard/a%20b%3Cc%3E%22"},
		{"GET", "/api/metrics/dashboard/signal", 200, "gateway /api/metrics/dashboard/signal"},
		{"GET", "/api/v1/deployments", 200, "gateway /api/v1/deployments"},
		{"GET", "/api/v1/deployments/signal", 200, "gateway /api/v1/deployments/signal"},
		{"POST", "/api/v1/write", 200, "gateway /api/v1/write"},
		{"GET", "/api/v1/targets?node=main-host", 200, "gateway /api/v1/targets?node=main-host"},
		{"GET", "/grafana", 301, "/grafana/"},
		{"GET", "/grafana/", 200, "grafana stand-in /grafana/"},
		{"GET", "/grafana/d-solo/u/s?orgId=1&var-proj_n=a%20b", 200, "grafana stand-in /grafana/d-solo/u/s?orgId=1&var-proj_n=a%20b"},
		{"POST", "/grafana/api/ds/query?ds_type=prometheus", 200, "grafana stand-in /grafana/api/ds/query?ds_type=prometheus"},
		{"GET", "/prometheus", 301, "/prometheus/"},
		{"GET", "/prometheus/api/v1/query?query=up%7Ba%3D%22b%22%7D", 200, "prometheus stand-in /prometheus/api/v1/query?query=up%7Ba%3D%22b%22%7D"},
		{"GET", "/-/nginx", 200, ""},

		// What is not published.
		{"GET", "/metrics", 404, ""},
		{"GET", "/metrics/testbed", 404, ""},
		{"GET", "/api/metrics/prometheus/hosts", 404, ""},
		{"GET", "/api/v1/scrape-targets", 404, ""},
		{"GET", "/api/v1/writes", 404, ""},
		{"POST", "/-/reload", 404, ""},
		{"GET", "/debug/pprof/", 404, ""},
		{"POST", "/resource-monitoring/", 403, ""},
		{"DELETE", "/api/v1/deployments/signal", 403, ""},
		// Ways around it.
		{"GET", "/resource-monitoring/../metrics", 404, ""},
		{"GET", "/resource-monitoring/%2e%2e/metrics", 404, ""},
		{"GET", "/resource-monitoring/..%2fmetrics", 404, ""},
		{"GET", "/grafana/..%2fmetrics", 404, ""},
		{"GET", "/api/metrics/dashboard/../prometheus/hosts", 404, ""},
		{"GET", "/resource-monitoring/../../../etc/passwd", 400, ""},
	} {
		resp := sendRaw(t, n.URL, c.method, c.path, nil, nil)
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
		}
		got := string(body)
		if resp.Header.Get("X-Backend") == "" {
			got = resp.Header.Get("Location")
		}
		if resp.StatusCode != c.status || got != c.want {
			t.Errorf("%s %s: got %d %q, want %d %q", c.method, c.path, resp.StatusCode, got, c.status, c.want)
		}
		if h := resp.Header; h.Get("X-Frame-Options") != "SAMEORIGIN" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Server") != "nginx" {
			t.Errorf("%s %s: headers: got X-Frame-Options %q, X-Content-Type-Options %q, Server %q", c.method, c.path,
				h.Get("X-Frame-Options"), h.Get("X-Content-Type-Options"), h.Get("Server"))
		}
	}
}

func TestStackNginxHeaders(t *testing.T) {
	t.Parallel()
	gateway := newBackend(t, "gateway", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Frame-Options", "DENY")
		w.Header().Set("Content-Security-Policy", "default-src 'self'")
	})
	n := rig.Nginx(t, stackNginx(t, gateway.address(), gateway.address(), gateway.address()))
	resp := sendRaw(t, n.URL, "GET", "/resource-monitoring/", http.Header{
		"X-Forwarded-For": {"10.9.9.9"}, "X-Forwarded-Proto": {"https"}, "Authorization": {"Bearer x"},
	}, nil)
	for name, want := range map[string][]string{
		"X-Content-Type-Options":  {"nosniff"},
		"X-Frame-Options":         {"SAMEORIGIN"},
		"Referrer-Policy":         {"same-origin"},
		"Content-Security-Policy": {"default-src 'self'"},
	} {
		if got := resp.Header.Values(name); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("answer's %s: got %q, want %q", name, got, want)
		}
	}
	got := gateway.last(t)
	for name, want := range map[string][]string{
		"X-Forwarded-For":   {"127.0.0.1"},
		"X-Forwarded-Proto": {"http"},
		"X-Forwarded-Host":  {strings.TrimPrefix(n.URL, "http://")},
		"Authorization":     {"Bearer x"},
		"Connection":        nil,
		"Upgrade":           nil,
	} {
		if g := got.header.Values(name); fmt.Sprint(g) != fmt.Sprint(want) {
			t.Errorf("request's %s: got %q, want %q", name, g, want)
		}
	}
	if want := strings.TrimPrefix(n.URL, "http://"); got.host != want {
		t.Errorf("Host: got %q, want %q", got.host, want)
	}
}

// A relative link of a page leads to the right place below both of its paths.
func TestStackNginxRelativeLinks(t *testing.T) {
	t.Parallel()
	gateway := newBackend(t, "gateway", nil)
	n := rig.Nginx(t, stackNginx(t, gateway.address(), gateway.address(), gateway.address()))
	for _, c := range []struct{ page, link, want string }{
		{"/resource-monitoring/", "signal", "gateway /dashboard/signal"},
		{"/resource-monitoring/", "static/page.css", "gateway /dashboard/static/page.css"},
		{"/resource-monitoring/signal", "static/page.css", "gateway /dashboard/static/page.css"},
		{"/resource-monitoring/signal", "./", "gateway /dashboard/"},
		{"/resource-monitoring/signal", "../api/v1/deployments/signal", "gateway /api/v1/deployments/signal"},
		{"/api/metrics/dashboard/signal", "other", "gateway /api/metrics/dashboard/other"},
		{"/api/metrics/dashboard/signal", "../../v1/deployments/signal", "gateway /api/v1/deployments/signal"},
	} {
		base, err := url.Parse(n.URL + c.page)
		if err != nil {
			t.Fatal(err)
		}
		link, err := base.Parse(c.link)
		if err != nil {
			t.Fatal(err)
		}
		resp := sendRaw(t, n.URL, "GET", link.RequestURI(), nil, nil)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != c.want {
			t.Errorf("%s on %s: got %q, %v, want %q", c.link, c.page, body, err, c.want)
		}
	}
}

// Bodies above Nginx' own default of 1 MB pass, unbuffered; only one above the
// limit is refused by Nginx itself.
func TestStackNginxRemoteWrite(t *testing.T) {
	t.Parallel()
	firstBytes := make(chan struct{}, 1)
	gateway := &backend{name: "gateway"}
	gateway.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b [1]byte
		if _, err := io.ReadFull(r.Body, b[:]); err == nil {
			select {
			case firstBytes <- struct{}{}:
			default:
			}
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			n = -1
		}
		gateway.mu.Lock()
		gateway.requests = append(gateway.requests, received{r.Method, r.RequestURI, r.Header.Clone(), r.Host, n + 1})
		gateway.mu.Unlock()
		w.Header().Set("X-Fanin-Refused", "not_active=3")
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(gateway.Close)
	n := rig.Nginx(t, stackNginx(t, gateway.address(), gateway.address(), gateway.address()))

	header := http.Header{
		"Content-Type":                      {"application/x-protobuf"},
		"Content-Encoding":                  {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"0.1.0"},
		"X-Fanin-Node":                      {"main-host"},
	}
	const size = 3 << 20
	body := make([]byte, size)
	if _, err := rand.Read(body); err != nil {
		t.Fatal(err)
	}
	resp := sendRaw(t, n.URL, "POST", "/api/v1/write", header, bytes.NewReader(body))
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("X-Fanin-Refused") != "not_active=3" {
		t.Errorf("3 MiB: got %s, X-Fanin-Refused %q", resp.Status, resp.Header.Get("X-Fanin-Refused"))
	}
	got := gateway.last(t)
	if got.body != size {
		t.Errorf("3 MiB: %d bytes arrived, want %d", got.body, size)
	}
	for name, want := range header {
		if fmt.Sprint(got.header[name]) != fmt.Sprint(want) {
			t.Errorf("%s: got %q, want %q", name, got.header[name], want)
		}
	}

	<-firstBytes
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		req, err := http.NewRequest("POST", n.URL+"/api/v1/write", pr)
		if err == nil {
			req.ContentLength = size
			var resp *http.Response
			if resp, err = noRedirects().Do(req); err == nil {
				resp.Body.Close()
			}
		}
		done <- err
	}()
	if _, err := pw.Write(body[:64<<10]); err != nil {
		t.Fatal(err)
	}
	select {
	case <-firstBytes:
	case <-time.After(5 * time.Second):
		t.Error("the start of a body does not reach the gateway before its end: it is buffered")
	}
	if _, err := pw.Write(body[64<<10:]); err != nil {
		t.Error(err)
	}
	pw.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}

	resp = sendRaw(t, n.URL, "POST", "/api/v1/write", header, bytes.NewReader(make([]byte, 8<<20+1)))
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("above 8 MiB: got %s, want 413", resp.Status)
	}
}

// Grafana's live channel: the upgrade passes, and bytes both ways after it.
// The real Grafana is not to be had here; the backend is a stand-in.
func TestStackNginxWebsocket(t *testing.T) {
	t.Parallel()
	grafana := newBackend(t, "grafana stand-in", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	})
	n := rig.Nginx(t, stackNginx(t, grafana.address(), grafana.address(), grafana.address()))
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(n.URL, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /grafana/api/live/ws HTTP/1.1\r\nHost: stack\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: http://stack\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %s, want 101", resp.Status)
	}
	fmt.Fprint(conn, "there and back")
	echo := make([]byte, len("there and back"))
	if _, err := io.ReadFull(r, echo); err != nil || string(echo) != "there and back" {
		t.Errorf("got %q, %v", echo, err)
	}
	if got := grafana.last(t); got.uri != "/grafana/api/live/ws" || got.header.Get("Origin") != "http://stack" || got.host != "stack" {
		t.Errorf("the backend got %s, Origin %q, Host %q", got.uri, got.header.Get("Origin"), got.host)
	}
}

// A backend that is away gives 502 at once, the others go on, and it is found
// again without anything being done to Nginx.
func TestStackNginxBackendAway(t *testing.T) {
	t.Parallel()
	prometheus := newBackend(t, "prometheus stand-in", nil)
	port := rig.FreePort(t)
	away := fmt.Sprintf("127.0.0.1:%d", port)
	n := rig.Nginx(t, stackNginx(t, away, away, prometheus.address()))
	if resp := sendRaw(t, n.URL, "GET", "/resource-monitoring/", nil, nil); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("gateway away: got %s, want 502", resp.Status)
	}
	if resp := sendRaw(t, n.URL, "GET", "/prometheus/", nil, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("Prometheus with the gateway away: got %s, want 200", resp.Status)
	}
	l, err := net.Listen("tcp", away)
	if err != nil {
		t.Fatalf("the port was taken by another program meanwhile: %v", err)
	}
	gateway := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {})}
	go func() {
		if err := gateway.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	defer gateway.Close()
	if resp := sendRaw(t, n.URL, "GET", "/resource-monitoring/", nil, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("gateway back: got %s, want 200", resp.Status)
	}
}
