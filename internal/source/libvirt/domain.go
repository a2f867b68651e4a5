//go:build cgo

package libvirt

import (
	"errors"
	"os"
	"strconv"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
	"fanin/internal/sample"
)

const (
	netFamilies  = 8
	diskFamilies = 7
)

// staleAfter is when what a balloon driver said is no longer taken for the
// present, unless three of its periods are longer. Without a period libvirt
// never asks the driver again, and the numbers stay what they were at boot.
const staleAfter = 15 * time.Second

// domain is one domain and the handles of its series. Owned by the Source's
// lock.
type domain struct {
	desc    *description
	process *process // nil: not running, or not found
	ended   bool     // the process has, and libvirt has not said so yet

	share  guest.Share
	slow   *reading
	sent   time.Time // of the reading whose points were sent last
	asking bool      // a call for slow numbers is under way
	due    time.Time // when the next one is
	stale  bool      // said that the balloon's numbers are
	limit  float64   // bytes the balloon leaves to the guest

	period    time.Duration // how often its driver is asked
	periodDue time.Time     // when the Source may set it once more

	label                          sample.Label
	up, down, info, started        *sample.Series
	usage, user, system, cores     *sample.Series
	memory, memoryLimit, swap      *sample.Series
	workingSet, unused, available  *sample.Series
	usable, cache, statsAge        *sample.Series
	pressure                       [6]*sample.Series
	legacyCPU, legacyMemory        *sample.Series
	nics                           []nicSeries
	netHandles, diskHandles        map[string][]*sample.Series
	vcpuTime, vcpuWait, vcpuDelays []*sample.Series
}

// nicSeries is one interface of the guest and its line in the table.
type nicSeries struct {
	nic
	table  *netTable // nil: not read
	row    *netCounters
	series [netFamilies]*sample.Series
}

func newDomain(d *description) *domain {
	g := guest.Named(d.name)
	one := func(f *sample.Family) *sample.Series { return sample.New(f, g) }
	mode := func(m string) *sample.Series {
		return sample.New(guest.CPUMode, g, sample.Label{Name: "mode", Value: m})
	}
	n := &domain{
		label: g, up: one(guest.Up), started: one(guest.StartTime),
		info:  sample.New(guest.Info, g, sample.Label{Name: "backend_id", Value: d.uuid}),
		usage: one(guest.CPUUsage), user: mode("user"), system: mode("system"), cores: one(guest.CPULimit),
		memory: one(guest.MemoryUsage), memoryLimit: one(guest.MemoryLimit), swap: one(guest.MemorySwap),
		workingSet: one(guest.MemoryWorkingSet), unused: one(guest.MemoryUnused), available: one(guest.MemoryAvailable),
		usable: one(guest.MemoryUsable), cache: one(guest.MemoryCache), statsAge: one(guest.MemoryStatsAge),
		pressure: [6]*sample.Series{
			one(guest.PressureCPUWaiting), one(guest.PressureCPUStalled), one(guest.PressureMemoryWaiting),
			one(guest.PressureMemoryStalled), one(guest.PressureIOWaiting), one(guest.PressureIOStalled),
		},
		legacyCPU: one(guest.LegacyCPU), legacyMemory: one(guest.LegacyMemory),
		netHandles: map[string][]*sample.Series{}, diskHandles: map[string][]*sample.Series{},
	}
	n.describe(d)
	return n
}

// describe takes over a new description of the same name and run.
func (d *domain) describe(desc *description) {
	d.desc, d.limit, d.period = desc, desc.memory, desc.period
	reason := desc.state
	if reason == running {
		reason = stopped // should its process end before libvirt says so
	}
	d.down = sample.New(guest.Up, d.label, sample.Label{Name: "reason", Value: string(reason)})
	nics := make([]nicSeries, 0, len(desc.nics))
	for _, n := range desc.nics {
		nics = append(nics, nicSeries{nic: n, series: [netFamilies]*sample.Series(d.netSeries(n.device))})
	}
	d.nics = nics
}

func (d *domain) perDevice(device string, families ...*sample.Family) []*sample.Series {
	series := make([]*sample.Series, len(families))
	for i, f := range families {
		series[i] = sample.New(f, d.label, sample.Label{Name: "device", Value: device})
	}
	return series
}

func (d *domain) netSeries(device string) []*sample.Series {
	if s := d.netHandles[device]; s != nil {
		return s
	}
	s := d.perDevice(device,
		guest.ReceiveBytes, guest.ReceivePackets, guest.ReceiveErrors, guest.ReceiveDrops,
		guest.TransmitBytes, guest.TransmitPackets, guest.TransmitErrors, guest.TransmitDrops)
	d.netHandles[device] = s
	return s
}

func (d *domain) diskSeries(device string) []*sample.Series {
	if s := d.diskHandles[device]; s != nil {
		return s
	}
	s := d.perDevice(device,
		guest.DiskReadBytes, guest.DiskWrittenBytes, guest.DiskReads, guest.DiskWrites,
		guest.DiskReadSeconds, guest.DiskWriteSeconds, guest.DiskFlushSeconds)
	d.diskHandles[device] = s
	return s
}

func (d *domain) vcpuSeries(n int) {
	for i := len(d.vcpuTime); i < n; i++ {
		l := sample.Label{Name: "vcpu", Value: strconv.Itoa(i)}
		d.vcpuTime = append(d.vcpuTime, sample.New(guest.VCPU, d.label, l))
		d.vcpuWait = append(d.vcpuWait, sample.New(guest.VCPUWait, d.label, l))
		d.vcpuDelays = append(d.vcpuDelays, sample.New(guest.VCPUDelay, d.label, l))
	}
}

