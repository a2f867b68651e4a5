package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Disks calls f for every block device that the group has used, with its
// counters; for none when the kernel does not account for it here. f must not
// keep the pointer. The errors are those of [Group.Read].
//
// Version 2 tells all of it (io.stat). Version 1 has little to tell
// (blkio.throttle.io_service_bytes): what is written through the page cache is
// charged to the root, and kernels since 6.0 count only in the direction
// that has a limit and say 0 otherwise, so a 0 of version 1 is absent here. Where
// it tells of no bytes it is not asked for operations.
func (g *Group) Disks(f func(*Disk)) error {
	if !g.disksOpened {
		if err := g.openDisks(); err != nil {
			g.closeDisks()
			return fmt.Errorf("open the disk counters of %s: %w", g.path, err)
		}
		g.disksOpened = true
	}
	g.disks = g.disks[:0]
	for i := range g.diskFiles {
		b, err := g.read(&g.diskFiles[i].file)
		if err != nil {
			return err
		}
		g.disks = g.diskFiles[i].parseDisks(b, g.disks)
		if !slices.ContainsFunc(g.disks, func(d Disk) bool { return d.ReadBytes.OK || d.WrittenBytes.OK }) {
			break
		}
	}
	for i := range g.disks {
		if d := &g.disks[i]; d.ReadBytes.OK || d.WrittenBytes.OK || d.Reads.OK || d.Writes.OK {
			f(d)
		}
	}
	return nil
}

func (g *Group) openDisks() error {
	type candidate struct {
		key, name string
		parse     func([]byte, []Disk) []Disk
	}
	// Of each line the first that is there. Kernels before 5.4 have no
	// _recursive twins.
	for _, line := range [][]candidate{
		{{unified, "io.stat", parseIOStat}},
		{{"blkio", "blkio.throttle.io_service_bytes_recursive", parseBlkioBytes}, {"blkio", "blkio.throttle.io_service_bytes", parseBlkioBytes}},
		{{"blkio", "blkio.throttle.io_serviced_recursive", parseBlkioOps}, {"blkio", "blkio.throttle.io_serviced", parseBlkioOps}},
	} {
		for _, c := range line {
			p, ok := g.places[c.key]
			if !ok {
				continue
			}
			opened, ok, err := g.openFile(filepath.Join(p.dir, c.name), nil)
			if err != nil {
				return err
			}
			if ok {
				g.diskFiles = append(g.diskFiles, diskFile{opened, c.parse})
				break
			}
		}
	}
	return nil
}

func (g *Group) closeDisks() {
	for i := range g.diskFiles {
		_ = unix.Close(g.diskFiles[i].fd)
	}
	g.diskFiles, g.disksOpened = nil, false
}
