package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// tenths starts pushers that sample every 100 ms.
func (c *cluster) tenths(hosts []string) {
	c.t.Helper()
	for _, host := range hosts {
		c.pusher(host, c.address, 100*time.Millisecond)
	}
}

// has waits until a Prometheus has something of every host.
func (c *cluster) has(p *rig.PrometheusServer, hosts []string) {
	c.t.Helper()
	rig.Eventually(c.t, 30*time.Second, func() error {
		n, err := p.Value(`count(count by (host_name) (testbed_host_load1))`)
		if err == nil && int(n) < len(hosts) {
			err = fmt.Errorf("it has samples of %v hosts", n)
		}
		return err
	})
}

// sum adds up the metrics of a program's page that begin so.
func (c *cluster) sum(address, prefix string) (sum float64) {
	c.t.Helper()
	page, err := readPage(address)
	if err != nil {
		c.t.Fatal(err)
	}
	for name, v := range page {
		if strings.HasPrefix(name, prefix) {
			sum += v
		}
	}
	return sum
}

// reader is what the gateway says of one.
type reader struct {
	Reader    string
	Lag       float64 `json:"lag_points"`
	Delivered float64 `json:"delivered_points"`
	Lost      float64 `json:"lost_points"`
}

func (c *cluster) reader(name string) reader {
	c.t.Helper()
	var all struct{ Readers []reader }
	if err := json.Unmarshal([]byte(c.page("/api/v1/readers")), &all); err != nil {
		c.t.Fatal(err)
	}
	for _, r := range all.Readers {
		if r.Reader == name {
			return r
		}
	}
	c.t.Fatalf("there is no reader %s: %v", name, all)
	return reader{}
}

