package admission

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"fanin/internal/deployment"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// settings writes a folder of TestbedOS: deployment "signal" is up with guests
// on two hosts, "idle" is down, "a-b" and "a" share the runtime name a-b-c.
func settings(t testing.TB) *deployment.Roster {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hosts := `{"main-host": {"ip": "10.50.0.1", "is_main_host": true}, "client-1": {"ip": "10.50.0.2", "is_main_host": false}}`
	write("config/kvm-compose-config.json", `{"testbed_host_ssh_config": `+hosts+`}`)
	for name, d := range map[string]struct{ state, guests string }{
		"signal": {"up", `"server": {"name": "server", "libvirt": {}, "testbed_host": "main-host"},
			"web": {"name": "web", "docker": {"image": "nginx"}, "testbed_host": "client-1"},
			"later": {"name": "later", "docker": {"image": "nginx"}, "testbed_host": null}`},
		"idle": {"down", `"web": {"name": "web", "docker": {"image": "nginx"}, "testbed_host": "client-1"}`},
		"a-b":  {"up", `"c": {"name": "c", "docker": {"image": "x"}, "testbed_host": "client-1"}`},
		"a":    {"up", `"b-c": {"name": "b-c", "docker": {"image": "x"}, "testbed_host": "client-1"}`},
	} {
		write("deployments/"+name+".json", fmt.Sprintf(`{"name": %q, "project_location": %q, "state": %q, "last_action_uuid": null}`, name, filepath.Join(dir, name), d.state))
		write(name+"/"+name+"-state.json", fmt.Sprintf(`{"project_name": %q, "testbed_hosts": %s, "testbed_guests": {%s}}`, name, hosts, d.guests))
	}
	roster, _ := deployment.CheckSettings(dir) // the ambiguous name is meant
	return roster
}

// claims encodes series, given as label pairs, with one point each, and calls
// fn with each as it comes out of the decoder.
func claims(t testing.TB, m *wire.Memory, fn func(*wire.Series), series ...[]string) {
	t.Helper()
	var request prompb.WriteRequest
	for i, labels := range series {
		ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: 1000, Value: float64(i)}}}
		for j := 0; j+1 < len(labels); j += 2 {
			ts.Labels = append(ts.Labels, prompb.Label{Name: labels[j], Value: labels[j+1]})
		}
		request.Timeseries = append(request.Timeseries, ts)
	}
	raw, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var d wire.Decoder
	r, err := d.Decode(snappy.Encode(nil, raw), m)
	if err != nil {
		t.Fatal(err)
	}
	r.EachSeries(fn)
}

func admit(t testing.TB, g *Gate, host string, labels ...string) (v Verdict) {
	t.Helper()
	s := g.Begin(host, time.Now())
	defer s.End()
	claims(t, s.Memory(wire.V1), func(c *wire.Series) { v = s.Admit(c, wire.V1) }, labels)
	return v
}

