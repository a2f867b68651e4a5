package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/config"
	"go.uber.org/goleak"

	"fanin/internal/e2e/rig"
	"fanin/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSpool(t testing.TB) *spool.Spool {
	t.Helper()
	s, err := spool.Open(spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill appends records "1" to "n", each of ten samples.
func fill(t testing.TB, s *spool.Spool, n int) {
	t.Helper()
	for i := range n {
		if _, err := s.Append([]byte(strconv.Itoa(i+1)), 10); err != nil {
			t.Fatal(err)
		}
	}
}

func account(s *spool.Spool) string {
	l := s.Ledger()
	sum := l.Delivered + l.Pending
	text := fmt.Sprintf("delivered %d pending %d", l.Delivered, l.Pending)
	for name, m := range map[string]map[string]uint64{"dropped": l.Dropped, "refused": l.Refused} {
		for reason, n := range m {
			sum += n
			if n > 0 {
				text += fmt.Sprintf(" %s %s %d", name, reason, n)
			}
		}
	}
	if sum != l.Committed {
		text += fmt.Sprintf(" and does not balance with %d", l.Committed)
	}
	return text
}

func want(t testing.TB, s *spool.Spool, text string) {
	t.Helper()
	if got := account(s); got != text {
		t.Errorf("ledger: got %q, want %q", got, text)
	}
}

// roundTrip is a receiver that needs no network, for tests with a clock of
// their own.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, header map[string]string) *http.Response {
	r := &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	return r
}

// client is one with the timeouts and options of real life.
func client(t testing.TB, c config.HTTPClientConfig) *http.Client {
	t.Helper()
	one, err := NewClient(c, "fanin-test/1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(one.CloseIdleConnections)
	return one
}

// start runs p until the test ends or end is called.
func start(t testing.TB, p *Pusher) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	end = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v, want nil", err)
			}
		})
	}
	t.Cleanup(end)
	return end
}

func TestRequest(t *testing.T) {
	var got []*http.Request
	var bodies []string
	connections := make(map[string]bool)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got, bodies = append(got, r), append(bodies, string(body))
		connections[r.RemoteAddr] = true
		w.Header().Set("X-Fanin-Refused", "not_active=3, wrong_host=2, Bad Reason=5, x=-1")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	s := newSpool(t)
	fill(t, s, 20)
	s.Finish()
	var log bytes.Buffer
	p := &Pusher{
		URL: server.URL + "/api/v1/write", Client: client(t, config.HTTPClientConfig{}), Spool: s, Node: "main-host", Interval: 100 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got) != 20 || len(connections) != 1 {
		t.Fatalf("%d requests on %d connections, want 20 on 1", len(got), len(connections))
	}
	for i, body := range bodies {
		if body != strconv.Itoa(i+1) {
			t.Errorf("request %d carries %q, want them in order", i, body)
		}
	}
	for name, want := range map[string]string{
		"Content-Encoding":                  "snappy",
		"Content-Type":                      "application/x-protobuf",
		"X-Prometheus-Remote-Write-Version": "0.1.0",
		"User-Agent":                        "fanin-test/1",
		"X-Fanin-Node":                      "main-host",
		"X-Fanin-Interval":                  "0.1",
	} {
		if v := got[0].Header.Get(name); v != want {
			t.Errorf("%s: got %q, want %q", name, v, want)
		}
	}
	if at, err := strconv.ParseFloat(got[0].Header.Get("X-Fanin-Time"), 64); err != nil || time.Since(time.UnixMicro(int64(at*1e6))).Abs() > time.Minute {
		t.Errorf("X-Fanin-Time: got %q, want about now in seconds", got[0].Header.Get("X-Fanin-Time"))
	}
	if got[0].Method != http.MethodPost || got[0].URL.Path != "/api/v1/write" {
		t.Errorf("got %s %s, want POST /api/v1/write", got[0].Method, got[0].URL)
	}
	l := s.Ledger()
	if l.Delivered != 100 || l.Refused["not_active"] != 60 || l.Refused["wrong_host"] != 40 || len(l.Refused) != 2 {
		t.Errorf("ledger: %s", account(s))
	}
	if strings.Count(log.String(), "the receiver refuses samples") != 2 || strings.Count(log.String(), "\n") != 3 {
		t.Errorf("the log says\n%s\nwant each reason once", log.String())
	}
}

