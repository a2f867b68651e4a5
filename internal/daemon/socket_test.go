package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// quickPair is both ends of a connection: ours as the server has it, and the
// client's.
func quickPair(t *testing.T) (ours net.Conn, client *net.TCPConn) {
	t.Helper()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := quick(plain)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ours.Close() })
	if _, is := ours.(*socket); !is {
		t.Fatalf("the connection is a %T", ours)
	}
	return ours, c.(*net.TCPConn)
}

// Everything arrives, in both directions at once, through buffers that fill up.
func TestSocketTransfers(t *testing.T) {
	ours, client := quickPair(t)
	noise := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	send := func(w io.Writer, half func() error) {
		if n, err := w.Write(noise); n != len(noise) || err != nil {
			t.Errorf("%d of %d bytes written: %v", n, len(noise), err)
		}
		if err := half(); err != nil {
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	all.Go(func() { send(ours, ours.(*socket).CloseWrite) })
	all.Go(func() { send(client, client.CloseWrite) })
	for _, r := range []io.Reader{ours, client} {
		all.Go(func() {
			time.Sleep(50 * time.Millisecond) // until nothing more goes into the buffers
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, noise) {
				t.Errorf("%d of %d bytes came, or others: %v", len(got), len(noise), err)
			}
		})
	}
	all.Wait()
}

// Whoever uses one says why it ended, as of any other connection.
func TestSocketErrors(t *testing.T) {
	var b [1]byte
	expect := func(t *testing.T, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("the error is %v, want %v", err, want)
		}
	}
	t.Run("nothing to read", func(t *testing.T) {
		ours, _ := quickPair(t)
		if n, err := ours.Read(nil); n != 0 || err != nil {
			t.Errorf("read %d bytes into none: %v", n, err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ours, client := quickPair(t)
		much := make([]byte, 64<<20)
		clear(much) // now, as new memory takes its time
		_ = ours.SetDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := ours.Read(b[:])
		expect(t, err, os.ErrDeadlineExceeded)
		if failed := net.Error(nil); !errors.As(err, &failed) || !failed.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
		_ = ours.SetDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := ours.Write(much) // nobody reads them
		expect(t, err, os.ErrDeadlineExceeded)
		if n <= 0 || n >= len(much) {
			t.Errorf("%d bytes are said to be written", n)
		}
		_ = ours.SetDeadline(time.Time{})
		if _, err := client.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if n, err := ours.Read(b[:]); n != 1 || err != nil {
			t.Errorf("after the deadline %d bytes are read: %v", n, err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		ours, client := quickPair(t)
		_ = client.SetLinger(0)
		_ = client.Close()
		_, err := ours.Read(b[:])
		expect(t, err, syscall.ECONNRESET)
		_, err = ours.Write(b[:])
		expect(t, err, syscall.EPIPE)
	})
	t.Run("closed while it waits", func(t *testing.T) {
		ours, _ := quickPair(t)
		time.AfterFunc(50*time.Millisecond, func() { _ = ours.Close() })
		_, err := ours.Read(b[:])
		expect(t, err, net.ErrClosed)
	})
}

// The server hears that a client has gone while it works for it.
func TestClientGone(t *testing.T) {
	began, gone := make(chan struct{}), make(chan struct{})
	s := &Server{
		Addresses: []string{"127.0.0.1:0"}, Log: silent,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			close(began)
			<-r.Context().Done()
			close(gone)
		}),
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(serving) }()
	ctx, leave := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL(), bytes.NewReader(make([]byte, 100_000)))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if res, err := http.DefaultClient.Do(request); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-began
	leave()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("the handler does not hear that its client has gone")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
