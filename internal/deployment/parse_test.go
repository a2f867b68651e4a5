package deployment

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseState(t *testing.T) {
	data, err := os.ReadFile("testdata/signal-state.json")
	if err != nil {
		t.Fatal(err)
	}
	s, e := parseState(data, "signal")
	if e != nil {
		t.Fatal(e)
	}
	want := []*Guest{
		{Project: "signal", Name: "phone", Kind: Android, RuntimeName: "signal-phone"},
		{
			Project: "signal", Name: "server", Kind: Libvirt, Host: "main-host", RuntimeName: "signal-server",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00::10"), netip.MustParseAddr("10.0.0.11")},
		},
		{Project: "signal", Name: "web", Kind: Docker, Host: "client-1", RuntimeName: "signal-web"},
	}
	if !reflect.DeepEqual(s.guests, want) {
		for _, g := range s.guests {
			t.Logf("got %+v", *g)
		}
		for _, g := range want {
			t.Logf("want %+v", *g)
		}
		t.Error("other guests than wanted")
	}
	if got, want := fmt.Sprint(s.hosts), "[{client-1 10.50.0.2 false} {main-host 10.50.0.1 true}]"; got != want {
		t.Errorf("hosts: got %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(s.names), "[client-1 main-host]"; got != want {
		t.Errorf("placed: got %s, want %s", got, want)
	}
	// Every proper beginning of the file is torn, at whatever byte it ends.
	for n := range len(data) - 1 {
		if _, e := parseState(data[:n], "signal"); e == nil && strings.TrimSpace(string(data[n:])) != "" {
			t.Fatalf("the first %d bytes: got no error, want %s", n, ReasonTorn)
		} else if e != nil && e.Reason != ReasonTorn {
			t.Fatalf("the first %d bytes: got %v, want %s", n, e, ReasonTorn)
		}
	}
}

// guestIn is a state file of project p whose guests are the JSON given.
func guestIn(guests string) string {
	return `{"project_name":"p","testbed_guests":{` + guests + `}}`
}

func TestParseStateRefuses(t *testing.T) {
	many := make([]string, MaxGuests+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"g%d":{"docker":{}}`, i)
	}
	for _, c := range []struct {
		name, in, reason string
		line, column     int
	}{
		{"empty", "", ReasonTorn, 0, 0},
		{"only spaces", " \n\t ", ReasonTorn, 0, 0},
		{"zero bytes", strings.Repeat("\x00", 100), ReasonTorn, 1, 1},
		{"cut off", "{\n  \"project_name\": \"p\",\n  \"testb", ReasonTorn, 3, 8},
		{"two documents", guestIn("") + "{}", ReasonTorn, 1, len(guestIn("")) + 1},
		{"bytes left of a longer version", guestIn("") + `"web"}}`, ReasonTorn, 1, len(guestIn("")) + 1},
		{"comment", "{\n// no\n}", ReasonTorn, 2, 1},
		{"an array", "[]", ReasonMalformed, 1, 1},
		{"a number", "7", ReasonMalformed, 1, 1},
		{"null", "null", ReasonMalformed, 1, 1},
		{"no guests at all", `{"project_name":"p"}`, ReasonMalformed, 1, 1},
		{"guests are null", "{\"project_name\":\"p\",\n\"testbed_guests\":null}", ReasonMalformed, 2, 18},
		{"guests are a list", `{"project_name":"p","testbed_guests":[]}`, ReasonMalformed, 1, 38},
		{"name is a number", `{"project_name":7,"testbed_guests":{}}`, ReasonMalformed, 1, 17},
		{"other project", `{"project_name":"q","testbed_guests":{}}`, ReasonWrongName, 1, 1},
		{"other case of a key", `{"PROJECT_NAME":"p","testbed_guests":{}}`, ReasonWrongName, 1, 1},
		{"no project", `{"testbed_guests":{}}`, ReasonWrongName, 1, 1},
		{"project twice", `{"project_name":"p","project_name":"p","testbed_guests":{}}`, ReasonDuplicateKey, 1, 21},
		{"guests twice", `{"project_name":"p","testbed_guests":{},"testbed_guests":{}}`, ReasonDuplicateKey, 1, 41},
		{"a guest twice", guestIn("\"a\":{\"docker\":{}},\n\"a\":{\"libvirt\":{}}"), ReasonDuplicateKey, 2, 1},
		{"a guest twice, escaped", guestIn(`"a":{"docker":{}},"\u0061":{"docker":{}}`), ReasonDuplicateKey, 1, 57},
		{"a guest's host twice", guestIn(`"a":{"docker":{},"testbed_host":"x","testbed_host":"y"}`), ReasonDuplicateKey, 1, 75},
		{"too many guests", guestIn(strings.Join(many, ",")), ReasonTooManyGuests, 1, 0},
		{"too many keys", `{` + manyKeys(3*MaxGuests) + `}`, ReasonMalformed, 1, 0},
		{"too deep in what is ignored", `{"network":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`, ReasonTooDeep, 1, 11 + MaxDepth},
		{"a million brackets", strings.Repeat("[", 1_000_000), ReasonTooDeep, 1, MaxDepth + 1},
		{"too large", strings.Repeat(" ", MaxFileBytes+1), ReasonTooLarge, 0, 0},
	} {
		s, err := parseState([]byte(c.in), "p")
		if err == nil {
			t.Errorf("%s: got %d guests, want %s", c.name, len(s.guests), c.reason)
			continue
		}
		if err.Reason != c.reason || err.Line != c.line || c.column > 0 && err.Column != c.column {
			t.Errorf("%s: got %s at %d:%d, want %s at %d:%d (%v)", c.name, err.Reason, err.Line, err.Column, c.reason, c.line, c.column, err)
		}
		if len(err.Error()) > 300 {
			t.Errorf("%s: a message of %d bytes", c.name, len(err.Error()))
		}
	}
	ok := `{"network":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `,"project_name":"p","testbed_guests":{}}`
	if _, err := parseState([]byte(ok), "p"); err != nil {
		t.Errorf("%d levels: got %v, want no error", MaxDepth, err)
	}
	brackets := guestIn(`"a":{"docker":{"command":"` + strings.Repeat("[", 1000) + `\""}}`)
	if _, err := parseState([]byte(brackets), "p"); err != nil {
		t.Errorf("brackets within a string: got %v, want no error", err)
	}
}

// printable are the ASCII characters that do nothing to a terminal.
const printable = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"

func manyKeys(n int) string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"k%d":0`, i)
	}
	return strings.Join(keys, ",")
}

// What is wrong with one guest costs that guest alone.
func TestParseStateLeavesOut(t *testing.T) {
	for _, c := range []struct{ name, guest, reason string }{
		{"blank in the name", `"a b":{"name":"a b","docker":{}}`, ReasonBadName},
		{"empty name", `"":{"name":"","docker":{}}`, ReasonBadName},
		{"markup", `"<script>alert(1)</script>":{"docker":{}}`, ReasonBadName},
		{"quote", `"a\"} 1\n":{"docker":{}}`, ReasonBadName},
		{"path", `"../../etc/passwd":{"docker":{}}`, ReasonBadName},
		{"leading dot", `".a":{"docker":{}}`, ReasonBadName},
		{"not ASCII", `"gäst":{"docker":{}}`, ReasonBadName},
		{"not UTF-8", "\"a\xff\":{\"docker\":{}}", ReasonBadName},
		{"NUL", `"a\u0000":{"docker":{}}`, ReasonBadName},
		{"64 characters", `"` + strings.Repeat("a", 64) + `":{"docker":{}}`, ReasonBadName},
		{"other name inside", `"a":{"name":"b","docker":{}}`, ReasonWrongName},
		{"name is a number", `"a":{"name":7,"docker":{}}`, ReasonMalformed},
		{"host is a number", `"a":{"docker":{},"testbed_host":7}`, ReasonMalformed},
		{"host is no name", `"a":{"docker":{},"testbed_host":"a/b"}`, ReasonBadName},
		{"runtime name is no name", `"a":{"docker":{},"runtime_name":"a\nb"}`, ReasonBadName},
		{"a number", `"a":7`, ReasonMalformed},
		{"null", `"a":null`, ReasonMalformed},
		{"no kind", `"a":{"name":"a"}`, ReasonUnknownKind},
		{"a kind of tomorrow", `"a":{"unikraft":{}}`, ReasonUnknownKind},
		{"two kinds", `"a":{"docker":{},"libvirt":{}}`, ReasonUnknownKind},
	} {
		in := guestIn("\n" + `"fine":{"libvirt":{},"docker":null},` + "\n" + c.guest + ",\n" + `"golden":{"libvirt":{},"is_golden_image":true},"fine2":{"name":"fine2","android":{},"network":7}`)
		s, err := parseState([]byte(in), "p")
		if err != nil {
			t.Errorf("%s: got %v, want only the guest left out", c.name, err)
			continue
		}
		got := ""
		for _, g := range s.guests {
			got += g.Name + "/" + g.Kind + " "
		}
		if want := "fine/libvirt fine2/android "; got != want {
			t.Errorf("%s: got guests %q, want %q", c.name, got, want)
		}
		if len(s.flaws) != 1 || s.flawed != 1 || s.flaws[0].Reason != c.reason || s.flaws[0].Line != 3 {
			t.Errorf("%s: got flaws %+v (%d), want one %s in line 3", c.name, s.flaws, s.flawed, c.reason)
		}
		for _, f := range s.flaws {
			if strings.Trim(f.Name, printable) != "" || len(f.Name) > 80 {
				t.Errorf("%s: the name kept for the log is %q", c.name, f.Name)
			}
		}
	}
}

func TestParseStateRuntimeName(t *testing.T) {
	s, err := parseState([]byte(guestIn(`"a":{"docker":{},"runtime_name":"my_container.1"},"b":{"docker":{},"runtime_name":null}`)), "p")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.guests[0].RuntimeName+" "+s.guests[1].RuntimeName, "my_container.1 p-b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseRecord(t *testing.T) {
	in := func(state string) string {
		return `{"name":"p","project_location":"/home/u/p","state":` + state + `}`
	}
	for _, c := range []struct{ name, in, state, reason string }{
		{"up", in(`"up"`), "up", ""},
		{"down", in(`"down"`), "down", ""},
		{"running", in(`"running"`), "running", ""},
		{"failed", in(`{"failed":{"up":{"reason":"x"}}}`), "failed", ""},
		{"an object that says up", in(`{"up":{}}`), "unknown", ""},
		{"of tomorrow", in(`"hibernated"`), "hibernated", ""},
		{"upper case", in(`"Up"`), "unknown", ""},
		{"hostile", in(`"<b>up</b>"`), "unknown", ""},
		{"null", in(`null`), "unknown", ""},
		{"a number", in(`1`), "unknown", ""},
		{"absent", `{"name":"p","project_location":"/x"}`, "unknown", ""},
		{"torn", `{"name":"p","project_loc`, "", ReasonTorn},
		{"other name", `{"name":"q","project_location":"/x","state":"up"}`, "", ReasonWrongName},
		{"relative location", `{"name":"p","project_location":"../x","state":"up"}`, "", ReasonBadLocation},
		{"NUL in the location", `{"name":"p","project_location":"/x\u0000y","state":"up"}`, "", ReasonBadLocation},
		{"no location", `{"name":"p","state":"up"}`, "", ReasonBadLocation},
		{"state twice", `{"name":"p","project_location":"/x","state":"down","state":"up"}`, "", ReasonDuplicateKey},
	} {
		r, err := parseRecord([]byte(c.in), "p")
		switch {
		case err != nil && err.Reason != c.reason:
			t.Errorf("%s: got %v, want %q", c.name, err, c.reason)
		case err == nil && (c.reason != "" || r.state != c.state):
			t.Errorf("%s: got %+v, want state %q, reason %q", c.name, r, c.state, c.reason)
		}
	}
}

func TestParseCluster(t *testing.T) {
	hosts, flaws, err := parseCluster([]byte(`{"testbed_host_ssh_config":{"m":{"ip":"10.0.0.1","is_main_host":true},"c<":{"ip":"10.0.0.2"},"c":{"ip":"<b>","is_main_host":"yes"}},"x":[1]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(hosts, len(flaws)), "[{c  false} {m 10.0.0.1 true}] 1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzParseState(f *testing.F) {
	data, err := os.ReadFile("testdata/signal-state.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(guestIn(`"a":{"docker":{},"runtime_name":"x","network":[{"ip":"1.2.3.4"},7,[]]}`)))
	f.Add([]byte(guestIn(`"a":{"docker":{}},"\u0061":{"docker":{}}`)))
	f.Add([]byte(`{"project_name":"p","testbed_hosts":{"h":{"ip":null}},"testbed_guests":{"a":{"android":{}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data, "")
		if err != nil {
			if err.Reason == "" || err.Line < 0 || err.Offset > int64(len(data)) {
				t.Fatalf("got error %+v without a reason or outside of %d bytes", err, len(data))
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("took what is no JSON: %q", data)
		}
		if !ValidName(s.project) {
			t.Fatalf("project %q", s.project)
		}
		seen := map[string]bool{}
		for _, g := range s.guests {
			if !ValidName(g.Name) || !ValidRuntimeName(g.RuntimeName) || g.Host != "" && !ValidName(g.Host) || seen[g.Name] || g.Kind == "" || g.Project != s.project {
				t.Fatalf("guest %+v", *g)
			}
			seen[g.Name] = true
		}
		for _, h := range s.hosts {
			if !ValidName(h.Name) {
				t.Fatalf("host %+v", h)
			}
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"name":"p","project_location":"/home/u/p","state":{"failed":{"up":{}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data, "p")
		if err == nil && (!json.Valid(data) || r.state == "" || !strings.HasPrefix(r.location, "/")) {
			t.Fatalf("took %q as %+v", data, r)
		}
		_, _, _ = parseCluster(data)
	})
}

// A deployment's hosts are those it declares and those it places guests on.
func TestHostsOfADeployment(t *testing.T) {
	s, err := parseState([]byte(`{"project_name":"p","testbed_hosts":{"b":{"ip":"10.0.0.1"},"c":{"ip":"10.0.0.2"}},
		"testbed_guests":{"g":{"docker":{},"testbed_host":"a"},"h":{"docker":{},"testbed_host":"b"}}}`), "p")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(s.names), "[a b c]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestFlawsAreCheap: ten thousand flaws in a large file of one line cost no more
// than ten, nearly.
func TestFlawsAreCheap(t *testing.T) {
	parse := func(flawed int) time.Duration {
		var b strings.Builder
		b.WriteString(`{"project_name":"p","x":"` + strings.Repeat("a", 4<<20) + `","testbed_guests":{"g":{}`)
		for i := range MaxGuests - 1 {
			name := "!"
			if i >= flawed {
				name = "g"
			}
			fmt.Fprintf(&b, `,"%s%d":{"docker":{}}`, name, i)
		}
		b.WriteString(`}}`)
		quickest := time.Hour
		for range 3 {
			began := time.Now()
			s, err := parseState([]byte(b.String()), "p")
			if err != nil || s.flawed != flawed+1 || s.flaws[flawed/2%keptFlaws].Line != 1 {
				t.Fatalf("%v, %+v", err, s)
			}
			quickest = min(quickest, time.Since(began))
		}
		return quickest
	}
	few := parse(10)
	if many := parse(MaxGuests - 1); many > 10*few {
		t.Errorf("%d flaws take %s, ten take %s", MaxGuests-1, many, few)
	}
}

// TestPlace: lines and columns, in any order of asking.
func TestPlace(t *testing.T) {
	d := &document{data: []byte("ab\n\ncd")}
	for _, c := range [][3]int{{0, 1, 1}, {2, 1, 3}, {3, 2, 1}, {6, 3, 3}, {4, 3, 1}, {9, 3, 3}, {1, 1, 2}} {
		if line, column := d.place(int64(c[0])); line != c[1] || column != c[2] {
			t.Errorf("at %d: got %d:%d, want %d:%d", c[0], line, column, c[1], c[2])
		}
	}
}
