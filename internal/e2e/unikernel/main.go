// Unikernel is a guest of one application, for the tests: the kernel starts it
// as its only process, and it serves statistics as Prometheus text over its
// virtio network card, named as the library operating system Unikraft names
// its own (ukstore): of the allocator, the network device and the scheduler.
// There is no shell, no agent and no balloon driver. Its address comes on the
// kernel's command line, as in UK_ADDRESS=198.18.0.2/24: what the kernel does
// not know it hands to the first process.
//
// Whoever connects to port 7000 gets as many bytes as the number on the line
// that it sends, and what comes behind that line is read and thrown away.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const device = "eth0"

func main() {
	if err := run(); err != nil {
		fmt.Println("unikernel:", err)
		time.Sleep(time.Second) // for the console
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

func run() error {
	if err := os.MkdirAll("/proc", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := up("lo", netip.MustParsePrefix("127.0.0.1/8")); err != nil {
		return err
	}
	address, err := netip.ParsePrefix(os.Getenv("UK_ADDRESS"))
	if err != nil {
		return fmt.Errorf("UK_ADDRESS: %w", err)
	}
	if err := up(device, address); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":7000")
	if err != nil {
		return err
	}
	go transfer(listener)
	http.HandleFunc("GET /metrics", metrics)
	fmt.Println("serving on", address.Addr())
	return http.ListenAndServe(":9100", nil)
}

// loadModules loads every file of a folder in the order of the names.
func loadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", file, err)
		}
	}
	return nil
}

// up gives an interface its address, when it has appeared.
func up(name string, address netip.Prefix) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	set := func(request uint, change func(*unix.Ifreq) error) error {
		ifreq, err := unix.NewIfreq(name)
		if err == nil {
			err = change(ifreq)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, request, ifreq)
		}
		return err
	}
	mask := net.CIDRMask(address.Bits(), 32)
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err = errors.Join(
			set(unix.SIOCSIFADDR, func(i *unix.Ifreq) error { return i.SetInet4Addr(address.Addr().AsSlice()) }),
			set(unix.SIOCSIFNETMASK, func(i *unix.Ifreq) error { return i.SetInet4Addr(mask) }),
			set(unix.SIOCSIFFLAGS, func(i *unix.Ifreq) error { i.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }))
		if err == nil || time.Since(begin) > 10*time.Second {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

func transfer(listener net.Listener) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			line, err := in.ReadString('\n')
			n, bad := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || bad != nil || n < 0 {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, in) }()
			_, _ = c.Write(make([]byte, n))
			_ = c.(*net.TCPConn).CloseWrite()
			time.Sleep(time.Second)
		}()
	}
}

// networkColumns are the columns of /proc/net/dev by their names there.
var networkColumns = map[string]int{"rx_bytes": 0, "rx_packets": 1, "rx_errors": 2, "tx_bytes": 8, "tx_packets": 9, "tx_errors": 10}

func metrics(w http.ResponseWriter, _ *http.Request) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	one := func(name, kind, help string, value float64) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s %s\n", name, help, name, kind, name, strconv.FormatFloat(value, 'f', -1, 64))
	}
	one("libukalloc_free_bytes", "gauge", "Memory of the allocator that is free.", float64(m.HeapIdle))
	one("libukalloc_used_bytes", "gauge", "Memory of the allocator that is in use.", float64(m.HeapInuse))
	one("libukalloc_allocations_total", "counter", "Allocations so far.", float64(m.Mallocs))
	one("libukalloc_failures_total", "counter", "Allocations that failed.", 0)
	one("libuksched_cpu_seconds_total", "counter", "Processor time used.", float64(u.Utime.Nano()+u.Stime.Nano())/1e9)
	one("libuksched_switches_total", "counter", "Switches between threads.", float64(u.Nvcsw+u.Nivcsw))
	for name, column := range networkColumns {
		fmt.Fprintf(w, "# TYPE libuknetdev_%s_total counter\nlibuknetdev_%s_total{device=%q} %s\n", name, name, device, counter(column))
	}
}

// counter is a column of the device's line in /proc/net/dev.
func counter(column int) string {
	content, _ := os.ReadFile("/proc/net/dev")
	for line := range strings.Lines(string(content)) {
		if name, rest, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == device {
			return strings.Fields(rest)[column]
		}
	}
	return "NaN"
}
