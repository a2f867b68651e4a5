package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"fanin/internal/e2e/rig"
)

// lastOf is the newest value on a line of a chart, in JavaScript.
func lastOf(chart, name string) string {
	return fmt.Sprintf(`(() => {
		const u = document.getElementById(%q).plot, i = u.series.findIndex((s) => s.label === %q);
		return u.data[i].findLast((v) => v != null);
	})()`, "chart-"+chart, name)
}

// legendOf is what the table below a chart says of a line.
func legendOf(chart, name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#chart-%s .u-series")].find((r) => r.querySelector(".u-label").textContent === %q).querySelector(".u-value").textContent`, chart, name)
}

// hasLines is true when a chart has lines in several colours.
func hasLines(chart string) string {
	return fmt.Sprintf(`(() => {
		const f = document.getElementById("chart-%s"), c = f.querySelector("canvas");
		if (!c || !f.plot) return false;
		const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, seen = new Map();
		for (let i = 0; i < d.length; i += 4) if (d[i+3] > 200) { const k = d[i] << 16 | d[i+1] << 8 | d[i+2]; seen.set(k, (seen.get(k) || 0) + 1); }
		const rgb = (s) => parseInt(s.slice(1, 7), 16);
		return f.plot.series.slice(1).length > 0 && f.plot.series.slice(1).every((s) => (seen.get(rgb(s._stroke)) || 0) > 20);
	})()`, chart)
}

// loaded waits until the charts have been drawn n times.
func loaded(tab *rig.Tab, n int) {
	tab.Until(40*time.Second, fmt.Sprintf(`Number(document.getElementById("charts")?.dataset.drawn || 0) >= %d`, n))
}

func clean(t *testing.T, tab *rig.Tab, url string) {
	t.Helper()
	for _, line := range tab.Console() {
		if strings.Contains(line, "willReadFrequently") { // it is the test that reads the canvases
			continue
		}
		t.Errorf("on the console: %s", line)
	}
	for _, other := range tab.Elsewhere(url) {
		t.Errorf("a request elsewhere: %s", other)
	}
}

