//go:build cgo

package libvirt

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	api "libvirt.org/go/libvirt"

	"fanin/internal/cgroup"
)

// A connection on which a call is under way when the daemon freezes fails
// after keepAliveInterval * (keepAliveCount + 1) seconds.
const (
	keepAliveInterval = 5
	keepAliveCount    = 3
)

var (
	errAbsent = errors.New("there is no libvirt daemon")
	errGone   = errors.New("no such domain")
)

// link is one connection to the daemon, opened read-only but for setPeriod. Any
// call may take forever; none other changes anything.
//
// One call at a time is on it, and it is closed when none is: when two threads
// share a connection and keep-alive ends it, libvirt 9.0 crashes, for the
// second waits in the main loop of a client that the first has taken down.
type link struct {
	conn      *api.Connect
	callbacks []int
	mu        sync.Mutex             // held during each call
	known     map[string]*api.Domain // by UUID, those that statistics was asked for
}

// maxKnown bounds them: some may never be asked for again.
const maxKnown = 1024

// open connects. changed, when given, gets the UUID of every domain that may
// have become another, and closed is called when the connection is lost; both
// on the event loop, which they must not hold up. The error is errAbsent when
// there is no daemon or no library.
func open(uri string, changed func(uuid string), closed func()) (*link, error) {
	return openAs(api.NewConnectReadOnly, uri, changed, closed)
}

func openAs(connect func(uri string) (*api.Connect, error), uri string, changed func(uuid string), closed func()) (*link, error) {
	if err := eventLoop.acquire(); err != nil {
		return nil, fmt.Errorf("%w: %w", errAbsent, err)
	}
	conn, err := connect(uri)
	if err != nil {
		eventLoop.release()
		return nil, openError(uri, err)
	}
	l := &link{conn: conn}
	if err := l.prepare(changed, closed); err != nil {
		l.close()
		return nil, fmt.Errorf("connect to %s: %w", uri, err)
	}
	return l, nil
}

func (l *link) prepare(changed func(uuid string), closed func()) error {
	// Drivers inside the library (test:///default) have no connection to keep.
	if err := l.conn.SetKeepAlive(keepAliveInterval, keepAliveCount); err != nil && !is(err, api.ERR_NO_SUPPORT) {
		return fmt.Errorf("keep-alive: %w", err)
	}
	if closed != nil {
		if err := l.conn.RegisterCloseCallback(func(*api.Connect, api.ConnectCloseReason) { closed() }); err != nil {
			return fmt.Errorf("close callback: %w", err)
		}
	}
	if changed == nil {
		return nil
	}
	tell := func(d *api.Domain) {
		if uuid, err := d.GetUUIDString(); err == nil {
			changed(uuid)
		}
	}
	for _, register := range []func() (int, error){
		func() (int, error) {
			return l.conn.DomainEventLifecycleRegister(nil, func(_ *api.Connect, d *api.Domain, _ *api.DomainEventLifecycle) { tell(d) })
		},
		func() (int, error) {
			return l.conn.DomainEventDeviceAddedRegister(nil, func(_ *api.Connect, d *api.Domain, _ *api.DomainEventDeviceAdded) { tell(d) })
		},
		func() (int, error) {
			return l.conn.DomainEventDeviceRemovedRegister(nil, func(_ *api.Connect, d *api.Domain, _ *api.DomainEventDeviceRemoved) { tell(d) })
		},
		func() (int, error) {
			return l.conn.DomainEventBalloonChangeRegister(nil, func(_ *api.Connect, d *api.Domain, _ *api.DomainEventBalloonChange) { tell(d) })
		},
	} {
		id, err := register()
		if err != nil {
			return fmt.Errorf("domain events: %w", err)
		}
		l.callbacks = append(l.callbacks, id)
	}
	return nil
}

// close waits for the call that is under way, and may take as long as any.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.callbacks {
		_ = l.conn.DomainEventDeregister(id)
	}
	_ = l.conn.UnregisterCloseCallback()
	l.forget()
	_, _ = l.conn.Close()
	eventLoop.release()
}

func openError(uri string, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "No such file or directory"), strings.Contains(text, "Connection refused"):
		return fmt.Errorf("%w at %s: %w", errAbsent, uri, err)
	case strings.Contains(text, "Permission denied"):
		return fmt.Errorf("connect to %s: %w; the user needs to be allowed to use libvirt's read-only socket", uri, err)
	}
	return fmt.Errorf("connect to %s: %w", uri, err)
}

