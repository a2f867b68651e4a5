// Package ingest owns the remote-write endpoint: what it takes, what it
// answers, and what it counts. Who may say what is admission's matter, what
// is kept is the window's.
package ingest

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"math"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/admission"
	"fanin/internal/deployment"
	"fanin/internal/presence"
	"fanin/internal/window"
	"fanin/internal/wire"
)

// Headers of a push beside those of the protocol. [admission.NodeHeader] is
// one more.
const (
	// IntervalHeader: seconds between the sender's samples.
	IntervalHeader = "X-Fanin-Interval"
	// TimeHeader: the sender's clock when it sends, in seconds since 1970.
	TimeHeader = "X-Fanin-Time"
	// RefusedHeader, in the answer: how many samples were refused, as
	// "reason=count, reason=count".
	RefusedHeader = "X-Fanin-Refused"
	writtenHeader = "X-Prometheus-Remote-Write-"
)

const (
	defaultMaxBody   = 2 << 20
	defaultMaxFuture = time.Minute
	defaultMaxAge    = 50 * time.Minute
	// A sender that does not say its interval is a stock one; those may
	// sample once a minute, and mark the end of a series themselves.
	stockKeep = 5 * time.Minute
)

// Handler is the endpoint. Fields are set before the first request and not
// changed after it.
type Handler struct {
	Nodes    *admission.Nodes
	Gate     *admission.Gate
	Window   *window.Store
	Presence *presence.Book
	Roster   func() *deployment.Roster
	Ready    func() error // why pushes can not be judged yet; nil: they always can
	Log      *slog.Logger

	Limits    wire.Limits
	MaxBody   int64         // compressed bytes, default 2 MiB
	MaxFuture time.Duration // how far ahead of this clock a point may be, default 1 min
	MaxAge    time.Duration // how old a point may be, default 50 min
	Decoders  int           // bodies that are decoded at once, default twice the processors

	senders  *senders
	once     sync.Once
	reading  reading
	decoding chan struct{}
	scratch  sync.Pool // of *work
	metrics  metrics
}

func (h *Handler) prepare() {
	h.once.Do(func() {
		h.senders = newSenders()
		if h.Decoders <= 0 {
			h.Decoders = 2 * runtime.GOMAXPROCS(0)
		}
		h.decoding = make(chan struct{}, h.Decoders)
		h.metrics = newMetrics()
		if h.MaxBody <= 0 {
			h.MaxBody = defaultMaxBody
		}
		if h.MaxFuture <= 0 {
			h.MaxFuture = defaultMaxFuture
		}
		if h.MaxAge <= 0 {
			h.MaxAge = defaultMaxAge
		}
	})
}

// Register adds the endpoint's own metrics.
func (h *Handler) Register(registerer prometheus.Registerer) error {
	h.prepare()
	return h.metrics.register(registerer)
}

// refusal is an answer other than success.
type refusal struct {
	code  int
	text  string
	after time.Duration // when to try again, if not at once
}

func (r *refusal) Error() string { return r.text }

// ServeHTTP answers a push:
//
//	204  taken, except what X-Fanin-Refused counts
//	400  not a remote-write body, or some of its series are malformed: these
//	     are named, and the others are taken
//	401  no or wrong credentials
//	405  not a POST
//	409  another spool speaks for this host; again after Retry-After
//	412  meant for another process of this gateway: nothing of the body was
//	     taken, as what was handed over to that one may be lost
//	413  over a limit; send it in parts
//	415  neither remote write 1.0 nor 2.0
//	429  too many pushes at once, or the window has no room and nothing of the
//	     body was taken; again after Retry-After
//	503  who belongs here is not known yet; again after Retry-After
//
// A sender that numbers its records ([SpoolHeader]) is told how far they have
// been collected.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.prepare()
	code := http.StatusNoContent
	if err := h.serve(w, r); err != nil {
		code = err.code
		if err.after > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(err.after.Seconds()))))
		}
		switch code {
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", `Basic realm="fanin", Bearer`)
		case http.StatusMethodNotAllowed:
			w.Header().Set("Allow", http.MethodPost)
		}
		http.Error(w, err.text, code)
	} else {
		w.WriteHeader(code)
	}
	h.metrics.requests.WithLabelValues(strconv.Itoa(code)).Inc()
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) *refusal {
	if r.Method != http.MethodPost {
		return &refusal{code: http.StatusMethodNotAllowed, text: "remote write is a POST"}
	}
	version, err := versionOf(r.Header)
	if err != nil {
		return &refusal{code: http.StatusUnsupportedMediaType, text: err.Error()}
	}
	host, err := h.Nodes.Authenticate(r)
	if err != nil {
		h.metrics.unauthenticated.Inc()
		return &refusal{code: http.StatusUnauthorized, text: err.Error()}
	}
	w.Header().Set(BootHeader, h.senders.boot)
	if meant := r.Header.Get(BootHeader); meant != "" && meant != h.senders.boot {
		return &refusal{code: http.StatusPreconditionFailed, text: "this process of the gateway does not have what was handed over before: begin with what has not been collected"}
	}
	if h.Ready != nil {
		if err := h.Ready(); err != nil {
			return &refusal{http.StatusServiceUnavailable, err.Error(), time.Second}
		}
	}
	parcel := parcelOf(r.Header)
	if parcel.spool != "" {
		if h.Roster().HasHost(host) {
			if no := h.claim(r, host, &parcel); no != nil {
				return no
			}
		}
		defer func() {
			w.Header().Set(CollectedHeader, strconv.FormatUint(h.senders.collected(host, parcel, h.Window.Collected()), 10))
		}()
	}
	job, _ := h.scratch.Get().(*work)
	if job == nil {
		job = &work{decoder: wire.Decoder{Limits: h.Limits}, refused: map[admission.Reason]int{}}
	}
	defer h.scratch.Put(job)
	if err := h.read(w, r, host, job, &parcel); err != nil {
		return err
	}
	job.version = version
	if parcel.spool != "" {
		parcel.body = maphash.Bytes(h.senders.seed, job.body.Bytes())
	}
	return h.take(w, r, host, job, &parcel)
}

