package push

import (
	"context"
	"slices"
	"time"

	"fanin/internal/spool"
)

// maxParts is how many attempts a record gets that has to be divided: enough to
// find some fifteen bad series among thousands. What is not taken by then is
// dropped in the pieces that are left.
const maxParts = 400

// delivery is a record on its way.
type delivery struct {
	record   spool.Record
	left     []Part // in order
	parts    int    // attempts that were answered with never
	refused  []refusal
	dropped  []refusal
	accepted bool // some of it is in the receiver's hands
}

// deliver reports whether the record has been dealt with; false means that
// time is up.
func (r *run) deliver(drain context.Context, record spool.Record) bool {
	d := delivery{record: record, left: []Part{{record.Body, record.Samples}}}
	for len(d.left) > 0 {
		number := record.Number
		if len(d.left) > 1 {
			number = r.next // more of this record follows
		}
		v := r.send(drain, d.left[0].Body, number)
		if drain.Err() != nil && v.outcome == again {
			return false // the end of the drain cut it off
		}
		if v.old {
			r.log.Info("the receiver takes remote write 1.0 only")
			r.old = true
			continue
		}
		r.doubt(&v)
		r.attempts.WithLabelValues(v.outcome.String()).Inc()
		switch v.outcome {
		case taken, restart:
			if !r.meet(v.boot) {
				return r.anew(drain)
			}
			r.worked()
			r.sayRefused(v.refused)
			d.took(v.refused)
		case never:
			r.divide(&d, v)
		case again:
			if v.boot != "" && v.boot == r.boot && r.settle(v.collected) {
				r.repeats = 0
			}
			r.retries.WithLabelValues(v.reason).Inc()
			r.failed(v)
			if !r.pause(drain, v.retryAfter) {
				return false
			}
			if !r.Spool.Has(record.Number) {
				return true // dropped while it waited, and counted there
			}
			continue
		}
		if len(d.left) == 0 {
			r.finish(&d, v.collected)
		}
	}
	return true
}

func (r *run) send(drain context.Context, body []byte, number uint64) verdict {
	m, err := r.message(body, r.old)
	if err != nil {
		return verdict{outcome: never, reason: spool.Rejected, err: err}
	}
	start := time.Now()
	v := r.attempt(drain, m, r.head(number))
	r.duration.Add(time.Since(start).Seconds())
	return v
}

// doubt finds the answers that can not be meant for a record: a rejection by
// somebody else than the receiver that we know, as a proxy in front of it while
// it is away, and a restart that is none.
func (r *run) doubt(v *verdict) {
	stranger := v.outcome == never && v.reason == spool.Rejected && r.boot != "" && v.boot == ""
	if stranger || v.outcome == restart && (r.boot == "" || r.boot == v.boot) {
		v.outcome, v.reason = again, serverError
	}
}

// anew begins again with another process of the receiver. Where two of them
// answer in turns this would never end: then it takes its time.
func (r *run) anew(drain context.Context) bool {
	r.restarts.Inc()
	r.log.Warn("another process of the receiver answers: what has not been collected is handed over again", "samples", r.Spool.Ledger().Pending)
	if r.repeats++; r.repeats < 2 {
		return true
	}
	r.failures = r.repeats
	return r.pause(drain, 0)
}

func (d *delivery) took(refused []refusal) {
	for _, one := range refused {
		d.refused = add(d.refused, one)
	}
	d.accepted = true
	d.left = d.left[1:]
}

func add(all []refusal, one refusal) []refusal {
	i := slices.IndexFunc(all, func(r refusal) bool { return r.reason == one.reason })
	if i < 0 {
		return append(all, one)
	}
	all[i].samples += one.samples
	return all
}

// divide puts two parts in the place of one that is not taken as it is, or
// gives it up. A verdict that is not about the body holds for all parts.
func (r *run) divide(d *delivery, v verdict) {
	part := d.left[0]
	if d.parts++; v.divisible && r.Split != nil && d.parts < maxParts {
		if first, second, err := r.Split(part.Body); err == nil {
			d.left = append([]Part{first, second}, d.left[1:]...)
			return
		}
	}
	d.left = d.left[1:]
	if part.Samples > 0 {
		d.dropped = add(d.dropped, refusal{v.reason, part.Samples})
	}
	r.rejected(v, part.Samples)
}

// finish is called when nothing of the record is left to send.
func (r *run) finish(d *delivery, collected uint64) {
	if !d.accepted && len(d.dropped) > 0 {
		for _, one := range d.dropped[1:] {
			r.Spool.DropSamples(d.record.Number, one.reason, one.samples)
		}
		r.Spool.Drop(d.record.Number, d.dropped[0].reason)
		r.next = d.record.Number
		return
	}
	r.gave(receipt{d.record.Number, d.record.Samples, d.refused, d.dropped})
	if r.settle(collected) {
		r.repeats = 0
	}
}

func (r *run) rejected(v verdict, samples int) {
	r.failures = 0
	r.trouble.Store(nil)
	if said := v.err.Error(); said != r.rejecting {
		r.rejecting = said
		r.log.Error("the receiver rejects samples, which are dropped", "reason", v.reason, "samples", samples, "err", v.err)
	}
}
