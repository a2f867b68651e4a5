package ingest

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fanin/internal/admission"
	"fanin/internal/deployment"
	"fanin/internal/push"
	"fanin/internal/sample"
	"fanin/internal/spool"
	"fanin/internal/window"
)

var prometheus1 = window.ReaderID{Name: "prometheus", Path: "/metrics/testbed"}

// of makes a push that of a spool.
func of(spool string, record uint64, boot string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set(SpoolHeader, spool)
		r.Header.Set(RecordHeader, strconv.FormatUint(record, 10))
		r.Header.Set(IntervalHeader, "1")
		if boot != "" {
			r.Header.Set(BootHeader, boot)
		}
	}
}

func (g *gateway) collect(t *testing.T) int {
	t.Helper()
	page, err := g.Window.Next(nil, prometheus1, window.Request{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := page.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return len(page.Points)
}

// TestAcknowledgement: what is handed over is acknowledged when it has been
// collected, and not before; what is sent again counts as that.
func TestAcknowledgement(t *testing.T) {
	g := start(t, func(h *Handler) { h.Window.Expected = []window.ReaderID{prometheus1} })
	at := time.Now().UnixMilli()
	load := func(record int) []byte {
		return body(t, fmt.Sprintf("testbed_host_load1 - %d %d", record, at+int64(record)))
	}
	boot := ""
	push := func(record int, code int, collected string) *http.Response {
		t.Helper()
		answer, text := g.push(t, "h1", load(record), of("a", uint64(record), boot))
		if answer.StatusCode != code || answer.Header.Get(CollectedHeader) != collected {
			t.Fatalf("record %d: %d, collected %q (%s); want %d, %q", record, answer.StatusCode, answer.Header.Get(CollectedHeader), text, code, collected)
		}
		return answer
	}
	boot = push(1, 204, "0").Header.Get(BootHeader)
	if boot == "" {
		t.Fatal("the process has no name")
	}
	push(2, 204, "0")
	if n := g.collect(t); n != 2 {
		t.Fatalf("%d points on the page, want 2", n)
	}
	push(3, 204, "2")
	if refused := push(1, 204, "2").Header.Get(RefusedHeader); refused != "" {
		t.Errorf("a record that was sent again is refused: %s", refused)
	}
	answer, _ := g.push(t, "h1", load(2), nil) // one that numbers nothing
	if got := answer.Header.Get(RefusedHeader); got != "out_of_order=1" || answer.Header.Get(CollectedHeader) != "" {
		t.Errorf("without a record: refused %q, collected %q; want out_of_order=1 and nothing", got, answer.Header.Get(CollectedHeader))
	}
	g.collect(t)
	push(3, 204, "3")

	// Nothing of this is kept, so nothing waits.
	answer, _ = g.push(t, "h1", body(t, "testbed_guest_cpu signal-db 1 1"), of("a", 4, boot))
	if answer.Header.Get(CollectedHeader) != "4" || answer.Header.Get(RefusedHeader) != "unknown_guest=1" {
		t.Errorf("all refused: collected %q, refused %q; want 4, unknown_guest=1", answer.Header.Get(CollectedHeader), answer.Header.Get(RefusedHeader))
	}
	answer, _ = g.push(t, "elsewhere", load(9), of("b", 9, ""))
	if answer.Header.Get(CollectedHeader) != "9" || answer.Header.Get(RefusedHeader) != "unknown_host=1" {
		t.Errorf("unknown host: collected %q, refused %q; want 9, unknown_host=1", answer.Header.Get(CollectedHeader), answer.Header.Get(RefusedHeader))
	}
}

// TestHostThatLeaves: what a host sends after it has left the roster is
// refused for good, so nothing of it waits; what it sent before still may.
func TestHostThatLeaves(t *testing.T) {
	empty, err := deployment.CheckSettings("", filepath.Join(t.TempDir(), "none-*"))
	if err != nil {
		t.Fatal(err)
	}
	var roster atomic.Pointer[deployment.Roster]
	g := start(t, func(h *Handler) {
		h.Window.Expected = []window.ReaderID{prometheus1}
		roster.Store(h.Roster())
		h.Roster, h.Gate = roster.Load, &admission.Gate{Roster: roster.Load}
	})
	at := time.Now().UnixMilli()
	push := func(record int, refused, collected string) {
		t.Helper()
		answer, _ := g.push(t, "h1", body(t, fmt.Sprintf("testbed_host_load1 - %d %d", record, at+int64(record))), of("a", uint64(record), ""))
		if got := answer.Header; got.Get(RefusedHeader) != refused || got.Get(CollectedHeader) != collected {
			t.Fatalf("record %d: refused %q, collected %q; want %q, %q", record, got.Get(RefusedHeader), got.Get(CollectedHeader), refused, collected)
		}
	}
	known := roster.Load()
	push(1, "", "0")
	g.collect(t)
	push(2, "", "1")
	roster.Store(empty)
	push(3, "unknown_host=1", "1")
	push(4, "unknown_host=1", "1")
	g.collect(t)
	push(5, "unknown_host=1", "5")
	push(6, "unknown_host=1", "6")
	roster.Store(known)
	push(7, "", "6")
	g.collect(t)
	push(8, "", "7")
}

// TestPartsOfARecordAreNoRepeats: the first parts of a record that was divided
// carry the number of the one before, and what is refused of them counts.
func TestPartsOfARecordAreNoRepeats(t *testing.T) {
	g := start(t, nil)
	at := time.Now().UnixMilli()
	load := func(name string, late int64) []byte {
		return body(t, fmt.Sprintf("testbed_host_load1 - %d %d", late, at-late), fmt.Sprintf("%s - 1 %d", name, at))
	}
	for _, c := range []struct {
		what    string
		body    []byte
		record  uint64
		refused string
	}{
		{"a part of the first record", load("a", 0), 0, ""},
		{"another, with a point that is late", load("b", 1), 0, "out_of_order=1"},
		{"that again, as its answer was lost", load("b", 1), 0, ""},
		{"the last part", load("c", 2), 1, "out_of_order=1"},
		{"that again", load("c", 2), 1, ""},
		{"a part of the second record", load("d", 3), 1, "out_of_order=1"},
		{"another", load("e", 4), 1, "out_of_order=1"},
		{"the first of them again", load("d", 3), 1, ""},
		{"the last part", load("f", 5), 2, "out_of_order=1"},
		{"a part of the first record again", load("b", 1), 0, ""},
		{"the last of the first record again", load("c", 2), 1, ""},
		{"the third record", load("g", 6), 3, "out_of_order=1"},
		{"that again", load("g", 6), 3, ""},
	} {
		answer, text := g.push(t, "h1", c.body, of("a", c.record, ""))
		if got := answer.Header.Get(RefusedHeader); answer.StatusCode != http.StatusNoContent || got != c.refused {
			t.Errorf("%s: %s %s, refused %q, want %q", c.what, answer.Status, text, got, c.refused)
		}
	}
}

// TestAnotherProcess: what is meant for the process before takes no effect.
func TestAnotherProcess(t *testing.T) {
	g := start(t, nil)
	load := body(t, fmt.Sprintf("testbed_host_load1 - 1 %d", time.Now().UnixMilli()))
	answer, text := g.push(t, "h1", load, of("a", 7, "0123456789abcdef"))
	if answer.StatusCode != http.StatusPreconditionFailed || answer.Header.Get(BootHeader) == "" {
		t.Fatalf("got %d %s and process %q, want 412 and a process", answer.StatusCode, text, answer.Header.Get(BootHeader))
	}
	if g.Window.Len() != 0 {
		t.Error("something was taken")
	}
	if answer, text = g.push(t, "h1", load, of("a", 7, answer.Header.Get(BootHeader))); answer.StatusCode != http.StatusNoContent {
		t.Errorf("got %d %s, want it taken", answer.StatusCode, text)
	}
}

// TestNotSettled: as long as it is not known who belongs here, nothing is
// refused for good.
func TestNotSettled(t *testing.T) {
	var err error
	g := start(t, func(h *Handler) { h.Ready = func() error { return err } })
	err = fmt.Errorf("not yet")
	load := body(t, fmt.Sprintf("testbed_guest_cpu signal-db 1 %d", time.Now().UnixMilli()))
	answer, text := g.push(t, "h1", load, of("a", 1, ""))
	if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" || text != "not yet" {
		t.Errorf("got %d %q, want 503 with Retry-After", answer.StatusCode, text)
	}
	err = nil
	if answer, _ := g.push(t, "h1", load, of("a", 1, "")); answer.StatusCode != http.StatusNoContent {
		t.Errorf("got %d, want 204", answer.StatusCode)
	}
}

// TestTwoOfOneName: the first is heard until it is silent.
func TestTwoOfOneName(t *testing.T) {
	g := start(t, nil)
	load := func() []byte { return body(t, fmt.Sprintf("testbed_host_load1 - 1 %d", time.Now().UnixMilli())) }
	if answer, _ := g.push(t, "h1", load(), of("first", 1, "")); answer.StatusCode != http.StatusNoContent {
		t.Fatalf("the first: %d", answer.StatusCode)
	}
	answer, text := g.push(t, "h1", load(), of("second", 1, ""))
	if answer.StatusCode != http.StatusConflict || answer.Header.Get("Retry-After") != "3" || !strings.Contains(text, "h1") {
		t.Errorf("the second: %d %q, again after %q; want 409, after 3", answer.StatusCode, text, answer.Header.Get("Retry-After"))
	}
	if answer, _ := g.push(t, "h2", load(), of("second", 1, "")); answer.StatusCode != http.StatusNoContent {
		t.Errorf("another host: %d", answer.StatusCode)
	}
	if answer, _ := g.push(t, "h1", load(), nil); answer.StatusCode != http.StatusNoContent {
		t.Errorf("one without a spool: %d", answer.StatusCode)
	}

	s, log, now := newSenders(), slog.New(slog.DiscardHandler), time.Now()
	claim := func(name string, after, interval time.Duration) time.Duration {
		spool, holder, _ := strings.Cut(name, "@")
		return s.claim("h1", &parcel{spool: spool, holder: holder, record: 1}, "", interval, now.Add(after), log)
	}
	for _, c := range []struct {
		spool           string
		after, interval time.Duration
		want            time.Duration
	}{
		{"first", 0, 10 * time.Second, 0},
		{"second", 10 * time.Second, time.Second, 20 * time.Second},
		{"first", 20 * time.Second, 10 * time.Second, 0},
		{"second", 49 * time.Second, time.Second, time.Second},
		{"second", 50 * time.Second, 100 * time.Millisecond, 0}, // silent for three intervals
		{"first", 51 * time.Second, 10 * time.Second, 2 * time.Second},
		{"first", 53 * time.Second, 10 * time.Second, 0},
		{"first@clone", 54 * time.Second, time.Second, 29 * time.Second},
		{"first@rebooted", 83 * time.Second, time.Second, 0},
	} {
		if got := claim(c.spool, c.after, c.interval); got != c.want {
			t.Errorf("%s after %s: has to wait %s, want %s", c.spool, c.after, got, c.want)
		}
	}
}

// slowly begins a push whose body comes with what is written to the pipe.
func (g *gateway) slowly(t *testing.T, host, spool string, record uint64) (*io.PipeWriter, <-chan string) {
	r, w := io.Pipe()
	said := make(chan string, 1)
	go func() {
		answer, _ := g.pushFrom(t, host, r, of(spool, record, ""))
		said <- fmt.Sprintf("%d, collected %q, again after %q", answer.StatusCode, answer.Header.Get(CollectedHeader), answer.Header.Get("Retry-After"))
	}()
	return w, said
}

func write(t *testing.T, w *io.PipeWriter, part []byte) {
	t.Helper()
	if _, err := w.Write(part); err != nil {
		t.Error(err)
	}
}

// TestOvertakenWhileItsBodyIsRead: who loses a host to another spool in the
// middle of a push keeps what it has.
func TestOvertakenWhileItsBodyIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inside(t, func(h *Handler) { h.Window.Expected = []window.ReaderID{prometheus1} })
		load := func(name string) []byte { return body(t, fmt.Sprintf("%s - 1 %d", name, time.Now().UnixMilli())) }
		g.push(t, "h1", load("before"), of("first", 6, ""))
		late := load("late")
		w, said := g.slowly(t, "h1", "first", 7)
		write(t, w, late[:3])
		time.Sleep(shortestHold)
		if answer, text := g.push(t, "h1", load("other"), of("second", 1, "")); answer.StatusCode != http.StatusNoContent {
			t.Fatalf("another spool after %s of silence: %d %s", shortestHold, answer.StatusCode, text)
		}
		write(t, w, late[3:])
		w.Close()
		if got, want := <-said, `409, collected "0", again after "3"`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if page := g.page(); strings.Contains(page, "late") {
			t.Errorf("some of it is taken:\n%s", page)
		}
	})
}

