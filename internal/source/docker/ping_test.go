package docker

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// answerer is an engine that answers on a socket of its own.
type answerer struct {
	socket string
	server *http.Server
	mu     sync.Mutex
	conns  []net.Conn
}

func answering(t *testing.T, answer http.HandlerFunc) *answerer {
	t.Helper()
	e := &answerer{socket: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	e.server = &http.Server{Handler: answer, ConnState: func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			e.mu.Lock()
			e.conns = append(e.conns, c)
			e.mu.Unlock()
		}
	}}
	go func() { _ = e.server.Serve(l) }()
	t.Cleanup(func() { _ = e.server.Close() })
	return e
}

func (e *answerer) connections() []net.Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conns
}

// A connection is used again, and made anew when the engine has closed it or
// has not answered well.
func TestPing(t *testing.T) {
	code := http.StatusOK
	e := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead || r.URL.Path != "/_ping" {
			t.Errorf("got %s %s, want HEAD /_ping", r.Method, r.URL)
		}
		w.WriteHeader(code)
	})
	p := pinger{socket: e.socket}
	defer p.close()
	check := func(when string, good bool, connections int) {
		t.Helper()
		if err := p.ping(context.Background()); (err == nil) != good {
			t.Errorf("%s: got %v", when, err)
		}
		if got := len(e.connections()); got != connections {
			t.Errorf("%s: %d connections, want %d", when, got, connections)
		}
	}
	check("at first", true, 1)
	check("again", true, 1)
	_ = e.connections()[0].Close()
	check("after the engine closed it", true, 2)
	code = http.StatusInternalServerError
	check("while the engine fails", false, 3)
	code = http.StatusOK
	check("afterwards", true, 4)
	p.close()
	if err := p.ping(context.Background()); err == nil {
		t.Error("closed: got no error")
	}
	if err := (&pinger{socket: filepath.Join(t.TempDir(), "none")}).ping(context.Background()); err == nil {
		t.Error("no socket: got no error")
	}
}

// What pretends to be an engine does not get more memory than an answer takes.
func TestPingIsBounded(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var sent int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		sent, _ = io.Copy(c, strings.NewReader(strings.Repeat("A: "+strings.Repeat("a", 1000)+"\r\n", 10_000)))
	}()
	p := pinger{socket: socket}
	if err := p.ping(context.Background()); err == nil {
		t.Error("a header of 10 MB: got no error")
	}
	p.close()
	<-done
	if sent > 1<<20 {
		t.Errorf("%d bytes of it were taken, want at most %d and what the socket holds", sent, maxPing)
	}
}

// close ends a ping that nobody answers.
func TestPingEnds(t *testing.T) {
	hang := make(chan struct{})
	e := answering(t, func(http.ResponseWriter, *http.Request) { <-hang })
	defer close(hang)
	p := pinger{socket: e.socket}
	ended := make(chan error, 1)
	go func() { ended <- p.ping(context.Background()) }()
	for len(e.connections()) == 0 {
		time.Sleep(time.Millisecond)
	}
	p.close()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("got no error")
		}
	case <-time.After(callTimeout / 2):
		t.Error("it waits on")
	}
}
