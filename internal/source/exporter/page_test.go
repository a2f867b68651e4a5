package exporter

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"fanin/internal/sample"
)

func newTestMemory(most int) *memory {
	r := &room{limit: usage{10_000, 4_000_000}}
	return newMemory(key{"web", "8000"}, r, most, defaultPage)
}

var noon = time.UnixMilli(1_700_000_000_000)

// take reads a page as a scrape does.
func take(m *memory, page string, f format, at time.Time) ([]sample.Point, tally, *failure) {
	return m.read(nil, append(make([]byte, 0, len(page)+1), page...), f, at)
}

func texts(points []sample.Point) (got []string) {
	for _, p := range points {
		got = append(got, fmt.Sprint(p.Series.Text(), " ", p.V))
	}
	return got
}

func (l tally) String() string {
	var all []string
	for o, n := range l {
		if n > 0 {
			all = append(all, fmt.Sprintf("%s=%d", omission(o), n))
		}
	}
	return strings.Join(all, " ")
}

const own = `guest="web",port="8000"`

// What is taken of a page, what is left out of it, and what loses it whole.
func TestPage(t *testing.T) {
	long := strings.Repeat("x", 600)
	labels := ""
	for i := range maxLabels + 1 {
		labels += fmt.Sprintf("l%d=\"1\",", i)
	}
	for _, c := range []struct {
		what string
		page string
		om   bool
		want []string
		left string
		why  reason
	}{
		{what: "nothing"},
		{what: "one", page: "a 1\n", want: []string{`a{` + own + `} 1`}},
		{what: "no line break at the end", page: "a 1", want: []string{`a{` + own + `} 1`}},
		{what: "a time of its own", page: "a 1 12345\n", want: []string{`a{` + own + `} 1`}},
		{what: "NaN and Inf", page: "a NaN\nb +Inf\nc -Inf\n", want: []string{`a{` + own + `} NaN`, `b{` + own + `} +Inf`, `c{` + own + `} -Inf`}},
		{what: "quotes and line breaks in values", page: `a{x="q\"u\\o\nte"} 1`, want: []string{`a{` + own + `,x="q\"u\\o\nte"} 1`}},
		{what: "labels of ours", page: `a{guest="other",port="1",project="p",job="j"} 1`, want: []string{`a{exported_guest="other",exported_port="1",guest="web",job="j",port="8000",project="p"} 1`}},
		{what: "labels like those", page: `a{guest="other",exported_guest="x"} 1`, want: []string{`a{exported_exported_guest="other",exported_guest="x",` + own + `} 1`}},
		{what: "an empty value", page: `a{x="",guest=""} 1`, want: []string{`a{` + own + `} 1`}},
		{what: "our names", page: "testbed_guest_up 1\nfanin_x 1\na 1\n", want: []string{`a{` + own + `} 1`}, left: "reserved_name=2"},
		{what: "our names as a histogram", page: "# TYPE testbed_x histogram\ntestbed_x_bucket{le=\"+Inf\"} 1\ntestbed_x_sum 1\ntestbed_x_count 1\n", left: "reserved_name=3"},
		{what: "names in quotes", page: "{\"a.b\"} 1\n{\"c\",\"d.e\"=\"1\"} 1\na 1\n", want: []string{`a{` + own + `} 1`}, left: "bad_name=1 bad_label_name=1"},
		{what: "reserved labels", page: "a{__name__=\"b\"} 1\nb{__x=\"1\"} 1\n", left: "bad_label_name=2"},
		{what: "a label twice", page: `a{x="1",x="2"} 1`, left: "repeated_label=1"},
		{what: "too long", page: "a{x=\"" + long + "\"} 1\n" + long + " 1\nb{" + long + "=\"1\"} 1\n", left: "too_long=3"},
		{what: "too many labels", page: "a{" + labels + "} 1\n", left: "too_many_labels=1"},
		{what: "a series twice", page: "a 1\na 2\na{x=\"1\",y=\"2\"} 3\na{y=\"2\",x=\"1\"} 4\n", want: []string{`a{` + own + `} 1`, `a{` + own + `,x="1",y="2"} 3`}, left: "repeated=2"},
		{what: "a series twice by way of a label of ours", page: "a{guest=\"\"} 1\na 2\n", want: []string{`a{` + own + `} 1`}, left: "repeated=1"},
		{what: "bytes that are not UTF-8", page: "b 1\na{x=\"\xff\"} 1\n", why: malformed},
		{what: "HTML", page: "<html><body>404</body></html>", why: malformed},
		{what: "half a page", page: "a 1\nb{x=\"1", why: malformed},
		{what: "an unknown type", page: "a 1\n# TYPE b enum\nb 1\n", why: malformed},
		{what: "no value", page: "a\n", why: malformed},
		{what: "hexadecimal", page: "a 0x1p3\n", why: malformed},
		{what: "null bytes", page: "\x00\x00\x00", why: malformed},
		{what: "null bytes behind a series", page: "a 1\n\x00b 1\n", why: malformed},
		{what: "OpenMetrics without an end", page: "a 1\n", om: true, why: malformed},
		{what: "OpenMetrics with more than its end", page: "a 1\n# EOF\nb 1\n", om: true, why: malformed},
		{what: "OpenMetrics with an exemplar", page: "# TYPE a counter\na_total 1 # {trace=\"x\"} 1 1\n# EOF\n", om: true, want: []string{`a_total{` + own + `} 1`}},
		{what: "too many", page: strings.Repeat("a 1\n", 101), why: tooManySeries},
	} {
		m := newTestMemory(100)
		f := text
		if c.om {
			f = openMetrics
		}
		for range 2 { // known and not known
			points, left, failed := take(m, c.page, f, noon)
			why := fine
			if failed != nil {
				why = failed.reason
			}
			if got := texts(points); why != c.why || left.String() != c.left || !slices.Equal(got, c.want) {
				t.Errorf("%s: got %q, left out %q, reason %q (%v); want %q, %q, %q", c.what, got, left, why, failed, c.want, c.left, c.why)
			}
			for _, p := range points {
				if p.T != noon.UnixMilli() {
					t.Errorf("%s: %s is of %d, want %d", c.what, p.Series.Text(), p.T, noon.UnixMilli())
				}
			}
		}
	}
}

