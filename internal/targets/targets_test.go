package targets

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fanin/internal/admission"
	"fanin/internal/deployment"
)

func write(t testing.TB, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signal has guests of every kind, with addresses of every kind.
const signal = `{"project_name": "signal",
 "testbed_hosts": {"main": {"ip": "10.50.0.1", "is_main_host": true}, "client": {"ip": "10.50.0.2"}},
 "testbed_guests": {
  "server": {"name": "server", "network": [{"ip": "10.0.0.10"}, {"ip": "10.0.1.10"}], "libvirt": {"static_ip": "10.0.0.10"}, "testbed_host": "main"},
  "server-2": {"name": "server-2", "network": null, "libvirt": {"static_ip": "10.0.0.11"}, "testbed_host": "main"},
  "web": {"name": "web", "network": [{"ip": "fd00::12"}], "docker": {"static_ip": null}, "testbed_host": "main", "runtime_name": "the-web"},
  "phone": {"name": "phone", "network": null, "android": {"static_ip": "10.0.0.13"}, "testbed_host": "main"},
  "far": {"name": "far", "network": null, "docker": {"static_ip": "10.0.0.14"}, "testbed_host": "client"},
  "later": {"name": "later", "network": null, "docker": {"static_ip": "10.0.0.15"}, "testbed_host": null},
  "golden": {"name": "golden", "network": null, "libvirt": {"static_ip": "10.0.0.16"}, "testbed_host": "main", "is_golden_image": true},
  "loop": {"name": "loop", "network": [{"ip": "127.0.0.1"}, {"ip": "169.254.169.254"}, {"ip": "::ffff:127.0.0.1"}], "libvirt": {"static_ip": "224.0.0.1"}, "testbed_host": "main"},
  "second": {"name": "second", "network": [{"ip": "127.0.0.1"}, {"ip": "10.0.0.17"}], "libvirt": {}, "testbed_host": "main"},
  "host": {"name": "host", "network": [{"ip": "10.50.0.2"}], "libvirt": {}, "testbed_host": "main"},
  "none": {"name": "none", "network": null, "docker": {}, "testbed_host": "main"},
  "dynamic": {"name": "dynamic", "network": [{"ip": "dynamic"}], "libvirt": {}, "testbed_host": "main"}}}`

const asleep = `{"project_name": "asleep", "testbed_hosts": {"main": {"ip": "10.50.0.1"}},
 "testbed_guests": {"server": {"name": "server", "network": null, "libvirt": {"static_ip": "10.0.0.20"}, "testbed_host": "main"}}}`

// twin has a guest whose runtime name is another's.
const twin = `{"project_name": "signal-server", "testbed_hosts": {"main": {"ip": "10.50.0.1"}},
 "testbed_guests": {"2": {"name": "2", "network": null, "libvirt": {"static_ip": "10.0.0.21"}, "testbed_host": "main"}}}`

// state is the state file of one more deployment.
type state struct{ name, file string }

func newHandler(t *testing.T, rules string, more ...state) *Handler {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/config/kvm-compose-config.json", `{"testbed_host_ssh_config": {"main": {"ip": "10.50.0.1", "is_main_host": true}, "client": {"ip": "10.50.0.2"}}}`)
	record := func(name, state string) {
		write(t, dir+"/deployments/"+name+".json", fmt.Sprintf(`{"name": %q, "project_location": %q, "state": %q}`, name, dir, state))
	}
	record("signal", "up")
	record("asleep", "down")
	record("signal-server", "up")
	for _, m := range more {
		record(m.name, "up")
		write(t, dir+"/"+m.name+"-state.json", m.file)
	}
	write(t, dir+"/signal-state.json", signal)
	write(t, dir+"/asleep-state.json", asleep)
	write(t, dir+"/signal-server-state.json", twin)
	write(t, dir+"/nodes.yml", "nodes:\n  main: {token: token-of-main-0123}\n  client: {token: token-of-client-0123}\n")
	log := slog.New(slog.DiscardHandler)
	nodes, err := admission.NewNodes(dir+"/nodes.yml", log)
	if err != nil {
		t.Fatal(err)
	}
	watcher := &deployment.Watcher{Settings: dir, Log: log}
	watcher.Load()
	h := &Handler{Nodes: nodes, Roster: watcher.Roster}
	if rules != "" {
		write(t, dir+"/rules.yml", rules)
		if h.Rules, err = NewRules(dir+"/rules.yml", log); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// ask is what a host gets.
func ask(t *testing.T, h http.Handler, host, query string) (code int, body string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/api/v1/targets"+query, nil)
	if host != "" {
		r.Header.Set("Authorization", "Bearer token-of-"+host+"-0123")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// listed is a list on one line for each page.
func listed(t *testing.T, h http.Handler, host string) string {
	t.Helper()
	code, body := ask(t, h, host, "?node="+host)
	if code != http.StatusOK {
		t.Fatalf("%s: %d %s", host, code, body)
	}
	var groups []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.Unmarshal([]byte(body), &groups); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	var all []string
	for _, g := range groups {
		all = append(all, strings.TrimSpace(g.Labels["guest"]+" "+strings.Join(g.Targets, ",")+g.Labels["__metrics_path__"]+" "+g.Labels["__scrape_interval__"]))
	}
	return strings.Join(all, "\n")
}

func TestLists(t *testing.T) {
	for _, c := range []struct{ what, rules, main, client string }{
		{"no rules", "", "", ""},
		{"an empty file", "# nothing\n", "", ""},
		{"all", "rules:\n- {port: 9100}\n", `signal-phone 10.0.0.13:9100/metrics
signal-second 10.0.0.17:9100/metrics
signal-server 10.0.0.10:9100/metrics
the-web [fd00::12]:9100/metrics`, "signal-far 10.0.0.14:9100/metrics"},
		{"by name", "rules:\n- {project: signal, guest: server, port: 80, path: /m, interval: 5s}\n", "signal-server 10.0.0.10:80/m 5s", ""},
		{"by pattern", "rules:\n- {project: 's*', guest: '[ps]*', port: 80}\n", `signal-phone 10.0.0.13:80/metrics
signal-second 10.0.0.17:80/metrics
signal-server 10.0.0.10:80/metrics`, ""},
		{"by type", "rules:\n- {type: docker, port: 80}\n", "the-web [fd00::12]:80/metrics", "signal-far 10.0.0.14:80/metrics"},
		{
			"several ports, and the first rule of a port", "rules:\n- {guest: server, port: 80, path: /first}\n- {guest: server, port: 80, path: /second}\n- {guest: server, port: 81}\n",
			"signal-server 10.0.0.10:80/first\nsignal-server 10.0.0.10:81/metrics", "",
		},
		{"another project", "rules:\n- {project: other, port: 80}\n", "", ""},
		{"a project that is down", "rules:\n- {project: asleep, port: 80}\n", "", ""},
	} {
		h := newHandler(t, c.rules)
		if got := listed(t, h, "main"); got != c.main {
			t.Errorf("%s: main gets\n%s\nwant\n%s", c.what, got, c.main)
		}
		if got := listed(t, h, "client"); got != c.client {
			t.Errorf("%s: client gets\n%s\nwant\n%s", c.what, got, c.client)
		}
	}
}

// A deployment's file takes no other's guests off the list by calling their
// addresses hosts. Those of the cluster and of its own file are no guest's.
func TestHostsOfOtherDeployments(t *testing.T) {
	h := newHandler(t, "rules:\n- {type: libvirt, port: 9100}\n", state{"alone", `{"project_name": "alone",
 "testbed_hosts": {"x": {"ip": "10.0.0.10"}, "y": {"ip": "10.0.0.30"}},
 "testbed_guests": {
  "cluster": {"name": "cluster", "libvirt": {"static_ip": "10.50.0.2"}, "testbed_host": "main"},
  "declared": {"name": "declared", "libvirt": {"static_ip": "10.0.0.30"}, "testbed_host": "main"},
  "guest": {"name": "guest", "libvirt": {"static_ip": "10.0.0.31"}, "testbed_host": "main"}}}`})
	want := "alone-guest 10.0.0.31:9100/metrics\nsignal-second 10.0.0.17:9100/metrics\nsignal-server 10.0.0.10:9100/metrics"
	if got := listed(t, h, "main"); got != want {
		t.Errorf("main gets\n%s\nwant\n%s", got, want)
	}
}

// The very bytes, as other readers of http_sd want them.
func TestForm(t *testing.T) {
	h := newHandler(t, "rules:\n- {project: signal, guest: server, port: 9100, interval: 5s}\n")
	_, body := ask(t, h, "main", "")
	want := `[{"targets":["10.0.0.10:9100"],"labels":{"guest":"signal-server","__metrics_path__":"/metrics","__scrape_interval__":"5s"}}]` + "\n"
	if body != want {
		t.Errorf("got %swant %s", body, want)
	}
	if _, body := ask(t, newHandler(t, ""), "main", ""); body != "[]\n" {
		t.Errorf("without rules: got %q, want an empty list", body)
	}
}

func TestOnlyToTheHostItself(t *testing.T) {
	h := newHandler(t, "rules:\n- {port: 9100}\n")
	for _, c := range []struct {
		host, query string
		want        int
	}{
		{"main", "", 200},
		{"main", "?node=main", 200},
		{"main", "?node=client", 403},
		{"client", "?node=main", 403},
		{"main", "?node=main&node=client", 200},
		{"", "?node=main", 401},
		{"nobody", "?node=main", 401},
	} {
		code, body := ask(t, h, c.host, c.query)
		if code != c.want || code != 200 && strings.Contains(body, "10.0.0") {
			t.Errorf("%s asks for %q: got %d %s, want %d", c.host, c.query, code, body, c.want)
		}
	}
	h.Ready = func() error { return errors.New("not yet") }
	if code, _ := ask(t, h, "main", ""); code != http.StatusServiceUnavailable {
		t.Errorf("before the deployments are known: got %d, want 503", code)
	}
}

// Who a rule is about and is not listed is counted, by reason.
func TestLeftOut(t *testing.T) {
	h := newHandler(t, "rules:\n- {port: 9100}\n- {port: 9101}\n")
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(h); err != nil {
		t.Fatal(err)
	}
	const want = `
# HELP fanin_targets_left_out Pages of metrics that the exporter rules name and that no pusher is told of, by reason.
# TYPE fanin_targets_left_out gauge
fanin_targets_left_out{reason="ambiguous_name"} 4
fanin_targets_left_out{reason="limit"} 0
fanin_targets_left_out{reason="no_address"} 8
fanin_targets_left_out{reason="not_placed"} 2
# HELP fanin_targets_listed Pages of metrics in guests that the exporter rules and the deployments name.
# TYPE fanin_targets_listed gauge
fanin_targets_listed 10
# HELP fanin_targets_rules_in_force 1 when the newest version of the exporter rules is in force, 0 when it can not be used and the one before is.
# TYPE fanin_targets_rules_in_force gauge
fanin_targets_rules_in_force 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestRulesAreReadAgain(t *testing.T) {
	h := newHandler(t, "rules:\n- {guest: server, port: 80}\n")
	file := h.Rules.path
	again := func(content string) string {
		if content == "" {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, file, content)
		}
		h.Rules.mu.Lock()
		h.Rules.checked = time.Time{} // a second later
		h.Rules.mu.Unlock()
		return listed(t, h, "main")
	}
	for _, c := range []struct {
		what, content, want string
		failing             bool
	}{
		{"another port", "rules:\n- {guest: server, port: 8081}\n", "signal-server 10.0.0.10:8081/metrics", false},
		{"half of it", "rules:\n- {guest: server, po", "signal-server 10.0.0.10:8081/metrics", true},
		{"a fault", "rules:\n- {guest: server, port: 0x50, path: /long-enough-to-be-seen}\n", "signal-server 10.0.0.10:8081/metrics", true},
		{"gone", "", "signal-server 10.0.0.10:8081/metrics", true},
		{"there again", "rules:\n- {guest: server, port: 82}\n", "signal-server 10.0.0.10:82/metrics", false},
		{"empty", "rules: []\n", "", false},
	} {
		if got := again(c.content); got != c.want || h.Rules.failing() != c.failing {
			t.Errorf("%s: got %q, failing %v; want %q, %v", c.what, got, h.Rules.failing(), c.want, c.failing)
		}
	}
}

func TestParseRules(t *testing.T) {
	for rules, want := range map[string]string{
		"rules: [{port: 80}]": "",
		"":                    "",
		"rules: []":           "",
		"rules: [{guest: 'a*', project: p, type: android, port: 65535, path: /, interval: 10s}]": "",
		"rules: [{port: '80'}]":                                      "",
		"rules: [{guest: a}]":                                        `port ""`,
		"rules: [{port: 0}]":                                         "port",
		"rules: [{port: 65536}]":                                     "port",
		"rules: [{port: -1}]":                                        "port",
		"rules: [{port: 080}]":                                       `port "080"`,
		"rules: [{port: 0x50}]":                                      `port "0x50"`,
		"rules: [{port: 8_0}]":                                       "port",
		"rules: [{port: 80.0}]":                                      "port",
		"rules: [{port: １２}]":                                        "port",
		"rules: [{port: '80 '}]":                                     "port",
		"rules: [{port: 80, path: metrics}]":                         "path",
		"rules: [{port: 80, path: //x/metrics}]":                     "path",
		"rules: [{port: 80, path: /@x}]":                             "path",
		"rules: [{port: 80, path: '/a b'}]":                          "path",
		"rules: [{port: 80, path: \"/a\\nb\"}]":                      "path",
		"rules: [{port: 80, path: '/a?b'}]":                          "path",
		"rules: [{port: 80, guest: '['}]":                            "pattern",
		"rules: [{port: 80, project: 'a['}]":                         "pattern",
		"rules: [{port: 80, type: vm}]":                              "type",
		"rules: [{port: 80, interval: 500ms}]":                       "interval",
		"rules: [{port: 80, interval: 30s}]":                         "interval",
		"rules: [{port: 80, interval: often}]":                       "interval",
		"rules: [{port: 80, prot: 1}]":                               "prot",
		"rule: [{port: 80}]":                                         "rule",
		"rules: {port: 80}":                                          "line 1",
		"- {port: 80}":                                               "",
		"rules: [{port: 80}, {port: 81, path: x}]":                   "rule 2",
		"rules: [" + strings.Repeat("{port: 80},", maxRules+1) + "]": "1001 rules",
		strings.Repeat("#", maxRulesFile+1):                          "larger",
	} {
		_, err := parseRules([]byte(rules))
		switch {
		case rules == "- {port: 80}":
			if err == nil {
				t.Errorf("%s: taken", rules)
			}
		case (err == nil) != (want == ""), err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%.80s: got %v, want %q", rules, err, want)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add([]byte("rules:\n- {project: s, guest: 'a*', type: libvirt, port: 9100, path: /m, interval: 5s}\n"))
	f.Add([]byte("rules: [{port: 0x50}]"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		rules, err := parseRules(content)
		if err != nil {
			return
		}
		for _, r := range rules {
			if !validPath(r.Path) || r.Port == "" || r.Port[0] == '0' || len(r.Port) > 5 {
				t.Errorf("%+v is taken", r)
			}
			r.matches(&deployment.Guest{Name: "a", Project: "b", Kind: deployment.Docker})
		}
	})
}
