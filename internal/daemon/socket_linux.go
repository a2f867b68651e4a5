package daemon

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// quick is a listener whose connections make their system calls without telling
// Go's scheduler. They never wait in the kernel, as Go's sockets do not block; but
// announced, each of more than 20 us makes the runtime wake a second thread that
// takes over and then finds the first one back.
func quick(l net.Listener) net.Listener {
	tcp, is := l.(*net.TCPListener)
	if !is {
		return l
	}
	return quickListener{tcp}
}

type quickListener struct{ *net.TCPListener }

func (l quickListener) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	s := &socket{TCPConn: c}
	s.reading.ready, s.reading.try = raw.Read, s.reading.read
	s.writing.ready, s.writing.try = raw.Write, s.writing.write
	return s, nil
}

// socket is a connection whose Read and Write are made quick.
type socket struct {
	*net.TCPConn
	reading, writing transfer
}

// transfer is a read or a write under way. Its functions are made once, as each
// would be an allocation.
type transfer struct {
	ready func(try func(fd uintptr) (done bool)) error // waits until the socket is
	try   func(fd uintptr) (done bool)

	mu  sync.Mutex
	b   []byte
	n   int
	err syscall.Errno
}

func (s *socket) Read(b []byte) (int, error) {
	n, err := s.reading.run(b)
	switch {
	case err != nil:
		return n, s.failed("read", err)
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (s *socket) Write(b []byte) (int, error) {
	n, err := s.writing.run(b)
	if err != nil {
		return n, s.failed("write", err)
	}
	return n, nil
}

func (s *socket) failed(op string, err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
	}
	return err // the connection is closed, or a deadline has passed
}

// run has try be done with b.
func (t *transfer) run(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b, t.n, t.err = b, 0, 0
	err := t.ready(t.try)
	t.b = nil
	if err == nil && t.err != 0 {
		err = t.err
	}
	return t.n, err
}

func (t *transfer) read(fd uintptr) (done bool) {
	done, t.n = t.call(syscall.SYS_READ, fd, t.b)
	return done
}

func (t *transfer) write(fd uintptr) (done bool) {
	for t.n < len(t.b) && t.err == 0 {
		done, n := t.call(syscall.SYS_WRITE, fd, t.b[t.n:])
		if !done {
			return false
		}
		t.n += n
	}
	return true
}

func (t *transfer) call(trap, fd uintptr, b []byte) (done bool, n int) {
	for {
		r, _, err := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch err {
		case 0:
			return true, int(r)
		case syscall.EAGAIN:
			return false, 0
		case syscall.EINTR:
		default:
			t.err = err
			return true, 0
		}
	}
}
