package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// A server that is told to stop answers the requests that are under way, and
// has ended within 5 s whatever else is connected to it.
func TestStop(t *testing.T) {
	handling, opened := make(chan struct{}), make(chan struct{}, 2)
	s := &Server{
		Addresses: []string{"127.0.0.1:0"}, Log: silent,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(handling)
			time.Sleep(time.Second)
			_, _ = io.WriteString(w, "whole")
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				opened <- struct{}{}
			}
		},
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()

	mute, err := net.Dial("tcp", s.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	<-opened
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get(s.URL())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	<-handling
	told := time.Now()
	stop()
	if got := <-answer; got != "whole" {
		t.Errorf("the request under way is answered %q, want %q", got, "whole")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if took := time.Since(told); took >= 5*time.Second {
		t.Errorf("it ended %v after it was told to, want within 5s", took)
	}
}