// TestAnswers: what each answer does to a record, when the next one is taken.
func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		status int
		header map[string]string
		want   string
		kept   string // reason, when it is tried again
	}{
		{200, nil, "delivered 20 pending 0", ""},
		{204, map[string]string{"X-Fanin-Refused": "future=4"}, "delivered 16 pending 0 refused future 4", ""},
		{204, map[string]string{"X-Fanin-Refused": "future=99"}, "delivered 10 pending 0 refused future 10", ""},
		{400, nil, "delivered 10 pending 0 dropped rejected 10", ""},
		{400, map[string]string{"X-Fanin-Refused": "malformed=1"}, "delivered 19 pending 0 refused malformed 1", ""},
		{404, nil, "delivered 10 pending 0 dropped rejected 10", ""},
		{413, nil, "delivered 10 pending 0 dropped too_large 10", ""},
		{301, map[string]string{"Location": "/elsewhere"}, "delivered 20 pending 0", redirected},
		{308, map[string]string{"Location": "/elsewhere"}, "delivered 20 pending 0", redirected},
		{401, nil, "delivered 20 pending 0", unauthorized},
		{403, nil, "delivered 20 pending 0", unauthorized},
		{408, nil, "delivered 20 pending 0", network},
		{409, nil, "delivered 20 pending 0", conflict},
		{429, nil, "delivered 20 pending 0", tooManyRequests},
		{500, nil, "delivered 20 pending 0", serverError},
		{503, nil, "delivered 20 pending 0", serverError},
		{507, nil, "delivered 20 pending 0", serverError},
	} {
		t.Run(fmt.Sprint(c.status, c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpool(t)
				fill(t, s, 2)
				s.Finish()
				var calls int
				var troubled string
				p := &Pusher{URL: "http://x/", Spool: s}
				p.Client = &http.Client{
					CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
					Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
						if r.URL.Path == "/elsewhere" {
							t.Error("a redirect was followed")
						}
						if calls++; calls == 1 {
							return answer(c.status, c.header), nil
						}
						if now := p.trouble.Load(); calls == 2 && now != nil {
							troubled = now.reason
						}
						return answer(204, nil), nil
					}),
				}
				if err := p.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				want(t, s, c.want)
				wantCalls := 2
				if c.kept != "" {
					wantCalls = 3
				}
				if calls != wantCalls || troubled != c.kept {
					t.Errorf("%d calls, trouble %q; want %d, %q", calls, troubled, wantCalls, c.kept)
				}
				if p.Trouble() != nil {
					t.Errorf("trouble after delivery: %v", p.Trouble())
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpool(t)
		fill(t, s, 1)
		var at []time.Time
		var calls int
		p := &Pusher{URL: "http://x/", Spool: s, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			at = append(at, time.Now())
			if calls++; calls == 100 {
				s.Finish()
				return answer(204, nil), nil
			}
			return nil, errors.New("no route")
		})}}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var longest, late time.Duration
		limit := 100 * time.Millisecond
		for i := 1; i < len(at); i++ {
			gap := at[i].Sub(at[i-1])
			if gap > limit+1 {
				t.Errorf("attempt %d came after %s, want at most %s", i, gap, limit)
			}
			limit = min(2*limit, 30*time.Second)
			longest = max(longest, gap)
			if i > 20 {
				late += gap
			}
		}
		if longest < 20*time.Second {
			t.Errorf("the longest pause of 99 was %s, want jitter over all of 30 s", longest)
		}
		if mean := late / time.Duration(len(at)-21); mean < 8*time.Second || mean > 22*time.Second {
			t.Errorf("mean pause %s, want about 15 s", mean)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		text     string
		min, max time.Duration
	}{
		{"7", 7 * time.Second, 7*time.Second + 100*time.Millisecond},
		{"0", 0, 100 * time.Millisecond},
		{"", 0, 100 * time.Millisecond},
		{"soon", 0, 100 * time.Millisecond},
		{"-5", 0, 100 * time.Millisecond},
		{"86400", time.Minute, time.Minute + 100*time.Millisecond},
		{"99999999999999999999999", time.Minute, time.Minute + 100*time.Millisecond},
		{"Sat, 01 Jan 2000 00:00:20 GMT", 20 * time.Second, 20*time.Second + 100*time.Millisecond}, // the bubble begins at 0:00
	} {
		t.Run(c.text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpool(t)
				fill(t, s, 1)
				s.Finish()
				begin := time.Now()
				var calls int
				p := &Pusher{URL: "http://x/", Spool: s, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					if calls++; calls == 1 {
						return answer(429, map[string]string{"Retry-After": c.text}), nil
					}
					return answer(204, nil), nil
				})}}
				if err := p.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(begin); took < c.min || took > c.max {
					t.Errorf("tried again after %s, want %s to %s", took, c.min, c.max)
				}
			})
		})
	}
}

