package ingest

import (
	"crypto/rand"
	"encoding/hex"
	"hash/maphash"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"fanin/internal/window"
)

// Headers of the end-to-end acknowledgement. A sender that keeps what it sends
// until it has been collected numbers its records; one that knows nothing of
// this leaves the headers out.
const (
	// SpoolHeader says whose numbers they are.
	SpoolHeader = "X-Fanin-Spool"
	// HolderHeader tells copies of one spool apart, as cloned machines have them.
	HolderHeader = "X-Fanin-Holder"
	// RecordHeader: with this push everything up to this number is handed over.
	RecordHeader = "X-Fanin-Record"
	// BootHeader, in an answer: this process. In a push: the process that has
	// what was handed over before; another one takes nothing and answers 412.
	BootHeader = "X-Fanin-Boot"
	// CollectedHeader, in an answer: of this spool, everything up to this number
	// has been collected and can be forgotten.
	CollectedHeader = "X-Fanin-Collected"
)

const (
	// shortestHold is how long a host belongs at least to the spool that pushed
	// for it last.
	shortestHold = 3 * time.Second
	// maxReceipts bounds what is remembered of one spool; then every other
	// receipt gives way to the next one, and what it was for is acknowledged a
	// little later.
	maxReceipts = 1024
	// maxBodies is how many parts of a record are told from repeats of them.
	maxBodies    = 512
	forgetSender = 24 * time.Hour
)

var spoolName = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

// senders is who pushes for each host, and how far its records have come.
type senders struct {
	// immutable
	boot string
	seed maphash.Seed

	mu    sync.Mutex // guards all below
	hosts map[string]*sender
}

// sender is the spool that speaks for a host, and the copy of it that does.
type sender struct {
	spool  string
	holder string
	from   string // address, for people
	heard  time.Time
	hold   time.Duration // for so long after, no other spool or copy may
	rival  bool          // there is another one, and it was said so

	taken     uint64    // record
	bodies    []uint64  // taken with its number: its own, and the first parts of the next one
	collected uint64    // record
	receipts  []receipt // ascending in both
}

// receipt: everything up to this record stands before this position in the
// window.
type receipt struct {
	record uint64
	end    window.Position
}

func newSenders() *senders {
	var id [8]byte
	_, _ = rand.Read(id[:]) // which never fails
	return &senders{boot: hex.EncodeToString(id[:]), seed: maphash.MakeSeed(), hosts: map[string]*sender{}}
}

// parcel is what a push says of where its body comes from. Without a spool
// nothing is acknowledged.
type parcel struct {
	spool    string
	holder   string
	record   uint64
	body     uint64 // hash
	repeated bool   // this was taken before
	claimed  bool   // it was for a host of the roster, whether it got that or not
}

func parcelOf(header http.Header) (p parcel) {
	if s := header.Get(SpoolHeader); spoolName.MatchString(s) {
		if n, err := strconv.ParseUint(header.Get(RecordHeader), 10, 64); err == nil {
			p.spool, p.record = s, n
			if h := header.Get(HolderHeader); spoolName.MatchString(h) {
				p.holder = h
			}
		}
	}
	return p
}

// claim takes a host for a spool. When another spool speaks for it, it returns
// for how long at least it still will.
func (s *senders) claim(host string, p *parcel, from string, interval time.Duration, now time.Time, log *slog.Logger) (wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.claimed = true
	of := s.hosts[host]
	if of != nil && (of.spool != p.spool || of.holder != p.holder) {
		if left := of.hold - now.Sub(of.heard); left > 0 {
			if !of.rival {
				of.rival = true
				log.Warn("two pushers have the name of one host: only the one that was first is heard; give the other a --node.name of its own", "host", host, "first", of.from, "other", from)
			}
			return left
		}
		log.Info("another pusher, or another spool of it, speaks for a host now", "host", host, "before", of.from, "now", from)
	}
	if of == nil || of.spool != p.spool {
		s.forget(now)
		of = &sender{spool: p.spool}
		s.hosts[host] = of
	}
	if of.holder != p.holder {
		of.holder, of.rival = p.holder, false
	}
	of.from, of.heard, of.hold = from, now, max(3*interval, shortestHold)
	p.repeated = p.record < of.taken || p.record == of.taken && slices.Contains(of.bodies, p.body)
	return 0
}

// hear notes that something has come from whom a parcel is of: on a slow link
// the whole of it may take longer than a host is held.
func (s *senders) hear(host string, p *parcel, now time.Time) {
	if !p.claimed {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if of := s.hosts[host]; of != nil && of.spool == p.spool && of.holder == p.holder {
		of.heard = now
	}
}

func (s *senders) forget(now time.Time) {
	for host, of := range s.hosts {
		if now.Sub(of.heard) > forgetSender {
			delete(s.hosts, host)
		}
	}
}

// took notes that everything up to the parcel's record stands before end;
// stored says how many points of this body are new.
func (s *senders) took(host string, p parcel, end window.Position, stored int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.hosts[host]
	if of == nil || of.spool != p.spool {
		return
	}
	if p.record > of.taken {
		of.bodies = of.bodies[:0]
	}
	if p.record >= of.taken && !p.repeated && len(of.bodies) < maxBodies {
		of.bodies = append(of.bodies, p.body)
	}
	if p.record == 0 || stored == 0 && p.record <= of.taken {
		return
	}
	of.collected = min(of.collected, p.record-1)
	for i := range of.receipts {
		if r := &of.receipts[i]; r.record >= p.record {
			r.end = max(r.end, end)
		}
	}
	of.taken = max(of.taken, p.record)
	n := len(of.receipts)
	switch {
	case n == 0 || of.receipts[n-1].record < of.taken && of.receipts[n-1].end < end:
		of.receipts = append(of.receipts, receipt{of.taken, end})
	default:
		of.receipts[n-1].record = of.taken // nothing new stands behind the one before
	}
	if len(of.receipts) > maxReceipts {
		for i := range maxReceipts / 2 {
			of.receipts[i] = of.receipts[2*i+1]
		}
		of.receipts = append(of.receipts[:maxReceipts/2], of.receipts[maxReceipts:]...)
	}
}

// collected is the record up to which everything stands before a position.
func (s *senders) collected(host string, p parcel, until window.Position) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.hosts[host]
	if of == nil || of.spool != p.spool {
		if p.claimed {
			return 0 // another spool speaks for the host now, and what this one handed over may wait
		}
		return p.record // nothing of it waits here
	}
	n := 0
	for n < len(of.receipts) && of.receipts[n].end <= until {
		of.collected = of.receipts[n].record
		n++
	}
	of.receipts = of.receipts[n:]
	return of.collected
}
