package history

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPatterns: the smallest requests with the largest regular expressions are
// refused before they take memory, and patterns as people write them are not.
func TestPatterns(t *testing.T) {
	p := begin(t, t.TempDir(), Options{})
	now := time.Now().Truncate(time.Second)
	p.push(lines(1000, now, now.Add(time.Second), time.Second))
	address := p.serve() + "/api/v1/"
	ask := func(path, name string, values ...string) (code int, text string, bytes uint64) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		resp, err := http.PostForm(address+path, url.Values{name: values, "start": {stamp(now)}, "end": {stamp(now)}, "step": {"1"}})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return resp.StatusCode, string(body), after.TotalAlloc - before.TotalAlloc
	}
	repeated := strings.Repeat("x{1000}", 2300)
	selector := `{a=~"` + repeated + `"}`
	few := `{a=~"` + strings.Repeat("x{1000}", 15) + `"}`
	for _, form := range []struct {
		path, name string
		values     []string
	}{
		{"query", "query", []string{selector}},
		{"query_range", "query", []string{selector}},
		{"query", "query", []string{`{a=~ # a comment` + "\n`" + repeated + "`}"}},
		{"query", "query", []string{`{"a"!~'((x{10}){10}){10}` + repeated + `'}`}},
		{"query", "query", []string{`up{a=~"` + strings.Repeat("(x{30}){30}", 20) + `"} + up{a=~"` + strings.Repeat(`.{900,}`, 20) + `"}`}},
		{"query", "query", []string{`label_replace(testbed_guest_test, "a", "", "b", ("` + repeated + `"))`}},
		{"query", "query", []string{few + "+" + few}},
		{"query", "query", []string{`{a=~"` + strings.Repeat(`\\pL`, 3000) + `"}`}},
		{"series", "match[]", []string{selector}},
		{"series", "match[]", []string{few, few}},
		{"labels", "match[]", slices.Repeat([]string{selector}, 20)},
		{"label/a/values", "match[]", slices.Repeat([]string{few}, 10)},
		{"series", "match[]", slices.Repeat([]string{strings.Repeat("u", 100)}, 200)},
	} {
		code, text, bytes := ask(form.path, form.name, form.values...)
		t.Logf("%s %.40s: %d KiB, %d %s", form.path, form.values[0], bytes>>10, code, text)
		if code != 400 || bytes > 8<<20 {
			t.Errorf("%s %.40s: %d MiB, %d %s", form.path, form.values[0], bytes>>20, code, text)
		}
	}
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint("g", i)
	}
	uuid := `|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`
	for pattern, matched := range map[string]int{
		strings.Join(names, "|"):               1000,
		"(" + strings.Join(names, "|") + ").*": 1000,
		"g[0-9]{2}" + strings.Repeat(uuid, 50): 90,
		"(?i)G1.{0,500}":                       111,
		".*7":                                  100,
	} {
		quoted := strings.ReplaceAll(pattern, `\`, `\\`)
		if code, text, bytes := ask("query", "query", `count({guest_name=~"`+quoted+`"})`); code != 200 || !strings.Contains(text, fmt.Sprintf("%q", fmt.Sprint(matched))) {
			t.Errorf("%.40s: %d %s", pattern, code, text)
		} else {
			t.Logf("%.40s: %d KiB", pattern, bytes>>10)
		}
		if code, text, _ := ask("series", "match[]", `{guest_name=~"`+quoted+`"}`); code != 200 || strings.Count(text, "__name__") != matched {
			t.Errorf("series of %.40s: %d %.200s", pattern, code, text)
		}
	}
	if code, text, bytes := ask("query", "query", few); code != 200 || bytes > 48<<20 {
		t.Errorf("the largest: %d MiB, %d %s", bytes>>20, code, text)
	} else {
		t.Logf("the largest: %d KiB", bytes>>10)
	}
}
