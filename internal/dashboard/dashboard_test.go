package dashboard

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

	"fanin/internal/charts"
	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/sample"
	"fanin/internal/window"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// noon is the moment at which all pages of these tests are made.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const signalState = `{
  "project_name": "signal",
  "testbed_hosts": {"main-host": {"ip": "10.50.0.1", "is_main_host": true}, "client-1": {"ip": "10.50.0.2"}},
  "testbed_guests": {
    "server": {"name": "server", "libvirt": {"static_ip": "10.0.0.10"}, "testbed_host": "main-host"},
    "server-base": {"name": "server-base", "libvirt": {}, "testbed_host": "main-host", "is_golden_image": true},
    "web": {"name": "web", "docker": {"image": "x"}, "testbed_host": "client-1"},
    "phone": {"name": "phone", "android": {}, "testbed_host": null},
    "bad <i>name</i>": {"docker": {}, "testbed_host": "client-1"}
  }
}`

// testbed is a roster from real files, a book of what was heard, and a window.
type testbed struct {
	t       testing.TB
	dir     string
	watcher *deployment.Watcher
	book    *presence.Book
	store   *window.Store
	now     time.Time
	anew    bool // series are made anew, as after a change of the roster
}

func newTestbed(t testing.TB) *testbed {
	t.Helper()
	b := &testbed{t: t, dir: t.TempDir(), book: &presence.Book{}, store: &window.Store{}, now: noon}
	b.watcher = &deployment.Watcher{Settings: b.dir, Log: slog.New(slog.DiscardHandler)}
	b.write("config/kvm-compose-config.json", `{"testbed_host_ssh_config":{"main-host":{"ip":"10.50.0.1","is_main_host":true},"spare":{"ip":"10.50.0.9"}}}`)
	b.deployment("signal", "up", signalState)
	b.deployment("idle", "down", `{"project_name":"idle","testbed_guests":{"box":{"docker":{},"testbed_host":"spare"}}}`)
	b.deployment("torn", "up", `{"project_name":"torn","testbed_gue`)
	b.watcher.Load()

	b.book.HostHeard("main-host", noon.Add(-400*time.Millisecond), time.Second)
	b.book.ClockRead("main-host", 3*time.Millisecond)
	b.book.HostHeard("client-1", noon.Add(-90*time.Second), time.Second)
	server := sample.Owner{Host: "main-host", Project: "signal", Guest: "server", Kind: "libvirt"}
	b.book.GuestsHeard([]*sample.Owner{new(server)}, noon.Add(-350*time.Millisecond))
	b.book.GuestSaid(server, true, "", noon.Add(-350*time.Millisecond))
	web := sample.Owner{Host: "client-1", Project: "signal", Guest: "web", Kind: "docker"}
	b.book.GuestsHeard([]*sample.Owner{new(web)}, noon.Add(-95*time.Second))
	b.book.StrangerHeard(presence.Stranger{Host: "main-host", Name: "left-over_1", Reason: "unknown_guest", Seen: noon.Add(-time.Second)})

	b.measure("main-host", "", "", guestless(hostCPU, 12.34), guestless(hostMemory, 16<<30), guestless(hostAvailable, 12<<30), guestless(hostLoad, 0.5))
	b.measure("main-host", "server", "libvirt", guestless(guestCPU, 97.26), guestless(guestMemory, 50), guestless(guestUsage, 1<<30), guestless(guestLimit, 2<<30),
		onDevice(guestReceive, "vnet0", 1000), onDevice(guestReceive, "vnet1", 1000), onDevice(guestReceive, "lo", 0), onDevice(guestTransmit, "vnet0", 5000))
	return b
}

