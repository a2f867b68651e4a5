package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"fanin/internal/sample"
)

// sector is the unit of /proc/diskstats whatever the disk's own sectors are
// (Documentation/admin-guide/iostats.rst).
const sector = 512

// The columns of a line of /proc/diskstats behind the name
// (Documentation/admin-guide/iostats.rst).
const (
	readIOs       = 0
	readSectors   = 2
	readTicks     = 3
	writtenIOs    = 4
	writtenSector = 6
	writtenTicks  = 7
	busyTicks     = 9
	flushTicks    = 16 // since Linux 5.5

	leastColumns = 11
	mostColumns  = 17
)

// diskSeries are the series of one disk.
type diskSeries struct {
	skip   bool
	seen   bool
	series [7]*sample.Series
	flush  *sample.Series
}

// diskSeries finds out whether name is a whole disk: those are in
// /sys/block, partitions are not (Documentation/ABI/stable/sysfs-block).
func (s *Source) diskSeries(name string) (*diskSeries, error) {
	if s.SkipDisks.MatchString(name) {
		return &diskSeries{skip: true}, nil
	}
	// sysfs writes the slash of names such as cciss/c0d0 as an exclamation mark.
	_, err := os.Lstat(filepath.Join(s.SysRoot, "block", strings.ReplaceAll(name, "/", "!")))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(s.SysRoot, "block")); err != nil {
			return nil, err
		}
		return &diskSeries{skip: true}, nil
	}
	if err != nil {
		return nil, err
	}
	device := sample.Label{Name: "device", Value: name}
	d := &diskSeries{flush: sample.New(DiskFlushSeconds, device)}
	for i, f := range [...]*sample.Family{
		DiskReadBytes, DiskWrittenBytes, DiskReads, DiskWrites,
		DiskReadSeconds, DiskWriteSeconds, DiskBusySeconds,
	} {
		d.series[i] = sample.New(f, device)
	}
	return d, nil
}

func (s *Source) readDiskstats(b *sample.Batch) error {
	content, err := s.files.diskstats.read()
	t := now()
	if absent(err) {
		return nil // a kernel without block devices
	}
	if err != nil {
		return fmt.Errorf("read diskstats: %w", err)
	}
	for len(content) > 0 {
		var l []byte
		l, content = line(content)
		_, rest := word(l) // major
		_, rest = word(rest)
		name, rest := word(rest)
		if len(name) == 0 {
			continue
		}
		d := s.disks[string(name)]
		if d == nil {
			if d, err = s.diskSeries(string(name)); err != nil {
				return fmt.Errorf("tell disks from partitions: %w", err)
			}
			s.disks[string(name)] = d
		}
		d.seen = true
		if d.skip {
			continue
		}
		var c [mostColumns]uint64
		have, ok := readNumbers(rest, c[:])
		if !ok || have < leastColumns {
			return fmt.Errorf("read diskstats: the line of %s is malformed", name)
		}
		for i, v := range [...]float64{
			float64(c[readSectors]) * sector, float64(c[writtenSector]) * sector, float64(c[readIOs]), float64(c[writtenIOs]),
			float64(c[readTicks]) / 1e3, float64(c[writtenTicks]) / 1e3, float64(c[busyTicks]) / 1e3,
		} {
			b.Add(d.series[i], t, v)
		}
		if have > flushTicks {
			b.Add(d.flush, t, float64(c[flushTicks])/1e3)
		}
	}
	for name, d := range s.disks {
		if !d.seen {
			delete(s.disks, name)
		}
		d.seen = false
	}
	return nil
}
