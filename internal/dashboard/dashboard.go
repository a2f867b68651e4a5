// Package dashboard owns the pages for people, and the same facts as JSON for
// scripts: which deployments there are, which of their guests are up, where
// they are placed and what they use just now. It keeps nothing but the
// previous values of what somebody is looking at, to tell rates.
//
// Pages use relative links only, so they work below any prefix. They load
// nothing from elsewhere and hold no script and no style of their own.
package dashboard

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/klauspost/compress/gzip"

	"fanin/internal/charts"
	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/verdict"
	"fanin/internal/window"
)

//go:embed assets
var assets embed.FS

// Options say what the pages are made of.
type Options struct {
	Roster func() *deployment.Roster // needed
	Report func() *presence.Report   // needed
	Window *window.Store             // needed
	Charts *charts.Charts            // nil without a history
	Runs   http.Handler              // of /api/v1/runs; nil: there is none

	// Verdicts says who was kept from running; nil: that is not known.
	Verdicts func(*presence.Report) *verdict.Verdicts

	// Grafana is the base address under which a reader's browser finds
	// Grafana: a path such as /grafana, which is below the page's own origin,
	// or an http or https address. "" leaves the graphs out.
	Grafana string

	Now func() time.Time // time.Now when nil
	Log *slog.Logger     // slog.Default() when nil
}

// Dashboard serves the pages; its methods may be called from any goroutine.
type Dashboard struct {
	Options // immutable

	grafana *grafana // nil without Grafana
	policy  string   // Content-Security-Policy
	pages   *template.Template
	files   map[string]file

	// Script is whether the charts' script was there when this program was
	// built. Without it they are pictures.
	Script bool

	mu      sync.Mutex // guards current
	current map[string]*current
}

// file is one embedded file.
type file struct {
	kind, tag string
	body      []byte
}

// New checks the options. The error names --grafana.url.
func New(o Options) (*Dashboard, error) {
	d := &Dashboard{Options: o, files: map[string]file{}, current: map[string]*current{}}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.Default()
	}
	frames := "'self'"
	if o.Grafana != "" {
		g, err := newGrafana(o.Grafana)
		if err != nil {
			return nil, fmt.Errorf("--grafana.url %q: %w", o.Grafana, err)
		}
		d.grafana = g
		if g.origin != "" {
			frames += " " + g.origin
		}
	}
	d.policy = "default-src 'self'; frame-src " + frames + "; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"

	var err error
	if d.pages, err = template.New("").Funcs(words()).ParseFS(assets, "assets/*.html"); err != nil {
		return nil, err
	}
	for name, kind := range map[string]string{
		"dashboard.css":    "text/css; charset=utf-8",
		"dashboard.js":     "text/javascript; charset=utf-8",
		"table.js":         "text/javascript; charset=utf-8",
		"icon.svg":         "image/svg+xml",
		"built/charts.css": "text/css; charset=utf-8",
		"built/charts.js":  "text/javascript; charset=utf-8",
	} {
		body, err := assets.ReadFile("assets/" + name)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "built/") {
			continue
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(body)
		d.files[name] = file{kind: kind, tag: `"` + hex.EncodeToString(sum[:8]) + `"`, body: body}
	}
	_, d.Script = d.files["built/charts.js"]
	return d, nil
}

// Mount adds the pages at /dashboard/ and, where TestbedOS serves its own, at
// /api/metrics/dashboard/, and the JSON at /api/v1/deployments.
func (d *Dashboard) Mount(mux *http.ServeMux) {
	for _, prefix := range []string{"/dashboard", "/api/metrics/dashboard"} {
		mux.Handle(prefix+"/", packed(http.StripPrefix(prefix, d.Pages())))
		if d.Runs != nil {
			// For the pages' script, which knows no other address. A deployment
			// is never called "-".
			mux.Handle(prefix+"/-/api/v1/runs", http.StripPrefix(prefix+"/-", d.Runs))
			mux.Handle(prefix+"/-/api/v1/runs/", http.StripPrefix(prefix+"/-", d.Runs))
		}
	}
	api := packed(http.StripPrefix("/api/v1/deployments", d.API()))
	mux.Handle("/api/v1/deployments", api)
	mux.Handle("/api/v1/deployments/", api)
}

