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

// withFlushes is how many fields a line has that tells of flushes (Linux 5.5).
const withFlushes = 20

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
	stats, err := s.block.ProcDiskstats()
	t := now()
	if absent(err) {
		return nil // a kernel without block devices
	}
	if err != nil {
		return fmt.Errorf("read diskstats: %w", err)
	}
	for _, disk := range stats {
		d := s.disks[disk.DeviceName]
		if d == nil {
			if d, err = s.diskSeries(disk.DeviceName); err != nil {
				return fmt.Errorf("tell disks from partitions: %w", err)
			}
			s.disks[disk.DeviceName] = d
		}
		d.seen = true
		if d.skip {
			continue
		}
		for i, v := range [...]float64{
			float64(disk.ReadSectors) * sector, float64(disk.WriteSectors) * sector,
			float64(disk.ReadIOs), float64(disk.WriteIOs),
			float64(disk.ReadTicks) / 1e3, float64(disk.WriteTicks) / 1e3, float64(disk.IOsTotalTicks) / 1e3,
		} {
			b.Add(d.series[i], t, v)
		}
		if disk.IoStatsCount >= withFlushes {
			b.Add(d.flush, t, float64(disk.TimeSpentFlushing)/1e3)
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
