package kernfile

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A file of /proc is read in pieces, to its end, and tells anew from its
// beginning.
func TestPread(t *testing.T) {
	f, err := os.Open("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := os.ReadFile("/proc/self/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var got []byte
		var b [5]byte
		for {
			n, err := Pread(int(f.Fd()), b[:], int64(len(got)))
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			got = append(got, b[:n]...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("it reads %q, want %q", got, want)
		}
	}
	if n, err := Pread(int(f.Fd()), nil, 0); n != 0 || err != nil {
		t.Errorf("%d bytes into none: %v", n, err)
	}
	if _, err := Pread(-1, make([]byte, 1), 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the error is %v, want %v", err, unix.EBADF)
	}
	if _, err := Pread(int(f.Fd()), make([]byte, 1), -1); !errors.Is(err, unix.EINVAL) {
		t.Errorf("the error is %v, want %v", err, unix.EINVAL)
	}
}

func TestRead(t *testing.T) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	b := make([]byte, 8)
	if _, err := Read(ends[0], b); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("of nothing the error is %v, want %v", err, unix.EAGAIN)
	}
	if allocated := testing.AllocsPerRun(100, func() { _, _ = Read(ends[0], b) }); allocated > 0 {
		t.Errorf("a reading allocates %v times", allocated)
	}
	if _, err := unix.Write(ends[1], []byte("told")); err != nil {
		t.Fatal(err)
	}
	if n, err := Read(ends[0], b); err != nil || string(b[:n]) != "told" {
		t.Errorf("it reads %q: %v", b[:n], err)
	}
	_ = unix.Close(ends[1])
	if n, err := Read(ends[0], b); n != 0 || err != nil {
		t.Errorf("at the end it reads %d bytes: %v", n, err)
	}
}

// The table of mounts tells once of each change, to each descriptor.
func TestUrgent(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("has to be root to mount something")
		}
		t.Skip("has to be root to mount something")
	}
	done := make(chan struct{})
	go func() { // its thread ends with it, and the mounts with the thread
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		table, err := unix.Open("/proc/thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(table)
		tells := func(what string, want bool) {
			t.Helper()
			if got := Urgent(table); got != want {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		tells("before any change", false)
		if err := unix.Mount("none", t.TempDir(), "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		tells("after a mount", true)
		tells("after it was told", false)
	}()
	<-done
	if !Urgent(1 << 30) {
		t.Error("of a descriptor that is not open: got false, want true")
	}
}
