package docker

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// maxPing bounds the answer to a ping, which is headers alone.
const maxPing = 64 << 10

// pinger asks the engine whether it answers: HEAD /_ping, once a second for
// ever. It has a connection of its own, as the goroutines of an http.Transport
// take ten times as long as the ping itself. One call of ping at a time.
type pinger struct {
	socket string

	mu     sync.Mutex
	conn   net.Conn // guarded by mu; nil: not connected
	closed bool     // guarded by mu

	limit   io.LimitedReader
	answers *bufio.Reader
}

var pingRequest = &http.Request{Method: http.MethodHead}

// ping returns nil when the engine has given a good answer within callTimeout.
// A connection that it has closed since the last time is made anew.
func (p *pinger) ping(ctx context.Context) error {
	conn, fresh, err := p.connect(ctx)
	if err == nil {
		err = p.ask(conn)
	}
	if err != nil && !fresh {
		p.drop()
		if conn, _, err = p.connect(ctx); err == nil {
			err = p.ask(conn)
		}
	}
	if err != nil {
		p.drop()
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

func (p *pinger) connect(ctx context.Context) (conn net.Conn, fresh bool, err error) {
	p.mu.Lock()
	conn = p.conn
	p.mu.Unlock()
	if conn != nil {
		return conn, false, nil
	}
	dialer := net.Dialer{Timeout: callTimeout}
	if conn, err = dialer.DialContext(ctx, "unix", p.socket); err != nil {
		return nil, true, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = conn.Close()
		return nil, true, net.ErrClosed
	}
	p.conn = conn
	p.limit = io.LimitedReader{R: conn}
	p.answers = bufio.NewReaderSize(&p.limit, 1024)
	return conn, true, nil
}

func (p *pinger) ask(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "HEAD /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"); err != nil {
		return err
	}
	p.limit.N = maxPing
	answer, err := http.ReadResponse(p.answers, pingRequest)
	if err != nil {
		return err
	}
	_ = answer.Body.Close() // the answer to HEAD has none
	if answer.Close {
		p.drop()
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answers %s", answer.Status)
	}
	return nil
}

func (p *pinger) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// close ends a ping that is under way, too.
func (p *pinger) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop()
}
