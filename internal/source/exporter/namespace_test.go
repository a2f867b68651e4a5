package exporter

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/e2e/rig"
)

// A page in a namespace is reached on its loopback, and the host's own
// loopback never is.
func TestNamespace(t *testing.T) {
	n := newInside(t)
	port := n.page("a 1\n")
	n.do(addAddress)
	l, elsewhere := n.listenAt(ownAddress)
	n.servePage(l, "a 1\n")
	var asked atomic.Int64
	host := http.Server{Addr: "127.0.0.1:" + port, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })}
	go host.ListenAndServe()
	defer host.Close()

	hosts := func() (*os.File, error) { return os.Open("/proc/self/ns/net") }
	gone := func() (*os.File, error) { return os.Open("/proc/nobody/ns/net") }
	got := onePage(t, &Source{Targets: these(
		n.target("in", port), n.target("elsewhere", elsewhere), n.target("nobody", "1"), Target{Guest: "host", Port: port, Namespace: hosts}, Target{Guest: "gone", Port: port, Namespace: gone},
		Target{Guest: "by-address", Port: port, Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
	)})
	for guest, want := range map[string]string{"in": "1", "elsewhere": "1", "nobody": "connect", "host": "unreachable", "gone": "unreachable", "by-address": "bad_address"} {
		if up := upOf(got, guest); up != want {
			t.Errorf("%s: got %s, want %s", guest, up, want)
		}
	}
	if got[`a{guest="in",port="`+port+`"}`] != 1 {
		t.Errorf("got %v, want the page", got)
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the host's own loopback was asked %d times", n)
	}
}

// A namespace is entered on threads that do nothing else and end: those that
// stay, and /proc/net with them, are where they were.
func TestThreadsStayWhereTheyAre(t *testing.T) {
	n := newInside(t)
	port := n.page("a 1\n")
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	s := &Source{}
	s.setup()
	target := n.target("in", port)
	e, failed := target.resolve()
	if failed != nil {
		t.Fatal(failed.err)
	}
	var onFirst, dials atomic.Int64
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 50 {
				if unix.Gettid() == unix.Getpid() {
					onFirst.Add(1)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				conn, failed := s.dialInside(ctx, &e)
				cancel()
				if failed != nil {
					t.Error(failed.err)
					return
				}
				conn.Close()
				dials.Add(1)
			}
		})
	}
	running.Wait()
	rig.Eventually(t, 10*time.Second, func() error {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if now, err := os.Readlink(task); err == nil && now != before {
				return fmt.Errorf("%s is %s, want %s", task, now, before)
			}
		}
		return nil
	})
	if dials.Load() != 400 {
		t.Errorf("got %d connections, want 400", dials.Load())
	}
	// Without the first thread among those that dial this shows nothing.
	for range 1000 {
		if onFirst.Load() > 0 {
			break
		}
		done := make(chan bool)
		go func() { done <- unix.Gettid() == unix.Getpid() }()
		if <-done {
			onFirst.Add(1)
		}
		runtime.Gosched()
	}
	ran := make(chan bool, 1)
	for range 200 {
		go onOwnThread(func() { ran <- unix.Gettid() == unix.Getpid() })
		if <-ran {
			t.Fatal("a namespace would have been entered on the process's first thread")
		}
	}
	t.Logf("goroutines were seen on the first thread %d times", onFirst.Load())
}

const inOwnNamespace = "FANIN_TEST_OWN_NAMESPACE"

// inChild runs the test that calls it again, as a process in a network
// namespace of its own with a loopback and ownAddress, so that nothing else
// can reach what listens there. It reports whether this is that process.
func inChild(t *testing.T) bool {
	t.Helper()
	rig.Need(t)
	rig.NeedRoot(t)
	if os.Getenv(inOwnNamespace) != "" {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		if err := addAddress(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), inOwnNamespace+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := again.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// An address of this host is nobody else's, whoever listens there.
func TestOwnAddressOfTheHost(t *testing.T) {
	if !inChild(t) {
		return
	}
	l, err := net.Listen("tcp", ownAddress+":9371")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan int, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		n, _ := c.Read(make([]byte, 100))
		got <- n
	}()
	page := onePage(t, &Source{Targets: these(Target{Guest: "web", Port: "9371", Addresses: []netip.Addr{netip.MustParseAddr(ownAddress)}})})
	if up := upOf(page, "web"); up != "bad_address" {
		t.Errorf("got %s, want bad_address", up)
	}
	if n := <-got; n != 0 {
		t.Errorf("the host's own server got %d bytes, want none", n)
	}
}

// Where no address leads to a guest, its namespace does; and where that may
// not be entered, its address.
func TestOtherWay(t *testing.T) {
	if !inChild(t) {
		return
	}
	n := newInside(t)
	port := n.page("a 1\n")
	gone := func() (*os.File, error) { return os.Open("/proc/nobody/ns/net") }
	nowhere := []netip.Addr{netip.MustParseAddr("192.0.2.1")} // there is no route
	silent := n.target("silent", "1")                         // nobody listens
	for _, c := range []struct {
		what   string
		target Target
		want   string
		inside bool // is remembered
	}{
		{"no route", Target{Addresses: nowhere, Namespace: n.open}, "1", true},
		{"no route, no namespace", Target{Addresses: nowhere}, "connect", false},
		{"no route, and not to be entered", Target{Addresses: nowhere, Namespace: gone}, "connect", false},
		{"inside", Target{Addresses: nowhere, Namespace: n.open, Inside: true}, "1", false},
		{"inside, and not to be entered", Target{Addresses: nowhere, Namespace: gone, Inside: true}, "connect", false},
		{"inside, and nobody there", Target{Addresses: nowhere, Namespace: silent.Namespace, Port: "1", Inside: true}, "connect", false},
	} {
		c.target.Guest = "web"
		if c.target.Port == "" {
			c.target.Port = port
		}
		s := &Source{Targets: these(c.target)}
		for range 2 {
			if up := upOf(onePage(t, s), "web"); up != c.want {
				t.Errorf("%s: got %s, want %s", c.what, up, c.want)
			}
			if got := s.order[0].inside; got != c.inside {
				t.Errorf("%s: inside from now on %v, want %v", c.what, got, c.inside)
			}
		}
	}
	// One that hangs inside is not looked for elsewhere.
	full := Target{Guest: "web", Port: n.full(), Addresses: nowhere, Namespace: n.open, Inside: true}
	if up := upOf(onePage(t, &Source{Targets: these(full), Timeout: 300 * time.Millisecond}), "web"); up != "timeout" {
		t.Errorf("inside, and no answer: got %s, want timeout", up)
	}
	// Somebody at the address who refuses is an answer.
	refused := Target{Guest: "web", Port: port, Addresses: []netip.Addr{netip.MustParseAddr(ownAddress)}, Namespace: n.open}
	if up := upOf(onePage(t, &Source{Targets: these(refused)}), "web"); up != "connect" {
		t.Errorf("refused: got %s, want connect", up)
	}
}
