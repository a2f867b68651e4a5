package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// unified is the key of the version 2 hierarchy, which has no controller name
// in /proc/PID/cgroup.
const unified = ""

// keys are the hierarchies that hold something we read, in the order in which
// they are asked.
var keys = [...]string{unified, "memory", "cpu", "cpuacct", "pids", "blkio"}

// A mount is one place where a hierarchy, or a part of it, is mounted.
type mount struct {
	root string // the group at dir, as seen from this process's cgroup namespace
	dir  string
}

// A place is a group in one hierarchy.
type place struct {
	dir string
	top string // where the mount begins; dir and top are equal for its root
}

// Layout knows where the hierarchies of this host are mounted. It is safe for
// concurrent use. Mounts that come later are not seen.
type Layout struct {
	// immutable
	proc    string
	mounts  map[string][]mount // by key
	changes *changes

	mu     sync.Mutex
	learnt []shape // guarded by mu; where walks have found containers
}

// Detect reads /proc/self/mountinfo (proc(5)). It is an error when no cgroup
// file system is mounted.
func Detect() (*Layout, error) { return DetectIn("/proc") }

// DetectIn is [Detect] for a process that finds the host's /proc elsewhere.
func DetectIn(proc string) (*Layout, error) {
	name := filepath.Join(proc, "self/mountinfo")
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("find the cgroup file systems: %w", err)
	}
	l := &Layout{proc: proc, mounts: parseMountinfo(b), changes: &changes{}}
	if len(l.mounts) == 0 {
		return nil, fmt.Errorf("%s shows no cgroup file system; in a container, mount the host's /sys/fs/cgroup read-only", name)
	}
	return l, nil
}

// Version is "2" where there is only the unified hierarchy, "1" where there
// is none, and "hybrid" where both are mounted.
func (l *Layout) Version() string {
	_, two := l.mounts[unified]
	switch {
	case two && len(l.mounts) == 1:
		return "2"
	case two:
		return "hybrid"
	}
	return "1"
}

// OfPID opens the group of a process, by /proc/PID/cgroup. The groups that
// libvirt makes inside a VM's (emulator, vcpuN, iothreadN, libvirt) stand for
// the VM's.
//
// The root of a hierarchy is the whole host and is left out, hierarchy by
// hierarchy. So is a hierarchy in which the process shares a wider group than
// in the others (a runtime's own service, say): all that are read hold the
// group of the same path, the deepest there is. It may hold other processes
// too; see [Group.Path].
//
// The error is [ErrGone] when there is no such process and [ErrNoGroup] when
// it is in root groups only.
func (l *Layout) OfPID(pid int) (*Group, error) { return l.ofPID(pid, false) }

// OfMachine is [Layout.OfPID] for QEMU processes that libvirt has put into a
// group of their own; [ErrNoGroup] for any other (a VM of a user's session,
// a libvirt without cgroups).
func (l *Layout) OfMachine(pid int) (*Group, error) { return l.ofPID(pid, true) }

func (l *Layout) ofPID(pid int, onlyMachines bool) (*Group, error) {
	b, err := os.ReadFile(filepath.Join(l.proc, strconv.Itoa(pid), "cgroup"))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
		return nil, ErrGone
	case err != nil:
		return nil, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	paths := parseProcCgroup(b)
	own := ownPath(paths)
	if own == "" || onlyMachines && !isMachine(own) {
		return nil, ErrNoGroup
	}
	places := map[string]place{}
	nested := ""
	for key, path := range paths {
		outer, inner := outerGroup(path)
		if bare(outer) != own {
			continue
		}
		if p, ok := l.resolve(key, outer); ok {
			places[key] = p
			if key == unified {
				nested = inner
			}
		}
	}
	if len(places) == 0 {
		if _, err := os.Stat(filepath.Join(l.proc, strconv.Itoa(pid))); err != nil {
			return nil, ErrGone
		}
		return nil, ErrNoGroup
	}
	return l.open(own, places, nested)
}

// resolve finds the directory of a group by its path in the hierarchy.
func (l *Layout) resolve(key, path string) (place, bool) {
	for _, m := range l.mounts[key] {
		rel, ok := under(m.root, path)
		if !ok {
			continue
		}
		dir := filepath.Join(m.dir, rel)
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return place{dir: dir, top: m.dir}, true
		}
	}
	return place{}, false
}

