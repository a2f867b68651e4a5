package exporter

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	defaultListInterval = 5 * time.Second
	listTimeout         = 5 * time.Second
	maxList             = 1 << 20
	maxListed           = 2 * defaultTargets
	nodeHeader          = "X-Fanin-Node" // who is asking, where no credentials are needed
)

// List is the gateway's list of pages in this node's guests, in the form of
// Prometheus' HTTP service discovery
// (https://prometheus.io/docs/prometheus/latest/http_sd/). It is as little
// trusted as any other word on where a page is.
//
// A gateway that can not be asked changes nothing: the last good list stands.
// A receiver that has no such list is no error.
type List struct {
	URL      string       // with the node's name in its query
	Client   *http.Client // with the credentials of the pushes
	Node     string
	Interval time.Duration // 0 for 5 s
	Changed  func()        // called after a list was taken; may be nil
	Log      *slog.Logger  // nil: silent

	counts  [listOutcomes]atomic.Uint64
	targets atomic.Pointer[[]Target]

	setUp sync.Once
	said  listOutcome // owned by Run
}

// listOutcome is what came of asking.
type listOutcome uint8

const (
	listTaken   listOutcome = iota
	listNone                // the receiver has none
	listRefused             // another answer than 200
	listFailed              // no answer, or half of one
	listMalformed
	listOutcomes
)

func (o listOutcome) String() string {
	return [...]string{"ok", "none", "refused", "failed", "malformed"}[o]
}

// Name is what the log calls it.
func (l *List) Name() string { return "exporter list" }

// Targets are those of the last good list, and none of a nil List. The slice
// must not be changed.
func (l *List) Targets() []Target {
	if l == nil {
		return nil
	}
	if t := l.targets.Load(); t != nil {
		return *t
	}
	return nil
}

// Register exports what came of asking, and how many there are. A nil List has
// nothing to export.
func (l *List) Register(r prometheus.Registerer) error {
	if l == nil {
		return nil
	}
	var errs []error
	for i := range l.counts {
		errs = append(errs, r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_exporter_list_requests_total",
			Help:        "How often the gateway was asked which guests have a page of metrics, by what came of it; none: it has no such list.",
			ConstLabels: prometheus.Labels{"outcome": listOutcome(i).String()},
		}, func() float64 { return float64(l.counts[i].Load()) })))
	}
	errs = append(errs, r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fanin_exporter_list_targets",
		Help: "Pages of metrics in guests that the gateway's last good list names.",
	}, func() float64 { return float64(len(l.Targets())) })))
	return errors.Join(errs...)
}

// Run asks until ctx ends, and returns nil.
func (l *List) Run(ctx context.Context) error {
	l.setUp.Do(func() {
		l.Interval = cmp.Or(l.Interval, defaultListInterval)
		if l.Log == nil {
			l.Log = slog.New(slog.DiscardHandler)
		}
	})
	for {
		l.ask(ctx)
		// Nodes that were started together must not ask together for ever.
		timer := time.NewTimer(l.Interval*9/10 + rand.N(l.Interval/5+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (l *List) ask(ctx context.Context) {
	targets, outcome, err := l.fetch(ctx)
	if ctx.Err() != nil {
		return
	}
	if outcome == listMalformed && l.targets.Load() == nil && errors.Is(err, errNoList) {
		outcome = listNone // a Prometheus has something else at this address
	}
	l.counts[outcome].Add(1)
	if outcome == listTaken {
		l.targets.Store(&targets)
		if l.Changed != nil {
			l.Changed()
		}
	}
	if outcome == l.said {
		return
	}
	switch outcome {
	case listTaken:
		l.Log.Info("the gateway's list of pages is there again", "targets", len(targets))
	case listNone:
		l.Log.Info("the receiver has no list of pages in guests")
	default:
		l.Log.Warn("the gateway's list of pages can not be had; the last good one stands", "reason", outcome.String(), "err", err)
	}
	l.said = outcome
}

// errNoList is what JSON that is no list gives.
var errNoList = errors.New("not a list")

func (l *List) fetch(ctx context.Context) ([]Target, listOutcome, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.URL, nil)
	if err != nil {
		return nil, listFailed, err
	}
	request.Header.Set("Accept", "application/json")
	if l.Node != "" {
		request.Header.Set(nodeHeader, l.Node)
	}
	answer, err := l.Client.Do(request)
	if err != nil {
		return nil, listFailed, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxList+1))
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, listNone, nil
	case answer.StatusCode != http.StatusOK:
		return nil, listRefused, errors.New(answer.Status)
	case err != nil:
		return nil, listFailed, err
	case len(body) > maxList:
		return nil, listMalformed, fmt.Errorf("more than %d bytes", maxList)
	}
	targets, err := parseList(body)
	if err != nil {
		return nil, listMalformed, shortened(err)
	}
	return targets, listTaken, nil
}

// parseList reads a list. What in it is no target is taken over as one that
// can not be scraped, so that it is seen.
func parseList(body []byte) ([]Target, error) {
	if b := strings.TrimLeft(string(body[:min(len(body), 64)]), " \t\r\n"); b != "" && b[0] != '[' {
		return nil, errNoList
	}
	var groups []struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	if err := json.Unmarshal(body, &groups); err != nil {
		return nil, err
	}
	targets := []Target{}
	for _, g := range groups {
		interval, _ := time.ParseDuration(g.Labels["__scrape_interval__"]) // 0 is the usual one
		for _, at := range g.Targets {
			if len(targets) == maxListed {
				return nil, fmt.Errorf("more than %d targets", maxListed)
			}
			t := Target{Guest: g.Labels["guest"], Path: g.Labels["__metrics_path__"], Interval: interval}
			host, port, ok := cutPort(at)
			t.Port = port[:min(len(port), 64)]
			if a, err := netip.ParseAddr(host); ok && err == nil {
				t.Addresses = []netip.Addr{a}
			} else {
				t.Addresses = []netip.Addr{{}}
			}
			targets = append(targets, t)
		}
	}
	return targets, nil
}

// cutPort divides ADDRESS:PORT or [ADDRESS]:PORT.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return s, "", false
	}
	host, port = s[:i], s[i+1:]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		host, ok = strings.CutSuffix(inner, "]")
		return host, port, ok && strings.Contains(host, ":")
	}
	return host, port, !strings.Contains(host, ":")
}