func is(err error, code api.ErrorNumber) bool {
	var e api.Error
	return errors.As(err, &e) && e.Code == code
}

// ping asks the daemon for its version (virConnectGetLibVersion).
func (l *link) ping() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.conn.GetLibVersion()
	return err
}

// alive asks nobody: the connection knows whether it was closed.
func (l *link) alive() bool {
	ok, err := l.conn.IsAlive()
	return ok && err == nil
}

// listing is what libvirt says about all domains.
type listing struct {
	all     []*description
	unclear []string // UUIDs of those it could not describe
	errs    []error  // and why
}

// list describes all domains (virConnectListAllDomains), but for those that
// vanish meanwhile.
func (l *link) list() (listing, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	domains, err := l.conn.ListAllDomains(0)
	if err != nil {
		return listing{}, fmt.Errorf("list domains: %w", err)
	}
	var got listing
	for i := range domains {
		d, err := describe(&domains[i])
		switch {
		case err == nil:
			got.all = append(got.all, d)
		case !errors.Is(err, errGone):
			got.errs = append(got.errs, err)
			if uuid, err := domains[i].GetUUIDString(); err == nil {
				got.unclear = append(got.unclear, uuid)
			}
		}
		_ = domains[i].Free()
	}
	if !l.alive() {
		return listing{}, errors.Join(append(got.errs, errors.New("list domains: the connection was lost"))...)
	}
	return got, nil
}

// describe describes one domain; errGone when there is none of this UUID.
func (l *link) describe(uuid string) (*description, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, err := l.conn.LookupDomainByUUIDString(uuid)
	if err != nil {
		return nil, domainError(uuid, err)
	}
	defer func() { _ = d.Free() }()
	return describe(d)
}

// describe asks for nothing that waits for QEMU: name, state, id and XML come
// from the daemon's memory.
func describe(d *api.Domain) (*description, error) {
	uuid, err := d.GetUUIDString()
	if err != nil {
		return nil, domainError("", err)
	}
	name, err := d.GetName()
	if err != nil {
		return nil, domainError(uuid, err)
	}
	code, _, err := d.GetState()
	if err != nil {
		return nil, domainError(name, err)
	}
	persistent, err := d.IsPersistent()
	if err != nil {
		return nil, domainError(name, err)
	}
	text, err := d.GetXMLDesc(0)
	if err != nil {
		return nil, domainError(name, err)
	}
	def, err := parseDefinition([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, err)
	}
	r := &description{uuid: uuid, name: name, id: -1, state: stateOf(code), persistent: persistent, definition: def}
	if id, err := d.GetID(); err == nil {
		r.id = int(id)
	}
	return r, nil
}

func domainError(name string, err error) error {
	if is(err, api.ERR_NO_DOMAIN) {
		return errGone
	}
	return fmt.Errorf("domain %s: %w", name, err)
}

// stateOf is virDomainState in fewer words.
func stateOf(s api.DomainState) state {
	switch s {
	case api.DOMAIN_NOSTATE, api.DOMAIN_RUNNING, api.DOMAIN_BLOCKED:
		return running
	case api.DOMAIN_PAUSED:
		return paused
	case api.DOMAIN_CRASHED:
		return crashed
	case api.DOMAIN_PMSUSPENDED:
		return suspended
	}
	return stopped
}