// Real pages, with the families their series belong to.
func TestFamilies(t *testing.T) {
	files, err := filepath.Glob("testdata/*.page")
	if err != nil || len(files) < 3 {
		t.Fatalf("got %d pages, %v", len(files), err)
	}
	for _, file := range files {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f := text
		if strings.HasSuffix(strings.TrimSpace(string(page)), "# EOF") {
			f = openMetrics
		}
		m := newTestMemory(2000)
		points, left, failed := take(m, string(page), f, noon)
		if failed != nil || left.String() != "" {
			t.Fatalf("%s: got %v, %v left out", file, failed, left)
		}
		var b strings.Builder
		family := ""
		for _, p := range points {
			if f := p.Series.Family(); f.Name != family {
				family = f.Name
				fmt.Fprintf(&b, "# %s %s %q %q\n", f.Name, f.Type, f.Unit, f.Help)
			}
			fmt.Fprintf(&b, "%s %v\n", p.Series.Text(), p.V)
		}
		golden(t, strings.TrimSuffix(file, ".page")+".golden", b.String())
	}
}

// A marker in a page's value would end the series of others' graphs.
func TestNoMarkerFromAPage(t *testing.T) {
	for _, v := range []string{"NaN", "nan", "-nan", "+NaN", "nan(0x2)"} {
		points, _, failed := take(newTestMemory(10), "a "+v+"\n", text, noon)
		if failed != nil {
			continue
		}
		if got := math.Float64bits(points[0].V); got != math.Float64bits(math.NaN()) {
			t.Errorf("%s: got the bits %x, want those of the ordinary NaN", v, got)
		}
	}
}

