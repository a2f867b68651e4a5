package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"fanin/internal/e2e/rig"
)

func TestStackPrometheusCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version, file string
	}{
		{rig.Prometheus3, "prometheus.yml"},
		{rig.Prometheus3, "prometheus-testbedos.yml"},
		// 2.42 does not know scrape_protocols: it gets the alternative.
		{rig.PrometheusDebian, "prometheus-testbedos.yml"},
	} {
		path := filepath.Join(rig.Root(t), "stack", "prometheus", c.file)
		if out, err := rig.Promtool(t, c.version, "check", "config", path).CombinedOutput(); err != nil {
			t.Errorf("promtool %s check config %s: %v\n%s", c.version, c.file, err, out)
		}
	}
}

// The shipped configurations scrape as the gateway expects to be scraped, and
// keep its labels and timestamps. The page here is fixed; only the address in
// the configuration is replaced.
func TestStackPrometheusScrapes(t *testing.T) {
	for _, c := range []struct {
		version, file string
		paths         []string // what must be asked for, with the query
		accept        string   // what the Accept header of the first path starts with
		points        int      // of the two that a page holds for each series
	}{
		{rig.Prometheus3, "prometheus.yml", []string{"/metrics/testbed?scraper=prometheus", "/metrics"}, "application/vnd.google.protobuf", 2},
		{rig.Prometheus3, "prometheus-testbedos.yml", testbedosPaths, "", 2},
		{rig.PrometheusDebian, "prometheus-testbedos.yml", testbedosPaths, "", 2},
	} {
		t.Run(c.version+" "+c.file, func(t *testing.T) {
			t.Parallel()
			base := time.Now().Add(-2 * time.Minute).UnixMilli()
			var mu sync.Mutex
			asked := make(map[string]string) // request: Accept
			page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				asked[r.RequestURI] = r.Header.Get("Accept")
				mu.Unlock()
				w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
				if r.URL.Path != "/metrics/testbed" && r.URL.Path != "/api/metrics/prometheus/docker" {
					return
				}
				fmt.Fprintln(w, "# TYPE testbed_guest_cpu gauge")
				for i := range 2 {
					fmt.Fprintf(w, "testbed_guest_cpu{project=\"signal\",guest_name=\"web\",job=\"app\"} %d %d\n", i, base+int64(i)*1000)
				}
			}))
			defer page.Close()
			config := stackFile(t, "prometheus", c.file)
			config = strings.ReplaceAll(config, "gateway:9370", strings.TrimPrefix(page.URL, "http://"))
			p := rig.Prometheus(t, c.version, config, "--web.external-url=/prometheus/", "--web.route-prefix=/prometheus/")

			rig.Eventually(t, 30*time.Second, func() error {
				series, err := p.TryQuery(`testbed_guest_cpu{project="signal", guest_name="web", job="app"}[10m]`)
				if err != nil {
					return err
				}
				if len(series) != 1 || len(series[0].Points) != c.points || series[0].Points[0].T != base {
					return fmt.Errorf("got %v, want %d points from %d on", series, c.points, base)
				}
				return nil
			})
			rig.Eventually(t, 20*time.Second, func() error {
				mu.Lock()
				defer mu.Unlock()
				for _, path := range c.paths {
					if _, ok := asked[path]; !ok {
						return fmt.Errorf("got the requests %q, want %q among them", asked, path)
					}
				}
				return nil
			})
			mu.Lock()
			if got := asked[c.paths[0]]; !strings.HasPrefix(got, c.accept) {
				t.Errorf("Accept: got %q, want %q first", got, c.accept)
			}
			mu.Unlock()
		})
	}
}

var testbedosPaths = []string{
	"/api/metrics/prometheus/hosts", "/api/metrics/prometheus/libvirt",
	"/api/metrics/prometheus/docker", "/api/metrics/prometheus/android", "/metrics",
}

// stackSetup is a copy of stack/ in a temporary folder after its setup.
func stackSetup(t testing.TB, nodes ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "stack")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(rig.Root(t), "stack"))); err != nil {
		t.Fatal(err)
	}
	// Somebody may have started the stack in this work tree.
	for _, made := range []string{".env", "secrets"} {
		if err := os.RemoveAll(filepath.Join(dir, made)); err != nil {
			t.Fatal(err)
		}
	}
	runSetup(t, dir, nodes...)
	return dir
}

