package android

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// maxAsking is how many adb servers are asked at once.
const maxAsking = 8

// asker asks the guests for what only they know. There is an adb server in each
// network namespace, and it is asked by itself: one that hangs holds up nobody
// else.
type asker struct {
	s     *Source
	slots chan struct{} // a token for each server that is being asked

	// Owned by Sample, while Run is not at work.
	asked  time.Time
	ctx    context.Context
	cancel context.CancelFunc

	calls sync.WaitGroup // under way

	mu     sync.Mutex
	asking map[uint64]bool // by network namespace
	silent map[uint64]bool // said that it does not answer
}

// server is one adb server, and the emulators that it may know.
type server struct {
	network uint64
	pid     int  // of a process in its network namespace
	own     bool // which is not the host's
	avds    map[string]int
}

func newAsker(s *Source) *asker {
	return &asker{s: s, slots: make(chan struct{}, maxAsking), asking: map[uint64]bool{}, silent: map[uint64]bool{}}
}

func (a *asker) run(ctx context.Context) {
	defer a.calls.Wait()
	tick := time.NewTicker(a.s.ADBInterval)
	defer tick.Stop()
	for {
		a.askAll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// askAll starts to ask those that are not being asked still, and waits for
// nobody.
func (a *asker) askAll(ctx context.Context) {
	servers := a.servers()
	a.mu.Lock()
	defer a.mu.Unlock()
	for network := range a.silent {
		if _, there := servers[network]; !there {
			delete(a.silent, network)
		}
	}
	for network, one := range servers {
		if a.asking[network] {
			a.s.skip(skipADB)
			continue
		}
		a.asking[network] = true
		a.calls.Go(func() {
			select {
			case a.slots <- struct{}{}:
				a.ask(ctx, one)
				<-a.slots
			case <-ctx.Done():
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			delete(a.asking, network)
		})
	}
}

// askSoon is askAll for whoever is not run: every ADBInterval, and what is
// answered comes with a later Sample.
func (a *asker) askSoon() {
	if time.Since(a.asked) < a.s.ADBInterval {
		return
	}
	a.asked = time.Now()
	if a.cancel == nil {
		a.ctx, a.cancel = context.WithCancel(context.Background())
	}
	a.askAll(a.ctx)
}

// close ends what askSoon has begun.
func (a *asker) close() {
	if a.cancel != nil {
		a.cancel()
		a.calls.Wait()
		a.cancel, a.asked = nil, time.Time{}
	}
}

// servers groups the emulators by their network namespace.
func (a *asker) servers() map[uint64]server {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	servers := map[uint64]server{}
	for _, e := range a.s.order {
		if p := e.process; p != nil && p.network != 0 {
			one, ok := servers[p.network]
			if !ok {
				one = server{network: p.network, pid: p.pid, own: p.own, avds: map[string]int{}}
				servers[p.network] = one
			}
			one.avds[e.name] = p.pid
		}
	}
	return servers
}

func (a *asker) ask(ctx context.Context, one server) {
	ctx, cancel := context.WithTimeout(ctx, a.s.ADBDeadline)
	defer cancel()
	to := adb{dial: func(ctx context.Context) (net.Conn, error) {
		if !one.own {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a.s.ADBAddress)
		}
		return dialIn(ctx, filepath.Join(a.s.ProcRoot, strconv.Itoa(one.pid), "ns/net"), a.s.ADBAddress)
	}}
	serials, err := to.emulators(ctx)
	if err == nil && len(serials) == 0 {
		err = errNoDevice
	}
	for _, serial := range serials {
		avd, m, failed := to.ask(ctx, serial)
		if failed != nil {
			err = failed
			continue
		}
		// The images of old do not say who they are.
		if avd == "" && len(serials) == 1 && len(one.avds) == 1 {
			for avd = range one.avds {
			}
		}
		if pid, ok := one.avds[avd]; ok {
			a.s.answered(avd, pid, m)
		}
	}
	a.note(one.network, err)
}

// note counts what failed, and says when that begins and ends.
func (a *asker) note(network uint64, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.s.skip(skipADB)
	}
	switch was := a.silent[network]; {
	case err != nil && !was:
		a.silent[network] = true
		a.s.Log.Info("a guest's memory can not be asked for", "err", err)
	case err == nil && was:
		delete(a.silent, network)
		a.s.Log.Info("guests can be asked for their memory again")
	}
}

// answered takes over what a guest has said, unless its emulator is another
// process by now.
func (s *Source) answered(avd string, pid int, m memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.emulators[avd]; e != nil && e.process != nil && e.process.pid == pid {
		e.memory = m
	}
}