// What is on the page before and not on this one ends.
func TestVanishedSeriesEnd(t *testing.T) {
	m := newTestMemory(10)
	ends := func(page string, at time.Duration) (got []string) {
		points, _, _ := take(m, page, text, noon.Add(at))
		for _, p := range points {
			if math.Float64bits(p.V) == math.Float64bits(staleNaN) {
				got = append(got, fmt.Sprint(p.Series.Text(), " ", p.T-noon.UnixMilli()))
			}
		}
		return got
	}
	for i, c := range []struct{ page, want string }{
		{"a 1\nb 1\n", "[]"},
		{"a 1\nb 1\n", "[]"},
		{"a 1\n", `[b{` + own + `} 2000]`},
		{"a 1\n", "[]"},
		{"<html>", "[]"}, // nothing is known: that is for the gateway to judge
		{"b 1\n", `[a{` + own + `} 5000]`},
		{"a 1\nb 1\n", "[]"},
	} {
		if got := fmt.Sprint(ends(c.page, time.Duration(i)*time.Second)); got != c.want {
			t.Errorf("page %d: got %s, want %s", i, got, c.want)
		}
	}
}

// A page with ever new series is one page in two minutes, and nothing is left
// of those that were not taken.
func TestChurn(t *testing.T) {
	m := newTestMemory(100)
	taken, most := 0, 0
	for i := range 600 { // seconds
		var page strings.Builder
		for j := range 80 {
			fmt.Fprintf(&page, "a%d{x=\"%d\"} 1\n", j, i)
		}
		points, _, failed := take(m, page.String(), text, noon.Add(time.Duration(i)*time.Second))
		if failed == nil {
			taken++
			if len(points) < 80 {
				t.Errorf("second %d: %d points", i, len(points))
			}
		} else if failed.reason != tooManySeries {
			t.Fatal(failed.err)
		}
		most = max(most, len(m.series))
		if m.held.series != len(m.series) || m.room.used != m.held {
			t.Fatalf("second %d: %d series, %d are counted, %d on the node", i, len(m.series), m.held.series, m.room.used.series)
		}
	}
	if most > 100 || taken < 3 || taken > 6 {
		t.Errorf("got %d series at the most and %d pages in ten minutes, want at most 100, and about 4", most, taken)
	}
	take(m, "a 1\n", text, noon.Add(20*time.Minute))
	if len(m.series) != 1 || len(m.lines) != 1 || len(m.room.families) != 1 {
		t.Errorf("later: %d series, %d lines, %d families are remembered, want 1 of each", len(m.series), len(m.lines), len(m.room.families))
	}
	m.end()
	if m.room.used != (usage{}) || len(m.room.families) != 0 {
		t.Errorf("at the end: got %+v and %d families, want nothing", m.room.used, len(m.room.families))
	}
}

// A page that writes one series in ever new ways, or has ever new series that
// are left out, makes nothing grow.
func TestLinesAreBounded(t *testing.T) {
	m := newTestMemory(100)
	for i := range 1000 {
		take(m, fmt.Sprintf("a{x=\"1\",%s} 1\ntestbed_%d 1\n# TYPE t%d gauge\n# HELP h%d h\n", strings.Repeat(" ", i), i, i, i), text, noon)
	}
	if len(m.lines) > 200 || len(m.families) > 100 || len(m.series) != 1 {
		t.Errorf("got %d lines, %d families, %d series; want at most 200, 100, and 1", len(m.lines), len(m.families), len(m.series))
	}
}

// Who holds more than a fair part of a full node gets no more; the others do.
func TestFairShare(t *testing.T) {
	r := &room{limit: usage{1000, 400_000}}
	r.shareOut(10)
	series := func(n, from int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "a{x=\"%d\"} 1\n", from+i)
		}
		return b.String()
	}
	var got []string
	for i := range 10 {
		n := 300
		if i >= 5 {
			n = 90
		}
		m := newMemory(key{fmt.Sprint("g", i), "1"}, r, 2000, defaultPage)
		if _, _, failed := take(m, series(n, 0), text, noon); failed != nil {
			got = append(got, fmt.Sprintf("g%d %s", i, failed.reason))
		}
	}
	if want := "[g3 too_many_series g4 too_many_series]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if r.used.series != 3*300+5*90 {
		t.Errorf("got %d series, want %d", r.used.series, 3*300+5*90)
	}
}