func TestVerdicts(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }}
	long := strings.Repeat("x", 600)
	for _, c := range []struct {
		name   string
		host   string
		labels []string
		want   string // the series' text, or "reason: ..."
	}{
		{"a guest's own host", "client-1", []string{"__name__", "testbed_guest_cpu", "guest", "signal-web"}, `testbed_guest_cpu{guest_name="web",guest_type="docker",host_name="client-1",project="signal"}`},
		{"a VM", "main-host", []string{"__name__", "testbed_guest_cpu", "guest", "signal-server"}, `testbed_guest_cpu{guest_name="server",guest_type="libvirt",host_name="main-host",project="signal"}`},
		{"a host", "client-1", []string{"__name__", "testbed_host_cpu"}, `testbed_host_cpu{host_name="client-1"}`},
		{"a host that counts", "client-1", []string{"__name__", "testbed_host_guests", "guest_type", "docker", "project", "x"}, `testbed_host_guests{exported_project="x",guest_type="docker",host_name="client-1"}`},
		{"a stock sender with our label", "client-1", []string{"__name__", "app", "guest_type", "docker"}, `app{exported_guest_type="docker",host_name="client-1"}`},
		{"a stock sender", "client-1", []string{"__name__", "node_load1", "instance", "x:9100", "job", "node"}, `node_load1{host_name="client-1",instance="x:9100",job="node"}`},
		{
			"writes identity itself", "client-1",
			[]string{"__name__", "app_total", "exported_project", "e", "guest", "signal-web", "guest_name", "server", "guest_type", "libvirt", "host_name", "main-host", "project", "idle"},
			`app_total{exported_exported_project="idle",exported_guest_name="server",exported_guest_type="libvirt",exported_host_name="main-host",exported_project="e",guest_name="web",guest_type="docker",host_name="client-1",project="signal"}`,
		},
		{"another host's guest", "main-host", []string{"__name__", "testbed_guest_cpu", "guest", "signal-web"}, "reason: wrong_host"},
		{"not placed", "main-host", []string{"__name__", "testbed_guest_cpu", "guest", "signal-later"}, "reason: not_placed"},
		{"deployment is down", "client-1", []string{"__name__", "testbed_guest_cpu", "guest", "idle-web"}, "reason: not_active"},
		{"nobody's guest", "client-1", []string{"__name__", "testbed_guest_cpu", "guest", "stranger"}, "reason: unknown_guest"},
		{"name of two guests", "client-1", []string{"__name__", "testbed_guest_cpu", "guest", "a-b-c"}, "reason: ambiguous_name"},
		{"host of no cluster", "client-9", []string{"__name__", "testbed_host_cpu"}, "reason: unknown_host"},
		{"guest series without guest", "client-1", []string{"__name__", "testbed_guest_cpu"}, "reason: no_guest_label"},
		{"host series from a guest", "client-1", []string{"__name__", "testbed_host_cpu", "guest", "signal-web"}, "reason: reserved_name"},
		{"the gateway's verdict", "client-1", []string{"__name__", "testbed_guest_disturbed_ratio", "cause", "any", "guest", "signal-web"}, "reason: reserved_name"},
		{"the gateway's own word", "client-1", []string{"__name__", "testbed_host_up"}, "reason: reserved_name"},
		{"no name", "client-1", []string{"a", "b"}, "reason: bad_metric_name"},
		{"bad name", "client-1", []string{"__name__", "a b"}, "reason: bad_metric_name"},
		{"bad label name", "client-1", []string{"__name__", "a", "x-y", "1"}, "reason: bad_label_name"},
		{"Prometheus' own label", "client-1", []string{"__address__", "1", "__name__", "a"}, "reason: bad_label_name"},
		{"bad UTF-8", "client-1", []string{"__name__", "a", "x", "\xff"}, "reason: bad_utf8"},
		{"unsorted", "client-1", []string{"b", "1", "a", "2", "__name__", "a"}, "reason: labels_unsorted"},
		{"repeated", "client-1", []string{"__name__", "a", "x", "1", "x", "2"}, "reason: label_repeated"},
		{"long value", "client-1", []string{"__name__", "a", "x", long}, "reason: name_or_label_too_long"},
		{"long label name", "client-1", []string{"__name__", "a", long, "x"}, "reason: name_or_label_too_long"},
		{"long name", "client-1", []string{"__name__", long}, "reason: name_or_label_too_long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // the second answer comes from memory
				v := admit(t, g, c.host, c.labels...)
				got := "reason: " + string(v.Reason())
				if v.Series != nil {
					got = v.Series.Text()
				}
				if got != c.want {
					t.Fatalf("got  %s\nwant %s", got, c.want)
				}
			}
		})
	}
}

func TestWordOnAGuestIsNoSeries(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }}
	v := admit(t, g, "client-1", "__name__", "testbed_guest_up", "guest", "signal-web", "reason", "stopped")
	if v.State == nil || v.State.Why != "stopped" || *v.Owner != (sample.Owner{Host: "client-1", Project: "signal", Guest: "web", Kind: "docker"}) {
		t.Fatalf("got %+v", v)
	}
	if v := admit(t, g, "client-1", "__name__", "testbed_guest_up", "guest", "signal-web", "reason", "<script>"); v.State == nil || v.State.Why != "" {
		t.Fatalf("a hostile reason: got %+v", v.State)
	}
	if v := admit(t, g, "client-1", "__name__", "testbed_guest_up", "guest", "nobody"); v.Reason() != UnknownGuest || v.Refusal.Stranger != "nobody" {
		t.Fatalf("a stranger: got %+v", v)
	}
	if v := admit(t, g, "main-host", "__name__", "testbed_guest_up", "guest", "signal-web"); v.Reason() != WrongHost || v.Owner.Host != "client-1" || v.Owner.Guest != "web" {
		t.Fatalf("the wrong host: got %+v", v)
	}
}