func (b *testbed) write(path, content string) {
	b.t.Helper()
	path = filepath.Join(b.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *testbed) deployment(name, state, content string) {
	b.t.Helper()
	home := filepath.Join(b.dir, "home")
	b.write("deployments/"+name+".json", fmt.Sprintf(`{"name":%q,"project_location":%q,"state":%q}`, name, home, state))
	b.write("home/"+name+"-state.json", content)
}

type reading struct {
	name, device string
	v            float64
}

func guestless(name string, v float64) reading        { return reading{name: name, v: v} }
func onDevice(name, device string, v float64) reading { return reading{name, device, v} }

// measure puts points of the moment b.now - 300 ms into the window; guest ""
// is the host itself.
func (b *testbed) measure(host, name, kind string, readings ...reading) {
	var points []sample.Point
	for _, r := range readings {
		labels := []sample.Label{{Name: sample.HostName, Value: host}, {Name: "device", Value: r.device}}
		if name != "" {
			labels = append(labels, sample.Label{Name: sample.Project, Value: "signal"}, sample.Label{Name: sample.GuestName, Value: name}, sample.Label{Name: sample.GuestType, Value: kind})
		}
		s := b.series(sample.New(&sample.Family{Name: r.name}, labels...))
		points = append(points, sample.Point{Series: s, T: b.now.Add(-300 * time.Millisecond).UnixMilli(), V: r.v})
	}
	if n, _, _ := b.store.Append(points, b.now, time.Hour, nil); n != len(points) {
		b.t.Fatalf("%d of %d points stored", n, len(points))
	}
}

// series is the one the window has already, as admission gives out the same
// one again until the roster changes.
func (b *testbed) series(s *sample.Series) *sample.Series {
	if b.anew {
		return s
	}
	for _, p := range b.store.Newest(nil, nil) {
		if p.Series.Text() == s.Text() {
			return p.Series
		}
	}
	return s
}

func (b *testbed) serve(grafana string) http.Handler {
	b.t.Helper()
	d, err := New(Options{
		Roster: b.watcher.Roster, Window: b.store, Grafana: grafana,
		Report: func() *presence.Report { return b.book.Report(b.watcher.Roster(), b.now) },
		Now:    func() time.Time { return b.now },
		Log:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Mount(mux)
	return mux
}

func get(t testing.TB, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

// begun are the moments at which real files began to fail.
var begun = regexp.MustCompile(`since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC|"since": "[^"]*"`)

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	got = begun.ReplaceAllFunc(got, func(b []byte) []byte {
		if b[0] == '"' {
			return []byte(`"since": "WHEN"`)
		}
		return []byte("since WHEN")
	})
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(got, want) {
		return
	}
	a, b := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			t.Errorf("%s:%d (go test -update rewrites it)\ngot  %s\nwant %s", path, i+1, x, y)
			return
		}
	}
}

func TestGolden(t *testing.T) {
	b := newTestbed(t)
	// Two looks one second apart give the rates.
	handler := b.serve("/grafana")
	get(t, handler, "/dashboard/signal")
	b.now = noon.Add(time.Second)
	b.measure("main-host", "server", "libvirt", onDevice(guestReceive, "vnet0", 2000), onDevice(guestReceive, "vnet1", 1500), onDevice(guestReceive, "lo", 99999), onDevice(guestTransmit, "vnet0", 4000))
	for _, c := range []struct {
		file, path string
		status     int
	}{
		{"index.html", "/dashboard/", 200},
		{"signal.html", "/dashboard/signal", 200},
		{"idle.html", "/dashboard/idle", 200},
		{"missing.html", "/dashboard/nothing", 404},
		{"deployments.json", "/api/v1/deployments", 200},
		{"signal.json", "/api/v1/deployments/signal", 200},
		{"torn.json", "/api/v1/deployments/torn", 200},
		{"missing.json", "/api/v1/deployments/nothing", 404},
	} {
		w := get(t, handler, c.path)
		if w.Code != c.status {
			t.Errorf("%s: got status %d, want %d", c.path, w.Code, c.status)
		}
		golden(t, c.file, w.Body.Bytes())
	}
	if w := get(t, handler, "/api/metrics/dashboard/signal"); w.Code != 200 || w.Body.String() != get(t, handler, "/dashboard/signal").Body.String() {
		t.Errorf("TestbedOS' address: got status %d and another page", w.Code)
	}
}

// The rates of the golden page, worked out here.
func TestRates(t *testing.T) {
	b := newTestbed(t)
	handler := b.serve("")
	type answer struct {
		Guests []struct {
			Name string   `json:"name"`
			Rx   *float64 `json:"network_receive_bytes_per_second"`
			Tx   *float64 `json:"network_transmit_bytes_per_second"`
		} `json:"guests"`
	}
	expect := func(when, rx, tx string) {
		t.Helper()
		var a answer
		if err := json.Unmarshal(get(t, handler, "/api/v1/deployments/signal").Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		say := func(v *float64) string {
			if v == nil {
				return "null"
			}
			return fmt.Sprint(*v)
		}
		if g := a.Guests[1]; g.Name != "server" || say(g.Rx) != rx || say(g.Tx) != tx {
			t.Errorf("%s: got %s received %s, sent %s; want %s, %s", when, g.Name, say(g.Rx), say(g.Tx), rx, tx)
		}
	}
	expect("first look", "null", "null")
	b.now = noon.Add(2 * time.Second)
	b.measure("main-host", "server", "libvirt", onDevice(guestReceive, "vnet0", 3000), onDevice(guestReceive, "vnet1", 1500), onDevice(guestReceive, "lo", 9e9), onDevice(guestTransmit, "vnet0", 4000))
	expect("2 s later: 2000 and 500 bytes received; the sent counter was reset", "1250", "null")
	b.now = noon.Add(4 * time.Second)
	expect("nothing new", "1250", "null")
	b.measure("main-host", "server", "libvirt", onDevice(guestTransmit, "vnet0", 8000))
	expect("within a second of the last look", "1250", "null")
	b.now = noon.Add(5 * time.Second)
	expect("4000 bytes sent in 2 s", "1250", "2000")
	b.now = noon.Add(10 * time.Minute)
	expect("forgotten meanwhile", "null", "null")
}

// A change of the roster has admission make the series anew, under their names:
// rates go on.
func TestRatesOutlastTheRoster(t *testing.T) {
	b := newTestbed(t)
	handler := b.serve("")
	for i, want := range []string{"null", "2000", "1000"} {
		if i > 0 {
			b.now = b.now.Add(2 * time.Second)
			b.anew = true
			b.measure("main-host", "server", "libvirt", onDevice(guestTransmit, "vnet0", []float64{0, 9000, 11000}[i]))
		}
		var a struct {
			Guests []struct {
				Tx json.RawMessage `json:"network_transmit_bytes_per_second"`
			} `json:"guests"`
		}
		if err := json.Unmarshal(get(t, handler, "/api/v1/deployments/signal").Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		if got := string(a.Guests[1].Tx); got != want {
			t.Errorf("after %d changes of the roster: %s bytes/s sent, want %s", i, got, want)
		}
	}
}

// Charts wait for the samples of hosts that are drawn and heard from, and look
// back as far as the slowest of those that are drawn needs.
func TestScope(t *testing.T) {
	b := newTestbed(t)
	b.book.HostHeard("client-1", noon.Add(-90*time.Second), 10*time.Second)
	b.book.HostHeard("spare", noon.Add(-time.Second), 30*time.Second)
	roster := b.watcher.Roster()
	for name, want := range map[string]charts.Scope{
		"signal": {Deployment: "signal", Hosts: []string{"client-1", "main-host"}, Interval: 10 * time.Second, Heard: time.Second},
		"torn":   {Deployment: "torn"},
		"":       {Interval: 30 * time.Second, Heard: 30 * time.Second},
	} {
		if got := scopeOf(roster.Project(name), b.book.Report(roster, noon)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", name, got, want)
		}
	}
}

func TestHeadersAndMethods(t *testing.T) {
	b := newTestbed(t)
	const policy = "default-src 'self'; frame-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
	for _, c := range []struct{ grafana, policy string }{
		{"", policy},
		{"/grafana", policy},
		{"https://graphs.example:3000/g", strings.Replace(policy, "frame-src 'self'", "frame-src 'self' https://graphs.example:3000", 1)},
	} {
		handler := b.serve(c.grafana)
		for path, kind := range map[string]string{
			"/dashboard/":                       "text/html; charset=utf-8",
			"/dashboard/signal":                 "text/html; charset=utf-8",
			"/dashboard/nothing":                "text/html; charset=utf-8",
			"/dashboard/-/nothing":              "text/html; charset=utf-8",
			"/dashboard/-/dashboard.css":        "text/css; charset=utf-8",
			"/dashboard/-/dashboard.js":         "text/javascript; charset=utf-8",
			"/dashboard/-/icon.svg":             "image/svg+xml",
			"/api/v1/deployments":               "application/json",
			"/api/v1/deployments/signal":        "application/json",
			"/api/metrics/dashboard/signal":     "text/html; charset=utf-8",
			"/api/metrics/dashboard/":           "text/html; charset=utf-8",
			"/api/metrics/dashboard/-/icon.svg": "image/svg+xml",
		} {
			w := get(t, handler, path)
			for name, want := range map[string]string{
				"Content-Type":            kind,
				"Content-Security-Policy": c.policy,
				"X-Content-Type-Options":  "nosniff",
				"Referrer-Policy":         "same-origin",
				"X-Frame-Options":         "SAMEORIGIN",
			} {
				if got := w.Header().Get(name); got != want {
					t.Errorf("%s of %s: got %q, want %q", name, path, got, want)
				}
			}
		}
	}
	handler := b.serve("")
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		for _, path := range []string{"/dashboard/", "/dashboard/signal", "/api/v1/deployments"} {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: got %d, Allow %q, want 405, GET, HEAD", method, path, w.Code, w.Header().Get("Allow"))
			}
		}
	}
	file := get(t, handler, "/dashboard/-/dashboard.js")
	r := httptest.NewRequest(http.MethodGet, "/dashboard/-/dashboard.js", nil)
	r.Header.Set("If-None-Match", file.Header().Get("ETag"))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusNotModified {
		t.Errorf("a file the browser has: got %d, want 304", w.Code)
	}
	for _, path := range []string{"/dashboard/signal/", "/api/metrics/dashboard/signal/"} {
		if w := get(t, handler, path); w.Code != http.StatusMovedPermanently || w.Header().Get("Location") != "../signal" {
			t.Errorf("%s: got %d to %q, want 301 to ../signal", path, w.Code, w.Header().Get("Location"))
		}
	}
}

func TestGrafanaAddress(t *testing.T) {
	for _, c := range []struct{ base, want string }{
		{"/grafana", "/grafana/d-solo/"},
		{"/grafana/", "/grafana/d-solo/"},
		{"/", "/d-solo/"},
		{"http://localhost:3000", "http://localhost:3000/d-solo/"},
		{"https://h/a/b/", "https://h/a/b/d-solo/"},
	} {
		g, err := newGrafana(c.base)
		if err != nil {
			t.Errorf("%q: %v", c.base, err)
			continue
		}
		if got := g.host("a b&c=<d>")[0].URL; got != c.want+hostsBoard+"?orgId=1&refresh=5s&from=now-30m&to=now&panelId=1&var-host_n=a+b%26c%3D%3Cd%3E" {
			t.Errorf("%q: got %s", c.base, got)
		}
	}
	for _, base := range []string{
		"grafana", "javascript:alert(1)", "ftp://h/", "//", "http://", "http://u:p@h/", "/g?x=1", "/g#x", "data:text/html,x",
		"http://h; script-src *", "http://h 'unsafe-inline'", "/g\nX: y", "http://h,http://i",
	} {
		if g, err := newGrafana(base); err == nil {
			t.Errorf("%q: got %+v, want an error", base, g)
		}
		if _, err := New(Options{Grafana: base}); err == nil || !strings.HasPrefix(err.Error(), "--grafana.url ") {
			t.Errorf("%q: got error %v, want one that names the flag", base, err)
		}
	}
}

// What comes from outside is text on the page, whatever it is.
func TestHostileTextIsInert(t *testing.T) {
	b := newTestbed(t)
	roster := b.watcher.Roster()
	guest := roster.Project("signal").Guests[0]
	for _, evil := range []string{
		`<script>alert(1)</script>`,
		`"><img src=x onerror=alert(1)>`,
		`' onmouseover='alert(1)`,
		`javascript:alert(1)`,
		`</title></td></main><iframe src="https://evil.example/">`,
		`{{.}}`, `{{template "top"}}`,
		"\x00\x1b[31m\u202e\ufeff\xff",
		`<!--`, `]]>`, `&lt;script&gt;`, `\u003cscript\u003e`,
		strings.Repeat("<b>", 10_000),
	} {
		report := &presence.Report{At: noon}
		report.Guests = []presence.GuestStatus{{Guest: guest, Reason: evil, LastSeen: noon}}
		report.Hosts = []presence.HostStatus{{
			Host: deployment.Host{Name: "main-host", IP: evil}, LastSeen: noon,
			Strangers: []presence.Stranger{{Host: evil, Name: evil, Reason: evil, Seen: noon}},
		}}
		store := &window.Store{}
		labels := []sample.Label{
			{Name: sample.HostName, Value: "main-host"},
			{Name: sample.Project, Value: "signal"},
			{Name: sample.GuestName, Value: "server"},
			{Name: sample.GuestType, Value: "libvirt"},
			{Name: "device", Value: evil},
		}
		store.Append([]sample.Point{{Series: sample.New(&sample.Family{Name: guestReceive}, labels...), T: 1, V: 1}}, noon, time.Hour, nil)
		d, err := New(Options{
			Roster: b.watcher.Roster, Report: func() *presence.Report { return report }, Window: store,
			Grafana: "/grafana", Now: func() time.Time { return noon },
		})
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		d.Mount(mux)
		for _, path := range []string{"/dashboard/", "/dashboard/signal", "/dashboard/" + url.PathEscape(evil), "/dashboard/-/" + url.PathEscape(evil)} {
			w := get(t, mux, path)
			inert(t, path, w.Body.Bytes())
			if w.Body.Len() > 30_000 {
				t.Errorf("%s: a page of %d bytes", path[:min(len(path), 50)], w.Body.Len())
			}
		}
		for _, path := range []string{"/api/v1/deployments", "/api/v1/deployments/signal", "/api/v1/deployments/" + url.PathEscape(evil)} {
			w := get(t, mux, path)
			if !json.Valid(w.Body.Bytes()) || bytes.ContainsAny(w.Body.Bytes(), "<>") {
				t.Errorf("%s with %.40q: not JSON, or with markup: %.300s", path[:min(len(path), 50)], evil, w.Body)
			}
		}
	}
}

// inert parses the page as a browser would and checks every element and
// attribute.
func inert(t *testing.T, path string, page []byte) {
	t.Helper()
	root, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	allowed := " html head meta title link script noscript body header nav a h1 h2 main p time section ul li code div table thead tbody tr th td span strong details summary iframe meter figure figcaption img "
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			if !strings.Contains(allowed, " "+n.Data+" ") {
				t.Errorf("%.60s: an element <%s>", path, n.Data)
			}
			if n.Data == "script" && n.FirstChild != nil {
				t.Errorf("%.60s: an inline script %q", path, n.FirstChild.Data)
			}
			for _, a := range n.Attr {
				switch {
				case strings.HasPrefix(a.Key, "on"), a.Key == "style", a.Key == "srcdoc":
					t.Errorf("%.60s: <%s %s=%q>", path, n.Data, a.Key, a.Val)
				case a.Key == "src" && !slices.Contains([]string{"-/dashboard.js", "-/table.js", "-/built/charts.js"}, a.Val) && !strings.HasPrefix(a.Val, "/grafana/d-solo/") && !strings.HasPrefix(a.Val, "/grafana/d/fanin-guests/"),
					a.Key == "href" && (strings.Contains(a.Val, ":") || strings.HasPrefix(a.Val, "/")):
					t.Errorf("%.60s: <%s %s=%q> leads elsewhere", path, n.Data, a.Key, a.Val)
				}
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(root)
	if !bytes.HasSuffix(page, []byte("</body>\n</html>\n")) {
		t.Errorf("%.60s: the page has no end", path)
	}
}

// Pages work below any prefix: every link of a page leads to a page or file
// when it is resolved against the page's own address.
func TestLinksBelowAPrefix(t *testing.T) {
	b := newTestbed(t)
	inner := b.serve("")
	outer := http.NewServeMux()
	outer.Handle("/some/where/", http.StripPrefix("/some/where", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/dashboard" + r.URL.Path
		inner.ServeHTTP(w, r)
	})))
	outer.Handle("/api/metrics/dashboard/", inner)
	link := regexp.MustCompile(`(?:href|src)="([^"]*)"`)
	for _, prefix := range []string{"/some/where/", "/api/metrics/dashboard/"} {
		for _, page := range []string{"", "signal", "idle", "torn"} {
			base := &url.URL{Path: prefix + page}
			found := link.FindAllStringSubmatch(get(t, outer, base.Path).Body.String(), -1)
			if len(found) < 4 {
				t.Fatalf("%s: only %d links", base, len(found))
			}
			for _, m := range found {
				to, err := base.Parse(m[1])
				if err != nil {
					t.Fatal(err)
				}
				if w := get(t, outer, to.Path); w.Code != http.StatusOK {
					t.Errorf("%s leads to %s: status %d, want 200", base, to, w.Code)
				}
			}
		}
	}
}

