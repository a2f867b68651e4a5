package push

import (
	"net/http"
	"strconv"
	"sync/atomic"

	"fanin/internal/spool"
)

// handover is how far the records of a spool have come with a receiver that
// acknowledges from the far end.
//
// Such a receiver names its process in each answer (X-Fanin-Boot) and says up
// to which record everything has been collected by those who read there
// (X-Fanin-Collected). Until then a record stays in the spool, as the receiver
// may be killed and remembers nothing. Each push names the process that it is
// meant for. Another one answers 412 and takes nothing, so that no new record
// overtakes those that are lost with the old process; they are sent again from
// the first that has not been collected. A receiver that says nothing of this
// kind has collected what it answers with 2xx.
type handover struct {
	spool *spool.Spool

	old  bool   // the receiver takes version 1.0 only
	boot string // of the receiver's process; "" when there is none, and before the first answer
	next uint64 // records up to this number are handed over
	open []receipt

	uncollected atomic.Int64 // samples of open
}

// receipt is a record that is handed over and not collected. What was not
// taken of it is final, and counted, only when the rest is collected.
type receipt struct {
	number  uint64
	samples int
	refused []refusal
	dropped []refusal
}

// head is the headers of a push after which everything up to number is handed
// over.
func (h *handover) head(number uint64) http.Header {
	header := http.Header{}
	header.Set(spoolHeader, h.spool.ID())
	header.Set(holderHeader, h.spool.Holder())
	header.Set(recordHeader, strconv.FormatUint(number, 10))
	if h.boot != "" {
		header.Set(bootHeader, h.boot)
	}
	return header
}

// meet notes which process answered; false: it is not the one that has what
// was handed over before, and everything begins anew.
func (h *handover) meet(boot string) bool {
	same := h.boot == "" || h.boot == boot
	h.boot = boot
	if !same {
		h.next, h.open, h.old = 0, nil, false
		h.uncollected.Store(0)
	}
	return same
}

// gave notes that a record is handed over.
func (h *handover) gave(r receipt) {
	h.next = r.number
	h.open = append(h.open, r)
	h.uncollected.Add(int64(r.samples))
	for len(h.open) > 0 && !h.spool.Has(h.open[0].number) {
		h.forget() // the spool was full, and has counted it
	}
	if h.boot == "" {
		h.settle(r.number)
	}
}

// settle takes what has been collected out of the spool, whatever is said of
// records that were never handed over; false: nothing new.
func (h *handover) settle(collected uint64) bool {
	collected = min(collected, h.next)
	if len(h.open) == 0 || h.open[0].number > collected {
		return false
	}
	for len(h.open) > 0 && h.open[0].number <= collected {
		r := h.open[0]
		for _, one := range r.refused {
			h.spool.Refuse(r.number, one.reason, one.samples)
		}
		for _, one := range r.dropped {
			h.spool.DropSamples(r.number, one.reason, one.samples)
		}
		h.forget()
	}
	h.spool.Ack(collected)
	return true
}

func (h *handover) forget() {
	h.uncollected.Add(-int64(h.open[0].samples))
	h.open = h.open[1:]
}