// TestPageCharts: the charts of a deployment's page have the right lines and
// go on by themselves; what the reader does to them works.
func TestPageCharts(t *testing.T) {
	needScript(t)
	l := newPageLab(t, []string{"alpha", "beta"}, []string{"web", "db", "probe"})
	now := time.Now().Truncate(time.Second)
	for at := now.Add(-8 * time.Minute); !at.After(now.Add(-2 * time.Second)); at = at.Add(time.Second) {
		l.tellAll(at)
	}
	// The newest are told apart from what the curves say.
	still := []told{
		{"lab-web", "testbed_guest_cpu", "", 42},
		{"lab-db", "testbed_guest_cpu", "", 17.5},
		{"lab-web", "testbed_guest_memory_usage_bytes", "", 512 << 20},
		{"", "testbed_host_cpu", "", 63},
	}
	time.Sleep(time.Until(now.Add(5 * time.Second)))
	at := time.Now().Truncate(time.Second)
	for k := range 6 {
		l.tellAll(at.Add(time.Duration(k-5)*time.Second), still...)
	}
	l.collected(at)

	tab := rig.Chromium(t, 1200, 900)
	tab.Do(chromedp.Navigate(l.url + "/dashboard/lab?range=300"))
	loaded(tab, 1)
	for chart, lines := range map[string]map[string]float64{
		"guest-cpu":    {"web": 42, "db": 17.5},
		"guest-memory": {"web": 512 << 20},
	} {
		for name, want := range lines {
			if got := rig.Ask[float64](tab, lastOf(chart, name)); math.Abs(got-want) > want*1e-4 {
				t.Errorf("%s of %s ends with %v, want %v", chart, name, got, want)
			}
		}
	}
	tab.Until(40*time.Second, hasLines("guest-cpu"))
	tab.Until(40*time.Second, hasLines("guest-received"))
	if got := rig.Ask[string](tab, legendOf("guest-cpu", "web")); got != "42.0 %" {
		t.Errorf("the legend says %q of web, want 42.0 %%", got)
	}
	// A rate, against what the history answers for that time.
	past := &rig.PrometheusServer{URL: l.url}
	ends := rig.Ask[[]float64](tab, `(() => { const u = document.getElementById("chart-guest-received").plot, v = u.data[u.series.findIndex((s) => s.label === "web")], i = v.findLastIndex((x) => x != null); return [u.data[0][i], v[i]]; })()`)
	when := time.UnixMilli(int64(ends[0] * 1000))
	answer := past.QueryRange(t, `rate(testbed_guest_network_receive_bytes_total{guest_name="web"}[4s])`, when, when, time.Second)
	if len(answer) != 1 || len(answer[0].Points) != 1 || math.Abs(answer[0].Points[0].V-ends[1]) > ends[1]*1e-4 {
		t.Errorf("web receives %v bytes/s at %v on the chart, %v in the history", ends[1], when, answer)
	}

	t.Run("goes on", func(t *testing.T) {
		before := rig.Ask[float64](tab, `document.getElementById("chart-guest-cpu").plot.data[0].at(-1)`)
		rig.Eventually(t, 40*time.Second, func() error {
			l.tellAll(time.Now().Truncate(time.Second), told{"lab-web", "testbed_guest_cpu", "", 77}, told{"lab-db", "testbed_guest_cpu", "", 17.5})
			time.Sleep(500 * time.Millisecond)
			v, err := rig.TryAsk[float64](tab, lastOf("guest-cpu", "web"))
			if err == nil && v != 77 {
				err = fmt.Errorf("web ends with %v, want 77", v)
			}
			return err
		})
		if after := rig.Ask[float64](tab, `document.getElementById("chart-guest-cpu").plot.data[0].at(-1)`); after <= before {
			t.Errorf("the time on the chart ends at %v, before it was %v", after, before)
		}
		if n := rig.Ask[float64](tab, `document.getElementById("chart-guest-cpu").plot.data[0].length`); n < 299 || n > 302 {
			t.Errorf("%v points on the chart, want 300", n)
		}
		if rig.Ask[string](tab, `performance.getEntriesByType("navigation")[0].type`) != "navigate" {
			t.Error("the page was loaded again")
		}
	})
	t.Run("hover", func(t *testing.T) {
		// One third from the left: the value at that time is in the legend, of
		// all charts.
		at := rig.Ask[[]float64](tab, `(() => { const r = document.querySelector("#chart-guest-cpu .u-over").getBoundingClientRect(); return [r.left + r.width / 3, r.top + r.height / 2]; })()`)
		tab.Do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at[0], at[1]))
		tab.Until(40*time.Second, `(() => { const u = document.getElementById("chart-guest-cpu").plot; return u.cursor.idx > 60 && u.cursor.idx < 140; })()`)
		for chart, name := range map[string]string{"guest-cpu": "web", "guest-memory": "db", "guest-sent": "probe"} {
			said := rig.Ask[string](tab, legendOf(chart, name))
			want := rig.Ask[float64](tab, fmt.Sprintf(`(() => { const u = document.getElementById("chart-guest-cpu").plot, o = document.getElementById("chart-%s").plot; return o.data[o.series.findIndex((s) => s.label === %q)][u.cursor.idx]; })()`, chart, name))
			if chart == "guest-cpu" && said != fmt.Sprintf("%.1f %%", want) || said == "–" {
				t.Errorf("%s of %s under the pointer: the legend says %q, the line is at %v", chart, name, said, want)
			}
		}
		tab.Do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, 5, 5))
	})
	t.Run("legend", func(t *testing.T) {
		row := `[...document.querySelectorAll("#chart-guest-cpu .u-series")].find((r) => r.querySelector(".u-label").textContent === "db").querySelector("th")`
		press := `(() => { const b = ` + row + `; b.focus(); b.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true})); return b.getAttribute("aria-pressed"); })()`
		if got := rig.Ask[string](tab, press); got != "false" {
			t.Errorf("Enter on the legend: aria-pressed is %q, want false", got)
		}
		if rig.Ask[bool](tab, `document.getElementById("chart-guest-cpu").plot.series.find((s) => s.label === "db").show`) {
			t.Error("Enter on the legend leaves the line on the chart")
		}
		rig.Ask[string](tab, press)
		tab.Until(40*time.Second, `document.getElementById("chart-guest-cpu").plot.series.find((s) => s.label === "db").show`)
	})
	t.Run("zoom", func(t *testing.T) {
		box := rig.Ask[[]float64](tab, `(() => { const r = document.querySelector("#chart-guest-cpu .u-over").getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()`)
		y := box[1] + box[3]/2
		tab.Do(chromedp.DragAndDropXY(box[0]+box[2]*0.2, y, box[0]+box[2]*0.4, y))
		tab.Until(40*time.Second, `new URLSearchParams(location.search).has("from") && document.getElementById("chart-guest-cpu").plot.data[0].length < 120`)
		n := rig.Ask[float64](tab, `(() => { const x = document.getElementById("chart-guest-memory").plot.data[0]; return x.at(-1) - x[0]; })()`)
		if n < 40 || n > 80 {
			t.Errorf("a fifth of 300 s is drawn as %v s", n)
		}
		tab.Do(chromedp.Click(chromedp.CSS(".range .back")))
		tab.Until(40*time.Second, `!new URLSearchParams(location.search).has("from") && document.getElementById("chart-guest-cpu").plot.data[0].length >= 299`)
	})
	t.Run("range", func(t *testing.T) {
		tab.Do(chromedp.Click(chromedp.CSS(`.range button[data-seconds="900"]`)))
		tab.Until(40*time.Second, `(() => { const x = document.getElementById("chart-guest-cpu").plot.data[0]; return x.at(-1) - x[0] > 880; })()`)
		if got := rig.Ask[string](tab, `document.querySelector('.range button[aria-pressed="true"]').textContent`); got != "15 min" {
			t.Errorf("%q is marked, want 15 min", got)
		}
		gap := rig.Ask[bool](tab, `document.getElementById("chart-guest-cpu").plot.data[1][0] === null`)
		if !gap {
			t.Error("there is a value for a time from which there are no samples")
		}
	})
	t.Run("choose", func(t *testing.T) {
		tab.Do(chromedp.Click(chromedp.CSS(`#guest-probe [data-name]`)))
		rig.Ask[bool](tab, `scrollTo(0, 0) === undefined`) // what is not in view is not drawn
		tab.Until(40*time.Second, `(() => { const u = document.getElementById("chart-guest-cpu").plot; return u.series.find((s) => s.label === "probe").width > u.series.find((s) => s.label === "web").width; })()`)
		time.Sleep(2500 * time.Millisecond) // the page is fetched again
		if got := rig.Ask[string](tab, `document.querySelector("#guest-probe [data-name]").getAttribute("aria-pressed")`); got != "true" {
			t.Errorf("the chosen guest is marked %q, want true", got)
		}
	})
	t.Run("disturbed", func(t *testing.T) {
		// One guest waits for a core all the time. A verdict is stored every 5 s.
		rig.Eventually(t, 60*time.Second, func() error {
			l.tellAll(time.Now().Truncate(time.Second))
			time.Sleep(500 * time.Millisecond)
			text, err := rig.TryAsk[string](tab, `document.querySelector("#charts .disturbed").textContent`)
			if err == nil && !strings.HasPrefix(text, "Shaded: the testbed itself disturbed") {
				err = fmt.Errorf("of the disturbance it says %q", text)
			}
			return err
		})
		tab.Until(40*time.Second, `(() => {
			const u = document.getElementById("chart-guest-cpu").plot, c = u.ctx.canvas, b = u.bbox;
			const d = u.ctx.getImageData(Math.floor(b.left + b.width * 0.9), b.top + 4, Math.floor(b.width * 0.1), 1).data;
			for (let i = 0; i < d.length; i += 4) if (d[i] > 150 && d[i] - d[i+2] > 40 && d[i+3] > 30) return true;
			return false;
		})()`)
	})
	t.Run("runs", func(t *testing.T) {
		write := func(button, text string) {
			t.Helper()
			rig.Ask[bool](tab, `document.querySelector(".runs input").focus() === undefined`)
			tab.Do(chromedp.KeyEvent(text))
			rig.Ask[bool](tab, fmt.Sprintf(`[...document.querySelectorAll(".runs .range button")].find((b) => b.textContent === %q).click() === undefined`, button))
		}
		names := []string{"first", `<img src=x onerror="window.hit=1">`}
		for _, name := range names {
			write("Start run", name)
			tab.Until(40*time.Second, fmt.Sprintf(`document.querySelector(".runs .range span").textContent.startsWith("Run " + %q)`, name))
			write("Mark", name+" marked")
			tab.Until(40*time.Second, `[...document.querySelectorAll(".runs li")][0]?.textContent.includes(", 1 mark ")`)
			l.tellAll(time.Now().Truncate(time.Second))
			time.Sleep(1100 * time.Millisecond)
			l.tellAll(time.Now().Truncate(time.Second))
			write("Stop run", "")
			tab.Until(40*time.Second, `document.querySelector(".runs .range span").textContent === ""`)
		}
		rig.Ask[bool](tab, `(document.querySelector(".runs details").open = true) && [...document.querySelectorAll(".runs li input")].slice(0, 2).every((b) => (b.click(), true))`)
		tab.Until(40*time.Second, `document.querySelectorAll(".runs table tbody tr").length > 3`)
		if got := rig.Ask[string](tab, `document.querySelector(".runs caption").textContent`); !strings.Contains(got, names[0]) || !strings.Contains(got, names[1]) {
			t.Errorf("compared: %q, want %q", got, names)
		}
		if kind := rig.Ask[string](tab, `fetch(document.querySelector(".runs li a").href).then((r) => r.status + " " + r.headers.get("Content-Type"))`); !strings.HasPrefix(kind, "200 application/") {
			t.Errorf("the archive: %s", kind)
		}
		if rig.Ask[bool](tab, `"hit" in window`) {
			t.Error("the name of a run has become more than text")
		}
	})
	t.Run("dark", func(t *testing.T) {
		rig.Ask[bool](tab, `document.getElementById("chart-guest-cpu").scrollIntoView() === undefined`)
		before := rig.Ask[string](tab, `document.getElementById("chart-guest-cpu").plot.axes[0].stroke()`)
		setDark(t, tab, true)
		tab.Until(40*time.Second, fmt.Sprintf(`document.getElementById("chart-guest-cpu").plot?.axes[0].stroke() !== %q`, before))
		setDark(t, tab, false)
	})
	t.Run("keyboard", func(t *testing.T) {
		names := rig.Ask[[]string](tab, `[...document.querySelectorAll("button,input,[tabindex],[role=button]")].filter((e) => e.tabIndex < 0 || !(e.textContent.trim() || e.getAttribute("aria-label") || e.placeholder || e.labels?.length)).map((e) => e.outerHTML.slice(0, 80))`)
		if len(names) > 0 {
			t.Errorf("can not be reached, or have no name: %v", names)
		}
		if n := rig.Ask[int](tab, `document.querySelectorAll('canvas:not([aria-label])').length`); n > 0 {
			t.Errorf("%d canvases without a label", n)
		}
	})
	clean(t, tab, l.url)
}

