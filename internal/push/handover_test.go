package push

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fanin/internal/spool"
)

// receiver acknowledges from the far end. What it has taken is lost when it is
// killed, but for what has been collected.
type receiver struct {
	mu        sync.Mutex // guards all below; a test that goes on beside it uses with
	process   int
	taken     []string // bodies, in order
	collected uint64   // record
	refuse    string   // X-Fanin-Refused of each answer
	meddle    func(body string, header http.Header) *http.Response
	refused   int // with 412
}

func (r *receiver) boot() string { return fmt.Sprint("process-", r.process) }

func (r *receiver) kill() { r.with(func() { r.process, r.taken = r.process+1, nil }) }

func (r *receiver) with(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *receiver) RoundTrip(request *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	body, head := string(b), map[string]string{"X-Fanin-Boot": r.boot()}
	if meant := request.Header.Get("X-Fanin-Boot"); meant != "" && meant != r.boot() {
		r.refused++
		return answer(412, head), nil
	}
	if r.meddle != nil {
		if a := r.meddle(body, request.Header); a != nil {
			return a, nil
		}
	}
	r.taken = append(r.taken, body)
	head["X-Fanin-Collected"] = strconv.FormatUint(r.collected, 10)
	if r.refuse != "" {
		head["X-Fanin-Refused"] = r.refuse
	}
	return answer(204, head), nil
}

func pusher(s *spool.Spool, r http.RoundTripper) *Pusher {
	return &Pusher{URL: "http://x/", Spool: s, Client: &http.Client{Transport: r}}
}

// halves divides "a b c" at a space.
func halves(body []byte) (first, second Part, err error) {
	words := strings.Fields(string(body))
	if len(words) < 2 {
		return first, second, errors.New("one word")
	}
	n := len(words) / 2
	part := func(words []string) Part { return Part{[]byte(strings.Join(words, " ")), len(words)} }
	return part(words[:n]), part(words[n:]), nil
}

// TestKeptUntilCollected: what the receiver has taken stays in the spool until
// it says that it has been collected, and so does what it refused of it.
func TestKeptUntilCollected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		fill(t, s, 3)
		r := &receiver{refuse: "future=4"}
		p := pusher(s, r)
		end := start(t, p)
		synctest.Wait()
		time.Sleep(time.Second)
		want(t, s, "delivered 0 pending 30")
		r.with(func() { r.collected = 99 }) // more than was ever handed over
		fill(t, s, 1)
		time.Sleep(time.Second)
		want(t, s, "delivered 24 pending 0 refused future 16")
		r.with(func() { r.collected = 4 })
		fill(t, s, 1)
		time.Sleep(time.Second)
		want(t, s, "delivered 24 pending 10 refused future 16")
		s.Finish()
		end()
		want(t, s, "delivered 24 pending 10 refused future 16")
	})
}

// TestKilledReceiver: its successor gets everything that has not been
// collected, in order and before anything new, and refusals count once.
func TestKilledReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		fill(t, s, 5)
		r := &receiver{refuse: "future=4"}
		p := pusher(s, r)
		end := start(t, p)
		time.Sleep(time.Second)
		r.kill()
		r.with(func() { r.collected = 2 })
		for i := range 3 {
			if _, err := s.Append([]byte(strconv.Itoa(i+6)), 10); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		r.with(func() {
			if got := strings.Join(r.taken, " "); got != "1 2 3 4 5 6 7 8" || r.refused != 1 {
				t.Errorf("the successor got %q and refused %d, want all in order after one 412", got, r.refused)
			}
		})
		want(t, s, "delivered 12 pending 60 refused future 8")
		r.kill()
		r.with(func() { r.collected = 8 })
		fill(t, s, 1)
		time.Sleep(time.Second)
		r.with(func() {
			if got := strings.Join(r.taken, " "); got != "3 4 5 6 7 8 1" {
				t.Errorf("the next one got %q, want what was not collected", got)
			}
		})
		want(t, s, "delivered 48 pending 10 refused future 32")
		s.Finish()
		end()
	})
}

