package exposition

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/window"
)

func (p *Pages) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

// counts is guarded by Pages.mu.
type counts struct {
	newest map[newestOnly]uint64
}

type newestOnly struct {
	name, path, reason string
}

func (c *counts) newestOnly(id window.ReaderID, reason string) {
	if c.newest == nil {
		c.newest = map[newestOnly]uint64{}
	}
	key := newestOnly{id.Name, id.Path, reason}
	if _, known := c.newest[key]; !known && len(c.newest) >= 16*window.MaxReaders {
		key.name = "other"
	}
	c.newest[key]++
}

// status is one reader as scripts see it.
type status struct {
	Reader       string `json:"reader"`
	Path         string `json:"path"`
	Node         string `json:"node,omitempty"`
	LastSeen     string `json:"last_seen"`
	LagPoints    uint64 `json:"lag_points"`
	Delivered    uint64 `json:"delivered_points"`
	Lost         uint64 `json:"lost_points"`
	TooOld       uint64 `json:"too_old_points"`
	Confirmation string `json:"confirmation"` // connection, or write: weaker
	Conflict     bool   `json:"conflict"`     // two scrapers use the name
}

// Readers answers with the readers of the window as JSON:
//
//	{"window": {"bytes", "max_bytes", "points", "collected", ...}, "readers": [...]}
//
// confirmation is "connection" when a page counts as collected once the same
// connection carries a later request, and "write" when nothing but the
// successful write speaks for it, which is weaker.
func (p *Pages) Readers() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connectionOf(r).confirm()
		tally := p.Window.Tally()
		readers := []status{}
		for _, s := range p.Window.Readers() {
			confirmation := "connection"
			if s.Weak {
				confirmation = "write"
			}
			readers = append(readers, status{
				Reader: s.Name, Path: s.Path, Node: s.Node, LastSeen: s.LastSeen.UTC().Format("2006-01-02T15:04:05.000Z"),
				LagPoints: s.Lag, Delivered: s.Delivered, Lost: s.Lost, TooOld: s.TooOld,
				Confirmation: confirmation, Conflict: p.inConflict(s.ReaderID),
			})
		}
		answer(w, map[string]any{
			"window": map[string]any{
				"bytes": tally.Bytes, "max_bytes": tally.MaxBytes, "points": tally.Points, "unread_points": tally.Unread,
				"refused_batches": tally.Full + tally.Share, "forgotten_readers": tally.Forgotten,
			},
			"readers": readers,
		})
	})
}

func (p *Pages) inConflict(id window.ReaderID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.callers[id]
	return of != nil && of.conflict
}

// Targets answers with one target for each node, for http_sd_configs
// (https://prometheus.io/docs/prometheus/latest/http_sd/): a page of that node
// alone, 503 while it is silent, so that up{instance=node} is true of it.
// ?scraper=NAME is handed on to the targets.
func (p *Pages) Targets() http.Handler {
	type target struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connectionOf(r).confirm()
		targets := []target{}
		var nodes []Node
		if p.Nodes != nil {
			nodes = slices.Clone(p.Nodes())
		}
		slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
		scraper := r.URL.Query().Get("scraper")
		if scraper != "" && !ValidReader(scraper) {
			http.Error(w, "scraper="+strconv.Quote(scraper)+" is no name of a reader", http.StatusBadRequest)
			return
		}
		for _, n := range nodes {
			labels := map[string]string{"__metrics_path__": "/metrics/testbed", "__param_node": n.Name, "instance": n.Name}
			if scraper != "" {
				labels["__param_scraper"] = scraper
			}
			targets = append(targets, target{[]string{r.Host}, labels})
		}
		answer(w, targets)
	})
}

func answer(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

// Register adds the metrics of the window and its readers.
func (p *Pages) Register(registerer prometheus.Registerer) error {
	return registerer.Register(&collector{
		pages:       p,
		bytes:       prometheus.NewDesc("fanin_window_bytes", "Memory of the points that wait for readers.", nil, nil),
		maxBytes:    prometheus.NewDesc("fanin_window_max_bytes", "What that memory is bounded by.", nil, nil),
		points:      prometheus.NewDesc("fanin_window_points", "Points that wait for readers.", nil, nil),
		unread:      prometheus.NewDesc("fanin_window_unread_points_total", "Points that fell out of the window while there was no named reader.", nil, nil),
		refused:     prometheus.NewDesc("fanin_window_refused_batches_total", "Pushes for which there was no room, because the window is full or because the node holds more than its share.", []string{"reason"}, nil),
		forgotten:   prometheus.NewDesc("fanin_window_forgotten_readers_total", "Readers that were not seen for long and are forgotten.", nil, nil),
		lag:         prometheus.NewDesc("fanin_window_reader_lag_points", "Points that have arrived since the reader's last confirmed page.", reader, nil),
		delivered:   prometheus.NewDesc("fanin_window_reader_delivered_points_total", "Points on the reader's confirmed pages.", reader, nil),
		lost:        prometheus.NewDesc("fanin_window_reader_lost_points_total", "Points that the reader never gets: dropped for want of room while it lagged behind, or too_old for a page.", append(slices.Clone(reader), "reason"), nil),
		lastSeen:    prometheus.NewDesc("fanin_window_reader_last_seen_timestamp_seconds", "When the reader last asked for a page.", reader, nil),
		weak:        prometheus.NewDesc("fanin_window_reader_weak", "1 while the reader's pages count as collected because they were written without error, which is weaker than a connection that is used again.", reader, nil),
		newestPages: prometheus.NewDesc("fanin_scrape_newest_only_total", "Pages of a named reader that held the newest points only, by reason: two scrapers use the name, or a version of Prometheus that could not store more.", []string{"reader", "path", "reason"}, nil),
	})
}

var reader = []string{"reader", "path", "node"}

type collector struct {
	pages                                               *Pages
	bytes, maxBytes, points, unread, refused, forgotten *prometheus.Desc
	lag, delivered, lost, lastSeen, weak, newestPages   *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.bytes, c.maxBytes, c.points, c.unread, c.refused, c.forgotten,
		c.lag, c.delivered, c.lost, c.lastSeen, c.weak, c.newestPages,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	tally := c.pages.Window.Tally()
	gauge(c.bytes, float64(tally.Bytes))
	gauge(c.maxBytes, float64(tally.MaxBytes))
	gauge(c.points, float64(tally.Points))
	counter(c.unread, tally.Unread)
	counter(c.refused, tally.Full, "full")
	counter(c.refused, tally.Share, "share")
	counter(c.forgotten, tally.Forgotten)
	for _, r := range c.pages.Window.Readers() {
		weak := 0.0
		if r.Weak {
			weak = 1
		}
		gauge(c.lag, float64(r.Lag), r.Name, r.Path, r.Node)
		counter(c.delivered, r.Delivered, r.Name, r.Path, r.Node)
		counter(c.lost, r.Lost, r.Name, r.Path, r.Node, "dropped")
		counter(c.lost, r.TooOld, r.Name, r.Path, r.Node, "too_old")
		gauge(c.lastSeen, float64(r.LastSeen.UnixMilli())/1000, r.Name, r.Path, r.Node)
		gauge(c.weak, weak, r.Name, r.Path, r.Node)
	}
	c.pages.mu.Lock()
	defer c.pages.mu.Unlock()
	for key, n := range c.pages.counts.newest {
		counter(c.newestPages, n, key.name, key.path, key.reason)
	}
}
