// Package kernfile reads what the kernel makes up on the spot, from open files
// and without telling Go's scheduler.
//
// A system call that is announced wakes the runtime's watcher, which then looks
// every 20 us whether the call has come back, and hands the processor to another
// thread when it has not. A pusher makes hundreds of short ones once a second:
// that took more than they did. A call that is not announced has the processor
// until it comes back, so this is only for files whose reading waits for nobody
// outside of the kernel: those of control groups, and of /proc those that count.
// Not for a process' memory, arguments or I/O (while it is in execve they wait,
// and a file system of its own can hold that up), not for mountinfo, and not for
// /sys, whose drivers may wait for a device. What may wait of a process is read
// with [Patiently].
package kernfile

import (
	"math/bits"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Pread is pread(2), done again when a signal comes in between.
func Pread(fd int, b []byte, at int64) (n int, err error) {
	for bits.UintSize == 32 { // the place takes two words there, and which is a matter of the processor
		if n, err = unix.Pread(fd, b, at); err != unix.EINTR {
			return n, err
		}
	}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0)
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// Read is read(2) of a descriptor that does not block, done again when a signal
// comes in between.
func Read(fd int, b []byte) (n int, err error) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return result(n, errno)
		}
	}
}

// Urgent reports whether poll(2) has something to tell of priority, which is that a
// file has changed for those that tell of it (proc_pid_mounts(5)). It is true when
// that can not be known. The descriptor is not one of os.Open, whose poller would
// be told instead.
func Urgent(fd int) bool {
	asked := [...]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	var atOnce unix.Timespec
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&asked)), uintptr(len(asked)), uintptr(unsafe.Pointer(&atOnce)), 0, 0, 0)
		if errno != unix.EINTR {
			return errno != 0 || n > 0
		}
	}
}

func result(n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN:
		return 0, unix.EAGAIN // as a constant it is no allocation
	}
	return 0, errno
}
