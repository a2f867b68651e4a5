package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

func open(t testing.TB, o Options) *Spool {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t testing.TB, s *Spool, body string, samples int) uint64 {
	t.Helper()
	n, err := s.Append([]byte(body), samples)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return n
}

// account is a ledger in one line.
func account(l Ledger) string {
	counts := func(m map[string]uint64) string {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if m[k] > 0 {
				all = append(all, fmt.Sprintf("%s=%d", k, m[k]))
			}
		}
		return strings.Join(all, ",")
	}
	return fmt.Sprintf("committed %d delivered %d dropped %s refused %s pending %d", l.Committed, l.Delivered, counts(l.Dropped), counts(l.Refused), l.Pending)
}

func balance(t interface{ Errorf(string, ...any) }, l Ledger) {
	sum := l.Delivered + l.Pending
	for _, m := range []map[string]uint64{l.Dropped, l.Refused} {
		for _, n := range m {
			sum += n
		}
	}
	if sum != l.Committed {
		t.Errorf("the ledger does not balance: %s", account(l))
	}
}

func want(t *testing.T, s *Spool, text string) {
	t.Helper()
	balance(t, s.Ledger())
	if got := account(s.Ledger()); got != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
}

func TestInOrder(t *testing.T) {
	s := open(t, Options{})
	ctx := context.Background()
	buffer := []byte("one")
	if _, err := s.Append(buffer, 3); err != nil {
		t.Fatal(err)
	}
	copy(buffer, "xxx") // the spool must have its own copy
	add(t, s, "two", 4)
	add(t, s, "three", 5)

	r, err := s.Next(ctx, 0)
	if err != nil || r.Number != 1 || string(r.Body) != "one" || r.Samples != 3 {
		t.Fatalf("Next(0) = %d %q %d, %v; want 1 one 3", r.Number, r.Body, r.Samples, err)
	}
	if again, _ := s.Next(ctx, 0); again.Number != 1 {
		t.Errorf("Next(0) once more = %d, want 1 as nothing was acknowledged", again.Number)
	}
	if second, _ := s.Next(ctx, 1); second.Number != 2 {
		t.Errorf("Next(1) = %d, want 2 while 1 waits to be acknowledged", second.Number)
	}
	want(t, s, "committed 12 delivered 0 dropped  refused  pending 12")
	s.Refuse(2, "not_active", 1)
	s.Refuse(2, "unknown", 100) // more than there are
	s.Ack(2)
	want(t, s, "committed 12 delivered 3 dropped  refused not_active=1,unknown=3 pending 5")
	s.Ack(2)
	s.Drop(1, Rejected)
	s.Refuse(1, "late", 1)
	want(t, s, "committed 12 delivered 3 dropped  refused not_active=1,unknown=3 pending 5")
	s.Drop(3, Rejected)
	want(t, s, "committed 12 delivered 3 dropped rejected=5 refused not_active=1,unknown=3 pending 0")
	if l := s.Ledger(); l.Bytes != 0 || l.Records != 0 {
		t.Errorf("empty spool has %d bytes in %d records", l.Bytes, l.Records)
	}
}

func TestFull(t *testing.T) {
	s := open(t, Options{MaxBytes: 3 * (10 + overhead)})
	for i := range 5 {
		add(t, s, strings.Repeat("x", 10), i+1)
	}
	want(t, s, "committed 15 delivered 0 dropped full=3 refused  pending 12")
	if s.Has(2) || !s.Has(3) {
		t.Errorf("Has(2), Has(3) = %v, %v; want false, true", s.Has(2), s.Has(3))
	}
	if _, err := s.Append(make([]byte, 1000), 7); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a record larger than the spool: %v, want %v", err, ErrTooLarge)
	}
	want(t, s, "committed 22 delivered 0 dropped full=3,too_large=7 refused  pending 12")
	add(t, s, strings.Repeat("x", 10+overhead), 1) // takes the room of two, whole
	want(t, s, "committed 23 delivered 0 dropped full=10,too_large=7 refused  pending 6")
}

func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{MaxAge: time.Minute})
		add(t, s, "old", 2)
		time.Sleep(40 * time.Second)
		add(t, s, "young", 3)
		time.Sleep(20 * time.Second)
		want(t, s, "committed 5 delivered 0 dropped  refused  pending 5")
		time.Sleep(time.Millisecond)
		if r, err := s.Next(t.Context(), 0); err != nil || string(r.Body) != "young" {
			t.Errorf("Next = %q, %v; want young", r.Body, err)
		}
		want(t, s, "committed 5 delivered 0 dropped too_old=2 refused  pending 3")
	})
}

