package exporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// dialInside connects to the target from inside its own network namespace: on
// its loopback, or at an address of its own interfaces.
func (s *Source) dialInside(ctx context.Context, e *endpoint) (net.Conn, *failure) {
	namespace, err := e.namespace()
	if err != nil {
		return nil, &failure{reason: unreachable, err: err}
	}
	defer namespace.Close()
	if err := s.isForeign(namespace); err != nil {
		return nil, &failure{reason: unreachable, err: err}
	}
	last := errors.New("it has no address")
	for _, find := range []func() []netip.Addr{loopback, ownAddresses} {
		sockets, err := socketsInside(namespace, find)
		if err != nil {
			return nil, &failure{reason: unreachable, err: err}
		}
		var found net.Conn
		for i, one := range sockets {
			if found != nil {
				_ = unix.Close(one.fd)
				continue
			}
			if found, err = one.connect(ctx, e.port, len(sockets)-i+1); err != nil {
				last = err
			}
		}
		if found != nil {
			return found, nil
		}
	}
	return nil, dialFailure(ctx, last)
}

// loopback is where a program that listens everywhere is reached, and one that
// listens there only.
func loopback() []netip.Addr { return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})} }

// ownAddresses are those of the interfaces in this thread's namespace.
func ownAddresses() (own []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && AllowedAddress(prefix.Addr()) && len(own) < maxDialled {
			own = append(own, prefix.Addr())
		}
	}
	return own
}

// isForeign makes sure that a namespace is not the host's, whose loopback is
// nobody's business.
func (s *Source) isForeign(namespace *os.File) error {
	var of unix.Stat_t
	if err := unix.Fstat(int(namespace.Fd()), &of); err != nil {
		return fmt.Errorf("look at the network namespace: %w", err)
	}
	for _, process := range [...]string{"1", "self"} {
		name := filepath.Join(s.ProcRoot, process, "ns/net")
		var host unix.Stat_t
		err := unix.Stat(name, &host)
		if process == "1" && errors.Is(err, fs.ErrPermission) {
			continue // in a container that may not see it: there the own one is what there is to protect
		}
		if err != nil {
			return fmt.Errorf("tell the host's network namespace from a guest's: %w", &os.PathError{Op: "stat", Path: name, Err: err})
		}
		if host.Dev == of.Dev && host.Ino == of.Ino {
			return errors.New("its network namespace is the host's")
		}
	}
	return nil
}

// onOwnThread runs f on a thread that ends with it. It must be all that its
// goroutine does.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // still locked: the thread ends with the goroutine
	}
	// The first thread would not end. While it is held here, another
	// goroutine can not be on it.
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(f)
	}()
	<-done
}

// socket is one that was made in a namespace, and so stays in it.
type socket struct {
	fd int
	to netip.Addr
}

// socketsInside makes sockets for the addresses that find finds inside a
// namespace.
//
// A thread that has entered a namespace is never used for anything else. It
// is not the process's first one either: that is the one whose namespace
// /proc/net and /proc/self/ns/net show to everybody.
func socketsInside(namespace *os.File, find func() []netip.Addr) (made []socket, err error) {
	done := make(chan struct{})
	go onOwnThread(func() {
		defer close(done)
		if err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter its network namespace (needs CAP_SYS_ADMIN): %w", err)
			return
		}
		for _, a := range find() {
			family := unix.AF_INET
			if a.Is6() {
				family = unix.AF_INET6
			}
			fd, e := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if e != nil {
				err = e
				continue
			}
			made = append(made, socket{fd, a})
		}
		if len(made) > 0 {
			err = nil
		}
	})
	<-done
	return made, err
}

// connect takes the socket over and connects it within the n-th part of the
// time that is left.
func (s socket) connect(ctx context.Context, port uint16, n int) (net.Conn, error) {
	ctx, cancel := part(ctx, n)
	defer cancel()
	var to unix.Sockaddr
	if s.to.Is4() {
		to = &unix.SockaddrInet4{Port: int(port), Addr: s.to.As4()}
	} else {
		to = &unix.SockaddrInet6{Port: int(port), Addr: s.to.As16()}
	}
	started := unix.Connect(s.fd, to)
	f := os.NewFile(uintptr(s.fd), "socket")
	defer f.Close()
	if started != nil && !errors.Is(started, unix.EINPROGRESS) {
		return nil, os.NewSyscallError("connect", started)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	var ended error
	if err := raw.Write(func(fd uintptr) bool {
		ended = unix.Connect(int(fd), to) // connect(2): again, for what has become of it
		return !errors.Is(ended, unix.EALREADY) && !errors.Is(ended, unix.EINPROGRESS) && !errors.Is(ended, unix.EINTR)
	}); err != nil {
		return nil, err
	}
	if ended != nil && !errors.Is(ended, unix.EISCONN) {
		return nil, os.NewSyscallError("connect", ended)
	}
	return net.FileConn(f)
}
