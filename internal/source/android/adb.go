package android

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The adb server's protocol (SERVICES.TXT of adb): a request is four
// hexadecimal digits of length and the name of a service; the answer begins
// with OKAY, or with FAIL and the reason.

const (
	maxADBAnswer  = 64 << 10
	maxADBDevices = 32 // of one server
)

// question is what a guest is asked, in one call: which AVD it is (by the name
// of today or that of old), and its memory.
const question = "exec:getprop ro.boot.qemu.avd_name; getprop ro.kernel.qemu.avd_name; cat /proc/meminfo"

// adb is a way to an adb server. Each service takes a connection of its own.
type adb struct {
	dial func(ctx context.Context) (net.Conn, error)
}

// emulators lists the serial numbers of those that are ready.
func (a adb) emulators(ctx context.Context) ([]string, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := request(c, "host:devices"); err != nil {
		return nil, err
	}
	list, err := block(c)
	if err != nil {
		return nil, err
	}
	var serials []string
	for line := range strings.Lines(string(list)) {
		serial, state, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if strings.HasPrefix(serial, "emulator-") && state == "device" && len(serials) < maxADBDevices {
			serials = append(serials, serial)
		}
	}
	return serials, nil
}

// ask puts the question to one of them.
func (a adb) ask(ctx context.Context, serial string) (avd string, m memory, err error) {
	c, err := a.connect(ctx)
	if err != nil {
		return "", memory{}, err
	}
	defer c.Close()
	if err := request(c, "host:transport:"+serial); err != nil {
		return "", memory{}, err
	}
	if err := request(c, question); err != nil {
		return "", memory{}, err
	}
	b, err := io.ReadAll(io.LimitReader(c, maxADBAnswer))
	if err != nil {
		return "", memory{}, fmt.Errorf("adb: read from %s: %w", serial, err)
	}
	avd, m = parseAnswer(b)
	if m.at = time.Now(); m.total == 0 {
		return "", memory{}, fmt.Errorf("adb: %s has no /proc/meminfo", serial)
	}
	return avd, m, nil
}

func (a adb) connect(ctx context.Context) (net.Conn, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("adb: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return c, nil
}

func request(c net.Conn, service string) error {
	if _, err := fmt.Fprintf(c, "%04x%s", len(service), service); err != nil {
		return fmt.Errorf("adb: %w", err)
	}
	var status [4]byte
	if _, err := io.ReadFull(c, status[:]); err != nil {
		return fmt.Errorf("adb: %w", err)
	}
	switch string(status[:]) {
	case "OKAY":
		return nil
	case "FAIL":
		why, err := block(c)
		if err != nil {
			return err
		}
		return fmt.Errorf("adb: %.200q", why)
	}
	return fmt.Errorf("adb: the answer begins with %q", status)
}

// block reads what has its length in front, as four hexadecimal digits.
func block(c net.Conn) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, fmt.Errorf("adb: %w", err)
	}
	n, err := strconv.ParseUint(string(length[:]), 16, 16)
	if err != nil {
		return nil, fmt.Errorf("adb: %q is no length", length)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, fmt.Errorf("adb: %w", err)
	}
	return b, nil
}

// parseAnswer takes the answer to the question apart. What stands there comes
// out of the guest, which may say anything.
func parseAnswer(b []byte) (avd string, m memory) {
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		key, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			if avd == "" && validName(string(line)) {
				avd = string(line)
			}
			continue
		}
		var to *float64
		switch string(key) {
		case "MemTotal":
			to = &m.total
		case "MemFree":
			to = &m.free
		case "MemAvailable":
			to = &m.available
		case "Buffers":
			to = &m.buffers
		case "Cached":
			to = &m.cached
		default:
			continue
		}
		digits, unit, _ := bytes.Cut(bytes.TrimSpace(value), []byte(" "))
		if n, ok := number(digits, string(unit) == "kB"); ok && n < 1<<40 {
			*to = float64(n) * 1024
		}
	}
	return avd, m
}

// dialIn connects to an address in the network namespace of a process, on a
// thread that goes there and is never used for anything else: it ends with the
// goroutine that is locked to it. It takes CAP_SYS_ADMIN.
func dialIn(ctx context.Context, namespace, address string) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// /proc/net is what the first thread sees. While this goroutine
			// waits on it, another one is on another thread.
			c, err := dialIn(ctx, namespace, address)
			runtime.UnlockOSThread()
			done <- result{c, err}
			return
		}
		c, err := dialHere(ctx, namespace, address)
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

func dialHere(ctx context.Context, namespace, address string) (net.Conn, error) {
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", namespace, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", namespace, err)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

var errNoDevice = errors.New("adb: it has no emulator that is ready")