// TestSlowBodyIsASignOfLife: while a body comes, and for as long after its end
// as after any push, its sender is not silent.
func TestSlowBodyIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inside(t, nil)
		load := func() []byte { return body(t, fmt.Sprintf("testbed_host_load1 - 1 %d", time.Now().UnixMilli())) }
		rival := func(after string, want int) {
			t.Helper()
			if answer, text := g.push(t, "h1", load(), of("second", 1, "")); answer.StatusCode != want {
				t.Errorf("another spool %s: %d %s, want %d", after, answer.StatusCode, text, want)
			}
		}
		late := load()
		w, said := g.slowly(t, "h1", "first", 7)
		for range 4 {
			write(t, w, late[:1])
			late = late[1:]
			time.Sleep(2 * time.Second)
			rival("in the middle", http.StatusConflict)
		}
		write(t, w, late)
		w.Close()
		if got, want := <-said, `204, collected "0", again after ""`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		time.Sleep(shortestHold - time.Millisecond)
		rival("before the hold has passed", http.StatusConflict)
		time.Sleep(time.Millisecond)
		rival("after it", http.StatusNoContent)
	})
}

// TestHostThatEntersWhileItsBodyIsRead: what is taken has a receipt.
func TestHostThatEntersWhileItsBodyIsRead(t *testing.T) {
	empty, err := deployment.CheckSettings("", filepath.Join(t.TempDir(), "none-*"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var roster atomic.Pointer[deployment.Roster]
		var known *deployment.Roster
		g := inside(t, func(h *Handler) {
			h.Window.Expected = []window.ReaderID{prometheus1}
			known = h.Roster()
			h.Roster, h.Gate = roster.Load, &admission.Gate{Roster: roster.Load}
		})
		roster.Store(empty)
		load := body(t, fmt.Sprintf("testbed_host_load1 - 1 %d", time.Now().UnixMilli()))
		w, said := g.slowly(t, "h1", "a", 7)
		write(t, w, load[:3])
		roster.Store(known)
		write(t, w, load[3:])
		w.Close()
		if got, want := <-said, `204, collected "0", again after ""`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		g.collect(t)
		answer, _ := g.push(t, "h1", load, of("a", 7, ""))
		if got := answer.Header.Get(CollectedHeader); got != "7" {
			t.Errorf("after a page %q is collected, want 7", got)
		}
	})
}

