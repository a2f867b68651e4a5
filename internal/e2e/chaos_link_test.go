package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"testing"
	"time"

	"fanin/internal/e2e/rig"
)

// badLink is a way from a pusher to the gateway that spoils some of what goes
// over it. It hands requests on one by one, over one connection for each of
// its own.
type badLink struct {
	address, to string
	diary       *diary
	name        string
	connections sync.WaitGroup

	mu       sync.Mutex // guards what follows
	rand     *rand.Rand
	listener net.Listener
	open     map[net.Conn]bool
	spoilt   map[fault]int
	healed   bool
	closed   bool
}

// fault is what a link does to a request.
type fault int

const (
	none     fault = iota
	cutOff         // half of the request reaches the gateway, then both connections end
	swallow        // the gateway has handled it, and nobody hears the answer
	halved         // half of the answer comes through
	delayed        // all of it comes late
	refusing       // and for some seconds nobody listens any more
)

func (f fault) String() string {
	return [...]string{"none", "cut off", "answer swallowed", "answer cut in half", "delayed", "refused for a while"}[f]
}

// per thousand requests.
var faultRates = map[fault]int{cutOff: 25, swallow: 30, halved: 10, delayed: 25, refusing: 4}

func newLink(t *testing.T, d *diary, name, to string, seed uint64) *badLink {
	t.Helper()
	l := &badLink{
		address: fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t)), to: to, diary: d, name: name,
		rand: rand.New(rand.NewPCG(seed, 0)), open: map[net.Conn]bool{}, spoilt: map[fault]int{},
	}
	if err := l.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func (l *badLink) listen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	listener, err := net.Listen("tcp", l.address)
	if err != nil {
		return err
	}
	l.listener = listener
	l.connections.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			if l.track(c) {
				l.connections.Go(func() { l.serve(c) })
			}
		}
	})
	return nil
}

func (l *badLink) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return false
	}
	l.open[c] = true
	return true
}

func (l *badLink) untrack(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// draw says what becomes of the next request, and for how long.
func (l *badLink) draw() (fault, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.healed {
		return none, 0
	}
	n := l.rand.IntN(1000)
	for f := cutOff; f <= refusing; f++ {
		if n -= faultRates[f]; n < 0 {
			l.spoilt[f]++
			if f == refusing {
				return f, time.Duration(500+l.rand.IntN(3000)) * time.Millisecond
			}
			return f, time.Duration(50+l.rand.IntN(2000)) * time.Millisecond
		}
	}
	return none, 0
}

func (l *badLink) serve(client net.Conn) {
	defer l.untrack(client)
	gateway, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer l.untrack(gateway)
	if !l.track(gateway) {
		return
	}
	requests, answers := bufio.NewReader(client), bufio.NewReader(gateway)
	for {
		request, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		var whole bytes.Buffer
		if request.Write(&whole) != nil {
			return
		}
		f, long := l.draw()
		switch f {
		case cutOff:
			_, _ = gateway.Write(whole.Bytes()[:whole.Len()/2])
			return
		case refusing:
			l.refuse(long)
			return
		case delayed:
			time.Sleep(long)
		}
		if _, err := gateway.Write(whole.Bytes()); err != nil {
			return
		}
		answer, err := http.ReadResponse(answers, request)
		if err != nil {
			return
		}
		said, err := httputil.DumpResponse(answer, true)
		if err != nil {
			return
		}
		switch f {
		case swallow:
			return
		case halved:
			_, _ = client.Write(said[:len(said)/2])
			return
		}
		if _, err := client.Write(said); err != nil {
			return
		}
	}
}

// refuse ends the listening; it begins again on the same port.
func (l *badLink) refuse(long time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil || l.closed {
		return
	}
	l.listener.Close()
	l.listener = nil
	l.diary.note("the link of %s refuses connections for %s", l.name, long.Round(time.Millisecond))
	time.AfterFunc(long, func() {
		for l.listen() != nil {
			time.Sleep(100 * time.Millisecond)
		}
	})
}

// heal makes the link a good one.
func (l *badLink) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.healed = true
}

func (l *badLink) close() {
	l.mu.Lock()
	l.closed = true
	if l.listener != nil {
		l.listener.Close()
	}
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.connections.Wait()
}

// counts is how many requests had which fault.
func counts(links []*badLink) map[fault]int {
	all := map[fault]int{}
	for _, l := range links {
		l.mu.Lock()
		for _, f := range slices.Sorted(maps.Keys(l.spoilt)) {
			all[f] += l.spoilt[f]
		}
		l.mu.Unlock()
	}
	return all
}
