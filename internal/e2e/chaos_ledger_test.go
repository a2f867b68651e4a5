package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// readPage returns the samples of a text page by name and labels.
func readPage(address string) (map[string]float64, error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", address, answer.Status)
	}
	all := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(string(body))); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "fanin_") {
			space := strings.LastIndexByte(line, ' ')
			if all[line[:space]], err = strconv.ParseFloat(line[space+1:], 64); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// ledger is a pusher's account on one page.
type ledger struct {
	committed, delivered, dropped, refused, pending float64
	text                                            string // what was dropped and refused, by reason
}

func readLedger(address string) (l ledger, err error) {
	page, err := readPage(address)
	if err != nil {
		return l, err
	}
	for name, v := range page {
		switch {
		case name == "fanin_samples_committed_total":
			l.committed = v
		case name == "fanin_samples_delivered_total":
			l.delivered = v
		case name == "fanin_samples_pending":
			l.pending = v
		case strings.HasPrefix(name, "fanin_samples_dropped_total{"):
			l.dropped += v
		case strings.HasPrefix(name, "fanin_samples_refused_total{"):
			l.refused += v
		default:
			continue
		}
		if v != 0 {
			l.text += fmt.Sprintf(" %s=%v", strings.TrimPrefix(name, "fanin_samples_"), v)
		}
	}
	return l, nil
}

// auditor looks at all pages again and again while the test goes on.
type auditor struct {
	stop  chan struct{}
	group sync.WaitGroup

	ledgers, windows atomic.Int64 // pages that were looked at
	fullest          atomic.Int64 // the most bytes that were in the window
	turnedAway       atomic.Int64 // pushes that were answered with 429, as far as was seen
	faults           atomic.Int64
}

// fault is an error of the test; of many the first few say enough.
func (a *auditor) fault(c *cluster, format string, args ...any) {
	if a.faults.Add(1) <= 10 {
		c.t.Errorf(format, args...)
	}
}

// audit begins to look, at random moments, whether every ledger balances with
// nothing dropped or refused and the window is inside its bound. A page that
// is not there says nothing: its program may have been killed.
func (c *cluster) audit(seed uint64) *auditor {
	a := &auditor{stop: make(chan struct{})}
	c.t.Cleanup(a.end)
	before := 0.0
	a.follow(rand.New(rand.NewPCG(seed, 1000)), func() {
		page, err := readPage(c.address)
		if err != nil {
			return
		}
		bytes, most := page["fanin_window_bytes"], page["fanin_window_max_bytes"]
		if bytes > most || most == 0 {
			a.fault(c, "at %s the window holds %v bytes, %v are allowed", time.Now().Format("15:04:05.000"), bytes, most)
		}
		a.fullest.Store(max(a.fullest.Load(), int64(bytes)))
		n := page[`fanin_ingest_requests_total{code="429"}`]
		if n < before {
			before = 0 // another process
		}
		a.turnedAway.Add(int64(n - before))
		before = n
		a.windows.Add(1)
	})
	for i, n := range c.pushers {
		a.follow(rand.New(rand.NewPCG(seed, uint64(1001+i))), func() {
			l, err := readLedger(n.metrics)
			if err != nil {
				return
			}
			now := time.Now().Format("15:04:05.000")
			if l.committed != l.delivered+l.dropped+l.refused+l.pending {
				a.fault(c, "at %s the ledger of %s does not balance:%s", now, n.host, l.text)
			}
			if l.dropped+l.refused > 0 {
				a.fault(c, "at %s %s has lost samples:%s", now, n.host, l.text)
			}
			a.ledgers.Add(1)
		})
	}
	return a
}

func (a *auditor) follow(r *rand.Rand, look func()) {
	a.group.Go(func() {
		for {
			select {
			case <-a.stop:
				return
			case <-time.After(time.Duration(20+r.IntN(480)) * time.Millisecond):
				look()
			}
		}
	})
}

func (a *auditor) end() {
	select {
	case <-a.stop:
	default:
		close(a.stop)
	}
	a.group.Wait()
}