// TestReaderThatNeverComesAgain: by default it is forgotten before a spool gives
// up what it kept for it, and the other one has collected.
func TestReaderThatNeverComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := inside(t, nil)
		queue, err := spool.Open(spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer queue.Close()
		p := &push.Pusher{URL: g.url, Spool: queue, Client: g.client, Node: "h1", Interval: every}
		ended := make(chan error, 1)
		go func() { ended <- p.Run(t.Context()) }()
		const ticks = uint64(130 * time.Minute / every)
		for tick := range ticks {
			now := time.Now()
			if _, err := queue.Append(body(t, fmt.Sprintf("testbed_host_load1 - %d %d", tick, now.UnixMilli())), 1); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			g.collect(t)
			if tick == 1 {
				if _, err := g.Window.Next(nil, window.ReaderID{Name: "once"}, window.Request{Now: now}); err != nil {
					t.Fatal(err)
				}
			}
			g.Window.Sweep(now, func(sample.Owner) bool { return true })
			time.Sleep(every)
		}
		queue.Finish()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if l := queue.Ledger(); l.Dropped[spool.TooOld] > 0 || l.Delivered < ticks-1 {
			t.Errorf("one scraper has everything, and of %d samples %d count as delivered, as dropped %v", ticks, l.Delivered, l.Dropped)
		}
		if readers := g.Window.Readers(); len(readers) != 1 {
			t.Errorf("readers %v, want one", readers)
		}
	})
}