// TestPageTable: sorting and finding, which outlast the page's own changes.
func TestPageTable(t *testing.T) {
	needScript(t)
	guests := []string{"web10", "web2", "db1", "cache"}
	l := newPageLab(t, []string{"alpha", "beta"}, guests)
	tell := func() {
		at := time.Now()
		for h, host := range l.hosts {
			var all []told
			for i := h; i < len(guests)-1; i += len(l.hosts) { // cache says nothing
				all = append(all, told{"lab-" + guests[i], "testbed_guest_up", "", 1}, told{"lab-" + guests[i], "testbed_guest_cpu", "", float64(10 * (i + 1))})
			}
			l.tell(host, at, append(all, l.host(h, at)...)...)
		}
	}
	tell()
	tab := rig.Chromium(t, 1200, 900)
	tab.Do(chromedp.Navigate(l.url + "/dashboard/lab"))
	rows := `[...document.querySelectorAll("#guests-table tbody tr:not([hidden])")].map((r) => r.id.slice(6))`
	order := func(want ...string) {
		t.Helper()
		var got []string
		for range 3 { // twice after it was fetched again
			tell()
			if got = rig.Ask[[]string](tab, rows); !slices.Equal(got, want) {
				break
			}
			time.Sleep(1100 * time.Millisecond)
		}
		if !slices.Equal(got, want) {
			t.Errorf("the guests are %v, want %v", got, want)
		}
	}
	tab.Until(40*time.Second, `document.querySelectorAll("#guests-table tbody tr").length === 4 && document.querySelector("#guest-web10 td.n[data-v]") !== null`)
	head := func(n int) {
		tab.Do(chromedp.Click(chromedp.CSS(fmt.Sprintf("#guests-table thead th:nth-child(%d)", n))))
	}
	tab.Until(40*time.Second, `document.querySelector("#guest-db1 td:nth-child(6)").dataset.v === "30"`)
	head(6) // CPU
	order("db1", "web2", "web10", "cache")
	if got := rig.Ask[string](tab, `document.querySelector("#guests-table th:nth-child(6)").getAttribute("aria-sort")`); got != "descending" {
		t.Errorf("aria-sort is %q, want descending", got)
	}
	head(6)
	order("web10", "web2", "db1", "cache")
	head(1)
	order("cache", "db1", "web2", "web10")

	rig.Ask[bool](tab, `document.querySelector("#guests-find input").focus() === undefined`)
	tab.Do(chromedp.KeyEvent("web"))
	order("web2", "web10")
	if got := rig.Ask[string](tab, `document.getElementById("found").textContent`); got != "2 of 4" {
		t.Errorf("found: %q, want 2 of 4", got)
	}
	if got := rig.Ask[string](tab, `document.querySelector("#guests-find input").value`); got != "web" {
		t.Errorf("the field says %q after the page has changed, want web", got)
	}
	why := rig.Ask[string](tab, `document.querySelector("#guest-cache .why").textContent`)
	if badge := rig.Ask[string](tab, `document.querySelector("#guest-cache .badge").textContent`); badge != "down" || why == "" {
		t.Errorf("of the guest that says nothing the page says %q, %q", badge, why)
	}
	clean(t, tab, l.url)
}

