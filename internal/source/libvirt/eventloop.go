//go:build cgo

package libvirt

/*
#cgo LDFLAGS: -ldl -pthread
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static int (*turn)(void);
static atomic_int stopping;
static pthread_t thread;

static void *turns(void *unused) {
	while (!atomic_load(&stopping))
		if (turn() < 0)
			usleep(100000);
	// What closed connections leave is taken away by one more.
	turn();
	return NULL;
}

// begin is 0, or an error number.
static int begin(void) {
	sigset_t all, before;
	int failed;

	atomic_store(&stopping, 0);
	sigfillset(&all); // they are for Go's own threads
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&thread, NULL, turns, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed;
}

static void stop(void) { atomic_store(&stopping, 1); }
static void end(void) { pthread_join(thread, NULL); }

// find is false when the library is not in this process.
static int find(void) {
	void *library = dlopen("libvirt.so.0", RTLD_LAZY | RTLD_NOLOAD);
	if (library)
		turn = (int (*)(void))dlsym(library, "virEventRunDefaultImpl");
	return turn != NULL;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"syscall"

	api "libvirt.org/go/libvirt"
)

// eventLoop is libvirt's own: the library has one for the whole process, it
// must be there before the first connection, and it can not be taken away
// again. Keep-alive, events and the closing of connections need it to run, so
// it does as long as somebody has a connection.
//
// Each call on a connection wakes it several times. So it runs on a thread of
// C's: as a goroutine it would have the scheduler of Go wake others with it,
// every time.
var eventLoop loop

type loop struct {
	mu         sync.Mutex
	registered bool
	timer      int
	users      int
}

func (l *loop) acquire() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.registered {
		if err := api.EventRegisterDefaultImpl(); err != nil {
			return err
		}
		if C.find() == 0 {
			return errors.New("libvirt.so.0 has no virEventRunDefaultImpl")
		}
		timer, err := api.EventAddTimeout(-1, func(int) {})
		if err != nil {
			return err
		}
		l.registered, l.timer = true, timer
	}
	if l.users++; l.users > 1 {
		return nil
	}
	api.EventUpdateTimeout(l.timer, -1)
	if failed := C.begin(); failed != 0 {
		l.users--
		return fmt.Errorf("begin libvirt's event loop: %w", syscall.Errno(failed))
	}
	return nil
}

func (l *loop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	C.stop()
	api.EventUpdateTimeout(l.timer, 0) // wakes it, and keeps the last turn from waiting
	C.end()
}
