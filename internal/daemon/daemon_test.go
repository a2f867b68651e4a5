package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var silent = slog.New(slog.DiscardHandler)

func waits(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func TestFirstErrorEndsAllAndNamesItsTask(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	broken := errors.New("broken")
	err := Run(t.Context(), silent,
		Task{"good", waits},
		Task{"bad", func(context.Context) error { return broken }})
	if !errors.Is(err, broken) || err.Error() != "bad: broken" {
		t.Fatalf("got %v, want bad: broken", err)
	}
}

func TestSignalEndsAllWithoutError(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		running := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			ended <- Run(context.Background(), silent, Task{"task", func(ctx context.Context) error {
				close(running)
				return waits(ctx)
			}})
		}()
		<-running
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%s: got %v, want nil", s, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s ended nothing", s)
		}
	}
}

// A request under way when the server stops is answered; a new one is not.
func TestServerStopsInOrder(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := &Server{Addresses: []string{"127.0.0.1:0"}, Log: silent, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "answered")
	})}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Run(ctx) }()
	answer := make(chan string, 1)
	go func() {
		r, err := http.Get(s.URL())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		answer <- string(b)
	}()
	<-entered
	stop()
	for {
		if _, err := http.Get(s.URL()); err != nil {
			break // the listener is closed
		}
	}
	close(leave)
	if got := <-answer; got != "answered" {
		t.Fatalf("got %q, want the answer", got)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	taken := &Server{Addresses: []string{"127.0.0.1:0"}, Log: silent}
	if err := taken.Listen(); err != nil {
		t.Fatal(err)
	}
	defer taken.close()
	bad := filepath.Join(t.TempDir(), "web.yml")
	if err := os.WriteFile(bad, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]*Server{
		"address already in use": {Addresses: []string{"127.0.0.1:0", taken.listeners[0].Addr().String()}},
		"line 1":                 {Addresses: []string{"127.0.0.1:0"}, WebConfig: bad},
	} {
		err := s.Listen()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want one line with %q", err, want)
		}
		if len(s.listeners) != 0 {
			t.Errorf("%s: %d listeners are left open", want, len(s.listeners))
		}
	}
}

func TestObserve(t *testing.T) {
	mux := http.NewServeMux()
	var notReady error
	Observe(mux, NewRegistry("gateway"), func() error { return notReady })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	if code, body := get("/metrics"); code != http.StatusOK || !strings.Contains(body, "gateway_build_info") || !strings.Contains(body, "process_cpu_seconds_total") {
		t.Errorf("/metrics: got %d\n%s", code, body)
	}
	for _, path := range []string{"/healthz", "/-/healthy", "/readyz", "/-/ready"} {
		if code, body := get(path); code != http.StatusOK {
			t.Errorf("%s: got %d %s", path, code, body)
		}
	}
	notReady = errors.New("still loading")
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "still loading") {
		t.Errorf("/readyz: got %d %s", code, body)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: got %d", code)
	}
}
