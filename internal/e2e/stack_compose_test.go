package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// The whole stack in a real Docker engine, started by compose from the shipped
// files. Images cannot be pulled in a test, so images of the same names are
// made from what is on this machine: the gateway from this source, Prometheus
// from the release that the tests build, Nginx from Debian's package with a
// start script that does what the official image's does. Grafana cannot be
// had: a stand-in web server answers at its health check's address.
//
// What a node pushes through Nginx comes out of PromQL through Nginx, before
// and after each process has been killed: each comes back by itself.
func TestStackComposeUp(t *testing.T) {
	t.Parallel()
	rig.Need(t, "docker-compose", "dockerd", "nginx", "busybox", "ldd", "go")
	prometheus := rig.Prometheus3Binary(t)
	docker := rig.Dockerd(t)

	dir := stackSetup(t, "main-host")
	image := composeConfig(t, dir, "compose.yaml").Services
	makeImage(t, docker, image["gateway"].Image, imageTar(t, map[string]string{"gateway": buildStatic(t, "gateway")}, "var/lib/fanin"), "ENTRYPOINT [\"/gateway\"]")
	makeImage(t, docker, image["prometheus"].Image,
		imageTar(t, map[string]string{"bin/prometheus": prometheus, "bin/busybox": "/bin/busybox"}, "prometheus"),
		"USER 65534", `ENTRYPOINT ["/bin/prometheus"]`, "ENV PATH=/bin")
	makeImage(t, docker, image["grafana"].Image,
		imageTar(t, map[string]string{"bin/busybox": "/bin/busybox", "www/grafana/api/health": "/etc/hostname"}),
		"USER 472", `ENTRYPOINT ["/bin/busybox", "httpd", "-f", "-p", "3000", "-h", "/www"]`, "ENV PATH=/bin")
	start := filepath.Join(t.TempDir(), "start")
	if err := os.WriteFile(start, []byte(nginxStart), 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"bin/busybox": "/bin/busybox", "start": start}
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatal(err)
	}
	files["bin/nginx"] = nginx
	for _, library := range libraries(t, nginx) {
		files[strings.TrimPrefix(library, "/")] = library
	}
	makeImage(t, docker, image["nginx"].Image, imageTar(t, files), `ENTRYPOINT ["/bin/busybox", "sh", "/start"]`, "ENV PATH=/bin")

	writeDeployment(t, dir)
	port := rig.FreePort(t)
	setPort(t, dir, port)
	stack := startStack(t, docker, dir)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	token, err := os.ReadFile(filepath.Join(dir, "secrets", "main-host.token"))
	if err != nil {
		t.Fatal(err)
	}

	stack.eventuallyHealthy(t)
	push(t, base, string(token), 11)
	eventuallyStored(t, base, 11)
	if status, answer, err := pushOnce(base, "guessed", 12); err != nil || status != http.StatusUnauthorized {
		t.Errorf("a push with a wrong token: got %d %q, %v, want 401", status, answer, err)
	}

	for i, service := range []string{"gateway", "prometheus", "grafana", "nginx"} {
		before := stack.container(t, service)
		if err := syscall.Kill(before.pid, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", service, err)
		}
		killed := time.Now()
		// 6 s where the machine has nothing else to do, a minute where it is
		// overloaded ten times.
		rig.Eventually(t, 3*time.Minute, func() error {
			after := stack.container(t, service)
			if after.pid == 0 || after.pid == before.pid || after.health != "healthy" || after.restarts != before.restarts+1 {
				return fmt.Errorf("%s after a kill: got %+v, want it running again and healthy; before %+v", service, after, before)
			}
			return nil
		})
		t.Logf("%s was killed and is healthy again after %.1f s", service, time.Since(killed).Seconds())
		value := float64(20 + i)
		push(t, base, string(token), value)
		eventuallyStored(t, base, value)
	}

	// The gateway's own history has a volume that it can write to.
	log := fmt.Sprintf("/proc/%d/root/var/lib/fanin/history/wal", stack.container(t, "gateway").pid)
	if segments, err := os.ReadDir(log); err != nil || len(segments) < 2 {
		t.Errorf("the history's log: %v, %v; want segments from before and after the kill", segments, err)
	}

	// Another address of a container that is made anew is found by its name.
	stack.compose(t, "up", "-d", "--no-build", "--force-recreate", "--no-deps", "gateway")
	stack.eventuallyHealthy(t)
	push(t, base, string(token), 30)
	eventuallyStored(t, base, 30)
}