// TestTwoReceiversInTurns: a load balancer over two of them is no reason to
// send without pause.
func TestTwoReceiversInTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		fill(t, s, 10)
		r := &receiver{}
		var attempts atomic.Int64
		p := pusher(s, roundTrip(func(request *http.Request) (*http.Response, error) {
			attempts.Add(1)
			r.kill()
			return r.RoundTrip(request)
		}))
		end := start(t, p)
		time.Sleep(10 * time.Minute)
		if n := attempts.Load(); n > 300 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		s.Finish()
		end()
		want(t, s, "delivered 0 pending 100")
	})
}

// TestStockAfterOurs: when the receiver is replaced by one that acknowledges
// nothing, that one gets what only the one before had.
func TestStockAfterOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		fill(t, s, 3)
		r, stock := &receiver{}, atomic.Bool{}
		var taken []string
		p := pusher(s, roundTrip(func(request *http.Request) (*http.Response, error) {
			if !stock.Load() {
				return r.RoundTrip(request)
			}
			b, err := io.ReadAll(request.Body)
			taken = append(taken, string(b))
			return answer(204, nil), err
		}))
		end := start(t, p)
		time.Sleep(time.Second)
		stock.Store(true)
		if _, err := s.Append([]byte("4"), 10); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		want(t, s, "delivered 40 pending 0")
		s.Finish()
		end()
		if got := strings.Join(taken, " "); got != "4 1 2 3 4" {
			t.Errorf("it got %q, want everything", got)
		}
	})
}

// TestDividedForARoom: 413 divides, and the number of a record goes with its
// last part only.
func TestDividedForARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		for _, body := range []string{"a", "b c d e f", "g"} {
			if _, err := s.Append([]byte(body), len(strings.Fields(body))); err != nil {
				t.Fatal(err)
			}
		}
		var sent []string
		r := &receiver{meddle: func(body string, header http.Header) *http.Response {
			if len(strings.Fields(body)) > 2 {
				return answer(413, nil)
			}
			sent = append(sent, body+"@"+header.Get("X-Fanin-Record"))
			return nil
		}}
		r.collected = 3
		p := pusher(s, r)
		p.Split = halves
		s.Finish()
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(sent, ", "); got != "a@1, b c@1, d@1, e f@2, g@3" {
			t.Errorf("sent %s", got)
		}
		want(t, s, "delivered 7 pending 0")
	})
}

// TestBadApart: a receiver that takes no batch with something bad in it gets
// the rest.
func TestBadApart(t *testing.T) {
	for _, c := range []struct {
		name, body, want, account string
		stock                     bool
	}{
		{"one", "a b c bad d e f g", "a b c d e f g", "delivered 8 pending 0 dropped rejected 1", false},
		{"stock", "a b c bad d e f g", "a b c d e f g", "delivered 8 pending 0 dropped rejected 1", true},
		{"ends", "bad a b c bad", "a b c", "delivered 4 pending 0 dropped rejected 2", false},
		{"all", "bad bad bad", "", "delivered 1 pending 0 dropped rejected 3", false},
		{"alone", "bad", "", "delivered 1 pending 0 dropped rejected 1", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpool(t)
				for _, body := range []string{c.body, "last"} {
					if _, err := s.Append([]byte(body), len(strings.Fields(body))); err != nil {
						t.Fatal(err)
					}
				}
				s.Finish()
				r := &receiver{collected: 2}
				var words []string
				p := pusher(s, roundTrip(func(request *http.Request) (*http.Response, error) {
					a, err := r.RoundTrip(request)
					if c.stock {
						a.Header.Del("X-Fanin-Boot")
						a.Header.Del("X-Fanin-Collected")
					}
					return a, err
				}))
				r.meddle = func(body string, _ http.Header) *http.Response {
					if strings.Contains(body, "bad") {
						return answer(400, map[string]string{"X-Fanin-Boot": r.boot()})
					}
					words = append(words, strings.Fields(body)...)
					return nil
				}
				p.Split = halves
				if err := p.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(words, " "); got != strings.TrimSpace(c.want+" last") {
					t.Errorf("delivered %q, want %q and the last", got, c.want)
				}
				want(t, s, c.account)
			})
		})
	}
}