// claim takes the host for the spool that a push comes from.
func (h *Handler) claim(r *http.Request, host string, p *parcel) *refusal {
	if p.spool == "" {
		return nil
	}
	if wait := h.senders.claim(host, p, r.RemoteAddr, intervalOf(r), time.Now(), h.Log); wait > 0 {
		return &refusal{http.StatusConflict, "another pusher speaks for the host " + host + ": two can not have one name", wait}
	}
	return nil
}

// versionOf finds what a body is a message of.
func versionOf(header http.Header) (v wire.Version, err error) {
	if got := header.Get("Content-Encoding"); got != wire.ContentEncoding {
		return v, fmt.Errorf("Content-Encoding is %q, want %s", got, wire.ContentEncoding)
	}
	content := header.Get("Content-Type")
	for _, v := range [...]wire.Version{wire.V1, wire.V2} {
		if content == v.ContentType() {
			return v, nil
		}
	}
	media, params, err := mime.ParseMediaType(content)
	if err != nil || media != wire.MediaType {
		return v, fmt.Errorf("Content-Type is %q, want %s", content, wire.MediaType)
	}
	v, known := wire.ParseProto(params["proto"])
	if !known {
		return v, fmt.Errorf("messages of type %q are not taken, send %s or %s", params["proto"], wire.V1.ContentType(), wire.V2.ContentType())
	}
	return v, nil
}

// take decodes a body, admits its series and keeps their points. Of a sender
// outside the cluster nothing is remembered, as without credentials it may call
// itself anything.
func (h *Handler) take(w http.ResponseWriter, r *http.Request, host string, job *work, from *parcel) *refusal {
	now := time.Now()
	memory := &wire.Memory{Version: job.version}
	var session *admission.Session
	if h.Roster().HasHost(host) {
		session = h.Gate.Begin(host, now)
		defer session.End()
		// Again: while the body was read its host may have entered the roster, or
		// gone to another spool.
		if no := h.claim(r, host, from); no != nil {
			return no
		}
		memory = session.Memory(job.version)
	}
	request, no := h.decode(job, memory)
	if no != nil {
		return no
	}
	clear(job.refused)
	node, written := "unknown", 0
	if session != nil {
		if written, no = h.keep(r, host, job, session, request, from, now); no != nil {
			return no // all of it comes again, and is counted then
		}
		node = host
	} else {
		request.EachSeries(func(claim *wire.Series) { job.refused[admission.UnknownHost] += max(1, len(claim.Points)) })
		h.senders.took(host, *from, 0, 0) // nothing of it waits here, though of what came before something may
	}
	for reason, n := range job.refused {
		h.metrics.refused.WithLabelValues(node, string(reason)).Add(float64(n))
	}
	return h.answer(w, job, written)
}

func (h *Handler) decode(job *work, memory *wire.Memory) (*wire.Request, *refusal) {
	select {
	case h.decoding <- struct{}{}:
		defer func() { <-h.decoding }()
	default:
		return nil, &refusal{code: http.StatusTooManyRequests, text: "too many pushes are being decoded; try again", after: time.Second}
	}
	request, err := job.decoder.Decode(job.body.Bytes(), memory)
	switch {
	case errors.Is(err, wire.ErrTooLarge):
		return nil, &refusal{code: http.StatusRequestEntityTooLarge, text: err.Error()}
	case err != nil:
		return nil, &refusal{code: http.StatusBadRequest, text: err.Error()}
	}
	return request, nil
}