func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{})
		type result struct {
			r   Record
			err error
		}
		got := make(chan result, 1)
		next := func(ctx context.Context) {
			go func() {
				r, err := s.Next(ctx, 0)
				got <- result{r, err}
			}()
			synctest.Wait()
		}
		next(t.Context())
		if len(got) != 0 {
			t.Error("Next on an empty spool returned at once")
		}
		add(t, s, "x", 1)
		if g := <-got; g.err != nil || string(g.r.Body) != "x" {
			t.Errorf("Next = %q, %v; want x", g.r.Body, g.err)
		}
		s.Ack(1)
		ctx, cancel := context.WithCancel(t.Context())
		next(ctx)
		cancel()
		if g := <-got; !errors.Is(g.err, context.Canceled) {
			t.Errorf("Next with a cancelled context: %v", g.err)
		}
		add(t, s, "y", 2)
		s.Finish()
		if _, err := s.Append([]byte("z"), 1); !errors.Is(err, ErrClosed) {
			t.Errorf("Append after Finish: %v, want %v", err, ErrClosed)
		}
		next(t.Context())
		if g := <-got; string(g.r.Body) != "y" {
			t.Errorf("Next after Finish = %q, %v; want the record that is left", g.r.Body, g.err)
		}
		if _, err := s.Next(t.Context(), 2); !errors.Is(err, io.EOF) {
			t.Errorf("Next after the last: %v, want EOF", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Next(t.Context(), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("Next after Close: %v, want %v", err, ErrClosed)
		}
		want(t, s, "committed 3 delivered 1 dropped disk=2 refused  pending 0")
	})
}

// TestAlwaysBalanced does anything in any order.
func TestAlwaysBalanced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(overhead, 10*overhead).Draw(t, "limit")
		s, err := Open(Options{MaxBytes: limit})
		if err != nil {
			t.Fatal(err)
		}
		number := rapid.Uint64Range(1, 40)
		reason := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				_, _ = s.Append(make([]byte, rapid.IntRange(0, 400).Draw(t, "size")), rapid.IntRange(0, 9).Draw(t, "samples"))
			},
			"ack":  func(t *rapid.T) { s.Ack(number.Draw(t, "number")) },
			"drop": func(t *rapid.T) { s.Drop(number.Draw(t, "number"), Rejected) },
			"drop some": func(t *rapid.T) {
				s.DropSamples(number.Draw(t, "number"), TooLarge, rapid.IntRange(0, 9).Draw(t, "samples"))
			},
			"refuse": func(t *rapid.T) {
				s.Refuse(number.Draw(t, "number"), reason.Draw(t, "reason"), rapid.IntRange(0, 9).Draw(t, "samples"))
			},
			"": func(t *rapid.T) {
				l := s.Ledger()
				balance(t, l)
				if l.Bytes > limit || l.Bytes < 0 {
					t.Errorf("%d bytes are kept, %d are allowed", l.Bytes, limit)
				}
				var pending uint64
				var before uint64
				for _, r := range s.records {
					pending += uint64(r.Samples)
					if r.Number <= before {
						t.Errorf("record %d after %d", r.Number, before)
					}
					before = r.Number
				}
				if pending != l.Pending || len(s.records) != l.Records {
					t.Errorf("%d samples in %d records are there, the ledger says %d in %d", pending, len(s.records), l.Pending, l.Records)
				}
			},
		})
	})
}

// TestManyReasons: a receiver cannot make the ledger grow for ever.
func TestManyReasons(t *testing.T) {
	s := open(t, Options{})
	add(t, s, "x", 1000)
	for i := range 1000 {
		s.Refuse(1, fmt.Sprint("reason", i), 1)
	}
	l := s.Ledger()
	balance(t, l)
	if len(l.Refused) > maxRefusals+1 || l.Refused[other] != 1000-maxRefusals {
		t.Errorf("%d reasons, %d of them %s; want at most %d", len(l.Refused), l.Refused[other], other, maxRefusals+1)
	}
}

func TestMetrics(t *testing.T) {
	s := open(t, Options{})
	registry := prometheus.NewPedanticRegistry()
	if err := s.Register(registry); err != nil {
		t.Fatal(err)
	}
	add(t, s, "x", 5)
	add(t, s, "y", 4)
	s.Refuse(1, "not_active", 2)
	s.Ack(1)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"fanin_samples_committed_total":          9,
		"fanin_samples_delivered_total":          3,
		"fanin_samples_dropped_total full":       0,
		"fanin_samples_refused_total not_active": 2,
		"fanin_samples_pending":                  4,
		"fanin_spool_records":                    1,
		"fanin_spool_bytes":                      1 + overhead,
		"fanin_spool_limit_bytes":                defaultMaxBytes,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s = %v (there: %v), want %v", name, v, ok, want)
		}
	}
}
