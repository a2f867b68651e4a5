package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"fanin/internal/spool"
)

// outcome of one attempt.
type outcome int

const (
	taken   outcome = iota // in the receiver's hands
	again                  // keep and try again
	never                  // will not be taken as it is, however often it is sent
	restart                // the receiver is another process: begin anew
)

func (o outcome) String() string { return [...]string{"taken", "again", "never", "restart"}[o] }

// Reasons for trying again.
const (
	network         = "network" // no answer, or half of one
	serverError     = "server_error"
	tooManyRequests = "too_many_requests"
	unauthorized    = "unauthorized" // 401, 403
	conflict        = "conflict"     // 409: somebody else speaks for this node
	redirected      = "redirected"   // a POST that follows would become a GET
)

var retryReasons = [...]string{network, serverError, tooManyRequests, unauthorized, conflict, redirected}

// verdict is what an attempt came to.
type verdict struct {
	outcome    outcome
	reason     string // of again and never
	err        error
	retryAfter time.Duration
	refused    []refusal
	divisible  bool // of never: parts of the body may be taken
	old        bool // the receiver takes version 1.0 only, and took nothing of this

	boot      string // the receiver's process; "": it does not acknowledge
	collected uint64 // of our records
}

// refusal is how many samples the receiver did not want, and why.
type refusal struct {
	reason  string
	samples int
}

const (
	// maxAnswer is how much of an answer is read, so that the connection can be
	// used again; maxSaid is how much of it is repeated in a message.
	maxAnswer = 64 << 10
	maxSaid   = 200
	maxBoot   = 128 // bytes of a name of a process
)

// attempt sends a body once. head is what stands in front of it beside the
// headers that never change.
func (p *Pusher) attempt(ctx context.Context, m Message, head http.Header) verdict {
	ctx, cancel := context.WithTimeout(ctx, p.or(p.Timeout, defaultTimeout))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL, bytes.NewReader(m.Body))
	if err != nil {
		return verdict{outcome: again, reason: network, err: err}
	}
	maps.Copy(request.Header, head)
	// https://prometheus.io/docs/specs/prw/remote_write_spec/
	request.Header.Set("Content-Encoding", "snappy")
	request.Header.Set("Content-Type", m.ContentType)
	request.Header.Set("X-Prometheus-Remote-Write-Version", m.Version)
	if p.Node != "" {
		request.Header.Set(nodeHeader, p.Node)
	}
	if p.Interval > 0 {
		request.Header.Set(intervalHeader, decimal(p.Interval.Seconds()))
	}
	request.Header.Set(timeHeader, decimal(float64(time.Now().UnixMicro())/1e6))
	response, err := p.Client.Do(request)
	if err != nil {
		return verdict{outcome: again, reason: network, err: err}
	}
	defer response.Body.Close()
	// The head of an answer says all there is to know; a body that breaks off
	// only costs the connection.
	said, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	v := judge(response.StatusCode, response.Header, said, time.Now())
	v.boot, v.collected = acknowledgement(response.Header)
	v.old = !m.Old && takesOnlyOld(response.StatusCode, response.Header)
	return v
}

// takesOnlyOld reports whether a receiver did not understand version 2.0: it
// says so, or does not say how much it has written, as 2.0 wants of it.
func takesOnlyOld(status int, header http.Header) bool {
	return status == http.StatusUnsupportedMediaType || status/100 == 2 && header.Get(writtenHeader) == ""
}

// message is how a body is sent.
func (p *Pusher) message(body []byte, old bool) (Message, error) {
	if p.Message == nil {
		return Message{Body: body, ContentType: "application/x-protobuf", Version: "0.1.0", Old: true}, nil
	}
	return p.Message(body, old)
}

// acknowledgement reads who answers and how far our records are collected.
func acknowledgement(header http.Header) (boot string, collected uint64) {
	boot = header.Get(bootHeader)
	if len(boot) > maxBoot {
		return "", 0
	}
	collected, err := strconv.ParseUint(header.Get(collectedHeader), 10, 64)
	if err != nil {
		return boot, 0
	}
	return boot, collected
}

// judge decides what an answer means. 2xx is success, 4xx must not be sent
// again but for 429 (remote write 1.0, "Retries & Backoff"); the exceptions are
// those where the answer is about us and not about the samples.
func judge(status int, header http.Header, said []byte, now time.Time) verdict {
	v := verdict{
		err:        fmt.Errorf("%d %s%s", status, http.StatusText(status), repeated(said)),
		retryAfter: retryAfter(header.Get("Retry-After"), now),
	}
	switch {
	case status/100 == 2:
		return verdict{outcome: taken, refused: parseRefused(header.Values(refusedHeader))}
	case status/100 == 3:
		v.outcome, v.reason = again, redirected
	case status == http.StatusTooManyRequests:
		v.outcome, v.reason = again, tooManyRequests
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		v.outcome, v.reason = again, unauthorized
	case status == http.StatusConflict:
		v.outcome, v.reason = again, conflict
	case status == http.StatusRequestTimeout:
		v.outcome, v.reason = again, network
	case status == http.StatusPreconditionFailed && header.Get(bootHeader) != "":
		v.outcome = restart
	case status == http.StatusRequestEntityTooLarge:
		v.outcome, v.reason, v.divisible = never, spool.TooLarge, true
	case status == http.StatusBadRequest && header.Get(refusedHeader) != "":
		// The receiver took the good series and says how many were bad.
		return verdict{outcome: taken, refused: parseRefused(header.Values(refusedHeader))}
	case status/100 == 4:
		v.outcome, v.reason, v.divisible = never, spool.Rejected, status == http.StatusBadRequest
	default:
		v.outcome, v.reason = again, serverError
	}
	return v
}

// repeated is the beginning of what a receiver said, fit for one line.
func repeated(said []byte) string {
	line := strings.Join(strings.Fields(strings.ToValidUTF8(string(said[:min(len(said), maxSaid)]), "")), " ")
	if line == "" {
		return ""
	}
	return ": " + strconv.Quote(line)
}

// retryAfter reads the header's two forms (RFC 9110, 10.2.3), bounded.
func retryAfter(text string, now time.Time) time.Duration {
	if text == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		return maxRetryAfter
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	return max(0, min(at.Sub(now), maxRetryAfter))
}

const (
	maxRefusals   = 64
	maxReasonName = 64
	maxRefused    = 1 << 30
)

// parseRefused reads "reason=count, reason=count". What is malformed is left
// out: then those samples count as delivered, which is what the status says.
func parseRefused(values []string) []refusal {
	var all []refusal
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			reason, count, ok := strings.Cut(strings.TrimSpace(part), "=")
			n, err := strconv.Atoi(count)
			if !ok || err != nil || n <= 0 || n > maxRefused || !validReason(reason) {
				continue
			}
			if all = append(all, refusal{reason, n}); len(all) == maxRefusals {
				return all
			}
		}
	}
	return all
}

func validReason(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= maxReasonName
}