// keep returns how many samples are in the window now, whether by this body
// or by one before. When the window has no room for this sender, nothing of
// the body is in it.
func (h *Handler) keep(r *http.Request, host string, job *work, session *admission.Session, request *wire.Request, from *parcel, now time.Time) (written int, no *refusal) {
	job.points, job.heard = job.points[:0], job.heard[:0]
	job.newest, job.oldest = now.Add(h.MaxFuture).UnixMilli(), now.Add(-h.MaxAge).UnixMilli()
	interval := intervalOf(r)
	h.Presence.HostHeard(host, now, interval)
	sent := seconds(r.Header.Get(TimeHeader), 1<<62)
	if sent > 0 {
		h.Presence.ClockRead(host, time.Unix(0, int64(sent)).Sub(now))
	}
	job.sent = sent.Milliseconds()
	job.recent = presence.Keep(interval).Milliseconds()
	request.EachMetadata(session.Learn)
	request.Each(func(id int, p wire.Point) bool {
		series, by := session.Known(id, job.version)
		if series == nil {
			return false
		}
		job.take(series, p)
		job.hear(by, p)
		return true
	}, func(claim *wire.Series) { h.admit(session, claim, host, job, now) })
	h.Presence.GuestsHeard(job.heard, now)

	stay := presence.Keep(interval)
	if interval == 0 {
		stay = stockKeep
	}
	duplicates := 0
	stored, end, err := h.Window.Append(job.points, now, stay, func(_ int, o window.Outcome) {
		switch o {
		case window.Duplicate:
			duplicates++
		case window.Late:
			if from.repeated {
				duplicates++
				return
			}
			job.refused[admission.OutOfOrder]++
		case window.Full:
			job.refused[admission.SeriesLimit]++
		}
	})
	if err != nil {
		return 0, &refusal{http.StatusTooManyRequests, err.Error(), time.Second}
	}
	if from.spool != "" {
		h.senders.took(host, *from, end, stored)
	}
	h.metrics.stored.WithLabelValues(host).Add(float64(stored))
	h.metrics.duplicates.WithLabelValues(host).Add(float64(duplicates))
	return stored + duplicates, nil
}

func (h *Handler) answer(w http.ResponseWriter, job *work, written int) *refusal {
	w.Header().Set(writtenHeader+"Samples-Written", strconv.Itoa(written))
	if job.version == wire.V2 {
		w.Header().Set(writtenHeader+"Histograms-Written", "0")
		w.Header().Set(writtenHeader+"Exemplars-Written", "0")
	}
	if len(job.refused) == 0 {
		return nil
	}
	var all, ofForm []string
	for _, reason := range slices.Sorted(maps.Keys(job.refused)) {
		count := fmt.Sprintf("%s=%d", reason, job.refused[reason])
		all = append(all, count)
		if reason.OfForm() {
			ofForm = append(ofForm, count)
		}
	}
	w.Header().Set(RefusedHeader, strings.Join(all, ", "))
	if len(ofForm) > 0 {
		return &refusal{code: http.StatusBadRequest, text: "malformed series were left out, the others taken: " + strings.Join(ofForm, ", ")}
	}
	return nil
}

func (h *Handler) admit(session *admission.Session, claim *wire.Series, host string, job *work, now time.Time) {
	verdict := session.Admit(claim, job.version)
	if claim.Histograms > 0 {
		job.refused[admission.Histogram] += claim.Histograms
	}
	switch {
	case verdict.Refusal != nil:
		reason := verdict.Refusal.Reason
		job.refused[reason] += max(1, len(claim.Points))
		if verdict.Owner != nil {
			h.Presence.GuestRefused(*verdict.Owner, now)
		}
		if name := verdict.Refusal.Stranger; name != "" {
			h.Presence.StrangerHeard(presence.Stranger{Host: host, Name: name, Reason: string(reason), Seen: now})
		}
	case verdict.State != nil:
		if n := len(claim.Points); n > 0 && job.present(claim.Points[n-1]) {
			h.Presence.GuestSaid(*verdict.Owner, claim.Points[n-1].V > 0, verdict.State.Why, now)
		}
	default:
		for _, p := range claim.Points {
			job.take(verdict.Series, p)
		}
		if n := len(claim.Points); n > 0 {
			job.hear(verdict.Owner, claim.Points[n-1])
		}
	}
}

// intervalOf is the time between the sender's samples, 0 when it does not say.
func intervalOf(r *http.Request) time.Duration {
	return seconds(r.Header.Get(IntervalHeader), time.Hour)
}

// seconds reads a decimal number of seconds from a header, 0 when there is
// none or it is not between 0 and most.
func seconds(text string, most time.Duration) time.Duration {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v > 0 && v <= most.Seconds()) {
		return 0
	}
	return time.Duration(v * float64(time.Second))
}
