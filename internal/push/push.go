// Package push owns the delivery of a spool to one URL: HTTP, credentials,
// what an answer means, and when to try again. It neither knows what is in a
// record nor keeps any.
package push

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"fanin/internal/spool"
)

const (
	defaultTimeout    = 15 * time.Second
	defaultDrain      = 2 * time.Second
	defaultMinBackoff = 100 * time.Millisecond
	defaultMaxBackoff = 30 * time.Second
	// maxRetryAfter bounds how long a receiver can make us wait.
	maxRetryAfter = time.Minute
	// repeatRefusal is how long a reason has to be away to be news again.
	repeatRefusal = 10 * time.Minute
)

// Headers beside those of remote write 1.0.
const (
	nodeHeader     = "X-Fanin-Node"     // who is speaking
	intervalHeader = "X-Fanin-Interval" // seconds between two samples
	timeHeader     = "X-Fanin-Time"     // the clock when it was sent, seconds since 1970
	refusedHeader  = "X-Fanin-Refused"  // answer: "reason=samples, reason=samples"

	// The end-to-end acknowledgement: see [handover].
	spoolHeader     = "X-Fanin-Spool"  // which spool the number is of
	holderHeader    = "X-Fanin-Holder" // which copy of it
	recordHeader    = "X-Fanin-Record" // with this body all records up to here are handed over
	bootHeader      = "X-Fanin-Boot"   // the receiver's process; asked for, and in the answer
	writtenHeader   = "X-Prometheus-Remote-Write-Samples-Written"
	collectedHeader = "X-Fanin-Collected" // answer: records up to here have come to their end
)

// Pusher delivers the records of one spool in order, one at a time. The bodies
// are snappy-compressed remote-write messages.
type Pusher struct {
	URL    string
	Client *http.Client // from [NewClient]
	Spool  *spool.Spool

	// Message says how a body is sent, to a receiver that takes version 1.0 only
	// when old is set. nil: as it is, as version 1.0.
	Message func(body []byte, old bool) (Message, error)

	// Split divides a body in two, or fails when it can not be divided. nil:
	// what a receiver does not take as a whole is dropped as a whole.
	Split func(body []byte) (first, second Part, err error)

	Node     string        // X-Fanin-Node, "" for none
	Interval time.Duration // X-Fanin-Interval, 0 for none

	Timeout                time.Duration // of one attempt, 0 for 15 s
	Drain                  time.Duration // how long to go on after the end, 0 for 2 s
	MinBackoff, MaxBackoff time.Duration // 0 for 100 ms and 30 s

	Log     *slog.Logger          // nil: silent
	Metrics prometheus.Registerer // nil: not exported

	trouble atomic.Pointer[trouble]
}

// Message is a body with what the headers say of it.
type Message struct {
	Body                 []byte
	ContentType, Version string
	Old                  bool // it is of version 1.0
}

// Part is a body that is a part of a record's.
type Part struct {
	Body    []byte
	Samples int
}

// trouble is why nothing is being delivered. It is immutable.
type trouble struct {
	reason string
	err    error
	since  time.Time
}

// Trouble is why records are not being delivered at the moment, nil when the
// last one was or none was sent yet.
func (p *Pusher) Trouble() error {
	if t := p.trouble.Load(); t != nil {
		return t.err
	}
	return nil
}

// Greet asks the receiver, by a message without samples, whether it takes this
// node's credentials, and returns what it says when it does not. Any other
// answer, and none within ctx, is no error: the receiver may come later.
func (p *Pusher) Greet(ctx context.Context) error {
	if v := p.attempt(ctx, Message{[]byte(emptyMessage), "application/x-protobuf", "0.1.0", true}, nil); v.reason == unauthorized {
		return fmt.Errorf("%s answers %w", redacted(p.URL), v.err)
	}
	return nil
}

// emptyMessage is a snappy block of no bytes, a message without fields.
const emptyMessage = "\x00"

// Run delivers until ctx ends, and then, for as long as Drain allows, what is
// left in the spool; it returns nil, at once when [spool.Spool.Finish] was
// called and everything is handed over.
//
// A record is handed over on 2xx, less what the answer's X-Fanin-Refused
// counts, and leaves the spool when the receiver says that it has been
// collected: see [handover]. On 413 it is divided and sent in parts. On 400 the
// series that are to blame are found in the same way, the others delivered.
// What still is not taken, and what is answered with any other 4xx that will
// not change by waiting, is dropped. On everything else, lost credentials
// (401, 403) and a second node of the same name (409) included, it is kept and
// tried again.
func (p *Pusher) Run(ctx context.Context) error {
	r := p.newRun(ctx)
	// Requests outlive ctx by the drain.
	drain, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if wait(drain.Done(), p.or(p.Drain, defaultDrain)) {
			cancel()
		}
	})()
	for {
		record, err := p.Spool.Next(drain, r.next)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.log.Debug("delivery ends", "err", err)
			}
			return nil
		}
		if !r.deliver(drain, record) {
			return nil
		}
	}
}