// every is how often that test's host sends and is scraped.
const every = 10 * time.Second

// TestNothingIsAcknowledgedTooEarly hands records over in any order, some of
// them twice, and lets a position rise.
func TestNothingIsAcknowledgedTooEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, log := newSenders(), slog.New(slog.DiscardHandler)
		var end, until window.Position
		stands := map[uint64]window.Position{} // record to its newest point
		last := uint64(0)
		s.claim("h", &parcel{spool: "a"}, "", time.Second, time.Now(), log)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				record := last + uint64(rapid.IntRange(1, 3).Draw(t, "skip"))
				if last > 0 && rapid.IntRange(0, 3).Draw(t, "again") == 0 {
					record = uint64(rapid.IntRange(1, int(last)).Draw(t, "record"))
				}
				p := parcel{spool: "a", record: record}
				s.claim("h", &p, "", time.Second, time.Now(), log)
				if p.repeated != (record <= last) {
					t.Fatalf("record %d after %d counts as repeated: %v", record, last, p.repeated)
				}
				stored := rapid.SampledFrom([]int{0, 1, 5}).Draw(t, "stored")
				end += window.Position(stored)
				s.took("h", p, end, stored)
				if _, known := stands[record]; stored > 0 || !known && !p.repeated {
					stands[record] = end
				}
				last = max(last, record)
			},
			"flood": func(t *rapid.T) {
				for range 2 * maxReceipts {
					last++
					end++
					stands[last] = end
					s.took("h", parcel{spool: "a", record: last}, end, 1)
				}
			},
			"collect": func(t *rapid.T) {
				until += window.Position(rapid.IntRange(0, int(end-until)).Draw(t, "by"))
			},
			"": func(t *rapid.T) {
				got := s.collected("h", parcel{spool: "a"}, until)
				for record, position := range stands {
					if record <= got && position > until {
						t.Fatalf("record %d is acknowledged, and %d stands at %d, behind %d", got, record, position, until)
					}
				}
				if until == end && got != last {
					t.Fatalf("all is collected, and %d of %d acknowledged", got, last)
				}
				if of := s.hosts["h"]; of != nil && len(of.receipts) > maxReceipts {
					t.Fatalf("%d receipts are kept", len(of.receipts))
				}
			},
		})
	})
}