// under is path relative to root. A path outside this process's cgroup
// namespace begins with "/..", and so does a mount that reaches out of it.
func under(root, path string) (string, bool) {
	if root == "/" {
		root = ""
	}
	rel, ok := strings.CutPrefix(path, root)
	if !ok || rel != "" && rel[0] != '/' || rel != "" && bare(rel) != rel {
		return "", false
	}
	return rel, true
}

// ownPath picks, of the paths a process has in the hierarchies, the one that
// is most its own: a container's or a machine's, then the deepest, then the
// one in most hierarchies. "" when all are roots.
func ownPath(paths map[string]string) string {
	votes := map[string]int{}
	for _, path := range paths {
		outer, _ := outerGroup(path)
		if p := bare(outer); p != "/" {
			votes[p]++
		}
	}
	best, rank := "", [3]int{}
	for p, n := range votes {
		r := [3]int{0, strings.Count(p, "/"), n}
		if isMachine(p) || containerID(filepath.Base(p)) != "" {
			r[0] = 1
		}
		if c := slices.Compare(r[:], rank[:]); c > 0 || c == 0 && p < best {
			best, rank = p, r
		}
	}
	return best
}

// bare is a path without the way out of a cgroup namespace, which may differ
// from hierarchy to hierarchy.
func bare(path string) string {
	for strings.HasPrefix(path, "/..") && (len(path) == 3 || path[3] == '/') {
		path = path[3:]
	}
	if path == "" {
		return "/"
	}
	return path
}

// outerGroup takes the groups that libvirt makes inside a machine's off the
// path; nested is the part that holds libvirt's own limits on version 2.
func outerGroup(path string) (outer, nested string) {
	for {
		dir, base := filepath.Split(path)
		dir = strings.TrimSuffix(dir, "/")
		switch {
		case bare(dir) == "/" || dir == "":
			return path, nested
		case base == "libvirt":
			nested = base
		case base == "emulator", numbered(base, "vcpu"), numbered(base, "iothread"):
		default:
			return path, nested
		}
		path = dir
	}
}

func numbered(s, prefix string) bool {
	n, ok := strings.CutPrefix(s, prefix)
	return ok && number([]byte(n)).OK
}

// isMachine tells the groups that libvirt makes for its domains, by itself
// (qemu-1-NAME.libvirt-qemu) and by systemd (machine-qemu\x2d1\x2dNAME.scope).
func isMachine(path string) bool {
	base := filepath.Base(path)
	return strings.HasSuffix(base, ".libvirt-qemu") ||
		strings.HasPrefix(base, "machine-qemu") && strings.HasSuffix(base, ".scope")
}

// InMachine reports whether a process whose /proc/PID/cgroup this is may be in a
// group that libvirt has made for a domain: whether its group has such a name.
func InMachine(procCgroup []byte) bool {
	return isMachine(ownPath(parseProcCgroup(procCgroup)))
}

// parseProcCgroup reads /proc/PID/cgroup (cgroups(7)): the path by key. A
// group that was removed under the process is left out.
func parseProcCgroup(b []byte) map[string]string {
	paths := map[string]string{}
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		id, rest, ok := bytes.Cut(line, []byte(":"))
		names, path, ok2 := bytes.Cut(rest, []byte(":"))
		if !ok || !ok2 || len(path) == 0 || path[0] != '/' || bytes.HasSuffix(path, []byte(" (deleted)")) {
			continue
		}
		if len(names) == 0 {
			if string(id) == "0" {
				paths[unified] = string(path)
			}
			continue
		}
		for name := range strings.SplitSeq(string(names), ",") {
			if slices.Contains(keys[1:], name) {
				paths[name] = string(path)
			}
		}
	}
	return paths
}

// parseMountinfo finds the cgroup mounts in a mountinfo file (proc(5)), by
// key, in the order of the file. What is mounted over another mount takes its
// place.
func parseMountinfo(b []byte) map[string][]mount {
	mounts := map[string][]mount{}
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		m := mount{root: unescape(f[3]), dir: unescape(f[4])}
		for key := range mounts {
			mounts[key] = slices.DeleteFunc(mounts[key], func(o mount) bool { return o.dir == m.dir })
			if len(mounts[key]) == 0 {
				delete(mounts, key)
			}
		}
		switch g[0] {
		case "cgroup2":
			mounts[unified] = append(mounts[unified], m)
		case "cgroup":
			for option := range strings.SplitSeq(g[2], ",") {
				if slices.Contains(keys[1:], option) {
					mounts[option] = append(mounts[option], m)
				}
			}
		}
	}
	return mounts
}

// unescape undoes mountinfo's octal escapes of white space and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
