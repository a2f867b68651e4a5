package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// programs builds the two programs once and returns their folder.
func programs(t testing.TB) string {
	t.Helper()
	dir, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var buildOnce = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fanin-bin-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-tags", "libvirt_dlopen", "-o", dir, "fanin/cmd/pusher", "fanin/cmd/gateway").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := buildOnce(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// testbed is TestbedOS' settings folder with a gateway that reads it.
type testbed struct {
	t       *testing.T
	dir     string
	url     string
	gateway *rig.Process
}

const (
	mainHost  = "main-host"
	otherHost = "client-1"
)

// newTestbed starts a gateway on a cluster of two hosts without deployments.
func newTestbed(t *testing.T, args ...string) *testbed {
	t.Helper()
	b := &testbed{t: t, dir: t.TempDir(), url: fmt.Sprintf("http://127.0.0.1:%d", rig.FreePort(t))}
	b.write("config/kvm-compose-config.json", map[string]any{"testbed_host_ssh_config": b.hosts()})
	nodes := "nodes:\n"
	for _, host := range []string{mainHost, otherHost} {
		b.file(host+".token", b.token(host)+"\n")
		sum := sha256.Sum256([]byte(b.token(host)))
		nodes += fmt.Sprintf("  %s: {token_sha256: %s}\n", host, hex.EncodeToString(sum[:]))
	}
	b.file("nodes.yml", nodes)
	b.gateway = rig.Start(t, filepath.Join(programs(t), "gateway"), append([]string{
		"--web.listen-address=" + strings.TrimPrefix(b.url, "http://"),
		"--testbedos.settings=" + b.dir, "--push.nodes-file=" + filepath.Join(b.dir, "nodes.yml"),
	}, args...)...)
	rig.Eventually(t, 10*time.Second, func() error { _, err := b.get("/readyz"); return err })
	return b
}

func (b *testbed) token(host string) string { return "token-of-" + host + "-0123456789" }

func (b *testbed) hosts() map[string]any {
	return map[string]any{
		mainHost:  map[string]any{"username": "ubuntu", "ip": "10.50.0.1", "testbed_nic": "enp5s0", "is_main_host": true},
		otherHost: map[string]any{"username": "ubuntu", "ip": "10.50.0.2", "testbed_nic": "enp5s0", "is_main_host": false},
	}
}

func (b *testbed) file(name, content string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *testbed) write(name string, v any) {
	b.t.Helper()
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		b.t.Fatal(err)
	}
	b.file(name, string(content))
}

// deploy writes a deployment's record and state as TestbedOS does, in place.
// Guests are "name kind host"; a host of "-" means not placed.
func (b *testbed) deploy(project, state string, guests ...string) {
	b.t.Helper()
	of := map[string]any{}
	for i, g := range guests {
		var name, kind, host string
		if _, err := fmt.Sscan(g, &name, &kind, &host); err != nil {
			b.t.Fatal(err)
		}
		guest := map[string]any{
			"name": name, "network": nil, "is_golden_image": false, "guest_id": i, "extra_info": map[string]any{"reference_image": nil},
			kind: map[string]any{"image": "workload", "memory_mb": 192, "cpus": 1}, "testbed_host": host,
		}
		if host == "-" {
			guest["testbed_host"] = nil
		}
		of[name] = guest
	}
	b.write(project+"/"+project+"-state.json", map[string]any{"project_name": project, "testbed_hosts": b.hosts(), "testbed_guests": of})
	b.write("deployments/"+project+".json", map[string]any{
		"name": project, "project_location": filepath.Join(b.dir, project), "state": state, "last_action_uuid": nil,
	})
}

// pusher starts a pusher that speaks for host.
func (b *testbed) pusher(host string, args ...string) *rig.Process {
	b.t.Helper()
	return rig.Start(b.t, filepath.Join(programs(b.t), "pusher"), append([]string{
		"--push.url=" + b.url + "/api/v1/write", "--push.bearer-token-file=" + filepath.Join(b.dir, host+".token"),
		"--node.name=" + host, "--web.listen-address=127.0.0.1:0", "--spool.path=" + b.t.TempDir(),
	}, args...)...)
}

// get reads one of the gateway's pages; an answer other than 200 is an error.
func (b *testbed) get(path string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(b.url + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s", path, answer.Status, body)
	}
	return string(body), nil
}

func (b *testbed) page(path string) string {
	b.t.Helper()
	body, err := b.get(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return body
}

// shows waits until a page has a line that begins with each of the prefixes.
func (b *testbed) shows(path string, d time.Duration, prefixes ...string) {
	b.t.Helper()
	rig.Eventually(b.t, d, func() error {
		body, err := b.get(path)
		if err != nil {
			return err
		}
		for _, p := range prefixes {
			if !strings.Contains("\n"+body, "\n"+p) {
				return fmt.Errorf("%s has no line that begins with %s; it is\n%s", path, p, excerpt(body, p))
			}
		}
		return nil
	})
}

// excerpt is the lines of a page about the metric that prefix begins with.
func excerpt(page, prefix string) string {
	name, _, _ := strings.Cut(prefix, "{")
	name, _, _ = strings.Cut(name, " ")
	var lines []string
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, name) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}
