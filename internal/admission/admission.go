// Package admission owns the policy of the gateway: who may say what, and
// under which identity it is known from then on. It turns a claim
// ([wire.Series], what a sender says) into a series ([sample.Series], what
// the gateway vouches for) or refuses it with a reason. It keeps no points.
package admission

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanin/internal/deployment"
	"fanin/internal/sample"
	"fanin/internal/wire"
)

// Verdict is what became of a claim: one of Series, State and Refusal is set.
type Verdict struct {
	Series  *sample.Series // admitted
	State   *State
	Refusal *Refusal

	// Owner is who an admitted claim shows to be there; for one refused as
	// WrongHost it is the guest where it belongs, and nil for all others: for
	// refused ones, and for what says nothing of a guest's being there, such as
	// that its page of metrics can not be scraped.
	Owner *sample.Owner
}

// Refusal says why a claim is refused.
type Refusal struct {
	Reason Reason

	// Stranger is the runtime name in a claim about a guest's being up, ""
	// otherwise: valid UTF-8, and no more than that.
	Stranger string
}

// Reason is why the claim was refused, "" when it was not.
func (v Verdict) Reason() Reason {
	if v.Refusal == nil {
		return ""
	}
	return v.Refusal.Reason
}

func refused(reason Reason) Verdict { return Verdict{Refusal: &Refusal{Reason: reason}} }

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

	builders sync.Pool // of *sample.Builder

	mu       sync.Mutex
	nodes    map[string]*node                 // by host name; guarded by mu
	families map[sample.Family]*sample.Family // guarded by mu
	names    map[string]string                // of series that are parts of a family; guarded by mu
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
	gone     bool       // another one has its place
	host     string
	roster   *deployment.Roster // the verdicts below hold for
	spoken   [2]spoken          // by wire.Version
	owners   map[*deployment.Guest]*sample.Owner
	metadata map[string]*sample.Family
	series   int // admitted
	swept    time.Time
}

// spoken is what a sender has said in one version of the protocol.
type spoken struct {
	memory   wire.Memory
	epoch    int             // of the memory, which the verdicts are of
	admitted []admitted      // by ID in the memory
	others   map[int]Verdict // by ID: those that are no series
}

// admitted is a verdict with a series. A zero one is none.
type admitted struct {
	series *sample.Series
	heard  *sample.Owner
}

// Session admits the claims of one body. It is used by one goroutine, and End
// is called at its end.
type Session struct {
	gate    *Gate
	node    *node
	now     time.Time
	learned bool
	builder *sample.Builder // nil until something is new

	// The guest that was looked up last.
	guest  string
	found  *deployment.Guest
	reason Reason

	identity   [4]wire.Label // of the owner before
	identified *sample.Owner
}

// Begin starts taking claims of the authenticated sender called host. It
// waits for a session of the same sender to end.
func (g *Gate) Begin(host string, now time.Time) *Session {
	n := g.node(host, now)
	n.mu.Lock()
	for n.gone { // forgotten while we waited
		n.mu.Unlock()
		n = g.node(host, now)
		n.mu.Lock()
	}
	s := &Session{gate: g, node: n, now: now}
	if roster := g.Roster(); roster != n.roster {
		n.roster, n.owners = roster, map[*deployment.Guest]*sample.Owner{}
		s.forgetVerdicts()
	}
	return s
}

func (g *Gate) node(host string, now time.Time) *node {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nodes == nil {
		g.nodes, g.families, g.names = map[string]*node{}, map[sample.Family]*sample.Family{}, map[string]string{}
	}
	n := g.nodes[host]
	if n == nil {
		n = &node{host: host, swept: now, metadata: map[string]*sample.Family{}}
		g.nodes[host] = n
	}
	return n
}

// End lets the next session of this sender begin.
func (s *Session) End() {
	n := s.node
	if s.now.Sub(n.swept) >= forgetAfter/2 {
		n.swept = s.now
		s.sweep()
	}
	n.mu.Unlock()
	if s.builder != nil {
		s.gate.builders.Put(s.builder)
	}
}

// Memory is that of the sender's bodies in one version of the protocol. The
// body whose claims this session admits must be decoded with it.
func (s *Session) Memory(v wire.Version) *wire.Memory {
	m := &s.node.spoken[v].memory
	m.Version, m.Max, m.Now = v, 2*s.gate.nodeSeries(), uint32(s.now.Unix())
	return m
}

// Series is how many series of this sender stand admitted.
func (s *Session) Series() int { return s.node.series }