// packed compresses answers for those who take that.
func packed(h http.Handler) http.Handler {
	wrap, err := gzhttp.NewWrapper(gzhttp.MinSize(1400), gzhttp.CompressionLevel(gzip.BestSpeed))
	if err != nil {
		panic(err) // the options are constants
	}
	return wrap(h)
}

// Pages serves / (all deployments), /<project> and /-/<file>. No deployment
// is called "-".
func (d *Dashboard) Pages() http.Handler {
	return d.reading(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		switch {
		case name == "":
			d.page(w, http.StatusOK, "index", d.overview())
			return
		case strings.HasPrefix(name, chartsPath):
			d.serveCharts(w, r, name[len(chartsPath):])
			return
		case strings.HasPrefix(name, "-/"):
			if f, ok := d.files[name[2:]]; ok {
				f.serve(w, r)
				return
			}
		case strings.HasSuffix(name, "/") && deployment.ValidName(name[:len(name)-1]):
			// Relative, as a proxy may have taken a prefix off: from
			// .../<project>/ this is .../<project>.
			w.Header().Set("Location", "../"+name[:len(name)-1])
			w.WriteHeader(http.StatusMovedPermanently)
			return
		}
		if p := d.Roster().Project(name); p != nil {
			d.projectPage(w, p)
			return
		}
		if !deployment.ValidName(name) {
			name = ""
		}
		d.page(w, http.StatusNotFound, "missing", name)
	})
}

// API serves "" (all deployments) and /<project> as JSON. Field names are
// stable, unknown numbers are null; a deployment that is not there is
// {"error": "..."} with 404.
func (d *Dashboard) API() http.Handler {
	return d.reading(func(w http.ResponseWriter, r *http.Request) {
		name := strings.Trim(r.URL.Path, "/")
		if name == "" {
			d.json(w, http.StatusOK, d.overview())
		} else if p := d.Roster().Project(name); p != nil {
			d.json(w, http.StatusOK, d.detail(p))
		} else {
			d.json(w, http.StatusNotFound, map[string]string{"error": "there is no such deployment; /api/v1/deployments lists them"})
		}
	})
}

// reading lets GET and HEAD through and sets what every answer carries.
func (d *Dashboard) reading(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", d.policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "SAMEORIGIN")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are answered here", http.StatusMethodNotAllowed)
			return
		}
		next(w, r)
	})
}

// projectPage serves one page to all its readers for freshFor: with 1,000
// guests it takes 34 ms to make.
func (d *Dashboard) projectPage(w http.ResponseWriter, p *deployment.Project) {
	now := d.Now()
	c := d.currentOf(p.Name, now)
	c.pageMu.Lock()
	if c.page == nil || c.pageOf != p || !fresh(c.pageAt, now) {
		c.page, c.pageOf, c.pageAt = d.render("project", d.detail(p)), p, now
	}
	page := c.page
	c.pageMu.Unlock()
	d.html(w, http.StatusOK, page)
}

func (d *Dashboard) page(w http.ResponseWriter, status int, name string, data any) {
	d.html(w, status, d.render(name, data))
}

// render returns nil when the template fails, which is a mistake in it.
func (d *Dashboard) render(name string, data any) []byte {
	var b bytes.Buffer
	if err := d.pages.ExecuteTemplate(&b, name, data); err != nil {
		d.Log.Error("a page could not be made", "page", name, "err", err)
		return nil
	}
	return b.Bytes()
}

func (d *Dashboard) html(w http.ResponseWriter, status int, body []byte) {
	if body == nil {
		http.Error(w, "the page could not be made; the gateway's log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(body)
}

func (d *Dashboard) json(w http.ResponseWriter, status int, data any) {
	body, err := json.MarshalIndent(data, "", "  ")
	if err != nil {
		d.Log.Error("an answer could not be made", "err", err)
		http.Error(w, `{"error":"the answer could not be made; the gateway's log says why"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// script answers a page's script, which needs no line breaks.
func (d *Dashboard) script(w http.ResponseWriter, data any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(data); err != nil {
		d.Log.Debug("an answer was not sent", "err", err)
	}
}

// serve lets browsers keep the file and ask whether it has changed.
func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Type", f.kind)
	h.Set("ETag", f.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
}
