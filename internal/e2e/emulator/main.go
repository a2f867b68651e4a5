// Emulator stands for the Android emulator in the tests, as there is none to be
// had without a licence and a gigabyte: a real process with the same programs
// and arguments. Called emulator it does as the real one does and becomes the
// qemu-system-x86_64 beside it (FANIN_LAUNCH=exec), or starts that as a child
// (child), or is the last of its line (none). Called anything else it is the
// engine, and does what the words of FANIN_ENGINE say, until SIGTERM:
//
//	busy=FRACTION       uses so much of one processor
//	memory=BYTES        holds that much written memory
//	file=PATH,BYTES     writes a file to disk, forgets it and reads it again
//	receive=ADDR        takes connections and reads what comes
//	send=ADDR,BYTES     connects and sends so much
//	early               has no arguments, as in the middle of execve(2), until SIGUSR1
//
// It says "ready" when it listens to signals. On SIGUSR1 it becomes the program
// of FANIN_EXEC, a command line, if there is one.
package main

import (
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if how := os.Getenv("FANIN_LAUNCH"); filepath.Base(self) == "emulator" && how != "none" {
		return launch(filepath.Join(filepath.Dir(self), "qemu-system-x86_64"), how)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	fmt.Println("ready")
	for _, word := range strings.Fields(os.Getenv("FANIN_ENGINE")) {
		what, value, _ := strings.Cut(word, "=")
		if err := do(what, value); err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
	}
	for <-stop == syscall.SIGUSR1 {
		if args := strings.Fields(os.Getenv("FANIN_EXEC")); len(args) > 0 {
			return syscall.Exec(args[0], args, os.Environ())
		}
		if err := shown.set(); err != nil {
			return err
		}
	}
	return nil
}

func launch(engine, how string) error {
	args := append([]string{engine}, os.Args[1:]...)
	if how != "child" {
		return syscall.Exec(engine, args, os.Environ())
	}
	cmd := exec.Command(engine, args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

func do(what, value string) error {
	at, size, _ := strings.Cut(value, ",")
	n, _ := strconv.Atoi(size)
	switch what {
	case "busy":
		fraction, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return err
		}
		go busy(fraction)
		return nil
	case "memory":
		n, err := strconv.Atoi(value)
		if err != nil {
			return err
		}
		held = make([]byte, n)
		for i := 0; i < n; i += 4096 {
			held[i] = 1
		}
		return nil
	case "file":
		return file(at, n)
	case "receive":
		return receive(value)
	case "send":
		return send(at, n)
	case "early":
		return early()
	}
	return fmt.Errorf("do not know how to do that")
}

var held []byte

// shown is where the process' arguments are; unset when they were never hidden.
var shown prctlMap

// prctlMap is struct prctl_mm_map (linux/prctl.h).
type prctlMap struct {
	startCode, endCode, startData, endData, startBrk, brk, startStack uint64
	argStart, argEnd, envStart, envEnd                                uint64
	auxv                                                              uint64
	auxvSize, exe                                                     uint32
}

// early takes the arguments out of /proc/self/cmdline.
func early() error {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	// proc_pid_stat(5); the name, field 2, ends at the last parenthesis.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	for i, v := range map[int]*uint64{
		26: &shown.startCode, 27: &shown.endCode, 28: &shown.startStack, 45: &shown.startData, 46: &shown.endData,
		47: &shown.startBrk, 48: &shown.argStart, 49: &shown.argEnd, 50: &shown.envStart, 51: &shown.envEnd,
	} {
		if *v, err = strconv.ParseUint(fields[i-3], 10, 64); err != nil {
			return err
		}
	}
	brk, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	shown.brk, shown.exe = uint64(brk), math.MaxUint32 // the same program
	hidden := shown
	hidden.argEnd = hidden.argStart
	return hidden.set()
}

func (m prctlMap) set() error {
	return unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m), 0)
}

func busy(fraction float64) {
	const period = 100 * time.Millisecond
	for {
		began := time.Now()
		for time.Since(began) < time.Duration(fraction*float64(period)) {
		}
		time.Sleep(period - time.Since(began))
	}
}

func file(name string, n int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for n > 0 {
		m, err := f.Write(block[:min(n, len(block))])
		if err != nil {
			return err
		}
		n -= m
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, block)
	return err
}

func receive(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	return nil
}

func send(address string, n int) error {
	var c net.Conn
	var err error
	for range 100 {
		if c, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(make([]byte, n))
	return err
}