func runSetup(t testing.TB, dir string, nodes ...string) {
	t.Helper()
	if out, err := exec.Command(filepath.Join(dir, "setup"), nodes...).CombinedOutput(); err != nil {
		t.Fatalf("setup %v: %v\n%s", nodes, err, out)
	}
}

func TestStackSetup(t *testing.T) {
	t.Parallel()
	dir := stackSetup(t, "main-host")
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	env, token := read(".env"), read("secrets/main-host.token")
	if m := regexp.MustCompile(`(?m)^GRAFANA_ADMIN_PASSWORD=(.*)$`).FindStringSubmatch(env); m == nil || len(m[1]) < 24 {
		t.Errorf("the password in .env: got %q, want one of 24 characters or more", m)
	}
	if len(token) < 32 {
		t.Errorf("the token: got %q, want 32 characters or more", token)
	}

	runSetup(t, dir, "main-host", "client-1")
	if read(".env") != env || read("secrets/main-host.token") != token {
		t.Error("the second run has changed what the first one wrote")
	}
	var nodes struct {
		Nodes map[string]struct {
			SHA256 string `yaml:"token_sha256"`
		}
	}
	if err := yaml.Unmarshal([]byte(read("secrets/nodes.yml")), &nodes); err != nil {
		t.Fatal(err)
	}
	if len(nodes.Nodes) != 2 {
		t.Errorf("nodes.yml: got %v, want main-host and client-1", nodes.Nodes)
	}
	for name, node := range nodes.Nodes {
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte(read("secrets/"+name+".token")))); node.SHA256 != want {
			t.Errorf("nodes.yml, %s: got %s, want the hash of its token, %s", name, node.SHA256, want)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil {
			return err
		} else if strings.HasSuffix(path, ".env") || strings.Contains(path, "/secrets") {
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %s, want nobody else to read it", path, info.Mode())
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	for _, bad := range []string{"../x", "a b", "-x", "", ".hidden", strings.Repeat("x", 64)} {
		if out, err := exec.Command(filepath.Join(dir, "setup"), bad).CombinedOutput(); err == nil {
			t.Errorf("setup %q: got no error\n%s", bad, out)
		}
	}
}

type composeFile struct {
	Services map[string]struct {
		Image       string
		Restart     string
		User        string
		ReadOnly    bool     `yaml:"read_only"`
		CapDrop     []string `yaml:"cap_drop"`
		SecurityOpt []string `yaml:"security_opt"`
		MemLimit    any      `yaml:"mem_limit"`
		Ports       []any
		Volumes     []string
		Command     []string
		Environment map[string]any
		Healthcheck struct{ Test []string }
	}
}

// composeConfig is what docker-compose makes of the files, variables filled in.
func composeConfig(t testing.TB, dir string, files ...string) composeFile {
	t.Helper()
	args := []string{"--env-file", filepath.Join(dir, ".env"), "--project-directory", dir}
	for _, f := range files {
		args = append(args, "-f", filepath.Join(dir, f))
	}
	cmd := exec.Command("docker-compose", append(args, "config")...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker-compose config: %v\n%s", err, stderr.String())
	}
	var c composeFile
	if err := yaml.Unmarshal(out, &c); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return c
}

func TestStackCompose(t *testing.T) {
	t.Parallel()
	rig.Need(t, "docker-compose")
	dir := stackSetup(t, "main-host")
	c := composeConfig(t, dir, "compose.yaml")

	var names []string
	for name, s := range c.Services {
		names = append(names, name)
		if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
			t.Errorf("%s: image %s is not pinned", name, s.Image)
		}
		if s.Restart != "unless-stopped" || !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") || s.MemLimit == nil {
			t.Errorf("%s: restart %q, read_only %v, cap_drop %v, security_opt %v, mem_limit %v", name, s.Restart, s.ReadOnly, s.CapDrop, s.SecurityOpt, s.MemLimit)
		}
		if len(s.Healthcheck.Test) == 0 {
			t.Errorf("%s: no health check", name)
		}
		for _, v := range s.Volumes {
			if strings.HasPrefix(v, "/") && !strings.HasSuffix(v, ":ro") {
				t.Errorf("%s: %s of the host is mounted for writing", name, v)
			}
			if strings.Contains(v, "docker.sock") {
				t.Errorf("%s: has docker.sock", name)
			}
		}
		if name == "nginx" {
			if len(s.Ports) != 1 || !strings.HasPrefix(fmt.Sprint(s.Ports[0]), "127.0.0.1:8080:") {
				t.Errorf("nginx: ports %v, want one on loopback", s.Ports)
			}
		} else if len(s.Ports) > 0 {
			t.Errorf("%s: publishes %v", name, s.Ports)
		}
	}
	slices.Sort(names)
	if want := []string{"gateway", "grafana", "nginx", "prometheus"}; !slices.Equal(names, want) {
		t.Errorf("services: got %v, want %v", names, want)
	}
	if s := c.Services["gateway"]; strings.HasPrefix(s.User, "0") || s.User == "" {
		t.Errorf("gateway: runs as %q", s.User)
	}
	if v := c.Services["grafana"].Environment["GF_SECURITY_ADMIN_PASSWORD"]; fmt.Sprint(v) == "" || v == nil {
		t.Error("grafana: no password")
	}
	// The tests' Prometheus and the stack's are one release.
	mod, err := os.ReadFile(filepath.Join(rig.Root(t), "tools", "prometheus", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)`).FindSubmatch(mod)
	if want := fmt.Sprintf("prom/prometheus:v%s.%s.%s", m[1], m[2], m[3]); c.Services["prometheus"].Image != want {
		t.Errorf("prometheus: got image %s, want %s as the tests have it", c.Services["prometheus"].Image, want)
	}
}

// Without setup nothing starts, and the message says what to do.
func TestStackComposeWithoutSetup(t *testing.T) {
	t.Parallel()
	rig.Need(t, "docker-compose")
	dir := stackSetup(t)
	if err := os.Remove(filepath.Join(dir, ".env")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-compose", "-f", filepath.Join(dir, "compose.yaml"), "config")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "run stack/setup first") {
		t.Errorf("got %v, want an error that names stack/setup\n%s", err, out)
	}
}

// docker-compose 1.29 knows everything in the pusher's file but `cgroup: host`.
func TestStackComposePusher(t *testing.T) {
	t.Parallel()
	rig.Need(t, "docker-compose")
	dir := stackSetup(t, "main-host")
	path := filepath.Join(dir, "compose.pusher.yaml")
	text := stackFile(t, "compose.pusher.yaml")
	if !strings.Contains(text, "    cgroup: host\n") {
		t.Error("compose.pusher.yaml: the pusher is not in the host's cgroup namespace")
	}
	if err := os.WriteFile(path, []byte(strings.Replace(text, "    cgroup: host\n", "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Run("plain", func(t *testing.T) {
		s := composeConfig(t, dir, "compose.yaml", "compose.pusher.yaml").Services["pusher"]
		if !slices.Contains(s.Volumes, "/var/run/docker.sock:/var/run/docker.sock:ro") {
			t.Errorf("volumes: got %q", s.Volumes)
		}
		for _, v := range s.Volumes {
			if !strings.HasSuffix(v, ":ro") && v != "spool:/var/lib/fanin:rw" {
				t.Errorf("%s is mounted for writing", v)
			}
		}
		if s.User == "" || strings.HasPrefix(s.User, "0") || !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || s.Restart != "unless-stopped" {
			t.Errorf("got user %q, read_only %v, cap_drop %v, restart %q", s.User, s.ReadOnly, s.CapDrop, s.Restart)
		}
	})
	t.Run("flags", func(t *testing.T) {
		help, err := exec.Command(buildStatic(t, "pusher"), "--help").CombinedOutput()
		if err != nil {
			t.Fatalf("pusher --help: %v\n%s", err, help)
		}
		for _, a := range composeConfig(t, dir, "compose.yaml", "compose.pusher.yaml").Services["pusher"].Command {
			if flag, _, _ := strings.Cut(a, "="); !regexp.MustCompile(`(?m)^\s*` + flag + `[=\s]`).Match(help) {
				t.Errorf("the pusher has no flag %s", flag)
			}
		}
	})
	t.Run("other socket", func(t *testing.T) {
		env, err := os.ReadFile(filepath.Join(dir, ".env"))
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.NewReplacer("DOCKER_SOCK_PREFIX=\n", "DOCKER_SOCK_PREFIX=/host\n", "DOCKER_SOCK_SUFFIX=\n", "DOCKER_SOCK_SUFFIX=.raw\n").Replace(string(env))
		if err := os.WriteFile(filepath.Join(dir, ".env"), []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		s := composeConfig(t, dir, "compose.yaml", "compose.pusher.yaml").Services["pusher"]
		if want := "/host/var/run/docker.sock.raw:/var/run/docker.sock:ro"; !slices.Contains(s.Volumes, want) {
			t.Errorf("volumes: got %q, want %s", s.Volumes, want)
		}
	})
}

type dashboardFile struct {
	UID        string
	Title      string
	Panels     []dashboardPanel
	Templating struct {
		List []struct {
			Name       string
			Definition string
			Datasource struct{ UID string }
		}
	}
}

type dashboardPanel struct {
	ID         int
	Type       string
	Title      string
	Datasource struct{ Type, UID string }
	Targets    []struct {
		Expr         string
		LegendFormat string
		Datasource   struct{ Type, UID string }
	}
	Panels []dashboardPanel
}

func readDashboards(t testing.TB) map[string]dashboardFile {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(rig.Root(t), "stack", "grafana", "dashboards", "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("dashboards: got %v, %v", paths, err)
	}
	all := make(map[string]dashboardFile)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboardFile
		if err := json.Unmarshal(b, &d); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, twice := all[d.UID]; twice {
			t.Errorf("%s: uid %s is used twice", path, d.UID)
		}
		all[d.UID] = d
	}
	return all
}

const dataSource = "PBFA97CFB590B2093"

// What TestbedOS' pages embed: these uids, panel numbers, variables, queries
// and legends.
func TestStackDashboardsOfTestbedOS(t *testing.T) {
	t.Parallel()
	dashboards := readDashboards(t)
	for _, want := range []struct {
		uid       string
		variables string
		panels    map[int][2]string // expression, legend
	}{
		{"c74125df-061c-43fd-9eae-3ae6c8d0d37e", "[proj_n guest_n]", map[int][2]string{
			1: {`testbed_guest_cpu{project="$proj_n"}`, "{{guest_name}}"},
			2: {`testbed_guest_memory{project="$proj_n"}`, "{{guest_name}}"},
			3: {`testbed_guest_cpu{project="$proj_n", guest_name="$guest_n"}`, "{{guest_name}}"},
			4: {`testbed_guest_memory{project="$proj_n", guest_name="$guest_n"}`, "{{guest_name}}"},
		}},
		{"a501b9c3-2632-4862-b91c-00d9575a6ba3", "[host_n]", map[int][2]string{
			1: {`testbed_host_cpu{host_name="$host_n"}`, "{{host_name}}"},
			2: {`testbed_host_memory{host_name="$host_n"}`, "{{host_name}}"},
		}},
	} {
		d, ok := dashboards[want.uid]
		if !ok {
			t.Errorf("there is no dashboard %s", want.uid)
			continue
		}
		var variables []string
		for _, v := range d.Templating.List {
			variables = append(variables, v.Name)
			if v.Datasource.UID != dataSource {
				t.Errorf("%s, variable %s: data source %q", d.Title, v.Name, v.Datasource.UID)
			}
		}
		if fmt.Sprint(variables) != want.variables {
			t.Errorf("%s: got variables %v, want %s", d.Title, variables, want.variables)
		}
		for id, w := range want.panels {
			i := slices.IndexFunc(d.Panels, func(p dashboardPanel) bool { return p.ID == id })
			if i < 0 {
				t.Errorf("%s: there is no panel %d", d.Title, id)
				continue
			}
			p := d.Panels[i]
			if len(p.Targets) != 1 || p.Targets[0].Expr != w[0] || p.Targets[0].LegendFormat != w[1] {
				t.Errorf("%s, panel %d: got %+v, want %q", d.Title, id, p.Targets, w)
			}
		}
	}
}

// Every query is answered by both versions of Prometheus, asks the provisioned
// data source, and names only series that the code declares.
func TestStackDashboardQueries(t *testing.T) {
	t.Parallel()
	var provisioned struct {
		Datasources []struct{ Name, UID, Type, URL string }
	}
	if err := yaml.Unmarshal([]byte(stackFile(t, "grafana", "provisioning", "datasources", "prometheus.yml")), &provisioned); err != nil {
		t.Fatal(err)
	}
	if s := provisioned.Datasources; len(s) != 1 || s[0].UID != dataSource || s[0].Type != "prometheus" || s[0].URL != "http://prometheus:9090/prometheus/" {
		t.Errorf("data sources: got %+v", s)
	}
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	if err := yaml.Unmarshal([]byte(stackFile(t, "grafana", "provisioning", "dashboards", "fanin.yml")), &providers); err != nil {
		t.Fatal(err)
	}
	if p := providers.Providers; len(p) != 1 || p[0].Options.Path != "/etc/grafana/dashboards" {
		t.Errorf("dashboard providers: got %+v", p)
	}

	declared := declaredFamilies(t)
	name := regexp.MustCompile(`\btestbed_[a-z0-9_]+`)
	servers := []*rig.PrometheusServer{rig.Prometheus(t, rig.PrometheusDebian, ""), rig.Prometheus(t, rig.Prometheus3, "")}
	for _, d := range readDashboards(t) {
		ids := make(map[int]bool)
		for _, p := range d.Panels {
			if ids[p.ID] {
				t.Errorf("%s: panel %d is there twice", d.Title, p.ID)
			}
			ids[p.ID] = true
			if p.Type != "row" && p.Datasource.UID != dataSource {
				t.Errorf("%s, %q: data source %q", d.Title, p.Title, p.Datasource.UID)
			}
			for _, target := range p.Targets {
				expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "1m")
				for _, server := range servers {
					if _, err := server.TryQuery(expr); err != nil {
						t.Errorf("%s, %q: %v", d.Title, p.Title, err)
					}
				}
				for _, n := range name.FindAllString(expr, -1) {
					if !declared[n] {
						t.Errorf("%s, %q: nothing in the code is called %s", d.Title, p.Title, n)
					}
				}
				if target.Datasource.UID != dataSource {
					t.Errorf("%s, %q: a target with data source %q", d.Title, p.Title, target.Datasource.UID)
				}
			}
		}
	}
}

// declaredFamilies are the names of series that stand in the code.
func declaredFamilies(t testing.TB) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	literal := regexp.MustCompile(`"(testbed_[a-z0-9_]+)"`)
	err := filepath.WalkDir(filepath.Join(rig.Root(t), "internal"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range literal.FindAllSubmatch(b, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// No secret is in git: what setup writes is ignored, and nothing that looks
// like one stands in a tracked file of the stack.
func TestStackNoSecretInGit(t *testing.T) {
	t.Parallel()
	root := rig.Root(t)
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", root}, args...)...).Output()
		return string(out), err
	}
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		t.Skip("not a work tree of git")
	}
	rig.Need(t, "git")
	for _, made := range []string{"stack/.env", "stack/secrets/nodes.yml", "stack/secrets/main-host.token"} {
		if _, err := git("check-ignore", "-q", made); err != nil {
			t.Errorf("%s is not ignored", made)
		}
	}
	files, err := git("ls-files", "stack", "Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`(?i)BEGIN [A-Z ]*PRIVATE KEY|[0-9a-f]{32,}|(password|token|secret)["']?\s*[:=]\s*["']?[A-Za-z0-9+][A-Za-z0-9+/_-]{7,}`)
	for _, file := range strings.Fields(files) {
		if strings.HasSuffix(file, ".env") || strings.Contains(file, "/secrets/") {
			t.Errorf("%s is in git", file)
		}
		b, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Error(err)
		}
		if found := secret.FindString(string(b)); found != "" {
			t.Errorf("%s: %q looks like a secret", file, found)
		}
	}
}