// Two guests that call one family by different names for the same thing do
// not make the node change its mind with every sample.
func TestOneFamilyOfAName(t *testing.T) {
	r := &room{limit: usage{1000, 400_000}}
	var families []*sample.Family
	var all []*memory
	for i, page := range []string{"# HELP a first\n# TYPE a counter\na 1\n", "# HELP a second\n# TYPE a gauge\na 1\n"} {
		m := newMemory(key{fmt.Sprint("g", i), "1"}, r, 10, defaultPage)
		points, _, failed := take(m, page, text, noon)
		if failed != nil {
			t.Fatal(failed.err)
		}
		families, all = append(families, points[0].Series.Family()), append(all, m)
	}
	if families[0] != families[1] || families[0].Help != "first" || families[0].Type != sample.Counter {
		t.Errorf("got %+v and %+v, want the first for both", families[0], families[1])
	}
	all[0].end()
	if len(r.families) != 1 {
		t.Errorf("the family is forgotten while somebody has series of it")
	}
	all[1].end()
	if len(r.families) != 0 {
		t.Errorf("the family is remembered, and nobody has series of it")
	}
}

func TestSteadyPageAllocatesLittle(t *testing.T) {
	page := applicationPage(100)
	m := newTestMemory(2000)
	body := append(make([]byte, 0, len(page)+1), page...)
	dst, _, failed := m.read(nil, body, text, noon)
	if failed != nil {
		t.Fatal(failed.err)
	}
	got := testing.AllocsPerRun(20, func() { dst, _, _ = m.read(dst[:0], body, text, noon) })
	if got > 20 {
		t.Errorf("allocations for a page of 100 known series: got %v, want at most 20", got)
	}
}

// applicationPage has n series, of a summary, a histogram and counters.
func applicationPage(n int) string {
	var b strings.Builder
	for i := 0; n > 0; i++ {
		fmt.Fprintf(&b, "# HELP request_seconds_%d How long requests took.\n# TYPE request_seconds_%d histogram\n", i, i)
		for _, le := range []string{"0.005", "0.01", "0.1", "0.5", "1.0", "5.0", "+Inf"} {
			if n--; n >= 0 {
				fmt.Fprintf(&b, "request_seconds_%d_bucket{handler=\"/api/v1/things\",le=%q} %d\n", i, le, 1000+n)
			}
		}
		if n--; n >= 0 {
			fmt.Fprintf(&b, "request_seconds_%d_sum{handler=\"/api/v1/things\"} 123.456\n", i)
		}
	}
	return b.String()
}

func BenchmarkPage100(b *testing.B) {
	page := applicationPage(100)
	m := newTestMemory(2000)
	body := append(make([]byte, 0, len(page)+1), page...)
	dst, _, _ := m.read(nil, body, text, noon)
	b.ReportAllocs()
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		dst, _, _ = m.read(dst[:0], body, text, noon)
	}
	if len(dst) != 100 {
		b.Fatalf("%d points", len(dst))
	}
}