func TestSameClaimSameSeries(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }}
	first := admit(t, g, "client-1", "__name__", "testbed_guest_cpu", "guest", "signal-web")
	again := admit(t, g, "client-1", "__name__", "testbed_guest_cpu", "guest", "signal-web")
	if first.Series != again.Series {
		t.Fatal("the same claim got another series")
	}
	// A claim of other bytes that means the same is the same series too.
	alias := admit(t, g, "client-1", "__name__", "testbed_guest_cpu", "empty", "", "guest", "signal-web")
	if alias.Series.Text() != first.Series.Text() {
		t.Fatalf("got %s, want %s", alias.Series.Text(), first.Series.Text())
	}
	// Verdicts hold for one roster.
	roster = &deployment.Roster{}
	if v := admit(t, g, "client-1", "__name__", "testbed_guest_cpu", "guest", "signal-web"); v.Reason() != UnknownHost {
		t.Fatalf("with an empty roster: got %+v", v)
	}
	if got := g.admitted.Load(); got != 0 {
		t.Fatalf("%d series count as admitted, want 0", got)
	}
}

func TestTypesAreLearned(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }}
	if v := admit(t, g, "client-1", "__name__", "lat_bucket", "le", "1"); v.Series.Family().Name != "lat_bucket" || v.Series.Family().Type != sample.Unknown {
		t.Fatalf("before metadata: got %+v", v.Series.Family())
	}
	s := g.Begin("client-1", time.Now())
	s.Learn(wire.Metadata{Family: []byte("lat"), Type: wire.Histogram, Help: []byte("Latency.")})
	s.Learn(wire.Metadata{Family: []byte("jobs_seconds_total"), Type: wire.Counter, Unit: []byte("seconds")})
	s.Learn(wire.Metadata{Family: []byte("bad name"), Type: wire.Counter})
	s.End()
	for name, want := range map[string]sample.Family{
		"lat_bucket":         {Name: "lat", Type: sample.Histogram, Help: "Latency."},
		"lat_sum":            {Name: "lat", Type: sample.Histogram, Help: "Latency."},
		"lat_other":          {Name: "lat_other"},
		"jobs_seconds_total": {Name: "jobs_seconds_total", Type: sample.Counter, Unit: "seconds"},
	} {
		if v := admit(t, g, "client-1", "__name__", name); *v.Series.Family() != want || v.Series.Name() != name {
			t.Errorf("%s: got %+v, want %+v", name, *v.Series.Family(), want)
		}
	}
}

func TestSeriesLimits(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }, NodeSeries: 10, GatewaySeries: 15}
	count := func(host string) (admitted, refused int) {
		s := g.Begin(host, time.Now())
		defer s.End()
		var series [][]string
		for i := range 100 {
			series = append(series, []string{"__name__", "a", "i", fmt.Sprint(i)})
		}
		claims(t, s.Memory(wire.V1), func(c *wire.Series) {
			switch s.Admit(c, wire.V1).Reason() {
			case "":
				admitted++
			case SeriesLimit:
				refused++
			}
		}, series...)
		return admitted, refused
	}
	for range 3 {
		if a, r := count("main-host"); a != 10 || r != 90 {
			t.Fatalf("got %d admitted and %d refused, want 10 and 90", a, r)
		}
		if a, r := count("client-1"); a != 5 || r != 95 {
			t.Fatalf("the second node: got %d admitted and %d refused, want 5 and 95", a, r)
		}
	}
	// What is not repeated makes room.
	g.Forget(time.Now().Add(forgetAfter + time.Second))
	if len(g.nodes) != 0 || g.admitted.Load() != 0 {
		t.Fatalf("after a pause: %d nodes and %d series are remembered, want none", len(g.nodes), g.admitted.Load())
	}
	if a, _ := count("client-1"); a != 10 {
		t.Fatalf("after a pause: got %d admitted, want 10", a)
	}
}