func (d *domain) release() {
	d.process.close()
	d.process = nil
	for i := range d.nics {
		d.nics[i].table, d.nics[i].row = nil, nil
	}
}

// sampleKnown appends what is known of a running domain without asking.
func (d *domain) sampleKnown(b *sample.Batch, t int64) {
	b.Add(d.up, t, 1)
	b.Add(d.info, t, 1)
	if d.desc.vcpus > 0 {
		b.Add(d.cores, t, float64(d.desc.vcpus))
	}
	if d.limit > 0 {
		b.Add(d.memoryLimit, t, d.limit)
	}
}

// sampleFast appends what the process, its group and the network table tell.
// The error is [cgroup.ErrGone] when the process has ended, and then nothing
// was appended.
func (d *domain) sampleFast(b *sample.Batch, stats *cgroup.Stats) error {
	p := d.process
	s, err := p.read()
	if err != nil {
		return err
	}
	*stats = cgroup.Stats{}
	var failed error
	if p.group != nil {
		if err := p.group.Read(stats); errors.Is(err, cgroup.ErrGone) {
			return cgroup.ErrGone
		} else if err != nil {
			failed = err
		}
	}
	if !stats.CPUUsage.OK && (p.group == nil || failed == nil) {
		stats.At = time.Now()
		stats.CPUUsage = cgroup.Value{V: s.user + s.system, OK: true}
		stats.CPUUser = cgroup.Value{V: s.user, OK: true}
		stats.CPUSystem = cgroup.Value{V: s.system, OK: true}
	}
	at := stats.At
	if at.IsZero() {
		at = time.Now()
	}
	t := at.UnixMilli()
	d.sampleKnown(b, t)
	b.Add(d.started, t, p.started)
	d.addCPU(b, at, stats.CPUUsage, stats.CPUUser, stats.CPUSystem)
	b.Add(d.memory, t, s.rssPages*float64(os.Getpagesize()))
	add(b, d.swap, t, stats.MemorySwap)
	pr := &stats.Pressure
	for i, v := range [...]*cgroup.Value{
		&pr.CPUWaiting, &pr.CPUStalled, &pr.MemoryWaiting, &pr.MemoryStalled, &pr.IOWaiting, &pr.IOStalled,
	} {
		add(b, d.pressure[i], t, *v)
	}
	return failed
}

// sampleNetwork appends the interfaces that were in the table, read at t.
func (d *domain) sampleNetwork(b *sample.Batch, t int64) {
	for i := range d.nics {
		n := &d.nics[i]
		if n.row == nil || n.row.tick != n.table.tick {
			continue
		}
		in, out := &n.row.transmit, &n.row.receive
		if n.direct {
			in, out = out, in
		}
		for j := range 4 {
			b.Add(n.series[j], t, in[j])
			b.Add(n.series[4+j], t, out[j])
		}
	}
}

// sampleSlow appends a reading that has not been sent yet, each point with the
// moment at which QEMU told.
func (d *domain) sampleSlow(b *sample.Batch) {
	r := d.slow
	if r == nil || !r.at.After(d.sent) {
		return
	}
	d.sent = r.at
	t := r.at.UnixMilli()
	if d.process == nil {
		d.addCPU(b, r.at, r.cpu, r.cpuUser, r.cpuSystem)
		add(b, d.memory, t, r.rss)
		for i := range r.nets {
			for j, s := range d.netSeries(r.nets[i].device) {
				add(b, s, t, r.nets[i].values[j])
			}
		}
	}
	d.vcpuSeries(len(r.vcpus))
	for i, v := range r.vcpus {
		add(b, d.vcpuTime[i], t, v.time)
		add(b, d.vcpuWait[i], t, v.wait)
		add(b, d.vcpuDelays[i], t, v.delay)
	}
	for i := range r.disks {
		for j, s := range d.diskSeries(r.disks[i].device) {
			add(b, s, t, r.disks[i].values[j])
		}
	}
	if r.updated.IsZero() {
		return
	}
	b.Add(d.statsAge, t, max(0, r.at.Sub(r.updated).Seconds()))
	if d.outdated(r) {
		return
	}
	add(b, d.unused, t, r.unused)
	add(b, d.available, t, r.available)
	add(b, d.usable, t, r.usable)
	add(b, d.cache, t, r.cache)
	if r.available.OK && r.usable.OK && r.available.V >= r.usable.V {
		inUse := r.available.V - r.usable.V
		b.Add(d.workingSet, t, inUse)
		if d.limit > 0 {
			// The guest says how much it has, and may say anything.
			b.Add(d.legacyMemory, t, min(100*inUse/d.limit, 100))
		}
	}
}

// outdated reports whether a driver has spoken once and not lately.
func (d *domain) outdated(r *reading) bool {
	return !r.updated.IsZero() && r.at.Sub(r.updated) > max(staleAfter, 3*d.period)
}

func (d *domain) addCPU(b *sample.Batch, at time.Time, usage, user, system cgroup.Value) {
	t := at.UnixMilli()
	add(b, d.usage, t, usage)
	add(b, d.user, t, user)
	add(b, d.system, t, system)
	if !usage.OK {
		return
	}
	if percent, ok := d.share.Percent(at, usage.V, float64(d.desc.vcpus)); ok {
		b.Add(d.legacyCPU, t, percent)
	}
}

func add(b *sample.Batch, s *sample.Series, t int64, v cgroup.Value) {
	if v.OK {
		b.Add(s, t, v.V)
	}
}