// TestChaosStoppedReader: of two Prometheis at a small window one is killed
// for good. The other goes on as if nothing had happened and has everything;
// what the dead one has not is counted to the point.
func TestChaosStoppedReader(t *testing.T) {
	rig.Need(t, "prometheus")
	t.Parallel()
	hosts := []string{"a", "b", "c", "d"}
	c := newCluster(t, hosts, "--window.max-bytes=1048576", "--scrape.reader=going", "--scrape.reader=stopped")
	going, stopped := c.prometheus3("going", time.Second), c.prometheusDebian("stopped", time.Second)
	c.tenths(hosts)
	a := c.audit(1)
	c.has(going, hosts)
	c.has(stopped, hosts)
	rig.Eventually(t, 20*time.Second, func() error {
		if r := c.reader("stopped"); r.Delivered < 5000 {
			return fmt.Errorf("the reader that is to be stopped has %v points", r.Delivered)
		}
		return nil
	})
	c.leave(stopped, syscall.SIGKILL)
	oldest := 0.0
	rig.Eventually(t, 2*time.Minute, func() error {
		if age, err := going.Value(`max(time() - max by (host_name) (timestamp(testbed_host_load1)))`); err != nil {
			t.Error(err)
		} else {
			oldest = max(oldest, age)
		}
		time.Sleep(200 * time.Millisecond)
		if lost := c.reader("stopped").Lost; lost < 10_000 {
			return fmt.Errorf("the stopped reader has lost %v points", lost)
		}
		return nil
	})
	if oldest > 3.5 {
		t.Errorf("the newest sample of a host was %v s old, want at most that of two scrapes", oldest)
	}
	if n := c.sum(c.address, `fanin_ingest_requests_total{code="429"}`); n > 0 {
		t.Errorf("%v pushes were answered with 429", n)
	}
	c.stopSampling()
	a.end()
	samples, _ := c.same(going, 10*time.Second)

	taken := c.sum(c.address, "fanin_ingest_samples_total{")
	r := c.reader("stopped")
	left := len(regexp.MustCompile(`(?m)^[a-z].* [0-9]+$`).FindAllString(withTimes(c.page("/metrics/testbed?scraper=stopped")), -1))
	r.Lost = c.reader("stopped").Lost // with what stood on the page that was on its way when it was killed
	t.Logf("%d samples; the stopped reader has %v, %v are counted as lost, %d are left for it; the other one's newest sample was at most %.1f s old", samples, r.Delivered, r.Lost, left, oldest)
	if int(taken) != samples || int(r.Delivered+r.Lost)+left != samples {
		t.Errorf("%d samples were committed and %v taken; the stopped reader has %v, %v are counted as lost, %d are left", samples, taken, r.Delivered, r.Lost, left)
	}

	// What it really has.
	if err := os.WriteFile(filepath.Join(stopped.Dir, "prometheus.yml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.comeBack(stopped)
	all, err := c.compare(stopped)
	if err != nil {
		t.Fatal(err)
	}
	missing := 0
	for _, one := range all {
		missing += len(one.missing)
		if len(one.extra)+len(one.different) > 0 {
			t.Errorf("the stopped reader: %s has %d samples too many and %d different", one.host, len(one.extra), len(one.different))
		}
	}
	if missing > int(r.Lost)+left {
		t.Errorf("the stopped reader does not have %d samples, and only %v are counted as lost and %d left", missing, r.Lost, left)
	}
}

// withTimes is the lines of a page in text that have a timestamp.
func withTimes(page string) string {
	var lines strings.Builder
	for line := range strings.Lines(page) {
		if _, rest, ok := strings.Cut(line, "} "); ok && strings.Contains(rest, " ") && !strings.HasPrefix(line, "#") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}

// TestChaosGap: Prometheus is away for long and the gap fills itself.
func TestChaosGap(t *testing.T) {
	rig.Need(t, "go")
	t.Parallel()
	away, every := 30*time.Second, time.Second
	if long(t) > 0 {
		away, every = 10*time.Minute, 5*time.Second
	}
	hosts := []string{"seconds", "tenths"}
	c := newCluster(t, hosts, "--scrape.reader=prometheus")
	prometheus := c.prometheus3("prometheus", every)
	c.pusher(hosts[0], c.address, time.Second)
	c.pusher(hosts[1], c.address, 100*time.Millisecond)
	a := c.audit(2)
	c.has(prometheus, hosts)
	c.leave(prometheus, syscall.SIGKILL)
	time.Sleep(away)
	c.comeBack(prometheus)
	c.stopSampling()
	c.deliver(time.Minute)
	samples, _ := c.same(prometheus, 0)
	a.end()
	t.Logf("away for %s: %d samples are there, at most %d bytes were in the window", away, samples, a.fullest.Load())
}

// TestChaosBackpressure: while nobody reads, a small window fills and the
// gateway takes no more; the samples wait on the nodes, and none is missing
// when the reader is back.
func TestChaosBackpressure(t *testing.T) {
	rig.Need(t, "go")
	t.Parallel()
	hosts := []string{"a", "b", "c", "d"}
	c := newCluster(t, hosts, "--window.max-bytes=1048576", "--scrape.reader=prometheus")
	prometheus := c.prometheus3("prometheus", time.Second)
	c.tenths(hosts)
	a := c.audit(3)
	c.has(prometheus, hosts)
	c.leave(prometheus, syscall.SIGTERM)
	for _, n := range c.pushers {
		rig.Eventually(t, 90*time.Second, func() error {
			if c.sum(n.metrics, `fanin_push_retries_total{reason="too_many_requests"}`) == 0 {
				return fmt.Errorf("no push of %s was answered with 429", n.host)
			}
			return nil
		})
	}
	c.note("all pushers are answered with 429")
	before := map[*sender]ledger{}
	look := func(n *sender) ledger {
		l, err := readLedger(n.metrics)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, n := range c.pushers {
		before[n] = look(n)
	}
	time.Sleep(5 * time.Second)
	for _, n := range c.pushers {
		if l := look(n); l.pending < before[n].pending+2000 || l.delivered != before[n].delivered {
			t.Errorf("%s: in 5 s pending went from %v to %v and delivered from %v to %v, want some 3,650 more pending", n.host, before[n].pending, l.pending, before[n].delivered, l.delivered)
		}
	}
	c.comeBack(prometheus)
	c.stopSampling()
	c.deliver(time.Minute)
	samples, _ := c.same(prometheus, 0)
	a.end()
	t.Logf("%d samples are there; %v pushes were answered with 429, at most %d bytes were in the window", samples, a.turnedAway.Load(), a.fullest.Load())
}

// TestChaosGatewayKilled: the gateway is killed 20 times in a row while two
// Prometheis, an old one in text and a new one in protobuf, scrape. Both have
// all the same. Once the gateway knows who will read, and once it does not:
// then the time of grace after each start must do, as the old one comes so
// seldom that the gateway has often been killed before.
func TestChaosGatewayKilled(t *testing.T) {
	rig.Need(t, "prometheus")
	for _, form := range []struct {
		name string
		old  time.Duration
		args []string
	}{{"grace", 4 * time.Second, nil}, {"named readers", time.Second, []string{"--scrape.reader=new", "--scrape.reader=old"}}} {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			number := seed(t)
			t.Logf("%s=%d", seedVariable, number)
			r := rand.New(rand.NewPCG(number, 4))
			hosts := []string{"seconds", "tenths", "more-tenths"}
			c := newCluster(t, hosts, form.args...)
			three, debian := c.prometheus3("new", time.Second), c.prometheusDebian("old", form.old)
			c.pusher(hosts[0], c.address, time.Second)
			c.tenths(hosts[1:])
			a := c.audit(number)
			c.has(three, hosts)
			c.has(debian, hosts)
			for range 20 {
				c.gateway.kill()
				time.Sleep(drawn(r, 20*time.Millisecond, 500*time.Millisecond))
				c.gateway.start()
				time.Sleep(drawn(r, 200*time.Millisecond, 2500*time.Millisecond))
			}
			c.stopSampling()
			c.resume()
			samples, _ := c.same(three, 30*time.Second)
			c.same(debian, 30*time.Second)
			a.end()
			t.Logf("%d samples, the same in both after 20 times kill -9 of the gateway", samples)
		})
	}
}

// TestChaosSecondSpool: a second pusher of the same name, with a spool of its
// own, is answered with 409 for as long as the first one is heard, and then
// takes over. Prometheus has all of both, but for what the second one has read
// before the first one's last: a series never goes back. To the sample that is
// what the second one's ledger says was refused for this reason.
func TestChaosSecondSpool(t *testing.T) {
	rig.Need(t, "go")
	for _, form := range []struct{ interval, hold time.Duration }{
		{100 * time.Millisecond, 3 * time.Second},
		{2 * time.Second, 6 * time.Second},
	} {
		t.Run(form.interval.String(), func(t *testing.T) {
			t.Parallel()
			secondSpool(t, form.interval, form.hold)
		})
	}
}

func secondSpool(t *testing.T, interval, hold time.Duration) {
	hosts := []string{"twin"}
	c := newCluster(t, hosts, "--scrape.reader=prometheus")
	prometheus := c.prometheus3("prometheus", time.Second)
	first := c.pusher("twin", c.address, interval)
	c.has(prometheus, hosts)
	a := c.audit(5)
	second := c.pusher("twin", c.address, interval)
	conflicts := func(n *sender) float64 {
		return c.sum(n.metrics, `fanin_push_retries_total{reason="conflict"}`)
	}
	rig.Eventually(t, 20*time.Second, func() error {
		if conflicts(second) < 2 {
			return errors.New("the second pusher is not answered with 409")
		}
		return nil
	})
	if n := conflicts(first); n > 0 {
		t.Errorf("the first pusher was answered %v times with 409", n)
	}
	if l, err := readLedger(second.metrics); err != nil || l.delivered > 0 || l.pending == 0 {
		t.Errorf("the second pusher's ledger while the first is heard:%s, %v", l.text, err)
	}
	a.end()
	first.terminate()()
	first.settle()
	rig.Eventually(t, 45*time.Second, func() error {
		if c.sum(second.metrics, "fanin_push_last_success_timestamp_seconds") == 0 {
			return errors.New("the second pusher has not taken over")
		}
		return nil
	})
	of, records := first.journal.read("twin")
	silent := time.Since(records[len(records)-1].appended) // which was pushed a little later
	c.note("the second pusher has taken over")
	if silent < hold {
		t.Errorf("the second pusher took over %s after the first one's last record, want %s of silence", silent, hold)
	}
	atOnce, err := readLedger(second.metrics)
	if err != nil {
		t.Fatal(err)
	}
	var l ledger
	rig.Eventually(t, 20*time.Second, func() error {
		if l, err = readLedger(second.metrics); err == nil && l.delivered+l.refused < atOnce.committed {
			err = fmt.Errorf("the backlog of the second pusher is not collected:%s", l.text)
		}
		return err
	})
	second.terminate()()
	second.settle()
	second.start()

	late := 0
	others, _ := second.journal.read("twin")
	for series, points := range others {
		var newest rig.Point
		if n := len(of[series]); n > 0 {
			newest = of[series][n-1]
		}
		for len(points) > 0 && points[0].T <= newest.T {
			if points[0] != newest { // else it is no other than the first one's
				late++
			}
			points = points[1:]
		}
		of[series] = append(of[series], points...)
	}
	c.wanted = []*expectation{{host: "twin", ended: second.ended.UnixMilli(), history: of}}
	samples, _ := c.same(prometheus, 20*time.Second)
	if l.dropped > 0 || int(l.refused) != late || late == 0 || l.committed != l.delivered+l.refused+l.pending {
		t.Errorf("%d samples of the second pusher were too late; its ledger says%s", late, l.text)
	}
	t.Logf("%d samples of both are there, %d are counted as refused; the second took over after %s", samples, late, silent.Round(time.Millisecond))
}
