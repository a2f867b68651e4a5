package android

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/guest"
	"fanin/internal/sample"
)

const (
	netFamilies = 8
	maxDevices  = 256 // of one emulator
)

// emulator is one running AVD and the handles of its series. Owned by the
// Source's lock.
type emulator struct {
	name     string
	process  *process  // nil: it has ended
	ended    time.Time // when that was seen
	sought   bool      // and no other process runs the AVD
	hardware hardware
	share    guest.Share

	memory memory    // as the guest itself says
	sent   time.Time // of the reading whose points were sent last
	over   bool      // it has more interfaces than are measured

	label                         sample.Label
	up, down, info, started       *sample.Series
	usage, user, system, cores    *sample.Series
	memoryUsage, memoryLimit      *sample.Series
	swap, processes               *sample.Series
	read, written                 *sample.Series
	legacyCPU, legacyMemory       *sample.Series
	workingSet, unused, available *sample.Series
	usable, cache                 *sample.Series
	devices                       map[string]*[netFamilies]*sample.Series
}

// memory is what a guest says of its own memory, in bytes. The zero value is
// nothing; 0 is unknown.
type memory struct {
	at                              time.Time
	total, free, available, buffers float64
	cached                          float64
}

func newEmulator(name string) *emulator {
	g := guest.Named(name)
	one := func(f *sample.Family) *sample.Series { return sample.New(f, g) }
	mode := func(m string) *sample.Series {
		return sample.New(guest.CPUMode, g, sample.Label{Name: "mode", Value: m})
	}
	return &emulator{
		name: name, label: g,
		up: one(guest.Up), down: sample.New(guest.Up, g, sample.Label{Name: "reason", Value: "stopped"}),
		started: one(guest.StartTime),
		usage:   one(guest.CPUUsage), user: mode("user"), system: mode("system"), cores: one(guest.CPULimit),
		memoryUsage: one(guest.MemoryUsage), memoryLimit: one(guest.MemoryLimit),
		swap: one(guest.MemorySwap), processes: one(guest.Processes),
		read: one(guest.DiskReadBytes), written: one(guest.DiskWrittenBytes),
		legacyCPU: one(guest.LegacyCPU), legacyMemory: one(guest.LegacyMemory),
		workingSet: one(guest.MemoryWorkingSet), unused: one(guest.MemoryUnused), available: one(guest.MemoryAvailable),
		usable: one(guest.MemoryUsable), cache: one(guest.MemoryCache),
		devices: map[string]*[netFamilies]*sample.Series{},
	}
}

// become takes over the process that runs the AVD now.
func (e *emulator) become(p *process) {
	e.process.close()
	e.process, e.ended, e.sought = p, time.Time{}, false
	e.share, e.memory = guest.Share{}, memory{}
	e.info = sample.New(guest.Info, e.label, sample.Label{Name: "backend_id", Value: strconv.Itoa(p.pid)})
}

// release lets go of a process that has ended.
func (e *emulator) release(now time.Time) {
	e.process.close()
	e.process, e.ended, e.sought = nil, now, false
}

// sample appends what the process' files tell. The error is errGone when the
// process has ended, and then nothing was appended.
func (e *emulator) sample(b *sample.Batch, buf []byte) error {
	p := e.process
	st, err := p.readStat(buf)
	if err != nil {
		return err
	}
	at := time.Now()
	t := at.UnixMilli()
	b.Add(e.up, t, 1)
	b.Add(e.info, t, 1)
	b.Add(e.started, t, p.started)
	usage := st.user + st.system
	b.Add(e.usage, t, usage)
	b.Add(e.user, t, st.user)
	b.Add(e.system, t, st.system)
	b.Add(e.processes, t, st.threads)
	if percent, ok := e.share.Percent(at, usage, e.hardware.cores); ok {
		b.Add(e.legacyCPU, t, percent)
	}
	if e.hardware.cores > 0 {
		b.Add(e.cores, t, e.hardware.cores)
	}
	if e.hardware.memory > 0 {
		b.Add(e.memoryLimit, t, e.hardware.memory)
	}
	e.sampleGuest(b)
	return errors.Join(e.sampleMemory(b, buf), e.sampleIO(b, buf), e.sampleNetwork(b, buf))
}