func TestRefusedClaimsDoNotGrowMemory(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }, NodeSeries: 10}
	for i := range 1000 {
		admit(t, g, "client-1", "__name__", "testbed_guest_cpu", "guest", fmt.Sprint("nobody-", i))
	}
	spoken := &g.nodes["client-1"].spoken[wire.V1]
	if got := len(spoken.admitted) + len(spoken.others); got > 20 {
		t.Fatalf("%d verdicts are remembered, want at most 20", got)
	}
}

// TestForgottenAltogether: what is forgotten of a sender does not count in the
// gateway's limit, also when its last body began a new memory and was refused
// further on.
func TestForgottenAltogether(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }, NodeSeries: 10, GatewaySeries: 15}
	body := func(name string) []byte {
		var points []sample.Point
		for i := range 10 {
			label := sample.Label{Name: "i", Value: name + strconv.Itoa(i)}
			points = append(points, sample.Point{Series: sample.New(&sample.Family{Name: "a"}, label), T: 1000})
		}
		return new(wire.Encoder).Append(nil, points)
	}
	raw, err := snappy.Decode(nil, body("another table "))
	if err != nil {
		t.Fatal(err)
	}
	malformed := snappy.Encode(nil, append(raw, 0xff))
	now := time.Now()
	push := func(host string, body []byte) (admitted int) {
		s := g.Begin(host, now)
		defer s.End()
		var d wire.Decoder
		r, err := d.Decode(body, s.Memory(wire.V2))
		if err != nil {
			return 0
		}
		r.EachSeries(func(c *wire.Series) {
			if s.Admit(c, wire.V2).Series != nil {
				admitted++
			}
		})
		return admitted
	}
	for range 2 {
		if n := push("client-1", body("a")); n != 10 {
			t.Fatalf("%d series of client-1 are admitted, want 10", n)
		}
		push("client-1", malformed)
		now = now.Add(forgetAfter + time.Second)
		g.Forget(now)
		if len(g.nodes) != 0 || g.admitted.Load() != 0 {
			t.Errorf("%d senders are remembered, and %d series count", len(g.nodes), g.admitted.Load())
		}
	}
	if n := push("main-host", body("b")); n != 10 {
		t.Errorf("%d series of main-host are admitted, want 10", n)
	}
}

// TestForgottenWhileWaiting: who waits for a session of its sender to end is not
// left with what was forgotten then.
func TestForgottenWhileWaiting(t *testing.T) {
	roster := settings(t)
	forgotten := 0
	for try := 0; try < 200 && forgotten < 5; try++ {
		g := &Gate{Roster: func() *deployment.Roster { return roster }}
		first := g.Begin("client-1", time.Now())
		second := make(chan *Session)
		go func() { second <- g.Begin("client-1", time.Now()) }()
		time.Sleep(2 * time.Millisecond) // it waits, most probably
		first.node.mu.Unlock()
		g.Forget(time.Now())
		s := <-second
		if s.node != first.node {
			forgotten++
		}
		if s.node != g.nodes["client-1"] {
			t.Fatal("the second session works on what is forgotten")
		}
		s.End()
	}
	if forgotten == 0 {
		t.Error("nothing was ever forgotten while one waited")
	}
}

// TestMetadataMakesRoom: a sender that has had as many families as are
// remembered can have others when it says those before no more.
func TestMetadataMakesRoom(t *testing.T) {
	roster := settings(t)
	g := &Gate{Roster: func() *deployment.Roster { return roster }}
	now := time.Now()
	session := func(family string, more int) (learnt sample.Type) {
		now = now.Add(forgetAfter + time.Second)
		s := g.Begin("client-1", now)
		defer s.End()
		s.Learn(wire.Metadata{Family: []byte(family), Type: wire.Counter})
		for i := range more {
			s.Learn(wire.Metadata{Family: []byte(family + strconv.Itoa(i)), Type: wire.Counter})
		}
		claims(t, s.Memory(wire.V1), func(c *wire.Series) { learnt = s.Admit(c, wire.V1).Series.Family().Type }, []string{"__name__", family})
		return learnt
	}
	for _, family := range []string{"first", "second", "third"} {
		session(family, maxMetadata) // a sweep behind it makes room
		if got := session(family, 0); got != sample.Counter {
			t.Errorf("%s is of type %v, want a counter", family, got)
		}
	}
	if got := session("third", 0); got != sample.Counter {
		t.Errorf("what is in use has become %v", got)
	}
}