// hostile are names that would do something if a page took them for more than
// text.
func hostile() []string {
	all := []string{
		`<script>window.hit=1</script>`, `"><img src=x onerror=window.hit=1>`, `'><svg onload=window.hit=1>`, `</script><script>window.hit=1</script>`,
		`javascript:window.hit=1`, `${window.hit=1}`, `{{.}}`, `{{constructor.constructor('window.hit=1')()}}`, `<iframe srcdoc="<script>parent.hit=1</script>">`,
		`<a href=javascript:window.hit=1>x</a>`, `" onmouseover="window.hit=1`, `' autofocus onfocus='window.hit=1`, `--></style><script>window.hit=1</script>`,
		`<base href=//elsewhere.example/>`, `<link rel=stylesheet href=//elsewhere.example/x.css>`, `<meta http-equiv=refresh content="0;url=//elsewhere.example/">`,
		`<object data=//elsewhere.example/>`, `<form action=//elsewhere.example/><input autofocus>`, "\u202egnp.exe", "a\u0000b", "tab\tnew\nline", "\ufeff", "\u200b",
		`../../../etc/passwd`, `%3Cscript%3Ewindow.hit=1%3C/script%3E`, `&lt;script&gt;window.hit=1&lt;/script&gt;`, `__proto__`, `constructor`, `toString`, `hasOwnProperty`,
		`]]>`, `<!--`, `*/window.hit=1/*`, `\`, `\"`, `\u003cscript\u003e`, `'`, `"`, "`", `;window.hit=1//`,
	}
	for len(all) < 50 {
		all = append(all, strings.Repeat(fmt.Sprintf("<b id=hit%d>", len(all)), len(all)))
	}
	return all
}

