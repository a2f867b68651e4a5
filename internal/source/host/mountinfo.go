package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fanin/internal/kernfile"
	"fanin/internal/sample"
)

// patience is how long one sample waits for file systems to answer, all
// together. One that is late is left out, and not asked again before it has
// answered.
const patience = 50 * time.Millisecond

// local are the types of file systems that keep files on disks of this
// machine. Network file systems are not asked at all: a lost server would
// leave a system call behind that nothing can end.
var local = map[string]bool{
	"bcachefs": true, "btrfs": true, "exfat": true, "ext2": true, "ext3": true, "ext4": true,
	"f2fs": true, "jfs": true, "msdos": true, "nilfs2": true, "ntfs3": true, "ntfs": true,
	"reiserfs": true, "vfat": true, "xfs": true, "zfs": true,
}

// mount is one mounted file system.
type mount struct {
	device string // major:minor
	point  string
	kind   string
}

// parseMountinfo returns the local file systems of a mountinfo file
// (proc_pid_mountinfo(5)), each device once: at its shortest mount point that
// no later mount hides. Lines that it does not understand are left out.
func parseMountinfo(file []byte) []mount {
	top := make(map[string]mount) // by mount point: the last one hides the others
	var order []string
	for line := range bytes.Lines(file) {
		before, after, ok := bytes.Cut(line, []byte(" - "))
		if !ok {
			continue
		}
		fields, kind := strings.Fields(string(before)), strings.Fields(string(after))
		if len(fields) < 5 || len(kind) < 1 {
			continue
		}
		m := mount{device: fields[2], point: unescape(fields[4]), kind: kind[0]}
		if _, ok := top[m.point]; !ok {
			order = append(order, m.point)
		}
		top[m.point] = m
	}
	var found []mount
	at := make(map[string]int)
	for _, point := range order {
		m := top[point]
		if !local[m.kind] {
			continue
		}
		i, ok := at[m.device]
		switch {
		case !ok:
			at[m.device] = len(found)
			found = append(found, m)
		case len(m.point) < len(found[i].point):
			found[i] = m
		}
	}
	return found
}

// unescape undoes the kernel's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountsAge is when the table is read again though the kernel has not said that
// it changed: a procfs that is not the kernel's own may never say it.
const mountsAge = time.Minute

// mountTable is what is known of the mounts.
type mountTable struct {
	file  []byte // as read last
	read  time.Time
	all   []*filesystem
	asked map[string]chan answer // by mount point; a call that is under way
}

type filesystem struct {
	path        string
	point       string
	size, avail *sample.Series
}

type answer struct {
	t           int64
	size, avail float64
	err         error
}

func (s *Source) readMountinfo(ctx context.Context, b *sample.Batch) error {
	root := "/"
	if s.foreign() {
		root = filepath.Join(s.ProcRoot, "1", "root")
	}
	if time.Since(s.mounts.read) >= mountsAge || s.files.mountinfo.mountsChanged() {
		file, err := s.files.mountinfo.read()
		if err != nil {
			return fmt.Errorf("read mountinfo: %w", err)
		}
		s.mounts.read = time.Now()
		if !bytes.Equal(file, s.mounts.file) || s.mounts.asked == nil {
			s.mounts.update(file, root)
		}
	}
	return s.askFilesystems(ctx, b)
}

// mountsChanged asks the kernel whether something was mounted or unmounted since
// the last time: a priority event of poll(2), see proc_pid_mounts(5). On a host
// of containers the table has a long line for each of them, and is dear to read.
// It is true when that can not be known.
func (f *file) mountsChanged() bool {
	return f.handle == nil || !f.kernel || kernfile.Urgent(int(f.handle.Fd()))
}

func (m *mountTable) update(file []byte, root string) {
	if m.asked == nil {
		m.asked = make(map[string]chan answer)
	}
	for point, c := range m.asked {
		if len(c) > 0 {
			delete(m.asked, point)
		}
	}
	m.file, m.all = bytes.Clone(file), nil
	for _, one := range parseMountinfo(file) {
		at := sample.Label{Name: "mountpoint", Value: one.point}
		m.all = append(m.all, &filesystem{
			path:  filepath.Join(root, one.point),
			point: one.point,
			size:  sample.New(FilesystemSize, at),
			avail: sample.New(FilesystemAvail, at),
		})
	}
}

// askFilesystems asks every file system that is not still busy with an earlier
// question, each in a goroutine of its own, as nothing can take a statfs back
// from a disk that hangs: at most one goroutine a mount point is left behind.
func (s *Source) askFilesystems(ctx context.Context, b *sample.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	hung := make(map[string]bool)
	for _, f := range s.mounts.all {
		if c := s.mounts.asked[f.point]; c != nil {
			select {
			case <-c: // too late for its own sample
			default:
				hung[f.point] = true
				continue
			}
		}
		c := make(chan answer, 1)
		s.mounts.asked[f.point] = c
		go func() {
			size, avail, err := s.statfs(f.path)
			c <- answer{now(), size, avail, err}
		}()
	}
	var failed error
	for _, f := range s.mounts.all {
		if hung[f.point] {
			s.skipped[skipHung].Add(1)
			failed = errors.Join(failed, hungError(f))
			continue
		}
		a, ok := await(ctx, s.mounts.asked[f.point])
		if !ok {
			s.skipped[skipHung].Add(1)
			failed = errors.Join(failed, hungError(f))
			continue
		}
		delete(s.mounts.asked, f.point)
		switch {
		case a.err == nil:
			b.Add(f.size, a.t, a.size)
			b.Add(f.avail, a.t, a.avail)
		case errors.Is(a.err, syscall.ENOENT): // unmounted meanwhile
		case errors.Is(a.err, syscall.EACCES), errors.Is(a.err, syscall.EPERM):
			s.skipped[skipFailed].Add(1)
		default:
			s.skipped[skipFailed].Add(1)
			failed = errors.Join(failed, fmt.Errorf("statfs %s: %w", f.point, a.err))
		}
	}
	return failed
}

// await takes the answer that is there, even when ctx has ended over another's.
func await(ctx context.Context, c <-chan answer) (answer, bool) {
	select {
	case a := <-c:
		return a, true
	case <-ctx.Done():
	}
	select {
	case a := <-c:
		return a, true
	default:
		return answer{}, false
	}
}

func hungError(f *filesystem) error { return fmt.Errorf("statfs %s: does not answer", f.point) }

func statfs(path string) (size, avail float64, err error) {
	var st unix.Statfs_t
	for {
		if err = unix.Statfs(path, &st); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, 0, err
	}
	unit := float64(st.Frsize)
	return float64(st.Blocks) * unit, float64(st.Bavail) * unit, nil
}
