package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A walk through a hierarchy ends here: no host that this is made for has as
// many groups.
const (
	maxWalk  = 20000
	maxDepth = 16
)

// A shape is how a runtime names the group of a container: before + id +
// after, from the root of the hierarchy.
type shape struct{ before, after string }

func (s shape) path(id string) string { return s.before + id + s.after }

// shapes are those of the runtimes that do not depend on a user or a pod.
var shapes = [...]shape{
	{"docker/", ""},
	{"system.slice/docker-", ".scope"},
	{"machine.slice/libpod-", ".scope"},
	{"libpod_parent/libpod-", ""},
}

// Container opens the group of a container by its full id (64 hexadecimal
// digits): where Docker and Podman put them, with either driver and on every
// version, else by a walk through the hierarchies (rootless containers,
// Kubernetes, --cgroup-parent). Containers inside a container are not looked
// for. [ErrGone] when there is none.
func (l *Layout) Container(id string) (*Group, error) {
	places, err := l.container(id)
	if err != nil {
		return nil, err
	}
	path := ""
	for _, key := range keys {
		if p, ok := places[key]; ok {
			path = strings.TrimPrefix(p.dir, p.top)
			break
		}
	}
	return l.open(path, places, "")
}

// ContainerPID is [Group.PID] of a container's group, which is not opened.
func (l *Layout) ContainerPID(id string) (int, error) {
	places, err := l.container(id)
	if err != nil {
		return 0, err
	}
	return (&Group{places: places}).PID()
}

func (l *Layout) container(id string) (map[string]place, error) {
	if id == "" || containerID(id) != id {
		return nil, fmt.Errorf("container id %.80q: want 64 lower-case hexadecimal digits", id)
	}
	places := l.byShape(id)
	if len(places) == 0 && l.learn(id) {
		places = l.byShape(id)
	}
	if len(places) == 0 {
		return nil, ErrGone
	}
	return places, nil
}

// byShape looks in every hierarchy at the places where containers are known
// to be.
func (l *Layout) byShape(id string) map[string]place {
	l.mu.Lock()
	known := slices.Concat(l.learnt, shapes[:])
	l.mu.Unlock()
	places := map[string]place{}
	for key, mounts := range l.mounts {
	found:
		for _, m := range mounts {
			for _, s := range known {
				dir := filepath.Join(m.dir, s.path(id))
				if st, err := os.Stat(dir); err == nil && st.IsDir() {
					places[key] = place{dir: dir, top: m.dir}
					break found
				}
			}
		}
	}
	return places
}

// learn walks until it finds a container and remembers the shape of its
// path, so that its neighbours are found without a walk.
func (l *Layout) learn(id string) bool {
	found := false
	for _, key := range keys {
		for _, m := range l.mounts[key] {
			walk(m.dir, func(rel string) bool {
				if containerID(filepath.Base(rel)) != id {
					return true
				}
				before, after, _ := strings.Cut(rel, id)
				l.mu.Lock()
				// The newest first, and not ever more of them: pods come and go.
				l.learnt = slices.Insert(l.learnt, 0, shape{before, after})
				l.learnt = l.learnt[:min(len(l.learnt), 32)]
				l.mu.Unlock()
				found = true
				return false
			})
			if found {
				return true
			}
		}
	}
	return false
}

// Containers lists the ids of the containers that have a group with a
// process in it, sorted. It walks through the hierarchies: call it rarely.
func (l *Layout) Containers() ([]string, error) {
	var ids []string
	look := func(key string) {
		for _, m := range l.mounts[key] {
			walk(m.dir, func(rel string) bool {
				if id := containerID(filepath.Base(rel)); id != "" {
					if _, err := firstProcess(filepath.Join(m.dir, rel)); err == nil {
						ids = append(ids, id)
					}
				}
				return true
			})
		}
	}
	look(unified)
	// A runtime puts a container into all hierarchies of version 1: one of
	// them is enough.
	for _, key := range keys[1:] {
		if _, ok := l.mounts[key]; ok {
			look(key)
			break
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// walk calls f with the path, relative to top and breadth first, of every
// group below top, but not of those inside a container's. It ends when f
// returns false. What vanishes or can not be read meanwhile is passed over.
func walk(top string, f func(rel string) bool) {
	queue := []string{""}
	for seen := 0; len(queue) > 0 && seen < maxWalk; seen++ {
		at := queue[0]
		queue = queue[1:]
		entries, _ := os.ReadDir(filepath.Join(top, at))
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			rel := filepath.Join(at, e.Name())
			if !f(rel) {
				return
			}
			if containerID(e.Name()) == "" && strings.Count(rel, "/") < maxDepth {
				queue = append(queue, rel)
			}
		}
	}
}

// containerID is the id of the container whose group has this name:
// ID, docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope,
// parent:docker:ID. "" for any other, and for the group of a container's
// monitor (libpod-conmon-ID.scope).
func containerID(name string) string {
	name = strings.TrimSuffix(name, ".scope")
	before := ""
	if i := strings.LastIndexAny(name, "-:"); i >= 0 {
		before, name = name[:i], name[i+1:]
	}
	if len(name) != 64 || strings.HasSuffix(before, "conmon") {
		return ""
	}
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return name
}