// statistics asks QEMU for the slow numbers of a domain
// (virDomainListGetStats). With fast it adds what the process would tell if it
// could be read. The flag NOWAIT leaves out what another client's call on the
// domain holds up, but not what QEMU itself does.
func (l *link) statistics(uuid string, fast bool) (*reading, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, err := l.domain(uuid)
	if err != nil {
		return nil, domainError(uuid, err)
	}
	groups := api.DOMAIN_STATS_BALLOON | api.DOMAIN_STATS_VCPU | api.DOMAIN_STATS_BLOCK
	if fast {
		groups |= api.DOMAIN_STATS_CPU_TOTAL | api.DOMAIN_STATS_INTERFACE
	}
	all, err := l.conn.GetAllDomainStats([]*api.Domain{d}, groups, api.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
	if err != nil || len(all) == 0 {
		_ = d.Free()
		delete(l.known, uuid)
	}
	if err != nil {
		return nil, domainError(uuid, err)
	}
	var r *reading
	for i := range all {
		if r == nil {
			r = readingOf(&all[i], time.Now())
		}
		_ = all[i].Domain.Free()
	}
	if r == nil {
		return nil, errGone
	}
	return r, nil
}

// domain looks a domain up, once: the daemon goes by the UUID, so that what it
// is called and whether it runs makes no difference later.
func (l *link) domain(uuid string) (*api.Domain, error) {
	if d := l.known[uuid]; d != nil {
		return d, nil
	}
	d, err := l.conn.LookupDomainByUUIDString(uuid)
	if err != nil {
		return nil, err
	}
	if len(l.known) >= maxKnown {
		l.forget()
	}
	if l.known == nil {
		l.known = map[string]*api.Domain{}
	}
	l.known[uuid] = d
	return d, nil
}

func (l *link) forget() {
	for _, d := range l.known {
		_ = d.Free()
	}
	clear(l.known)
}

// setPeriod has a running domain's balloon driver asked this often, until the
// domain stops (virDomainSetMemoryStatsPeriod), on a connection of its own that
// may write. The domain's definition stays as it is.
func setPeriod(uri, uuid string, period time.Duration) error {
	l, err := openAs(api.NewConnect, uri, nil, nil)
	if err != nil {
		return err
	}
	defer l.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	d, err := l.conn.LookupDomainByUUIDString(uuid)
	if err != nil {
		return domainError(uuid, err)
	}
	defer func() { _ = d.Free() }()
	if err := d.SetMemoryStatsPeriod(int(period/time.Second), api.DOMAIN_MEM_LIVE); err != nil {
		return domainError(uuid, err)
	}
	return nil
}

func readingOf(s *api.DomainStats, at time.Time) *reading {
	r := &reading{at: at}
	if c := s.Cpu; c != nil {
		r.cpu = seconds(c.TimeSet, c.Time)
		r.cpuUser = seconds(c.UserSet, c.User)
		r.cpuSystem = seconds(c.SystemSet, c.System)
	}
	if b := s.Balloon; b != nil {
		r.current = kibibytes(b.CurrentSet, b.Current)
		r.rss = kibibytes(b.RssSet, b.Rss)
		// 0 is what a balloon without a driver in the guest says.
		if b.LastUpdateSet && b.LastUpdate > 0 {
			r.updated = time.Unix(int64(b.LastUpdate), 0)
			r.unused = kibibytes(b.UnusedSet, b.Unused)
			r.available = kibibytes(b.AvailableSet, b.Available)
			r.usable = kibibytes(b.UsableSet, b.Usable)
			r.cache = kibibytes(b.DiskCachesSet, b.DiskCaches)
		}
	}
	for i := range s.Vcpu {
		v := &s.Vcpu[i]
		r.vcpus = append(r.vcpus, vcpuReading{
			time: seconds(v.TimeSet, v.Time), wait: seconds(v.WaitSet, v.Wait), delay: seconds(v.DelaySet, v.Delay),
		})
	}
	for i := range s.Block {
		b := &s.Block[i]
		if b.Name == "" {
			continue
		}
		r.disks = append(r.disks, diskReading{device: b.Name, values: [diskFamilies]cgroup.Value{
			count(b.RdBytesSet, b.RdBytes), count(b.WrBytesSet, b.WrBytes),
			count(b.RdReqsSet, b.RdReqs), count(b.WrReqsSet, b.WrReqs),
			seconds(b.RdTimesSet, b.RdTimes), seconds(b.WrTimesSet, b.WrTimes), seconds(b.FlTimesSet, b.FlTimes),
		}})
	}
	for i := range s.Net {
		n := &s.Net[i]
		if n.Name == "" {
			continue
		}
		r.nets = append(r.nets, netReading{device: n.Name, values: [netFamilies]cgroup.Value{
			count(n.RxBytesSet, n.RxBytes), count(n.RxPktsSet, n.RxPkts), count(n.RxErrsSet, n.RxErrs), count(n.RxDropSet, n.RxDrop),
			count(n.TxBytesSet, n.TxBytes), count(n.TxPktsSet, n.TxPkts), count(n.TxErrsSet, n.TxErrs), count(n.TxDropSet, n.TxDrop),
		}})
	}
	return r
}

func count(set bool, v uint64) cgroup.Value { return cgroup.Value{V: float64(v), OK: set} }

func seconds(set bool, nanoseconds uint64) cgroup.Value {
	return cgroup.Value{V: float64(nanoseconds) / 1e9, OK: set}
}

func kibibytes(set bool, v uint64) cgroup.Value {
	return cgroup.Value{V: float64(v) * 1024, OK: set}
}
