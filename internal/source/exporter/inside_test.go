package exporter

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
	"fanin/internal/sample"
)

// inside is a network namespace that only has its loopback, as that of a
// container without a network.
type inside struct {
	t    testing.TB
	file *os.File
}

func newInside(t testing.TB) *inside {
	t.Helper()
	rig.Need(t)
	rig.NeedRoot(t)
	n := &inside{t: t}
	n.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		n.file = f
		return loopbackUp()
	})
	t.Cleanup(func() { n.file.Close() })
	return n
}

// do runs f on a thread of its own, inside the namespace once there is one.
func (n *inside) do(f func() error) {
	n.t.Helper()
	done := make(chan error, 1)
	go onOwnThread(func() {
		if n.file != nil {
			if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
		}
		done <- f()
	})
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// ownAddress is one that this test gives to a loopback inside a namespace.
const ownAddress = "10.213.250.1"

// addAddress gives ownAddress to the loopback of this thread's namespace.
func addAddress() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	a := netip.MustParseAddr(ownAddress).As4()
	if err := request.SetInet4Addr(a[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, request)
}

// listen listens inside, on a port of the kernel's choice.
func (n *inside) listen() (net.Listener, string) { return n.listenAt("127.0.0.1") }

func (n *inside) listenAt(address string) (net.Listener, string) {
	n.t.Helper()
	var l net.Listener
	n.do(func() (err error) {
		l, err = net.Listen("tcp", address+":0")
		return err
	})
	n.t.Cleanup(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return l, port
}

// serve answers every connection inside with f, and returns the port.
func (n *inside) serve(f func(net.Conn)) string {
	n.t.Helper()
	l, port := n.listen()
	var open sync.WaitGroup
	var mu sync.Mutex
	all := map[net.Conn]bool{}
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all[c] = true
			mu.Unlock()
			open.Go(func() {
				defer c.Close()
				f(c)
			})
		}
	})
	n.t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range all {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return port
}

// page answers every request with this page.
func (n *inside) page(body string) string {
	n.t.Helper()
	l, port := n.listen()
	n.servePage(l, body)
	return port
}

func (n *inside) servePage(l net.Listener, body string) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, body)
	})}
	go server.Serve(l)
	n.t.Cleanup(func() { server.Close() })
}

// full listens inside and accepts nothing, so that no connection comes about.
func (n *inside) full() (port string) {
	n.t.Helper()
	var open []int
	n.do(func() error {
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		open = append(open, l)
		if err := unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if err := unix.Listen(l, 0); err != nil {
			return err
		}
		at, err := unix.Getsockname(l)
		if err != nil {
			return err
		}
		port = fmt.Sprint(at.(*unix.SockaddrInet4).Port)
		for range 3 {
			c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			open = append(open, c)
			if err := unix.Connect(c, at); err != nil && err != unix.EINPROGRESS {
				return err
			}
		}
		return nil
	})
	n.t.Cleanup(func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	})
	return port
}

func (n *inside) open() (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()))
}

func (n *inside) target(guest, port string) Target {
	return Target{Guest: guest, Port: port, Namespace: n.open}
}

func these(targets ...Target) []func() []Target {
	return []func() []Target{func() []Target { return targets }}
}

// onePage samples once, without Run, and returns what is said by text.
func onePage(t testing.TB, s *Source) map[string]float64 {
	t.Helper()
	var b sample.Batch
	if err := s.Sample(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, p := range b.Points {
		if _, twice := got[p.Series.Text()]; twice {
			t.Errorf("%s twice in one sample", p.Series.Text())
		}
		got[p.Series.Text()] = p.V
	}
	return got
}

// upOf is what is said of a guest's page: "1" or its reason.
func upOf(got map[string]float64, guest string) string {
	for text, v := range got {
		if !strings.HasPrefix(text, "testbed_guest_exporter_up{") || !strings.Contains(text, `guest="`+guest+`"`) || isMarker(v) {
			continue
		}
		if v == 1 {
			return "1"
		}
		_, reason, _ := strings.Cut(text, `reason="`)
		return reason[:strings.IndexByte(reason, '"')]
	}
	return "nothing"
}
