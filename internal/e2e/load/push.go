package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"fanin/internal/e2e/fleet"
)

// pushing is a run in which the fleet's nodes send, in turns.
type pushing struct {
	url     string
	fleet   fleet.Fleet
	version fleet.Version
	text    bool // pages for a Pushgateway instead of remote write
	churn   bool
	pusher  bool
	rate    float64 // samples a second
	senders int
	first   int // tick
}

func (p *pushing) check() error {
	if p.rate < 0 || p.rate > maxRate {
		return fmt.Errorf("--rate %g: at most %d", p.rate, maxRate)
	}
	if p.senders < 1 || p.senders > maxSenders {
		return fmt.Errorf("--senders %d: between 1 and %d", p.senders, maxSenders)
	}
	if p.first < 0 {
		return errors.New("--first-tick is not negative")
	}
	p.senders = min(p.senders, p.fleet.Nodes)
	return checkURL(p.url)
}

// pushed is the line of a run.
type pushed struct {
	Kind     string         `json:"kind"`
	URL      string         `json:"url"`
	Version  fleet.Version  `json:"version,omitempty"`
	Nodes    int            `json:"nodes"`
	Series   int            `json:"series"`
	Requests int            `json:"requests"`
	Samples  int            `json:"samples"`        // sent and answered with 2xx
	Written  int            `json:"written"`        // of them, as the receiver says; -1 when it does not
	Bytes    int            `json:"bytes"`          // compressed, headers not counted
	Raw      int            `json:"raw_bytes"`      // before compression
	Ticks    int            `json:"ticks"`          // whole ones, the first one's number not counted in
	Seconds  float64        `json:"seconds"`        // from the first request to the last answer
	Own      float64        `json:"own_cpu"`        // processor seconds of this program meanwhile
	P50      float64        `json:"p50_ms"`         // from request to answer
	P99      float64        `json:"p99_ms"`         //
	Behind   float64        `json:"behind_ms"`      // the most that a paced run was late
	Answers  map[string]int `json:"answers"`        // by status, or "error"
	Said     string         `json:"said,omitempty"` // by the first answer that was not 2xx
}

// node is one sender of the fleet.
type node struct {
	name string
	url  string
	body *fleet.Body
	page *fleet.Page
	sent int // records
}

func (n *node) at(tick int, t int64) (content []byte, samples, raw int) {
	if n.page != nil {
		content = n.page.At(tick)
		return content, n.page.Series(), len(content)
	}
	return n.body.At(tick, t), n.body.Series(), n.body.Raw()
}

func (p *pushing) prepare() ([]*node, error) {
	all := make([]*node, p.fleet.Nodes)
	var err error
	for i := range all {
		n := &node{name: fleet.Node(i), url: p.url}
		if p.text {
			n.page, n.url = p.fleet.Page(i), p.url+"/metrics/job/testbed-guests/instance/"+n.name
		} else if n.body, err = p.fleet.Body(i, p.version, p.churn); err != nil {
			return nil, err
		}
		all[i] = n
	}
	return all, nil
}

// Ticks of a run that is not paced are a second apart and begin so far in the
// past that the last of them are not in the future.
const (
	past     = 40 * time.Minute
	maxTicks = int(past / time.Second)
)

func (p *pushing) run(ctx context.Context, limit bounds) (*pushed, error) {
	nodes, err := p.prepare()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit.duration)
	defer cancel()
	limit.requests = min(limit.requests, (maxTicks-p.first)*len(nodes))
	begin, own := time.Now(), processorSeconds()
	tallies := make([]tally, p.senders)
	var group sync.WaitGroup
	client := client()
	defer client.CloseIdleConnections()
	served, sent := 0, 0
	for i := range tallies {
		var mine []*node
		for n := i; n < len(nodes); n += p.senders {
			mine = append(mine, nodes[n])
		}
		// As many for each node, so that a run that goes on begins with the next tick
		// of all.
		served += len(mine)
		share := limit.requests*served/len(nodes) - sent
		sent += share
		group.Go(func() { p.send(ctx, client, mine, begin, share, &tallies[i]) })
	}
	group.Wait()
	r := &pushed{
		Kind: "push", URL: p.url, Version: p.version, Nodes: p.fleet.Nodes, Series: p.fleet.Total(),
		Seconds: time.Since(begin).Seconds(), Own: processorSeconds() - own, Answers: map[string]int{},
	}
	if p.text {
		r.Kind, r.Version = "text", 0
	}
	r.sum(tallies)
	return r, nil
}

