package cgroup

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disks calls f for every block device that the group has used, with its
// counters; none when the kernel does not account for it here. Version 1 charges
// a write that goes through the page cache to the root, not to the group; reads
// and direct writes are right on both. f must not keep the pointer. The errors
// are those of [Group.Read].
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
	}
	for i := range g.disks {
		f(&g.disks[i])
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
