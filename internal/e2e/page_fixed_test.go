package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"fanin/internal/e2e/rig"
)

// TestPageFixed: a fixed time is drawn as soon as the gateway has it, stays what
// it is while the reader is elsewhere, and one that can not be is none.
func TestPageFixed(t *testing.T) {
	needScript(t)
	l := newPageLab(t, []string{"alpha"}, []string{"web"})
	now := time.Now().Truncate(time.Second)
	for at := now.Add(-2 * time.Minute); !at.After(now); at = at.Add(time.Second) {
		l.tellAll(at)
	}
	l.collected(now)

	// A proxy that counts what is asked for, and refuses the first of it.
	gateway, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	proxy := httputil.NewSingleHostReverseProxy(gateway)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/-/charts/") && asked.Add(1) == 1 {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"error": "the history is being opened"}`))
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close) // once the tab is closed, which holds connections
	tab := rig.Chromium(t, 1200, 900)

	drawn := func(from, to int64) string {
		return fmt.Sprintf(`(() => { const x = document.getElementById("chart-guest-cpu").plot?.data[0]; return x?.[0] === %d && x.at(-1) === %d; })()`, from, to)
	}
	end := now.Unix() - 20
	tab.Do(chromedp.Navigate(fmt.Sprintf("%s/dashboard/lab?from=%d&to=%d", server.URL, end-60, end)))
	tab.Until(40*time.Second, drawn(end-60, end))
	if rig.Ask[bool](tab, `"problem" in document.getElementById("charts").dataset`) {
		t.Error("the page still says that the history does not answer")
	}

	// One request is under way at a time: what coming back asks for is counted
	// once the time that is asked for next is drawn.
	before := asked.Load()
	rig.Ask[bool](tab, `[true, false].every((hidden) => {
		Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
		return document.dispatchEvent(new Event("visibilitychange"));
	})`)
	rig.Ask[bool](tab, fmt.Sprintf(`[%d, %d].every((t, i) => {
		const d = new Date(t * 1000);
		document.querySelectorAll(".range input[type=datetime-local]")[i].value = new Date(d - d.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
		return true;
	}) && document.querySelector("#charts form.range:has(input[type=datetime-local])").requestSubmit() === undefined`, end-40, end-10))
	tab.Until(40*time.Second, drawn(end-40, end-10))
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d requests after the reader has come back and chosen another time, want 1", n)
	}

	// One that the gateway refuses is not asked for again and again.
	before = asked.Load()
	tab.Do(chromedp.Navigate(server.URL + "/dashboard/lab?from=1000&to=1000000000"))
	tab.Until(40*time.Second, `"problem" in document.getElementById("charts").dataset`)
	time.Sleep(3 * time.Second)
	if n := asked.Load() - before; n != 1 {
		t.Errorf("what is refused was asked for %d times, want once", n)
	}

	for _, query := range []string{"from=1&to=1e300", "from=1e300&to=1e301", "from=-1&to=NaN", "range=1e300"} {
		tab.Do(chromedp.Navigate(server.URL + "/dashboard/lab?" + query))
		tab.Until(40*time.Second, `document.getElementById("chart-guest-cpu").plot?.data[0].length >= 299 && document.querySelector('.range button[aria-pressed="true"]')?.textContent === "15 min"`)
	}
	for _, line := range tab.Console() {
		if !strings.Contains(line, "503") && !strings.Contains(line, "400") {
			t.Errorf("on the console: %s", line)
		}
	}
}