// TestDrain: the end waits 2 s for what is left and no longer.
func TestDrain(t *testing.T) {
	for _, c := range []struct {
		name     string
		receiver func(ctx context.Context, calls int) (*http.Response, error)
		most     time.Duration
		want     string
	}{
		{"working", func(context.Context, int) (*http.Response, error) {
			time.Sleep(100 * time.Millisecond)
			return answer(204, nil), nil
		}, 500 * time.Millisecond, "delivered 40 pending 0"},
		{"slow", func(ctx context.Context, _ int) (*http.Response, error) {
			if !wait(ctx.Done(), 700*time.Millisecond) {
				return nil, ctx.Err()
			}
			return answer(204, nil), nil
		}, 2 * time.Second, ""},
		{"refused", func(context.Context, int) (*http.Response, error) {
			return nil, errors.New("connection refused")
		}, 2 * time.Second, "delivered 0 pending 40"},
		{"black hole", func(ctx context.Context, _ int) (*http.Response, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, 2 * time.Second, "delivered 0 pending 40"},
		{"told to wait", func(_ context.Context, calls int) (*http.Response, error) {
			if calls <= 2 { // once before the end, once after it
				return answer(429, map[string]string{"Retry-After": "60"}), nil
			}
			return answer(204, nil), nil
		}, time.Second, "delivered 40 pending 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSpool(t)
				fill(t, s, 4)
				var calls int
				ctx, cancel := context.WithCancel(t.Context())
				p := &Pusher{URL: "http://x/", Spool: s, Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					calls++
					return c.receiver(r.Context(), calls)
				})}}
				done := make(chan struct{})
				go func() {
					defer close(done)
					if err := p.Run(ctx); err != nil {
						t.Error(err)
					}
				}()
				time.Sleep(50 * time.Millisecond)
				begin := time.Now()
				s.Finish()
				cancel()
				<-done
				if took := time.Since(begin); took > c.most {
					t.Errorf("stopped after %s, want at most %s", took, c.most)
				}
				if c.name != "slow" {
					want(t, s, c.want)
				} else if l := s.Ledger(); l.Delivered < 20 {
					t.Errorf("%s, want what two seconds allow", account(s))
				}
			})
		})
	}
}

// TestDroppedWhileWaiting: a record that the spool gives up is not sent again.
func TestDroppedWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := spool.Open(spool.Options{MaxAge: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, s, 1)
		begin := time.Now()
		var last time.Time
		p := &Pusher{URL: "http://x/", Spool: s, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			last = time.Now()
			return answer(503, nil), nil
		})}}
		end := start(t, p)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if last.Sub(begin) > time.Minute {
			t.Errorf("sent after %s, want nothing after a minute", last.Sub(begin))
		}
		want(t, s, "delivered 0 pending 0 dropped too_old 10")
		s.Finish()
		end()
	})
}

// TestReceiverComesAndGoes uses real connections: nobody listens, then a
// receiver that breaks off, then one that works.
func TestReceiverComesAndGoes(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", rig.FreePort(t))
	s := newSpool(t)
	fill(t, s, 50)
	var log bytes.Buffer
	p := &Pusher{
		URL: "http://" + address, Client: client(t, config.HTTPClientConfig{}), Spool: s, Timeout: 300 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	end := start(t, p)
	rig.Eventually(t, 5*time.Second, func() error {
		if p.Trouble() == nil {
			return errors.New("no trouble although nobody listens")
		}
		return nil
	})
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var bodies []string
	var calls atomic.Int64
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch calls.Add(1) {
		case 1, 7: // reset
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
			return
		case 2: // half an answer
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("HTTP/1.1 20"))
				_ = conn.Close()
			}
			return
		case 3: // a black hole
			<-r.Context().Done()
			return
		case 4: // a taken record with an answer that breaks off
			w.Header().Set("Content-Length", "100")
		case 5:
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
			return
		}
		mu.Lock()
		defer mu.Unlock()
		bodies = append(bodies, string(body))
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	rig.Eventually(t, 20*time.Second, func() error {
		if l := s.Ledger(); l.Pending > 0 {
			return fmt.Errorf("%d samples pending", l.Pending)
		}
		return nil
	})
	s.Finish()
	end()
	want(t, s, "delivered 500 pending 0")
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 50 {
		t.Fatalf("%d records arrived, want 50", len(bodies))
	}
	for i, body := range bodies {
		if body != strconv.Itoa(i+1) {
			t.Fatalf("record %d carries %q, want them in order and once: %q", i, body, bodies)
		}
	}
	if !strings.Contains(log.String(), "samples are delivered again") || strings.Count(log.String(), "\n") > 12 {
		t.Errorf("the log says\n%s\nwant changes only, and the recovery", log.String())
	}
}