// TestPageHostile: what comes from outside is text on the pages, wherever it
// gets to.
func TestPageHostile(t *testing.T) {
	needScript(t)
	l := newPageLab(t, []string{"alpha"}, []string{"web"})
	names := hostile()
	at := time.Now()
	all := append(l.of(0, at), l.host(0, at)...)
	for _, name := range names {
		// As the name of a guest that nobody owns, of a device of one that is
		// owned, and as a reason.
		all = append(all, told{name, "testbed_guest_up", "", 1}, told{"lab-" + name, "testbed_guest_cpu", "", 50},
			told{"lab-web", "testbed_guest_network_receive_bytes_total", name, 1}, told{"", "testbed_host_disk_read_bytes_total", name, 1})
	}
	for _, n := range all {
		l.tellOne("alpha", at, n)
	}
	tab := rig.Chromium(t, 1000, 800)
	for _, path := range []string{"/dashboard/", "/dashboard/lab"} {
		tab.Do(chromedp.Navigate(l.url + path))
		loaded(tab, 1)
		rig.Ask[int](tab, `document.querySelectorAll("details").forEach((d) => d.open = true) || 0`)
		time.Sleep(2500 * time.Millisecond)
	}
	tab.Do(chromedp.Navigate(l.url + "/dashboard/"))
	tab.Until(40*time.Second, `document.querySelectorAll("#unowned tbody tr").length > 20`)
	before := len(tab.Console())
	for _, name := range names {
		q, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		// In the address, and in the search field.
		rig.Ask[string](tab, `fetch("lab?range=" + encodeURIComponent(`+string(q)+`) + "&from=" + encodeURIComponent(`+string(q)+`)).then((r) => 0) && ""`)
	}
	tab.Do(chromedp.Navigate(l.url + `/dashboard/lab?range=%3Cscript%3Ewindow.hit%3D1%3C%2Fscript%3E&from=1e999&to=javascript:window.hit=1`))
	loaded(tab, 1)
	if rig.Ask[bool](tab, `"hit" in window || document.querySelector("[id^=hit]:not(#hit)") !== null || document.querySelector("main script, main base, main object, main img:not([alt])") !== null`) {
		t.Error("a name has become more than text")
	}
	if refused := rig.Ask[string](tab, `fetch("-/charts/lab?name=" + encodeURIComponent('"})or(up{a="')).then(async (r) => r.status + (await r.text()).slice(0, 200))`); !strings.HasPrefix(refused, "200") {
		t.Errorf("a name that is PromQL: %s", refused)
	}
	if got := tab.Console()[before:]; len(got) > 0 {
		t.Errorf("on the console: %q", got)
	}
	clean(t, tab, l.url)
}

