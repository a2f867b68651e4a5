package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"image"
	_ "image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"fanin/internal/e2e/rig"
)

var screenshots = flag.String("screenshots", "", "folder for pictures of the pages (make screenshots)")

// picture takes one of what is in the window.
func picture(t testing.TB, tab *rig.Tab, name string) image.Image {
	t.Helper()
	png, err := chromedp.Run(tab.Context(), chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if *screenshots != "" {
		if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	img, _, err := image.Decode(bytes.NewReader(png))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestPageScreens: light, dark and on a phone the page looks as it should: its
// ground is light or dark, and nothing stands out of the window.
func TestPageScreens(t *testing.T) {
	needScript(t)
	l := newPageLab(t, []string{"alpha", "beta"}, []string{"web", "db", "probe"})
	now := time.Now().Truncate(time.Second)
	for at := now.Add(-5 * time.Minute); !at.After(now); at = at.Add(time.Second) {
		l.tellAll(at)
	}
	l.collected(now)
	for _, s := range []struct {
		name          string
		width, height int
		dark          bool
	}{
		{"light", 1200, 1000, false}, {"dark", 1200, 1000, true}, {"phone", 390, 844, false},
	} {
		tab := rig.Chromium(t, s.width, s.height)
		setDark(t, tab, s.dark)
		tab.Do(chromedp.Navigate(l.url + "/dashboard/lab?range=300"))
		loaded(tab, 1)
		tab.Until(40*time.Second, hasLines("guest-cpu"))
		img := picture(t, tab, s.name)
		r, g, b, _ := img.At(img.Bounds().Max.X-3, 3).RGBA()
		if bright := (r + g + b) / 3 >> 8; s.dark != (bright < 80) || s.dark == (bright > 180) {
			t.Errorf("%s: the ground has a brightness of %d of 255", s.name, bright)
		}
		if over := rig.Ask[int](tab, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
			t.Errorf("%s: the page is %d pixels wider than the window", s.name, over)
		}
		clean(t, tab, l.url)
	}
}

// TestPagePictures: a gateway that was built without Node, and a reader without
// a script, have charts too, as pictures; and those of a page with a script for
// its tables go on by themselves.
func TestPagePictures(t *testing.T) {
	needScript(t)
	dir, root := t.TempDir(), rig.Root(t)
	overlay := map[string]map[string]string{"Replace": {}}
	for _, name := range []string{"charts.js", "charts.css"} {
		overlay["Replace"][filepath.Join(root, "internal/dashboard/assets/built", name)] = "" // not there
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(dir, "gateway"), "./cmd/gateway")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l := &pageLab{t: t, hosts: []string{"alpha"}, guests: []string{"web"}, url: fmt.Sprintf("http://127.0.0.1:%d", rig.FreePort(t))}
	l.write(filepath.Join(dir, "lab-state.json"))
	l.start(dir, filepath.Join(dir, "gateway"))
	now := time.Now().Truncate(time.Second)
	for at := now.Add(-time.Minute); !at.After(now); at = at.Add(time.Second) {
		l.tellAll(at)
	}
	l.collected(now)
	tab := rig.Chromium(t, 1000, 800)
	tab.Do(chromedp.Navigate(l.url + "/dashboard/lab"))
	const first = `document.querySelector("#charts img")`
	tab.Until(40*time.Second, first+`.complete && `+first+`.naturalWidth > 0`)
	before := rig.Ask[string](tab, first+".src")
	tab.Until(40*time.Second, fmt.Sprintf(`%s.src !== %q && %s.complete && %s.naturalWidth > 0`, first, before, first, first))
	svg := rig.Ask[string](tab, `fetch(`+first+`.src).then((r) => r.text())`)
	if !strings.Contains(svg, "<svg ") || !strings.Contains(svg, ">web ") || !strings.Contains(svg, `stroke-width="1.5"`) {
		t.Errorf("the picture has no line of web: %.600s", svg)
	}
	if n := rig.Ask[int](tab, `document.querySelectorAll("#charts canvas, #charts form").length`); n > 0 {
		t.Errorf("there are %d parts of a script that was not built", n)
	}
	clean(t, tab, l.url)
}