// TestCredentials: wrong ones keep the data and say so; the file is read again
// for every request.
func TestCredentials(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer right" {
			http.Error(w, "no such token", http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	s := newSpool(t)
	fill(t, s, 1)
	var c config.HTTPClientConfig
	c.Authorization = &config.Authorization{CredentialsFile: token}
	p := &Pusher{URL: server.URL, Client: client(t, c), Spool: s, MaxBackoff: 20 * time.Millisecond}
	end := start(t, p)
	rig.Eventually(t, 5*time.Second, func() error {
		if err := p.Trouble(); err == nil || err.Error() != `401 Unauthorized: "no such token"` {
			return fmt.Errorf("trouble: %w, want the receiver's 401", err)
		}
		return nil
	})
	want(t, s, "delivered 0 pending 10")
	if err := os.WriteFile(token, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		if s.Ledger().Delivered != 10 {
			return errors.New(account(s))
		}
		return nil
	})
	s.Finish()
	end()
}

// TestNoRedirects: a POST that follows a redirect may arrive as a GET, which
// answers 200 and stores nothing.
func TestNoRedirects(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			http.Redirect(w, r, "/login", http.StatusFound)
		}
	}))
	defer server.Close()
	s := newSpool(t)
	fill(t, s, 1)
	s.Finish()
	p := &Pusher{URL: server.URL, Client: client(t, config.DefaultHTTPClientConfig), Spool: s, Drain: 100 * time.Millisecond}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want(t, s, "delivered 0 pending 10")
}

func TestNewClient(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]config.HTTPClientConfig{
		"/nowhere/token":    {Authorization: &config.Authorization{CredentialsFile: "/nowhere/token"}},
		"/nowhere/password": {BasicAuth: &config.BasicAuth{Username: "x", PasswordFile: "/nowhere/password"}},
		"/nowhere/ca":       {TLSConfig: config.TLSConfig{CAFile: "/nowhere/ca"}},
		empty:               {Authorization: &config.Authorization{CredentialsFile: empty}},
	} {
		if _, err := NewClient(c, ""); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "\n") {
			t.Errorf("NewClient: %v, want one line that names %s", err, name)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{"http://127.0.0.1:9370/api/v1/write", "https://u:p@gateway/x"} {
		if err := CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "gateway:9370", "ftp://x/", "http://", "http://u:secret@x:bad/", "/api/v1/write", "http://%zz/"} {
		if err := CheckURL(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want an error without the password", bad, err)
		}
	}
}

func TestHugeAnswer(t *testing.T) {
	v := judge(500, http.Header{}, bytes.Repeat([]byte("a\n\xff"), 1<<15), time.Now())
	if got := v.err.Error(); len(got) > 600 || strings.Contains(got, "\n") || !utf8.ValidString(got) {
		t.Errorf("a huge answer gives a message of %d bytes: %.80q", len(got), got)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(204, "not_active=3, wrong_host=2", "5", "")
	f.Add(429, "", "Sat, 01 Jan 2000 00:00:20 GMT", "busy")
	f.Add(400, "=,a=1,=2,a==3,A=1", "-1", "\x00\xff")
	f.Fuzz(func(t *testing.T, status int, refused, after, said string) {
		h := http.Header{"X-Fanin-Refused": {refused}, "Retry-After": {after}}
		v := judge(status, h, []byte(said), time.Unix(0, 0))
		if v.retryAfter < 0 || v.retryAfter > maxRetryAfter {
			t.Errorf("Retry-After %q: wait %s", after, v.retryAfter)
		}
		for _, r := range v.refused {
			if r.samples <= 0 || !validReason(r.reason) {
				t.Errorf("%q: %+v", refused, r)
			}
		}
		if len(v.refused) > maxRefusals {
			t.Errorf("%d refusals", len(v.refused))
		}
		if (v.outcome == taken) != (v.reason == "") {
			t.Errorf("%d: outcome %s, reason %q", status, v.outcome, v.reason)
		}
	})
}
