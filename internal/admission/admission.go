// Package admission owns the policy of the gateway: who may say what, and
// under which identity it is known from then on. It turns a claim
// ([wire.Series], what a sender says) into a series ([sample.Series], what
// the gateway vouches for) or refuses it with a reason. It keeps no points.
package admission

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// Verdict is what became of a claim. Either Reason says why it was refused,
// or State is set, or Series is.
type Verdict struct {
	Reason Reason
	Series *sample.Series
	State  *State

	// Owner is who an admitted claim is about; for one refused as WrongHost
	// it is the guest where it belongs.
	Owner sample.Owner

	// Mute: an admitted claim about a guest that says nothing of its being
	// there, such as that its page of metrics can not be scraped.
	Mute bool

	// Stranger is the runtime name in a refused claim about a guest's being
	// up, "" otherwise: valid UTF-8, and no more than that.
	Stranger string
}

// State is the claim that a guest is up or is not (testbed_guest_up). It is
// no series: what the gateway says of a guest is its own conclusion.
type State struct {
	Why string // the sender's word for why it is not up; [a-z_], "" when there is none
}

// Gate admits claims. Its methods may be called from any goroutine.
type Gate struct {
	Roster        func() *deployment.Roster // immutable after the first call; never returns nil
	NodeSeries    int                       // series admitted of one node at a time, default 20,000
	GatewaySeries int                       // of all nodes, default 1,000,000

	admitted atomic.Int64

	mu       sync.Mutex
	nodes    map[string]*node                 // by host name; guarded by mu
	families map[sample.Family]*sample.Family // guarded by mu
}

// A verdict that nobody asked for in this time is forgotten.
const forgetAfter = 2 * time.Minute

const (
	maxFamilies = 100_000
	maxMetadata = 5_000 // per node
	maxHelp     = 1_000 // bytes; a longer help is cut
)

// node is what the gate remembers of one sender.
type node struct {
	mu       sync.Mutex // held by a Session
	host     string
	roster   *deployment.Roster // the verdicts below hold for
	verdicts map[string]*remembered
	series   map[string]*sample.Series // by text
	metadata map[string]sample.Family
	swept    time.Time
}

type remembered struct {
	verdict Verdict
	used    time.Time
}

// Session admits the claims of one body. It is used by one goroutine, and End
// is called at its end.
type Session struct {
	gate    *Gate
	node    *node
	now     time.Time
	learned bool
}

// Begin starts taking claims of the authenticated sender called host. It
// waits for a session of the same sender to end.
func (g *Gate) Begin(host string, now time.Time) *Session {
	g.mu.Lock()
	if g.nodes == nil {
		g.nodes, g.families = map[string]*node{}, map[sample.Family]*sample.Family{}
	}
	n := g.nodes[host]
	if n == nil {
		n = &node{host: host, swept: now, series: map[string]*sample.Series{}, verdicts: map[string]*remembered{}, metadata: map[string]sample.Family{}}
		g.nodes[host] = n
	}
	g.mu.Unlock()
	n.mu.Lock()
	s := &Session{gate: g, node: n, now: now}
	if roster := g.Roster(); roster != n.roster {
		n.roster = roster
		s.forgetVerdicts()
	}
	return s
}

// End lets the next session of this sender begin.
func (s *Session) End() {
	n := s.node
	if s.now.Sub(n.swept) >= forgetAfter/2 {
		n.swept = s.now
		s.sweep()
	}
	n.mu.Unlock()
}

// Series is how many series of this sender stand admitted.
func (s *Session) Series() int { return len(s.node.series) }

// Forget drops what is remembered of senders that have not been heard of
// for a while, the number of their series included.
func (g *Gate) Forget(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for host, n := range g.nodes {
		if !n.mu.TryLock() {
			continue
		}
		(&Session{gate: g, node: n, now: now}).sweep()
		if len(n.verdicts) == 0 {
			delete(g.nodes, host)
		}
		n.mu.Unlock()
	}
	if len(g.nodes) == 0 || len(g.families) > maxFamilies/2 {
		clear(g.families)
	}
}

// Learn takes the sender's word for type, unit and help of a family. Call it
// for a body's metadata before its series.
func (s *Session) Learn(m wire.Metadata) {
	n := s.node
	known, ok := n.metadata[string(m.Family)]
	if !ok && len(n.metadata) >= maxMetadata || !sample.ValidMetricName(string(m.Family)) || len(m.Family) > maxMetricName {
		return
	}
	help := m.Help[:min(len(m.Help), maxHelp)]
	if ok && known.Type == typeOf(m.Type) && known.Help == string(help) && known.Unit == string(m.Unit) {
		return
	}
	family := sample.Family{Name: string(m.Family), Type: typeOf(m.Type), Help: strings.ToValidUTF8(string(help), "\uFFFD")}
	if sample.ValidMetricName(string(m.Unit)) && strings.HasSuffix(strings.TrimSuffix(family.Name, "_total"), "_"+string(m.Unit)) {
		family.Unit = string(m.Unit)
	}
	if ok && known == family {
		return
	}
	n.metadata[family.Name] = family
	if !s.learned {
		s.learned = true
		s.forgetVerdicts() // series of that family must be built anew
	}
}

func (s *Session) forgetVerdicts() {
	s.gate.admitted.Add(-int64(len(s.node.series)))
	clear(s.node.verdicts)
	clear(s.node.series)
}

// sweep forgets what was not asked for lately.
func (s *Session) sweep() {
	n := s.node
	kept := make(map[string]*sample.Series, len(n.series))
	for key, r := range n.verdicts {
		if s.now.Sub(r.used) > forgetAfter {
			delete(n.verdicts, key)
		} else if r.verdict.Series != nil {
			kept[r.verdict.Series.Text()] = r.verdict.Series
		}
	}
	s.gate.admitted.Add(int64(len(kept) - len(n.series)))
	n.series = kept
}

// Admit judges one claim. The same claim gets the same *Series for as long
// as the roster stands and the claim is repeated within two minutes.
func (s *Session) Admit(claim *wire.Series) Verdict {
	n := s.node
	if r := n.verdicts[string(claim.Key)]; r != nil {
		r.used = s.now
		return r.verdict
	}
	v := s.judge(claim)
	if v.Reason == SeriesLimit || len(n.verdicts) >= 2*s.gate.nodeSeries() {
		return v // nothing may grow by what is refused
	}
	n.verdicts[string(claim.Key)] = &remembered{verdict: v, used: s.now}
	return v
}

func (g *Gate) nodeSeries() int {
	if g.NodeSeries > 0 {
		return g.NodeSeries
	}
	return 20_000
}

func (g *Gate) gatewaySeries() int64 {
	if g.GatewaySeries > 0 {
		return int64(g.GatewaySeries)
	}
	return 1_000_000
}