// Forget drops what is remembered of senders that have not been heard of
// for a while, the number of their series included.
func (g *Gate) Forget(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for host, n := range g.nodes {
		if !n.mu.TryLock() {
			continue
		}
		s := &Session{gate: g, node: n, now: now}
		s.sweep()
		if n.spoken[wire.V1].memory.Len()+n.spoken[wire.V2].memory.Len() == 0 {
			s.forgetVerdicts() // those of a memory before this one, too
			n.gone = true
			delete(g.nodes, host)
		}
		n.mu.Unlock()
	}
	if len(g.nodes) == 0 || len(g.families) > maxFamilies/2 {
		clear(g.families)
		clear(g.names)
	}
}

// Learn takes the sender's word for type, unit and help of a family. Call it
// for a body's metadata before its series.
func (s *Session) Learn(m wire.Metadata) {
	n := s.node
	known := n.metadata[string(m.Family)]
	if known == nil && len(n.metadata) >= maxMetadata || !sample.ValidMetricName(m.Family) || len(m.Family) > maxMetricName {
		return
	}
	help := m.Help[:min(len(m.Help), maxHelp)]
	if known != nil && known.Type == typeOf(m.Type) && known.Help == string(help) && known.Unit == string(m.Unit) {
		return
	}
	family := sample.Family{Name: string(m.Family), Type: typeOf(m.Type), Help: strings.ToValidUTF8(string(help), "\uFFFD")}
	if sample.ValidMetricName(m.Unit) && strings.HasSuffix(strings.TrimSuffix(family.Name, "_total"), "_"+string(m.Unit)) {
		family.Unit = string(m.Unit)
	}
	if known != nil && *known == family {
		return
	}
	shared := s.gate.family(family)
	n.metadata[shared.Name] = shared
	if !s.learned {
		s.learned = true
		s.forgetVerdicts() // series of that family must be built anew
	}
}

func (s *Session) forgetVerdicts() {
	for v := range s.node.spoken {
		s.node.spoken[v].forget()
	}
	s.admitted(-s.node.series)
}

func (of *spoken) forget() {
	clear(of.admitted)
	clear(of.others)
}

// admitted counts series that are admitted from now on, or not any more.
func (s *Session) admitted(n int) {
	s.node.series += n
	s.gate.admitted.Add(int64(n))
}

// sweep forgets what was not said lately.
func (s *Session) sweep() {
	since := uint32(s.now.Add(-forgetAfter).Unix())
	for v := range s.node.spoken {
		of := &s.node.spoken[v]
		of.memory.Forget(since, func(id int) {
			delete(of.others, id)
			if id < len(of.admitted) && of.admitted[id].series != nil {
				of.admitted[id] = admitted{}
				s.admitted(-1)
			}
		})
	}
	if n := s.node; len(n.metadata) >= maxMetadata { // room for those to come
		used := map[string]bool{}
		for v := range n.spoken {
			for _, a := range n.spoken[v].admitted {
				if a.series != nil {
					used[a.series.Family().Name] = true
				}
			}
		}
		maps.DeleteFunc(n.metadata, func(name string, _ *sample.Family) bool { return !used[name] })
	}
}

// Known is the verdict on a claim with this ID, of a body of this version, that
// was admitted before: its series, nil when there is none, and what [Verdict]
// calls Owner.
func (s *Session) Known(id int, version wire.Version) (*sample.Series, *sample.Owner) {
	of := &s.node.spoken[version]
	if of.epoch == of.memory.Epoch && uint(id) < uint(len(of.admitted)) {
		return of.admitted[id].series, of.admitted[id].heard
	}
	return nil, nil
}

// Admit judges one claim of a body of this version. The same claim gets the
// same *Series for as long as the roster stands and the claim is repeated
// within two minutes.
func (s *Session) Admit(claim *wire.Series, version wire.Version) Verdict {
	if series, heard := s.Known(claim.ID, version); series != nil {
		return Verdict{Series: series, Owner: heard}
	}
	of := &s.node.spoken[version]
	if of.epoch != of.memory.Epoch {
		of.epoch = of.memory.Epoch
		for _, known := range of.admitted {
			if known.series != nil {
				s.admitted(-1)
			}
		}
		of.forget()
	}
	id := claim.ID
	if v, known := of.others[id]; known {
		return v
	}
	if m, ok := claim.Metadata(); ok {
		s.Learn(m)
	}
	v := s.judge(claim)
	if v.Series != nil && (id < 0 || s.node.series >= s.gate.nodeSeries() || s.gate.admitted.Load() >= s.gate.gatewaySeries()) {
		v = refused(SeriesLimit)
	}
	switch {
	case id < 0 || v.Reason() == SeriesLimit: // nothing may grow by what is refused
	case v.Series == nil:
		if of.others == nil {
			of.others = map[int]Verdict{}
		}
		of.others[id] = v
	default:
		if more := id + 1 - len(of.admitted); more > 0 {
			of.admitted = append(of.admitted, make([]admitted, more)...)
		}
		of.admitted[id] = admitted{v.Series, v.Owner}
		s.admitted(1)
	}
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