// TestPageLarge: 500 guests are drawn at once, and little is loaded for it.
func TestPageLarge(t *testing.T) {
	needScript(t)
	var guests []string
	for i := range 500 {
		guests = append(guests, fmt.Sprintf("node-%03d", i))
	}
	l := newPageLab(t, []string{"alpha", "beta", "gamma", "delta"}, guests)
	l.interval = 5 * time.Second
	now := time.Now().Truncate(time.Second)
	for at := now.Add(-5 * time.Minute); !at.After(now); at = at.Add(5 * time.Second) {
		l.tellAll(at)
	}
	l.collected(now)
	tab := rig.Chromium(t, 1280, 900)
	tab.Do(chromedp.Navigate(l.url + "/dashboard/lab?range=300"))
	loaded(tab, 1)
	tab.Until(40*time.Second, hasLines("guest-cpu"))
	bytes := tab.Bytes()
	paint := rig.Ask[float64](tab, `performance.getEntriesByName("first-contentful-paint")[0].startTime`)
	t.Logf("500 guests: %d bytes loaded, first paint after %.0f ms", bytes, paint)
	if bytes > 300_000 {
		t.Errorf("%d bytes were loaded, want at most 300,000", bytes)
	}
	if n := rig.Ask[int](tab, `document.querySelectorAll("canvas").length`); n > 12 {
		t.Errorf("%d canvases, want at most 12", n)
	}
	if n := rig.Ask[int](tab, `document.getElementById("chart-guest-cpu").plot.series.length - 1`); n != 10 {
		t.Errorf("%d lines on a chart of 500 guests, want 10", n)
	}
	if text := rig.Ask[string](tab, `document.querySelector("#chart-guest-cpu .left-out").textContent`); !strings.HasPrefix(text, "490 more") {
		t.Errorf("of the lines that are not drawn it says %q", text)
	}
	picture(t, tab, "large")
	clean(t, tab, l.url)
}
