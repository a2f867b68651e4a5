// Workload is the one program inside the containers of the tests, a static
// binary that an image FROM scratch can hold. It does what its first argument
// says and keeps on until it gets SIGTERM:
//
//	idle
//	busy [N]          N endless loops (1)
//	memory BYTES      holds that much written memory
//	cache FILE BYTES  writes a file and reads it, so that its pages stay cached
//	serve ADDR N      answers each connection on ADDR with N bytes, reads what comes until its end
//	fetch ADDR N      once sends N bytes to ADDR, reads the answer to its end, then idles
//	metrics ADDR RATE MORE  serves metrics over HTTP: counters that grow by RATE a second, and MORE series
//	exit CODE         ends at once
//	wait SECONDS ...  does what follows after that time
//	child ...         starts itself as a child that does what follows, and goes on without it
//	clock SECONDS     sets the machine's clock forward or back by that much, and ends
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-stop
}

func run(args []string) error {
	if len(args) == 0 {
		args = []string{"idle"}
	}
	number := func(i, otherwise int) int {
		if i >= len(args) {
			return otherwise
		}
		n, err := strconv.Atoi(args[i])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return n
	}
	switch what := args[0]; what {
	case "idle":
		return nil
	case "busy":
		for range number(1, 1) {
			go func() {
				for { //nolint:staticcheck // using a whole core is what it is for
				}
			}()
		}
		return nil
	case "memory":
		held = make([]byte, number(1, 1<<20))
		for i := 0; i < len(held); i += 4096 {
			held[i] = 1
		}
		return nil
	case "cache":
		return cache(args[1], number(2, 1<<20))
	case "serve":
		return serve(args[1], number(2, 0))
	case "fetch":
		return fetch(args[1], number(2, 0))
	case "metrics":
		return metrics(args[1], number(2, 1), number(3, 0))
	case "exit":
		os.Exit(number(1, 0))
		return nil
	case "wait":
		time.Sleep(time.Duration(number(1, 1)) * time.Second)
		return run(args[2:])
	case "child":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		go func() { _ = exec.Command(self, args[1:]...).Run() }()
		return nil
	case "clock":
		var now syscall.Timeval
		if err := syscall.Gettimeofday(&now); err != nil {
			return err
		}
		now.Sec += int64(number(1, 0))
		if err := syscall.Settimeofday(&now); err != nil {
			return err
		}
		os.Exit(0)
		return nil
	default:
		return fmt.Errorf("do not know how to %q", what)
	}
}

var held []byte

func cache(name string, n int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	for range n / 4096 {
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return err
}

func serve(addr string, n int) error {
	l, err := net.Listen("tcp", addr)
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
				_, _ = c.Write(make([]byte, n))
			}()
		}
	}()
	return nil
}

func fetch(addr string, n int) error {
	var c net.Conn
	var err error
	for range 100 {
		if c, err = net.DialTimeout("tcp", addr, time.Second); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, n)); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, c)
	return err
}