// nginxStart does what the official image's start script does with templates,
// without envsubst.
const nginxStart = `set -eu
script=$(busybox env | busybox sed -n "s/^\(${NGINX_ENVSUBST_FILTER#^}[A-Z]*\)=\(.*\)/s|[$]{\1}|\2|g/p")
for f in /etc/nginx/templates/*.template; do
    out=${f##*/}
    busybox sed "$script" "$f" >"$NGINX_ENVSUBST_OUTPUT_DIR/${out%.template}"
done
exec nginx -e stderr -c /etc/nginx/nginx.conf -g 'daemon off;'
`

type composeStack struct {
	docker *rig.Docker
	dir    string
	files  []string
}

// startStack starts the shipped file with one addition: the network gets a
// bridge of a free subnet and a name of its own.
func startStack(t *testing.T, docker *rig.Docker, dir string) *composeStack {
	t.Helper()
	subnet, bridge := freeSubnet(t)
	override := fmt.Sprintf(`networks:
  default:
    driver_opts: {com.docker.network.bridge.name: %s}
    ipam: {config: [{subnet: %s}]}
`, bridge, subnet)
	if err := os.WriteFile(filepath.Join(dir, "network.yaml"), []byte(override), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &composeStack{docker: docker, dir: dir, files: []string{"compose.yaml", "network.yaml"}}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := s.command("logs", "--tail=20", "--no-color").CombinedOutput()
			t.Logf("the containers said last:\n%s", out)
		}
		if out, err := s.command("down", "-v", "-t", "2").CombinedOutput(); err != nil {
			t.Errorf("docker-compose down: %v\n%s", err, out)
		}
		if _, err := net.InterfaceByName(bridge); err == nil {
			t.Errorf("the bridge %s is still there", bridge)
		}
	})
	s.compose(t, "up", "-d", "--no-build")
	return s
}

func (s *composeStack) command(args ...string) *exec.Cmd {
	all := []string{"--env-file", filepath.Join(s.dir, ".env"), "--project-directory", s.dir}
	for _, f := range s.files {
		all = append(all, "-f", filepath.Join(s.dir, f))
	}
	cmd := exec.Command("docker-compose", append(all, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+s.docker.Host())
	return cmd
}

func (s *composeStack) compose(t testing.TB, args ...string) {
	t.Helper()
	if out, err := s.command(args...).CombinedOutput(); err != nil {
		t.Fatalf("docker-compose %v: %v\n%s", args, err, out)
	}
}

type containerState struct {
	pid, restarts int
	health        string
	log           string // of the last health check
}

func (s *composeStack) container(t testing.TB, service string) containerState {
	t.Helper()
	filter := url.QueryEscape(`{"label":["com.docker.compose.service=` + service + `"]}`)
	var list []struct{ ID string }
	s.docker.API(t, "GET", "/containers/json?all=1&filters="+filter, nil, &list)
	if len(list) != 1 {
		t.Fatalf("%s: got %d containers", service, len(list))
	}
	var c struct {
		RestartCount int
		State        struct {
			Pid    int
			Health struct {
				Status string
				Log    []struct{ Output string }
			}
		}
	}
	s.docker.API(t, "GET", "/containers/"+list[0].ID+"/json", nil, &c)
	state := containerState{pid: c.State.Pid, restarts: c.RestartCount, health: c.State.Health.Status}
	if n := len(c.State.Health.Log); n > 0 {
		state.log = c.State.Health.Log[n-1].Output
	}
	return state
}

func (s *composeStack) eventuallyHealthy(t testing.TB) {
	t.Helper()
	began := time.Now()
	rig.Eventually(t, 3*time.Minute, func() error {
		for _, service := range []string{"gateway", "prometheus", "grafana", "nginx"} {
			if c := s.container(t, service); c.health != "healthy" {
				return fmt.Errorf("%s: got %+v, want it healthy", service, c)
			}
		}
		return nil
	})
	t.Logf("all healthy after %.1f s", time.Since(began).Seconds())
}

// writeDeployment makes main-host a host that may push.
func writeDeployment(t testing.TB, dir string) {
	t.Helper()
	const state = `{
  "project_name": "signal",
  "testbed_hosts": {"main-host": {"username": "u", "ip": "10.50.0.1", "is_main_host": true}},
  "testbed_guests": {"web": {"name": "web", "network": null, "docker": {"image": "nginx"}, "testbed_host": "main-host", "is_golden_image": false, "guest_id": 0}}
}`
	if err := os.WriteFile(filepath.Join(dir, "deployments", "signal-state.json"), []byte(state), 0o644); err != nil {
		t.Fatal(err)
	}
}

func setPort(t testing.TB, dir string, port int) {
	t.Helper()
	path := filepath.Join(dir, ".env")
	env, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	env = regexp.MustCompile(`(?m)^STACK_PORT=.*$`).ReplaceAll(env, []byte("STACK_PORT="+strconv.Itoa(port)))
	env = append(env, "GATEWAY_HISTORY=/var/lib/fanin/history\n"...)
	if err := os.WriteFile(path, env, 0o600); err != nil {
		t.Fatal(err)
	}
}

// push sends one value, again until it is taken: what was killed may not be
// back yet.
func push(t testing.TB, base, token string, value float64) {
	t.Helper()
	rig.Eventually(t, time.Minute, func() error {
		status, answer, err := pushOnce(base, token, value)
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("push: got %d %q, want 2xx", status, answer)
		}
		return err
	})
}

