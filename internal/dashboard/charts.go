package dashboard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"fanin/internal/charts"
	"fanin/internal/deployment"
	"fanin/internal/presence"
)

const (
	chartRange  = 15 * time.Minute // unless it is asked for
	longest     = 400 * 24 * time.Hour
	mostNames   = 128 // that one request may name
	mostPoints  = 1000
	drawWithin  = 12 * time.Second // all of a page's charts; the server cuts an answer at 15 s
	pictureEach = 2 * time.Second  // a page without script gets new pictures
)

// chartsView are the charts of a page.
type chartsView struct {
	Kept    bool // there is a history
	Script  bool // they are drawn by the page's script
	Source  string
	Project string // "" for the page of all hosts
	Panels  []chartView
}

// chartView is the place of one.
type chartView struct {
	charts.Panel
	Picture string // address of the chart as a picture
}

func (d *Dashboard) chartsView(project string) chartsView {
	v := chartsView{Kept: d.Charts != nil, Script: d.Script, Source: chartsPath + url.PathEscape(project), Project: project}
	if !v.Kept {
		return v
	}
	// The time is there to have a browser fetch the picture again.
	at := strconv.FormatInt(d.Now().Truncate(pictureEach).Unix(), 10)
	for _, p := range charts.Of(project) {
		v.Panels = append(v.Panels, chartView{p, v.Source + "?picture=" + p.ID + "&at=" + at})
	}
	return v
}

// chartsPath is below the pages.
const chartsPath = "-/charts/"

// serveCharts answers with the lines of a deployment's charts, or those of all
// hosts, as JSON; with ?picture=PANEL with one as SVG. The time is ?range= in
// seconds up to now, or ?start= and ?end= in seconds since 1970; ?step= in
// seconds; ?name= are guests and hosts wanted beside the largest, and with
// ?only=1 nothing else.
func (d *Dashboard) serveCharts(w http.ResponseWriter, r *http.Request, name string) {
	if d.Charts == nil {
		d.json(w, http.StatusNotFound, map[string]string{"error": "this gateway keeps no history: start it with --history.path=FOLDER"})
		return
	}
	project := d.Roster().Project(name)
	if name != "" && project == nil {
		d.json(w, http.StatusNotFound, map[string]string{"error": "there is no such deployment"})
		return
	}
	request, err := chartsRequest(r.URL.Query(), d.Now())
	if err != nil {
		d.json(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	request.Scope = scopeOf(project, d.Report())
	var panel *charts.Panel
	if id := r.URL.Query().Get("picture"); id != "" {
		for _, p := range charts.Of(name) {
			if p.ID == id {
				panel, request.Panel = &p, id
			}
		}
		if panel == nil {
			d.json(w, http.StatusNotFound, map[string]string{"error": "there is no such chart"})
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), drawWithin)
	defer cancel()
	answer, err := d.Charts.Draw(ctx, request)
	if err != nil {
		d.Log.Debug("charts could not be drawn", "err", err)
		d.json(w, http.StatusServiceUnavailable, map[string]string{"error": "the history does not answer now: " + err.Error()})
		return
	}
	if panel != nil {
		w.Header().Set("Content-Type", "image/svg+xml")
		_, _ = w.Write(charts.Picture(*panel, answer))
		return
	}
	d.script(w, answer)
}

// scopeOf is a deployment and its hosts, or with nil all hosts.
func scopeOf(p *deployment.Project, report *presence.Report) (s charts.Scope) {
	if p != nil {
		s.Deployment, s.Hosts = p.Name, p.Hosts
	}
	for i := range report.Hosts {
		h := &report.Hosts[i]
		if p != nil && !slices.Contains(p.Hosts, h.Host.Name) {
			continue
		}
		s.Interval = max(s.Interval, h.Interval)
		if h.Up {
			s.Heard = max(s.Heard, h.Interval)
		}
	}
	return s
}

// chartsRequest reads a request's time and names.
func chartsRequest(q url.Values, now time.Time) (r charts.Request, err error) {
	seconds := func(name string) (float64, error) {
		text := q.Get(name)
		if text == "" {
			return 0, nil
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || v < 0 || v > 1e11 {
			return 0, fmt.Errorf("%s=%s is no number of seconds", name, strconv.QuoteToASCII(short(text)))
		}
		return v, nil
	}
	var v [4]float64
	for i, name := range []string{"range", "start", "end", "step"} {
		if v[i], err = seconds(name); err != nil {
			return r, err
		}
	}
	r.End = now
	if v[2] > 0 && v[2] < float64(now.Unix()) {
		r.End = time.UnixMilli(int64(v[2] * 1000))
	}
	switch {
	case v[1] > 0:
		r.Start = time.UnixMilli(int64(v[1] * 1000))
	case v[0] > 0:
		r.Over = time.Duration(min(v[0], longest.Seconds()) * float64(time.Second))
	default:
		r.Over = chartRange
	}
	r.Step = max(time.Duration(v[3]*float64(time.Second)), 0).Truncate(time.Second)
	over := r.Over
	if over == 0 {
		over = r.End.Sub(r.Start)
	}
	if over > longest || r.Step > 0 && over/r.Step > mostPoints {
		return r, fmt.Errorf("at most %d points and %d days can be asked for: choose a larger step", mostPoints, int(longest.Hours()/24))
	}
	r.Names, r.Only = q["name"], q.Get("only") == "1"
	if len(r.Names) > mostNames {
		return r, errors.New("at most " + strconv.Itoa(mostNames) + " names can be asked for")
	}
	return r, nil
}
