package exporter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// dial connects to the target: at its addresses or in its namespace, on the
// way that led there the last time first.
func (w *worker) dial(ctx context.Context) (net.Conn, *failure) {
	s, e := w.source, &w.endpoint
	inside := func(ctx context.Context) (net.Conn, *failure) { return s.dialInside(ctx, e) }
	outside := func(ctx context.Context) (net.Conn, *failure) { return dialOutside(ctx, e) }
	switch {
	case len(e.addresses) == 0:
		return inside(ctx)
	case e.namespace == nil:
		return outside(ctx)
	}
	first, second := outside, inside
	within := e.inside || w.inside
	if within {
		first, second = inside, outside
	}
	half, cancel := part(ctx, 2)
	conn, failed := first(half)
	cancel()
	if failed == nil || failed.reason != unreachable && (e.inside || !failed.noWay) {
		return conn, failed
	}
	conn, other := second(ctx)
	if other == nil {
		w.inside = !within && !e.inside
		return conn, nil
	}
	if other.reason == unreachable {
		other = failed // which says more
	}
	return nil, other
}

func dialOutside(ctx context.Context, e *endpoint) (net.Conn, *failure) {
	var last *failure
	for i, a := range e.addresses {
		within, cancel := part(ctx, len(e.addresses)-i)
		conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(within, "tcp", netip.AddrPortFrom(a, e.port).String())
		if err != nil {
			last = dialFailure(within, err)
			cancel()
			continue
		}
		cancel()
		// What is reached from its own address is this host itself.
		if addressOf(conn.LocalAddr()) == addressOf(conn.RemoteAddr()) {
			_ = conn.Close()
			return nil, &failure{reason: badAddress, err: fmt.Errorf("%s is an address of the host itself", a)}
		}
		return conn, nil
	}
	return nil, last
}

// part leaves the n-th part of the time that is left.
func part(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n < 2 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

func dialFailure(ctx context.Context, err error) *failure {
	var slow net.Error
	if ctx.Err() != nil || errors.As(err, &slow) && slow.Timeout() {
		return &failure{timeout, errors.New("no connection in time"), true}
	}
	return &failure{connect, err, errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH)}
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