// pushOnce sends one value of testbed_host_cpu as a node's pusher would.
func pushOnce(base, token string, value float64) (status int, answer []byte, err error) {
	family := sample.NewGauge("testbed_host_cpu", "percent", "Share of all cores in use.")
	point := sample.Point{Series: sample.New(family), T: time.Now().UnixMilli(), V: value}
	body := new(wire.Encoder).Append(nil, []sample.Point{point})
	req, err := http.NewRequest("POST", base+"/api/v1/write", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", wire.V2.ContentType())
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", wire.V2.String())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// eventuallyStored waits until Prometheus, asked through Nginx, has the value.
func eventuallyStored(t testing.TB, base string, value float64) {
	t.Helper()
	query := fmt.Sprintf(`max_over_time(testbed_host_cpu{host_name="main-host"}[1h]) == %g`, value)
	rig.Eventually(t, 2*time.Minute, func() error {
		resp, err := http.Get(base + "/prometheus/api/v1/query?query=" + url.QueryEscape(query))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var answer struct {
			Data struct{ Result []json.RawMessage }
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return fmt.Errorf("%s: %w", resp.Status, err)
		}
		if len(answer.Data.Result) != 1 {
			return fmt.Errorf("%s: got %s, want one series", query, answer.Data.Result)
		}
		return nil
	})
}

// buildStatic builds one of the programs as the Dockerfile builds the gateway.
func buildStatic(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./cmd/"+name)
	cmd.Dir = rig.Root(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the %s: %v\n%s", name, err, out)
	}
	return path
}

// libraries are the shared objects that a program needs, its loader included.
func libraries(t testing.TB, program string) []string {
	t.Helper()
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", program, err)
	}
	var all []string
	for _, field := range strings.Fields(string(out)) {
		if strings.HasPrefix(field, "/") {
			all = append(all, field)
		}
	}
	return all
}

// imageTar holds files (path in the image to path on this machine) and
// folders that everybody may write to.
func imageTar(t testing.TB, files map[string]string, folders ...string) *bytes.Buffer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, folder := range append([]string{"tmp"}, folders...) {
		if err := w.WriteHeader(&tar.Header{Name: folder + "/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
			t.Fatal(err)
		}
	}
	for to, from := range files {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: to, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if to == "bin/busybox" {
			for _, applet := range []string{"sh", "wget"} {
				if err := w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}

func makeImage(t testing.TB, docker *rig.Docker, name string, archive io.Reader, changes ...string) {
	t.Helper()
	repo, tag, _ := strings.Cut(name, ":")
	q := url.Values{"fromSrc": {"-"}, "repo": {repo}, "tag": {tag}, "changes": changes}
	docker.API(t, "POST", "/images/create?"+q.Encode(), archive, nil)
}

// freeSubnet is a subnet that this machine has no address in, and a name for
// its bridge.
func freeSubnet(t testing.TB) (subnet, bridge string) {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 250 {
		third := (os.Getpid() + i) % 250
		used := slices.ContainsFunc(addresses, func(a net.Addr) bool {
			return strings.HasPrefix(a.String(), fmt.Sprintf("10.214.%d.", third))
		})
		if !used {
			return fmt.Sprintf("10.214.%d.0/24", third), fmt.Sprintf("fanin-st%d", third)
		}
	}
	t.Fatal("no free subnet below 10.214.0.0/16")
	return "", ""
}