func TestManyGuestsAndManyReaders(t *testing.T) {
	b := newTestbed(t)
	guests := make([]string, 1000)
	for i := range guests {
		guests[i] = fmt.Sprintf(`"g%d":{"docker":{},"testbed_host":"spare"}`, i)
	}
	b.deployment("big", "up", `{"project_name":"big","testbed_guests":{`+strings.Join(guests, ",")+`}}`)
	b.watcher.Load()
	handler := b.serve("/grafana")
	body := get(t, handler, "/dashboard/big").Body.String()
	if n := strings.Count(body, `<iframe `); n != 1+2+2000 {
		t.Errorf("got %d frames, want one for the deployment, two for its host, two for each guest", n)
	}
	if n := strings.Count(body, ` loading="lazy"`); n != 2003 {
		t.Errorf("%d graphs are lazy, want all", n)
	}
	// What is in a closed section is not loaded.
	if n := strings.Count(body, ` open>`); n != 0 {
		t.Errorf("%d sections are open, want none", n)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 8 {
				path := []string{"/dashboard/", "/dashboard/signal", "/dashboard/big", "/api/v1/deployments/signal"}[(i+j)%4]
				if w := get(t, handler, path); w.Code != 200 {
					t.Errorf("%s: status %d", path, w.Code)
				}
			}
		})
	}
	wg.Wait()
}