// TestHopelessBody: a receiver that takes nothing at all does not keep the
// spool for ever.
func TestHopelessBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		if _, err := s.Append([]byte(strings.Repeat("x ", 10000)), 10000); err != nil {
			t.Fatal(err)
		}
		s.Finish()
		attempts := 0
		p := pusher(s, roundTrip(func(*http.Request) (*http.Response, error) {
			attempts++
			return answer(400, nil), nil
		}))
		p.Split = halves
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if attempts > 2*maxParts {
			t.Errorf("%d attempts", attempts)
		}
		want(t, s, "delivered 0 pending 0 dropped rejected 10000")
	})
}

// TestStrangersAnswer: what a proxy says while the receiver is away is not the
// receiver's word.
func TestStrangersAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		fill(t, s, 1)
		r := &receiver{}
		end := start(t, pusher(s, r))
		time.Sleep(time.Second)
		r.with(func() {
			r.meddle = func(string, http.Header) *http.Response { return answer(404, nil) }
		})
		fill(t, s, 1)
		time.Sleep(time.Minute)
		want(t, s, "delivered 0 pending 20")
		r.with(func() { r.meddle, r.collected = nil, 2 })
		time.Sleep(time.Minute)
		want(t, s, "delivered 20 pending 0")
		s.Finish()
		end()
	})
}

// TestNothingIsLost: whatever happens, every record is in the spool or has
// been collected.
func TestNothingIsLost(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random, pauses := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
			s := newSpool(t)
			r := &receiver{}
			var mu sync.Mutex              // guards these; never held while somebody waits
			numbers := map[string]uint64{} // of records, by body
			durable := map[uint64]bool{}
			quiet := false
			p := pusher(s, roundTrip(func(request *http.Request) (*http.Response, error) {
				chance := random.IntN(20)
				mu.Lock()
				if quiet {
					chance = 19
				}
				mu.Unlock()
				switch chance {
				case 0:
					return nil, errors.New("reset")
				case 1:
					return answer(503, nil), nil
				case 2:
					return answer(429, map[string]string{"Retry-After": "1", "X-Fanin-Boot": r.boot(), "X-Fanin-Collected": strconv.FormatUint(r.collected, 10)}), nil
				case 3:
					r.kill()
				}
				a, err := r.RoundTrip(request)
				if chance == 4 {
					return nil, errors.New("the answer is lost")
				}
				mu.Lock()
				defer mu.Unlock()
				if chance > 12 { // somebody collects from the beginning
					for _, body := range r.taken[:random.IntN(len(r.taken)+1)] {
						durable[numbers[body]] = true
					}
					for durable[r.collected+1] {
						r.collected++
					}
				}
				return a, err
			}))
			end := start(t, p)
			check := func() {
				mu.Lock()
				defer mu.Unlock()
				for number := uint64(1); number <= uint64(len(numbers)); number++ {
					if !durable[number] && !s.Has(number) {
						t.Fatalf("seed %d: record %d is neither in the spool nor collected", seed, number)
					}
				}
			}
			for i := range 60 {
				body := strconv.Itoa(i + 1)
				mu.Lock()
				numbers[body] = uint64(i + 1)
				mu.Unlock()
				if _, err := s.Append([]byte(body), 10); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(pauses.IntN(300)) * time.Millisecond)
				synctest.Wait()
				check()
			}
			mu.Lock()
			quiet = true
			mu.Unlock()
			time.Sleep(time.Hour)
			synctest.Wait()
			check()
			s.Finish()
			end()
			last := uint64(0)
			for _, body := range r.taken {
				if durable[numbers[body]] = true; numbers[body] < last {
					t.Errorf("seed %d: the last process got them in the order %v", seed, r.taken)
				}
				last = numbers[body]
			}
			if len(durable) != 60 {
				t.Errorf("seed %d: only %d of 60 records have arrived", seed, len(durable))
			}
			if l := s.Ledger(); l.Committed != 600 || l.Delivered+l.Pending != 600 {
				t.Errorf("seed %d: %s", seed, account(s))
			}
		})
	}
}
