package deployment

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// keptFlaws bounds what is remembered of guests that are left out.
const keptFlaws = 100

// maxAddresses of one guest.
const maxAddresses = 16

// record is deployments/<name>.json.
type record struct {
	state    string
	location string
}

// state is <project>-state.json.
type state struct {
	project string
	guests  []*Guest // sorted by name, RuntimeName set
	names   []string // of hosts: those its guests are placed on and testbed_hosts, sorted, each once
	hosts   []Host   // testbed_hosts, sorted
	flaws   []Flaw
	flawed  int
}

// parseRecord reads a record. The name inside must be the one given.
func parseRecord(data []byte, name string) (*record, *Error) {
	d, err := newDocument(data)
	if err != nil {
		return nil, err
	}
	r := &record{state: "unknown"}
	var own string
	err = d.object(func(key string) *Error {
		at := d.offset()
		switch key {
		case "name":
			own, err = d.text()
		case "project_location":
			r.location, err = d.text()
		case "state":
			r.state, err = d.variant()
		default:
			err = d.skip()
		}
		if err == nil && key == "project_location" && (!strings.HasPrefix(r.location, "/") || strings.ContainsRune(r.location, 0)) {
			return d.fail(at, ReasonBadLocation, "project_location must be an absolute path")
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case own != name:
		return nil, d.fail(0, ReasonWrongName, fmt.Sprintf("name is %s, the file is called %s.json", quoted(own), name))
	case r.location == "":
		return nil, d.fail(0, ReasonBadLocation, "project_location is missing")
	}
	return r, nil
}

// parseState reads a state file. project_name must be the name given, unless
// that is "".
//
// A key that stands twice in an object it reads is refused with the whole
// file, as two programs would read two things into it. A guest or host whose
// name, kind or shape is unusable is left out, and the others stay.
func parseState(data []byte, name string) (*state, *Error) {
	d, err := newDocument(data)
	if err != nil {
		return nil, err
	}
	s := &state{}
	var seenGuests bool
	err = d.object(func(key string) *Error {
		var err *Error
		switch key {
		case "project_name":
			s.project, err = d.text()
		case "testbed_hosts":
			s.hosts, err = d.hosts(s.flaw)
		case "testbed_guests":
			seenGuests = true
			err = d.guests(s)
		default:
			err = d.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !seenGuests:
		return nil, d.fail(0, ReasonMalformed, "testbed_guests is missing")
	case name != "" && s.project != name:
		return nil, d.fail(0, ReasonWrongName, fmt.Sprintf("project_name is %s, expected %q", quoted(s.project), name))
	case !ValidName(s.project):
		return nil, d.fail(0, ReasonBadName, fmt.Sprintf("project_name is %s", quoted(s.project)))
	}
	for _, g := range s.guests {
		g.Project = s.project
		if g.RuntimeName == "" {
			g.RuntimeName = s.project + "-" + g.Name
		}
		if g.Host != "" {
			s.names = append(s.names, g.Host)
		}
	}
	for _, h := range s.hosts {
		s.names = append(s.names, h.Name)
	}
	slices.SortFunc(s.guests, func(a, b *Guest) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(s.names)
	s.names = slices.Compact(s.names)
	return s, nil
}

// parseCluster reads config/kvm-compose-config.json.
func parseCluster(data []byte) ([]Host, []Flaw, *Error) {
	d, err := newDocument(data)
	if err != nil {
		return nil, nil, err
	}
	var hosts []Host
	var s state
	seen := false
	err = d.object(func(key string) *Error {
		if key != "testbed_host_ssh_config" {
			return d.skip()
		}
		seen = true
		var err *Error
		hosts, err = d.hosts(s.flaw)
		return err
	})
	if err == nil && !seen {
		err = d.fail(0, ReasonMalformed, "testbed_host_ssh_config is missing")
	}
	if err != nil {
		return nil, nil, err
	}
	return hosts, s.flaws, nil
}

func (s *state) flaw(f Flaw) {
	s.flawed++
	if len(s.flaws) < keptFlaws {
		s.flaws = append(s.flaws, f)
	}
}

func (d *document) guests(s *state) *Error {
	count := 0
	return d.object(func(key string) *Error {
		at := d.offset()
		if count++; count > MaxGuests {
			return d.fail(at, ReasonTooManyGuests, fmt.Sprintf("more than %d guests", MaxGuests))
		}
		g, golden, reason, err := d.guest(key)
		switch {
		case err != nil:
			return err
		case golden:
		case reason != "":
			line, _ := d.place(at)
			s.flaw(Flaw{Reason: reason, Line: line, Name: quoted(key)})
		default:
			s.guests = append(s.guests, g)
		}
		return nil
	})
}

// guest reads one value of testbed_guests. With a reason the guest is left
// out.
func (d *document) guest(key string) (g *Guest, golden bool, reason string, err *Error) {
	if d.next() != '{' {
		return nil, false, ReasonMalformed, d.skip()
	}
	g = &Guest{Name: key}
	name, host, runtime := key, "", ""
	kinds := 0
	refuse := func(r string) {
		if reason == "" {
			reason = r
		}
	}
	wants := func(into *string) *Error {
		v, ok, err := d.optional()
		if *into = v; !ok {
			refuse(ReasonMalformed)
		}
		return err
	}
	err = d.object(func(key string) *Error {
		switch key {
		case "name":
			return wants(&name)
		case "testbed_host":
			return wants(&host)
		case "runtime_name":
			return wants(&runtime)
		case "is_golden_image":
			golden = d.next() == 't'
			return d.skip()
		case "network":
			return d.networks(g)
		case Libvirt, Docker, Android:
			if d.next() == 'n' {
				return d.skip()
			}
			kinds++
			g.Kind = key
			return d.backend(g)
		}
		return d.skip()
	})
	g.Host, g.RuntimeName = host, runtime
	if name == "" {
		name = key // null, as with a guest that leaves it out
	}
	switch {
	case !ValidName(key), host != "" && !ValidName(host), runtime != "" && !ValidRuntimeName(runtime):
		refuse(ReasonBadName)
	case name != key:
		refuse(ReasonWrongName)
	case kinds != 1:
		refuse(ReasonUnknownKind)
	}
	return g, golden, reason, err
}

// backend reads the addresses out of the object of a kind.
func (d *document) backend(g *Guest) *Error {
	if d.next() != '{' {
		return d.skip()
	}
	return d.object(func(key string) *Error {
		if key != "static_ip" && key != "ssh_address" {
			return d.skip()
		}
		text, _, err := d.optional()
		g.address(text)
		return err
	})
}

func (d *document) networks(g *Guest) *Error {
	if d.next() != '[' {
		return d.skip()
	}
	return d.array(func() *Error {
		if d.next() != '{' {
			return d.skip()
		}
		return d.object(func(key string) *Error {
			if key != "ip" {
				return d.skip()
			}
			text, _, err := d.optional()
			g.address(text)
			return err
		})
	})
}

// address adds what is an address; a name or "dynamic" is none.
func (g *Guest) address(text string) {
	text, _, _ = strings.Cut(text, "/")
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || len(g.Addresses) >= maxAddresses || slices.Contains(g.Addresses, a) {
		return
	}
	g.Addresses = append(g.Addresses, a)
}

// hosts reads an object of testbed hosts.
func (d *document) hosts(flaw func(Flaw)) ([]Host, *Error) {
	var hosts []Host
	count := 0
	err := d.object(func(key string) *Error {
		at := d.offset()
		if count++; count > MaxGuests {
			return d.fail(at, ReasonTooManyGuests, fmt.Sprintf("more than %d hosts", MaxGuests))
		}
		if d.next() != '{' || !ValidName(key) {
			reason := ReasonBadName
			if ValidName(key) {
				reason = ReasonMalformed
			}
			line, _ := d.place(at)
			flaw(Flaw{Reason: reason, Line: line, Name: quoted(key)})
			return d.skip()
		}
		h := Host{Name: key}
		err := d.object(func(key string) *Error {
			switch key {
			case "ip":
				text, _, err := d.optional()
				if a, e := netip.ParseAddr(text); e == nil && a.Zone() == "" {
					h.IP = a.String()
				}
				return err
			case "is_main_host":
				h.Main = d.next() == 't'
			}
			return d.skip()
		})
		hosts = append(hosts, h)
		return err
	})
	slices.SortFunc(hosts, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts, err
}