func (e *emulator) sampleMemory(b *sample.Batch, buf []byte) error {
	text, err := readAll(e.process.statm, buf)
	if err != nil {
		return e.process.failed("statm", err)
	}
	t := time.Now().UnixMilli()
	// A process that is ending has no pages any more.
	if pages, ok := parseStatm(text); ok && pages > 0 {
		b.Add(e.memoryUsage, t, pages*float64(os.Getpagesize()))
	}
	if text, err = readAll(e.process.status, buf); err != nil {
		return e.process.failed("status", err)
	}
	if swap, ok := parseSwap(text); ok {
		b.Add(e.swap, time.Now().UnixMilli(), swap)
	}
	return nil
}

func (e *emulator) sampleIO(b *sample.Batch, buf []byte) error {
	if e.process.io == none {
		return nil
	}
	text, err := readAll(e.process.io, buf)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		_ = unix.Close(e.process.io) // the kernel asks for the right once more
		e.process.io = none
		return nil
	}
	if err != nil {
		return e.process.failed("io", err)
	}
	if read, written, ok := parseIO(text); ok {
		t := time.Now().UnixMilli()
		b.Add(e.read, t, read)
		b.Add(e.written, t, written)
	}
	return nil
}

func (e *emulator) sampleNetwork(b *sample.Batch, buf []byte) error {
	if e.process.net == none {
		return nil
	}
	text, err := readAll(e.process.net, buf)
	if err != nil {
		return e.process.failed("net/dev", err)
	}
	t := time.Now().UnixMilli()
	if len(text) == len(buf) { // half a number is another one
		text = text[:bytes.LastIndexByte(text, '\n')+1]
	}
	e.over = false
	for devices := 0; ; devices++ {
		device, values, rest, ok := cutNetDev(text)
		if !ok {
			return nil
		}
		if devices == maxDevices {
			e.over = true
			return nil
		}
		text = rest
		series := e.devices[string(device)]
		if series == nil {
			if len(e.devices) >= maxDevices {
				clear(e.devices) // interfaces that come and go under ever new names
			}
			series = e.device(string(device))
			e.devices[string(device)] = series
		}
		for i, s := range series {
			b.Add(s, t, values[i])
		}
	}
}

func (e *emulator) device(name string) *[netFamilies]*sample.Series {
	var series [netFamilies]*sample.Series
	for i, f := range [netFamilies]*sample.Family{
		guest.ReceiveBytes, guest.ReceivePackets, guest.ReceiveErrors, guest.ReceiveDrops,
		guest.TransmitBytes, guest.TransmitPackets, guest.TransmitErrors, guest.TransmitDrops,
	} {
		series[i] = sample.New(f, e.label, sample.Label{Name: "device", Value: name})
	}
	return &series
}

// sampleGuest appends what the guest has said and was not sent yet, with the
// moment at which it did.
func (e *emulator) sampleGuest(b *sample.Batch) {
	m := &e.memory
	if !m.at.After(e.sent) {
		return
	}
	e.sent = m.at
	t := m.at.UnixMilli()
	add := func(s *sample.Series, v float64) {
		if v > 0 {
			b.Add(s, t, v)
		}
	}
	add(e.available, m.total)
	add(e.unused, m.free)
	add(e.usable, m.available)
	add(e.cache, m.buffers+m.cached)
	if m.available <= 0 || m.available > m.total {
		return
	}
	inUse, limit := m.total-m.available, e.hardware.memory
	b.Add(e.workingSet, t, inUse)
	if limit == 0 {
		limit = m.total
	}
	b.Add(e.legacyMemory, t, min(100*inUse/limit, 100)) // a guest may say anything
}

// failed is nil for a process that has just ended: the next reading of its
// stat says so.
func (p *process) failed(file string, err error) error {
	if err = procError("read", p.pid, file, err); errors.Is(err, errGone) {
		return nil
	}
	return err
}
