package exporter

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fanin/internal/e2e/rig"
)

func describe(all []Target) string {
	var b strings.Builder
	for i := range all {
		t := &all[i]
		why := "ok"
		if _, failed := t.resolve(); failed != nil {
			why = failed.reason.String()
		}
		fmt.Fprintf(&b, "%s %v:%s%s %s %s; ", t.Guest, t.Addresses, t.Port, t.Path, t.Interval, why)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

func TestParseList(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`[]`, ""},
		{` [ ] `, ""},
		{
			`[{"targets":["10.0.0.10:9100"],"labels":{"guest":"signal-server","__metrics_path__":"/metrics","__scrape_interval__":"5s"}}]`,
			"signal-server [10.0.0.10]:9100/metrics 5s ok",
		},
		{`[{"targets":["10.0.0.10:80","[fd00::2]:81"],"labels":{"guest":"g"}}]`, "g [10.0.0.10]:80 0s ok; g [fd00::2]:81 0s ok"},
		{`[{"targets":["10.0.0.10:80"],"labels":{"guest":"g","__scrape_interval__":"often","other":"x"},"more":1}]`, "g [10.0.0.10]:80 0s ok"},
		{`[{"targets":["127.0.0.1:80"],"labels":{"guest":"g"}}]`, "g [127.0.0.1]:80 0s bad_address"},
		{
			`[{"targets":["localhost:80","example.com:80","10.0.0.010:80","0x0a000001:80","167772161:80","10.0.0.1%eth0:80",":80","@10.0.0.1:80","[10.0.0.1]:80","fd00::2:80"],"labels":{"guest":"g"}}]`,
			strings.TrimSuffix(strings.Repeat("g [invalid IP]:80 0s bad_address; ", 10), "; "),
		},
		{
			`[{"targets":["10.0.0.1:080","10.0.0.1:0x50","10.0.0.1:１２","10.0.0.1","10.0.0.1:80/x"],"labels":{"guest":"g"}}]`,
			"g [10.0.0.1]:080 0s bad_port; g [10.0.0.1]:0x50 0s bad_port; g [10.0.0.1]:１２ 0s bad_port; g [invalid IP]: 0s bad_port; g [10.0.0.1]:80/x 0s bad_port",
		},
		{`[{"targets":["10.0.0.1:80"],"labels":{"guest":"g","__metrics_path__":"//10.0.0.2/"}}]`, "g [10.0.0.1]:80//10.0.0.2/ 0s bad_path"},
		{`[{"targets":null,"labels":null}]`, ""},
		{`[null]`, ""},
		{`{"status":"success"}`, "error"},
		{`<html>`, "error"},
		{`"x"`, "error"},
		{``, "error"},
		{`[{"targets":"10.0.0.1:80"}]`, "error"},
		{`[{"targets":[1]}]`, "error"},
		{`[{"targets":["10.0.0.1:80"],"labels":{"guest":1}}]`, "error"},
		{`[{"targets":["10.0.0.1:80"]}`, "error"},
		{`[` + strings.Repeat(`{"targets":["10.0.0.1:80"]},`, maxListed) + `{"targets":["10.0.0.1:80"]}]`, "error"},
		{strings.Repeat("[", 100_000), "error"},
	} {
		targets, err := parseList([]byte(c.body))
		got := describe(targets)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%.200s:\ngot  %s (%v)\nwant %s", c.body, got, err, c.want)
		}
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte(`[{"targets":["10.0.0.10:9100","[fd00::2]:1"],"labels":{"guest":"a","__metrics_path__":"/","__scrape_interval__":"5s"}}]`))
	f.Add([]byte(`[{"targets":["[::1]:080","@:1"]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		targets, err := parseList(body)
		if err != nil && targets != nil || len(targets) > maxListed {
			t.Errorf("%d targets, %v", len(targets), err)
		}
		for i := range targets {
			if e, failed := targets[i].resolve(); failed == nil {
				wantOneRequest(t, (&Source{}).requestFor(&e), e.path)
			}
		}
	})
}

// What an answer means for the list that stands.
func TestListIsKept(t *testing.T) {
	var mu sync.Mutex
	answer := func(w http.ResponseWriter) { http.NotFound(w, nil) }
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.URL.String()+" "+r.Header.Get("X-Fanin-Node"))
		answer(w)
	}))
	defer server.Close()
	say := func(f func(w http.ResponseWriter)) { mu.Lock(); answer = f; mu.Unlock() }
	body := func(s string) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) { fmt.Fprint(w, s) }
	}
	list := &List{URL: server.URL + "/api/v1/targets?node=n", Client: server.Client(), Node: "n"}
	registry := prometheus.NewPedanticRegistry()
	if err := list.Register(registry); err != nil {
		t.Fatal(err)
	}
	one := body(`[{"targets":["10.0.0.10:9100"],"labels":{"guest":"a"}}]`)
	status := func(code int) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) { http.Error(w, "x", code) }
	}
	list.Log, list.Interval = nil, time.Hour
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cancelled, cancelNow := context.WithCancel(ctx)
	cancelNow()
	if err := list.Run(cancelled); err != nil { // sets it up
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		answer func(w http.ResponseWriter)
		want   int
	}{
		{"no list", status(404), 0},
		{"a Prometheus", body(`{"status":"success","data":{"activeTargets":[]}}`), 0},
		{"a list", one, 1},
		{"not there", status(503), 1},
		{"not allowed", status(401), 1},
		{"gone", status(404), 1},
		{"another service", body(`{"status":"success"}`), 1},
		{"half of it", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `[{"targets":[`)
		}, 1},
		{"far too much", body("[" + strings.Repeat(" ", maxList) + "]"), 1},
		{"elsewhere", func(w http.ResponseWriter) { w.Header().Set("Location", "/x"); w.WriteHeader(302) }, 1},
		{"an empty list", body(`[]`), 0},
	} {
		say(c.answer)
		list.Client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		list.ask(ctx)
		if got := len(list.Targets()); got != c.want {
			t.Errorf("%s: got %d targets, want %d", c.what, got, c.want)
		}
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP fanin_exporter_list_requests_total How often the gateway was asked which guests have a page of metrics, by what came of it; none: it has no such list.
# TYPE fanin_exporter_list_requests_total counter
fanin_exporter_list_requests_total{outcome="failed"} 1
fanin_exporter_list_requests_total{outcome="malformed"} 2
fanin_exporter_list_requests_total{outcome="none"} 3
fanin_exporter_list_requests_total{outcome="ok"} 2
fanin_exporter_list_requests_total{outcome="refused"} 3
`), "fanin_exporter_list_requests_total"); err != nil {
		t.Error(err)
	}
	if asked[0] != "GET /api/v1/targets?node=n n" {
		t.Errorf("got %s", asked[0])
	}

	// And in time.
	say(one)
	list.Interval = 50 * time.Millisecond
	go func() { done <- list.Run(ctx) }()
	rig.Eventually(t, 10*time.Second, func() error {
		if len(list.Targets()) != 1 {
			return fmt.Errorf("got %v", list.Targets())
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: got %v, want nil", err)
	}
}
