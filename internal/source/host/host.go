// Package host measures the machine it runs on: processors, memory, pressure,
// network, disks and file systems, as the kernel's files under /proc and /sys
// tell them. It knows nothing of guests; the interfaces that belong to them
// are left out.
package host

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fanin/internal/sample"
)

// Source is the sampler's source "host". Its zero value measures this machine;
// the fields must not change after the first Sample.
type Source struct {
	// ProcRoot is where the host's procfs is mounted, "" for /proc. With any
	// other path the process is taken to run in a container: network and
	// mounts are then read as the host's first process sees them, and file
	// systems are reached through its root, which needs CAP_SYS_PTRACE
	// (without it they are absent).
	ProcRoot string
	// SysRoot is where the host's sysfs is mounted, "" for /sys.
	SysRoot string
	// SkipInterfaces and SkipDisks match the whole names of devices to leave
	// out; nil for [DefaultSkipInterfaces] and [DefaultSkipDisks].
	SkipInterfaces, SkipDisks *regexp.Regexp

	// Owned by Sample.
	ready   bool
	files   files
	fixed   fixed
	cpu     cpuState
	devices map[string]*interfaceSeries
	disks   map[string]*diskSeries // nil value: not a whole disk
	mounts  mountTable
	statfs  func(path string) (size, avail float64, err error) // nil: the system call

	skipped [skipReasons]atomic.Uint64
}

// What is left out unless the options say otherwise: loopback and the host's
// ends of guests' interfaces; disks without a medium of their own. Partitions
// are never shown, as their disk already counts for them.
const (
	DefaultSkipInterfaces = `^(lo|veth.*|vnet.*|tap.*)$`
	DefaultSkipDisks      = `^(loop|ram|zram|sr|fd)[0-9]+$`
)

// Reasons for a file system that is left out of a sample.
const (
	skipHung   = iota // did not answer in time, or has not answered yet
	skipFailed        // the kernel refused to tell
	skipReasons
)

// Register exports how many readings were skipped and why.
func (s *Source) Register(r prometheus.Registerer) error {
	for i, reason := range [skipReasons]string{"hung", "failed"} {
		err := r.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "fanin_host_filesystems_skipped_total",
			Help:        "File systems of the host that were left out of a sample, by reason.",
			ConstLabels: prometheus.Labels{"reason": reason},
		}, func() float64 { return float64(s.skipped[i].Load()) }))
		if err != nil {
			return err
		}
	}
	return nil
}

// Name is "host".
func (s *Source) Name() string { return "host" }

// fixed are the series that are there from the beginning.
type fixed struct {
	modes                                   [len(modes)]*sample.Series
	cpus, load1, load5, load15, bootTime    *sample.Series
	total, available, free, cached, buffers *sample.Series
	swapTotal, swapFree                     *sample.Series
	waiting, stalled                        [len(resources)]*sample.Series
	legacyCPU, legacyMemory                 *sample.Series
}

func (s *Source) start() error {
	if s.ProcRoot == "" {
		s.ProcRoot = defaultProc
	}
	if s.SysRoot == "" {
		s.SysRoot = "/sys"
	}
	if s.SkipInterfaces == nil {
		s.SkipInterfaces = regexp.MustCompile(DefaultSkipInterfaces)
	}
	if s.SkipDisks == nil {
		s.SkipDisks = regexp.MustCompile(DefaultSkipDisks)
	}
	if s.statfs == nil {
		s.statfs = statfs
	}
	if err := s.openFiles(); err != nil {
		return err
	}
	s.devices = make(map[string]*interfaceSeries)
	s.disks = make(map[string]*diskSeries)
	f := &s.fixed
	for i, mode := range modes {
		f.modes[i] = sample.New(CPUSeconds, sample.Label{Name: "mode", Value: mode})
	}
	for _, one := range []struct {
		series **sample.Series
		family *sample.Family
	}{
		{&f.cpus, CPUs},
		{&f.load1, Load1},
		{&f.load5, Load5},
		{&f.load15, Load15},
		{&f.bootTime, BootTime},
		{&f.total, MemoryTotal},
		{&f.available, MemoryAvailable},
		{&f.free, MemoryFree},
		{&f.cached, MemoryCached},
		{&f.buffers, MemoryBuffers},
		{&f.swapTotal, SwapTotal},
		{&f.swapFree, SwapFree},
		{&f.legacyCPU, LegacyCPU},
		{&f.legacyMemory, LegacyMemory},
	} {
		*one.series = sample.New(one.family)
	}
	for i, r := range resources {
		f.waiting[i] = sample.New(r.waiting)
		if r.stalled != nil {
			f.stalled[i] = sample.New(r.stalled)
		}
	}
	s.ready = true
	return nil
}

// Sample reads everything once. What one file does not tell is absent and
// named in the error; the others are read all the same.
func (s *Source) Sample(ctx context.Context, b *sample.Batch) error {
	if !s.ready {
		if err := s.start(); err != nil {
			return err
		}
	}
	return errors.Join(
		s.readStat(b),
		s.readLoadavg(b),
		s.readMeminfo(b),
		s.readPressure(b),
		s.readNetDev(b),
		s.readDiskstats(b),
		s.readMountinfo(ctx, b),
	)
}

const defaultProc = "/proc"

// foreign reports whether the host's procfs is not our own.
func (s *Source) foreign() bool { return filepath.Clean(s.ProcRoot) != defaultProc }

func now() int64 { return time.Now().UnixMilli() }

// absent reports whether the kernel does not have the file, or has it and was
// told not to keep it (pressure files with psi=0 answer EOPNOTSUPP).
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EOPNOTSUPP)
}