func (p *Pusher) or(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// run is the state of one Run.
type run struct {
	*Pusher
	handover
	stopping <-chan struct{}
	log      *slog.Logger

	failures  int // in a row
	repeats   int // restarts of the receiver since something was collected
	greeted   bool
	rejecting string               // what the receiver said to the records dropped before
	refusing  map[string]time.Time // when each reason was given last

	attempts, retries  *prometheus.CounterVec
	success            prometheus.Gauge
	duration, restarts prometheus.Counter
}

func (p *Pusher) newRun(ctx context.Context) *run {
	m := promauto.With(p.Metrics)
	r := &run{
		Pusher:   p,
		stopping: ctx.Done(),
		log:      p.Log,
		refusing: make(map[string]time.Time),
		attempts: m.NewCounterVec(prometheus.CounterOpts{Name: "fanin_push_attempts_total", Help: "Attempts to deliver a record, by what came of it."}, []string{"outcome"}),
		retries:  m.NewCounterVec(prometheus.CounterOpts{Name: "fanin_push_retries_total", Help: "Attempts that have to be made again, by reason."}, []string{"reason"}),
		success:  m.NewGauge(prometheus.GaugeOpts{Name: "fanin_push_last_success_timestamp_seconds", Help: "When the receiver last took a record, in seconds since 1970; 0 for never."}),
		restarts: m.NewCounter(prometheus.CounterOpts{Name: "fanin_push_restarts_total", Help: "How often all that is not collected had to be handed over again, because another process of the receiver answered."}),
		duration: m.NewCounter(prometheus.CounterOpts{Name: "fanin_push_seconds_total", Help: "Time spent in attempts to deliver."}),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.log = r.log.With("url", redacted(p.URL))
	r.spool = p.Spool
	m.NewGaugeFunc(prometheus.GaugeOpts{Name: "fanin_push_uncollected_samples", Help: "Samples that the receiver has taken and that are not collected there yet; they are pending until then."}, func() float64 { return float64(r.uncollected.Load()) })
	for _, o := range []outcome{taken, again, never, restart} {
		r.attempts.WithLabelValues(o.String())
	}
	for _, reason := range retryReasons {
		r.retries.WithLabelValues(reason)
	}
	return r
}

// pause waits with full jitter. The end of ctx cuts it short, so that the
// drain begins with an attempt.
func (r *run) pause(drain context.Context, retryAfter time.Duration) bool {
	d := retryAfter + r.backoff()
	select {
	case <-r.stopping:
		d = min(d, r.or(r.MinBackoff, defaultMinBackoff))
		return wait(drain.Done(), d)
	default:
	}
	wait(r.stopping, d)
	return drain.Err() == nil
}

func (r *run) backoff() time.Duration {
	most := r.or(r.MinBackoff, defaultMinBackoff)
	limit := r.or(r.MaxBackoff, defaultMaxBackoff)
	for i := 1; i < r.failures && most < limit; i++ {
		most *= 2
	}
	return rand.N(min(most, limit)) + 1
}

// wait reports whether d passed before done was closed.
func wait(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return false
	case <-timer.C:
		return true
	}
}

func (r *run) failed(v verdict) {
	r.failures++
	before := r.trouble.Load()
	if before != nil && before.reason == v.reason {
		return
	}
	since := time.Now()
	if before != nil {
		since = before.since
	}
	r.trouble.Store(&trouble{v.reason, v.err, since})
	r.log.Warn("samples can not be delivered and are kept", "reason", v.reason, "err", v.err)
}

func (r *run) worked() {
	r.success.SetToCurrentTime()
	if t := r.trouble.Swap(nil); t != nil {
		r.log.Info("samples are delivered again", "after", time.Since(t.since).Round(time.Millisecond), "failures", r.failures, "pending", r.Spool.Ledger().Pending)
	} else if !r.greeted {
		r.log.Info("the receiver answers")
	}
	r.failures, r.greeted, r.rejecting = 0, true, ""
}

// sayRefused logs a reason when it is new, or was not given for a while: some
// refusals are the order of the day (a container that is no guest), and each
// is counted.
func (r *run) sayRefused(refused []refusal) {
	now := time.Now()
	for _, one := range refused {
		last, known := r.refusing[one.reason]
		if !known && len(r.refusing) >= maxRefusals {
			continue
		}
		r.refusing[one.reason] = now
		if !known || now.Sub(last) > repeatRefusal {
			r.log.Warn("the receiver refuses samples", "reason", one.reason, "samples", one.samples)
		}
	}
}

func redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(malformed)"
	}
	return u.Redacted()
}

func decimal(seconds float64) string { return strconv.FormatFloat(seconds, 'f', -1, 64) }
