// Package targets owns the list of pages of metrics inside guests: which of a
// host's guests serve one, by rules that an administrator writes, and where,
// by the addresses in the deployments' files. Each host's pusher fetches the
// list of its own guests and scrapes them itself; nothing is scraped from
// here.
package targets

import (
	"cmp"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/admission"
	"fanin/internal/deployment"
)

// maxListed is how many pages of one host are listed at the most; a pusher
// takes no more.
const maxListed = 1_000

// Handler answers GET /api/v1/targets?node=NAME with the pages of that host's
// guests, in the form of Prometheus' HTTP service discovery
// (https://prometheus.io/docs/prometheus/latest/http_sd/), and only to that
// host:
//
//	200  the list; empty when no rule is about its guests
//	401  no or wrong credentials
//	403  another host's list
//	503  which guests there are is not known yet
//
// Its fields are set before the first request and not changed after it.
type Handler struct {
	Nodes  *admission.Nodes
	Roster func() *deployment.Roster
	Rules  *Rules
	Ready  func() error // why there is no list yet; nil: there always is one

	mu    sync.Mutex
	lists *lists // guarded by mu; of one roster and one version of the rules
}

// group is one element of the answer.
type group struct {
	Targets []string `json:"targets"`
	Labels  labels   `json:"labels"`
}

type labels struct {
	Guest    string `json:"guest"`
	Path     string `json:"__metrics_path__"`
	Interval string `json:"__scrape_interval__,omitempty"`
}

// lists are those of all hosts.
type lists struct {
	roster *deployment.Roster
	rules  []rule
	byHost map[string][]group
	left   map[string]int // guests that a rule is about and that are not listed, by reason
	total  int
}

// Why a guest that a rule is about is not on a list.
const (
	noAddress = "no_address"     // its deployment's files give none that a guest can have
	notPlaced = "not_placed"     // on no host yet
	ambiguous = "ambiguous_name" // another one has its runtime name
	overLimit = "limit"          // too many pages on its host
)

var leftOut = [...]string{noAddress, notPlaced, ambiguous, overLimit}

// ServeHTTP answers a pusher.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, err := h.Nodes.Authenticate(r)
	if err != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="fanin", Bearer`)
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	if node := r.URL.Query().Get("node"); node != "" && node != host {
		http.Error(w, "this list is for the host itself", http.StatusForbidden)
		return
	}
	if h.Ready != nil {
		if err := h.Ready(); err != nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	groups := h.current().byHost[host]
	if groups == nil {
		groups = []group{}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(groups) // the pusher is gone: nothing to tell it
}

// current makes the lists when the roster or the rules are other ones.
func (h *Handler) current() *lists {
	roster, rules := h.Roster(), h.Rules.current()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lists == nil || h.lists.roster != roster || !same(h.lists.rules, rules) {
		h.lists = list(roster, rules)
	}
	return h.lists
}

// same reports whether a and b are one version of the rules, and not only
// alike.
func same(a, b []rule) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func list(roster *deployment.Roster, rules []rule) *lists {
	l := &lists{roster: roster, rules: rules, byHost: map[string][]group{}, left: map[string]int{}}
	for _, p := range roster.Projects() {
		if !p.Active {
			continue
		}
		// A guest must not have a host scraped in its place. What another
		// deployment's file calls a host may be anything, this guest too.
		hosts := map[netip.Addr]bool{}
		for _, host := range roster.HostsFor(p) {
			if a, err := netip.ParseAddr(host.IP); err == nil {
				hosts[a] = true
			}
		}
		for _, g := range p.Guests {
			l.add(g, hosts)
		}
	}
	for _, groups := range l.byHost {
		slices.SortStableFunc(groups, func(a, b group) int { return cmp.Compare(a.Labels.Guest, b.Labels.Guest) })
	}
	return l
}

// add lists the pages of one guest. Of several rules about one port the first
// counts.
func (l *lists) add(g *deployment.Guest, hosts map[netip.Addr]bool) {
	var ports []string
	for i := range l.rules {
		r := &l.rules[i]
		if !r.matches(g) || slices.Contains(ports, r.Port) {
			continue
		}
		ports = append(ports, r.Port)
		address, why := l.addressOf(g, hosts)
		if why == "" && len(l.byHost[g.Host]) >= maxListed {
			why = overLimit
		}
		if why != "" {
			l.left[why]++
			continue
		}
		l.total++
		l.byHost[g.Host] = append(l.byHost[g.Host], group{
			Targets: []string{net.JoinHostPort(address.String(), r.Port)},
			Labels:  labels{Guest: g.RuntimeName, Path: r.Path, Interval: r.Interval},
		})
	}
}

// addressOf is the first address of a guest that can be one.
func (l *lists) addressOf(g *deployment.Guest, hosts map[netip.Addr]bool) (a netip.Addr, why string) {
	if g.Host == "" {
		return a, notPlaced
	}
	if found, match := l.roster.Lookup(g.RuntimeName); match != deployment.Found || found != g {
		return a, ambiguous
	}
	for _, a := range g.Addresses {
		if allowed(a) && !hosts[a] {
			return a, ""
		}
	}
	return a, noAddress
}

// allowed reports whether a can be a guest's address: global or private
// unicast, in its one usual notation.
func allowed(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	if !a.Is4() {
		return netip.MustParsePrefix("2000::/3").Contains(a) || netip.MustParsePrefix("fc00::/7").Contains(a)
	}
	first := a.As4()[0]
	return first != 0 && first < 240 && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

var (
	listedDesc = prometheus.NewDesc("fanin_targets_listed", "Pages of metrics in guests that the exporter rules and the deployments name.", nil, nil)
	leftDesc   = prometheus.NewDesc("fanin_targets_left_out", "Pages of metrics that the exporter rules name and that no pusher is told of, by reason.", []string{"reason"}, nil)
	rulesDesc  = prometheus.NewDesc("fanin_targets_rules_in_force", "1 when the newest version of the exporter rules is in force, 0 when it can not be used and the one before is.", nil, nil)
)

// Describe is part of [prometheus.Collector].
func (h *Handler) Describe(to chan<- *prometheus.Desc) {
	to <- listedDesc
	to <- leftDesc
	to <- rulesDesc
}

// Collect is part of [prometheus.Collector].
func (h *Handler) Collect(to chan<- prometheus.Metric) {
	l := h.current()
	to <- prometheus.MustNewConstMetric(listedDesc, prometheus.GaugeValue, float64(l.total))
	for _, reason := range leftOut {
		to <- prometheus.MustNewConstMetric(leftDesc, prometheus.GaugeValue, float64(l.left[reason]), reason)
	}
	in := 1.0
	if h.Rules.failing() {
		in = 0
	}
	to <- prometheus.MustNewConstMetric(rulesDesc, prometheus.GaugeValue, in)
}