func TestWords(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{percent(number{}), "–"},
		{percent(known(0)), "0.0 %"},
		{percent(known(97.26)), "97.3 %"},
		{size(known(0)), "0 B"},
		{size(known(1023)), "1023 B"},
		{size(known(1024)), "1.00 KiB"},
		{size(known(1 << 30)), "1.00 GiB"},
		{size(known(15.5 * (1 << 30))), "15.5 GiB"},
		{size(known(512 << 20)), "512 MiB"},
		{size(known(1023.9 * (1 << 20))), "1.00 GiB"},
		{rate(known(1250)), "1.25 kB/s"},
		{rate(known(0)), "0 B/s"},
		{rate(known(125e6)), "125 MB/s"},
		{rate(number{}), "–"},
		{age(number{}), "never"},
		{age(known(0.35)), "0.3 s ago"},
		{age(known(61)), "61 s ago"},
		{age(known(600)), "10 min ago"},
		{age(known(1e4)), "2 h ago"},
		{age(known(1e6)), "11 days ago"},
		{plain("host_silent"), "its host has not been heard of lately"},
		{plain("shut_off"), "its host says: shut off"},
		{plain(""), ""},
		{short("a\x00b\u202e"), "a\ufffdb\ufffd"},
		{short(strings.Repeat("ä", 101)), strings.Repeat("ä", 100) + "…"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func BenchmarkProjectPage(b *testing.B) {
	bed := newTestbed(b)
	guests := make([]string, 100)
	for i := range guests {
		guests[i] = fmt.Sprintf(`"g%d":{"docker":{},"testbed_host":"spare"}`, i)
	}
	bed.deployment("big", "up", `{"project_name":"big","testbed_guests":{`+strings.Join(guests, ",")+`}}`)
	bed.watcher.Load()
	handler := bed.serve("/grafana")
	b.ReportAllocs()
	for b.Loop() {
		get(b, handler, "/dashboard/big")
	}
}