func FuzzPage(f *testing.F) {
	pages, _ := filepath.Glob("testdata/*.page")
	for _, file := range pages {
		if b, err := os.ReadFile(file); err == nil {
			f.Add(b, true)
			f.Add(b, false)
		}
	}
	f.Add([]byte(`a{guest="x",exported_guest="y",__z="1",x="\xff"} NaN 1`+"\n# EOF\n"), true)
	f.Add([]byte("a 1\na 2\ntestbed_x 1\n{\"q\",\"w\"=\"e\"} 1\n"), false)
	f.Fuzz(func(t *testing.T, page []byte, om bool) {
		m := newTestMemory(50)
		kind := text
		if om {
			kind = openMetrics
		}
		if _, _, failed := take(m, "a 1\nb{x=\"y\"} 2\n", text, noon); failed != nil {
			t.Fatal(failed.err)
		}
		for i := range 2 {
			points, _, failed := take(m, string(page), kind, noon.Add(time.Duration(i+1)*time.Second))
			if failed != nil && strings.HasPrefix(failed.err.Error(), "panic") {
				t.Log(failed.err) // it is survived; here it is of interest
			}
			seen := map[string]bool{}
			for _, p := range points {
				s := p.Series
				if seen[s.Text()] || s.Label("guest") != "web" || s.Label("port") != "8000" || !sample.ValidMetricName(s.Name()) ||
					len(s.Labels().All()) > maxLabels+2 || strings.HasPrefix(s.Name(), "testbed_") || strings.HasPrefix(s.Name(), "fanin_") {
					t.Errorf("%s is taken", s.Text())
				}
				seen[s.Text()] = true
				for _, l := range s.Labels().All() {
					if !sample.ValidLabelName(l.Name) || len(l.Value) > maxLabelValue {
						t.Errorf("%s has a label that no page can carry", s.Text())
					}
				}
			}
			if len(points) > 50+2 || failed != nil && len(points) > 0 || m.held.series != len(m.series) || m.room.used != m.held {
				t.Errorf("%d points, %v; %d series, %d counted", len(points), failed, len(m.series), m.held.series)
			}
		}
		m.end()
		if m.room.used != (usage{}) || len(m.room.families) > 0 || len(m.lines) > 0 {
			t.Errorf("something is left: %+v", m.room.used)
		}
	})
}

// What is left out of pages for its length takes no memory when they are gone,
// and neither do names and helps that nobody has a series of; what comes after
// it is taken all the same.
func TestLongLinesAreForgotten(t *testing.T) {
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	long := strings.Repeat("x", defaultPage-200)
	for what, form := range map[string]string{
		"a label":            "a{x=\"%d%s\"} 1\nb 1\n",
		"a type":             "# TYPE a%d%s gauge\nb 1\n",
		"a help":             "# HELP a%d %s\nb 1\n",
		"a help of a series": "# HELP a%[1]d %[2]s\na%[1]d 1\nb 1\n",
	} {
		m := newTestMemory(2000)
		before := heap()
		for i := range 20 { // one a second
			points, _, failed := take(m, fmt.Sprintf(form, i, long), text, noon.Add(time.Duration(i)*time.Second))
			if failed != nil || !slices.Contains(texts(points), `b{`+own+`} 1`) {
				t.Fatalf("%s, page %d: got %v, %v, want b", what, i, texts(points), failed)
			}
		}
		// Two pages of lines, and one page's worth of what is being read.
		if more := heap() - before; more > 4*defaultPage {
			t.Errorf("%s: after 20 pages %d KiB are held of a target with %d series", what, more>>10, len(m.series))
		}
		m.end()
		if m.written != 0 || len(m.lines) != 0 {
			t.Errorf("%s: in the end %d bytes of %d lines are held", what, m.written, len(m.lines))
		}
	}
}

// A page whose lines do not fit into what is remembered is read like any other.
func TestMoreLinesThanAreRemembered(t *testing.T) {
	m := newTestMemory(2000)
	m.mostWritten = 10
	for i := range 3 {
		points, left, failed := take(m, "a{x=\"1\"} 1\na{x=\"2\"} 2\na{x=\"2\"} 3\ntestbed_x 1\n", text, noon.Add(time.Duration(i)*time.Second))
		want := []string{`a{` + own + `,x="1"} 1`, `a{` + own + `,x="2"} 2`}
		if got := texts(points); failed != nil || !slices.Equal(got, want) || left.String() != "reserved_name=1 repeated=1" {
			t.Errorf("page %d: got %v, left out %s, %v, want %v", i, got, left, failed, want)
		}
		if m.written > m.mostWritten {
			t.Errorf("page %d: %d bytes of lines are held, want at most %d", i, m.written, m.mostWritten)
		}
	}
}
