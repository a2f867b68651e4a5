package e2e

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// The real gateway, started with the command line of the compose file, behind
// the shipped Nginx: every link of every page leads to something, in whichever
// of the two places the pages are read. Grafana is a stand-in.
func TestStackGatewayBehindNginx(t *testing.T) {
	t.Parallel()
	rig.Need(t, "nginx", "docker-compose", "go")
	dir := stackSetup(t, "main-host")
	writeDeployment(t, dir)
	address := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t))
	var args []string
	for _, a := range composeConfig(t, dir, "compose.yaml").Services["gateway"].Command {
		args = append(args, strings.NewReplacer(
			"--web.listen-address=:9370", "--web.listen-address="+address,
			"/etc/fanin/deployments", filepath.Join(dir, "deployments"),
			"/etc/fanin/nodes.yml", filepath.Join(dir, "secrets", "nodes.yml"),
			"/etc/fanin/exporter-rules.yml", filepath.Join(dir, "exporter-rules.yml"),
		).Replace(a))
	}
	gateway := rig.Start(t, buildStatic(t, "gateway"), args...)
	rig.Eventually(t, 10*time.Second, func() error {
		resp, err := http.Get("http://" + address + "/readyz")
		if err != nil {
			return fmt.Errorf("%w: %s", err, gateway.Tail(1024))
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: got %s, want 200", resp.Status)
		}
		return nil
	})
	grafana := newBackend(t, "grafana stand-in", nil)
	n := rig.Nginx(t, stackNginx(t, address, grafana.address(), grafana.address()))

	link := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	for _, start := range []string{"/resource-monitoring/", "/api/metrics/dashboard/signal"} {
		kinds := make(map[string]int) // content type: how many
		seen := map[string]bool{start: true}
		for queue := []string{start}; len(queue) > 0; queue = queue[1:] {
			path := queue[0]
			resp := sendRaw(t, n.URL, "GET", path, nil, nil)
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("from %s: %s: got %s, %v, want 200", start, path, resp.Status, err)
				continue
			}
			if strings.HasPrefix(path, "/grafana/d-solo/") || strings.HasPrefix(path, "/grafana/d/") {
				kinds["frame of Grafana"]++
				continue
			}
			kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
			kinds[kind]++
			for _, name := range []string{"X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy"} {
				if got := resp.Header.Values(name); len(got) != 1 {
					t.Errorf("%s: %s: got %q, want it once", path, name, got)
				}
			}
			if kind != "text/html" {
				continue
			}
			if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'self'") {
				t.Errorf("%s: Content-Security-Policy: got %q", path, csp)
			}
			base := &url.URL{Path: path}
			for _, m := range link.FindAllStringSubmatch(string(body), -1) {
				to, err := base.Parse(html.UnescapeString(m[1]))
				if err != nil {
					t.Errorf("%s: link %q: %v", path, m[1], err)
					continue
				}
				if next := to.RequestURI(); to.Host == "" && !seen[next] {
					seen[next] = true
					queue = append(queue, next)
				}
			}
		}
		for kind, least := range map[string]int{"text/html": 2, "text/css": 1, "text/javascript": 1, "frame of Grafana": 5} {
			if kinds[kind] < least {
				t.Errorf("from %s: got %d of %s, want %d at least; all: %v", start, kinds[kind], kind, least, kinds)
			}
		}
	}

	for path, want := range map[string]int{
		"/api/v1/deployments":          http.StatusOK,
		"/api/v1/deployments/signal":   http.StatusOK,
		"/resource-monitoring/unknown": http.StatusNotFound,
		"/metrics":                     http.StatusNotFound,
		"/metrics/testbed":             http.StatusNotFound,
		"/readyz":                      http.StatusNotFound,
	} {
		if resp := sendRaw(t, n.URL, "GET", path, nil, nil); resp.StatusCode != want {
			t.Errorf("%s: got %s, want %d", path, resp.Status, want)
		}
	}
	// A push without credentials is refused by the gateway, not believed for
	// coming from the proxy's loopback.
	resp := sendRaw(t, n.URL, "POST", "/api/v1/write", http.Header{
		"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"0.1.0"}, "X-Fanin-Node": {"main-host"},
	}, strings.NewReader("\x00"))
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a push without credentials: got %s, want 401", resp.Status)
	}
}