// tally is what one sender counts.
type tally struct {
	requests, samples, written, bytes, raw int

	untold  bool // an answer did not say how many were written
	behind  time.Duration
	took    []time.Duration
	answers map[string]int
	said    string
}

func (r *pushed) sum(tallies []tally) {
	var took []time.Duration
	for _, t := range tallies {
		r.Requests, r.Samples, r.Bytes, r.Raw = r.Requests+t.requests, r.Samples+t.samples, r.Bytes+t.bytes, r.Raw+t.raw
		if r.Written += t.written; t.untold {
			r.Written = -1 << 62
		}
		r.Behind = max(r.Behind, milliseconds(t.behind))
		took = append(took, t.took...)
		for answer, n := range t.answers {
			r.Answers[answer] += n
		}
		if r.Said == "" {
			r.Said = t.said
		}
	}
	r.Written = max(r.Written, -1)
	r.Ticks = r.Requests / r.Nodes
	r.P50, r.P99 = percentile(took, 50), percentile(took, 99)
}

// send has some nodes speak in turns, each as often as the others.
func (p *pushing) send(ctx context.Context, client *http.Client, nodes []*node, begin time.Time, requests int, t *tally) {
	t.answers = map[string]int{}
	var pause time.Duration
	if p.rate > 0 {
		body := float64(p.fleet.Guests * p.fleet.Series)
		pause = time.Duration(body * float64(p.fleet.Nodes) / float64(len(nodes)) / p.rate * float64(time.Second))
	}
	from := begin.Add(-past)
	for i := range requests {
		tick, n := p.first+i/len(nodes), nodes[i%len(nodes)]
		at := from.Add(time.Duration(tick) * time.Second)
		if pause > 0 {
			at = begin.Add(time.Duration(i) * pause)
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(at)):
			}
			t.behind = max(t.behind, time.Since(at))
			at = time.Now()
		}
		if ctx.Err() != nil {
			return
		}
		p.post(client, n, tick, at, t)
	}
}

func (p *pushing) post(client *http.Client, n *node, tick int, at time.Time, t *tally) {
	content, samples, raw := n.at(tick, at.UnixMilli())
	method := http.MethodPost
	if p.text {
		method = http.MethodPut
	}
	r, err := http.NewRequestWithContext(context.Background(), method, n.url, bytes.NewReader(content))
	if err != nil {
		t.answers["error"]++
		return
	}
	if p.text {
		r.Header.Set("Content-Type", "text/plain; version=0.0.4")
	} else {
		p.version.Header(r.Header.Set)
		r.Header.Set("X-Fanin-Node", n.name)
	}
	if n.sent++; p.pusher {
		r.Header.Set("X-Fanin-Interval", "1")
		r.Header.Set("X-Fanin-Time", strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64))
		r.Header.Set("X-Fanin-Spool", "spool-of-"+n.name)
		r.Header.Set("X-Fanin-Record", strconv.Itoa(n.sent))
	}
	begin := time.Now()
	answer, err := client.Do(r)
	t.took = append(t.took, time.Since(begin))
	t.requests++
	if err != nil {
		t.answers["error"]++
		t.hear(err.Error())
		return
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	t.answers[strconv.Itoa(answer.StatusCode)]++
	if answer.StatusCode/100 != 2 {
		t.hear(string(said))
		return
	}
	if refused := answer.Header.Get("X-Fanin-Refused"); refused != "" {
		t.hear("refused: " + refused)
	}
	t.samples, t.bytes, t.raw = t.samples+samples, t.bytes+len(content), t.raw+raw
	written, err := strconv.Atoi(answer.Header.Get("X-Prometheus-Remote-Write-Samples-Written"))
	t.untold = t.untold || err != nil
	t.written += written
}

func (t *tally) hear(said string) {
	if t.said == "" {
		t.said = said
	}
}
