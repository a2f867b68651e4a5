package docker

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"fanin/internal/cgroup"
)

// The labels by which a container says that it serves metrics, as the
// examples of Prometheus have them.
const (
	scrapeLabel = "prometheus.io/scrape"
	portLabel   = "prometheus.io/port"
	pathLabel   = "prometheus.io/path"
)

const (
	maxAddresses = 4   // of one container, and so of as many networks
	maxPageText  = 513 // bytes kept of a port or path: nothing that long is one
)

// Page is where a running container says that its metrics are. Port and Path
// are its labels as somebody wrote them; the name and the addresses are the
// engine's word.
type Page struct {
	Name string // the container's
	ID   string
	Port string
	Path string // "" when it does not say

	// Addresses are those in its own networks, IPv4 first. There may be none:
	// a container without a network, or whose interfaces others have given it.
	Addresses []netip.Addr

	// Namespace opens its network namespace, nil when that is the host's. Not
	// every address can be reached from the host (macvlan, rootless engines).
	Namespace func() (*os.File, error)
}

// page is a Page that an entry holds, comparable as all of an entry is.
type page struct {
	wanted     bool
	port, path string
}

func pageOf(labels map[string]string) (p page) {
	if labels[scrapeLabel] != "true" {
		return p
	}
	return page{true, clip(labels[portLabel]), clip(labels[pathLabel])}
}

func clip(s string) string { return strings.Clone(s[:min(len(s), maxPageText)]) }

// pages is what the roster of one version has to say to those who scrape.
type pages struct {
	version uint64
	listed  []Page
	inside  map[string]Page // by name, of all that run and can be reached in no other way
}

// Pages lists the containers that run and say that they serve metrics, sorted
// by name. The slice is shared and must not be changed. It may be called from
// any goroutine, and asks nobody.
func (s *Source) Pages() []Page {
	s.setup()
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	return s.roster.reachable(s.openNamespace).listed
}

// Inside returns the running container called name, whether or not it says
// that it serves metrics, when its engine knows no address of it. It may be
// called from any goroutine, and asks nobody.
func (s *Source) Inside(name string) (p Page, ok bool) {
	s.setup()
	s.roster.mu.Lock()
	defer s.roster.mu.Unlock()
	p, ok = s.roster.reachable(s.openNamespace).inside[name]
	return p, ok
}

// reachable makes what is known of where containers can be scraped. The lock
// is held.
func (r *roster) reachable(open func(id string) (*os.File, error)) *pages {
	if r.pages.version == r.version {
		return &r.pages
	}
	p := pages{version: r.version, inside: map[string]Page{}}
	created := map[string]int64{}
	for _, e := range r.entries {
		// Until it was listed as running, and once its group has gone, its
		// addresses may be another container's.
		if e.state != running || !e.located || e.name == "" {
			continue
		}
		known := Page{Name: e.name, ID: e.id, Port: e.page.port, Path: e.page.path}
		for _, a := range e.addresses {
			if a.IsValid() {
				known.Addresses = append(known.Addresses, a)
			}
		}
		if e.network == networkOwn {
			known.Namespace = func() (*os.File, error) { return open(e.id) }
			if len(known.Addresses) == 0 {
				p.inside[e.name] = known
			}
		}
		if e.page.wanted {
			p.listed = append(p.listed, known)
			created[e.id] = e.created
		}
	}
	slices.SortFunc(p.listed, func(a, b Page) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(created[b.ID], created[a.ID]), strings.Compare(a.ID, b.ID))
	})
	p.listed = slices.CompactFunc(p.listed, func(a, b Page) bool { return a.Name == b.Name })
	r.pages = p
	return &r.pages
}

// locate takes what the engine lists of containers that have just been
// started. asked tells for each how often it had been started then: what is
// of an earlier run is passed over.
func (r *roster) locate(list []entry, asked map[string]uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, found := range list {
		e, known := r.entries[found.id]
		if !known || !found.located || e.state != running || e.starts != asked[found.id] {
			continue
		}
		e.network, e.addresses, e.page, e.located = found.network, found.addresses, found.page, true
		if e != r.entries[found.id] {
			r.entries[found.id] = e
			r.version++
		}
	}
}

// unlocate notes that the group of a container's run has gone, which is known by its
// number of starts. The engine may say so much later, or never: one that was
// killed gives the addresses out anew before it answers again. It reports whether
// that was news.
func (r *roster) unlocate(id string, starts uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, known := r.entries[id]
	if !known || !e.located || e.starts != starts {
		return false
	}
	e.located = false
	r.entries[id] = e
	r.version++
	return true
}

// starts is how often each of these containers was seen to start; those that
// are known no more are left out.
func (r *roster) starts(ids map[string]bool) map[string]uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	starts := make(map[string]uint32, len(ids))
	for id := range ids {
		if e, known := r.entries[id]; known {
			starts[id] = e.starts
		}
	}
	return starts
}

// openNamespace opens the network namespace of a container's first process.
// That the process found by its number is the container's is read through the
// same descriptor as the namespace, so a number that was given to another
// process meanwhile does no harm.
func (s *Source) openNamespace(id string) (*os.File, error) {
	layout, err := cgroup.DetectIn(s.ProcRoot)
	if err != nil {
		return nil, err
	}
	pid, err := layout.ContainerPID(id)
	if err != nil {
		return nil, fmt.Errorf("find the container's processes: %w", err)
	}
	name := filepath.Join(s.ProcRoot, strconv.Itoa(first(s.ProcRoot, pid)))
	dir, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { _ = unix.Close(dir) }()
	groups, err := readAt(dir, "cgroup", nil)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(string(groups), id) {
		return nil, fmt.Errorf("%s is no process of the container any more", name)
	}
	fd, err := unix.Openat(dir, "ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name + "/ns/net", Err: err}
	}
	return os.NewFile(uintptr(fd), name+"/ns/net"), nil
}
