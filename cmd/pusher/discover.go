package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"fanin/internal/guest"
)

// discoverLimit is how long one source may take to list its guests.
const discoverLimit = 5 * time.Second

// state is the part of a TestbedOS state file that says who is where. The key
// runtime_name is ours: the name of a guest's container or domain when that is
// not <project>-<guest>.
type state struct {
	ProjectName string                `json:"project_name"`
	Hosts       map[string]stateHost  `json:"testbed_hosts"`
	Guests      map[string]stateGuest `json:"testbed_guests"`
}

type stateHost struct {
	IP   string `json:"ip"`
	Main bool   `json:"is_main_host"`
}

type stateGuest struct {
	Name        string        `json:"name"`
	Network     *struct{}     `json:"network"`
	Docker      *stateDocker  `json:"docker,omitempty"`
	Libvirt     *stateLibvirt `json:"libvirt,omitempty"`
	Android     *struct{}     `json:"android,omitempty"`
	Host        string        `json:"testbed_host"`
	Golden      bool          `json:"is_golden_image"`
	ID          int           `json:"guest_id"`
	RuntimeName string        `json:"runtime_name,omitempty"`
}

type stateDocker struct {
	Image string `json:"image"`
}

type stateLibvirt struct {
	MemoryMB int64 `json:"memory_mb"`
	CPUs     int   `json:"cpus"`
}

// discover prints what the sources can list. A source that can not is named on
// stderr; the command fails only when that goes for all of them.
func discover(ctx context.Context, log *slog.Logger, o *options, project, host string, to io.Writer) error {
	for flag, name := range map[string]string{"--project": project, "--host": host} {
		if !nodeName.MatchString(name) {
			return fmt.Errorf("%s %q: a name has 1 to 63 letters, digits, '_', '.' and '-', and begins with a letter or digit", flag, name)
		}
	}
	if err := o.checkSampling(); err != nil {
		return err
	}
	sources := o.open(nil, log)
	defer closeAll(sources)
	var all []guest.Description
	var asked, failed int
	for _, source := range sources {
		l, ok := source.(lister)
		if !ok {
			continue
		}
		asked++
		ctx, cancel := context.WithTimeout(ctx, discoverLimit)
		found, err := l.Guests(ctx)
		cancel()
		if err != nil {
			failed++
			log.Warn("guests can not be listed", "source", source.Name(), "err", err)
		}
		all = append(all, found...)
	}
	if asked > 0 && failed == asked {
		return errors.New("no source could list its guests")
	}
	out := json.NewEncoder(to)
	out.SetIndent("", "  ")
	return out.Encode(skeleton(project, host, ownAddress(), all, log))
}

// skeleton is the state of a deployment of these guests. Guests that it can
// not name are logged and left out.
func skeleton(project, host, ip string, all []guest.Description, log *slog.Logger) state {
	s := state{
		ProjectName: project,
		Hosts:       map[string]stateHost{host: {IP: ip, Main: true}},
		Guests:      make(map[string]stateGuest),
	}
	slices.SortFunc(all, func(a, b guest.Description) int { return strings.Compare(a.Name, b.Name) })
	for i, d := range all {
		if i > 0 && all[i-1].Name == d.Name || i+1 < len(all) && all[i+1].Name == d.Name {
			log.Warn("guest is left out: another one has the same name", "name", d.Name, "kind", d.Kind)
			continue
		}
		if !runtimeName.MatchString(d.Name) {
			log.Warn("guest is left out: its name has other characters than letters, digits, '_', '.' and '-', or is too long", "name", d.Name, "kind", d.Kind)
			continue
		}
		g := stateGuest{Host: host, Name: guestName(project, d.Name)}
		if _, taken := s.Guests[g.Name]; taken || g.Name == "" {
			g.Name, g.RuntimeName = shortName(d.Name), d.Name
			if _, taken := s.Guests[g.Name]; taken {
				g.Name = hashedName(d.Name)
			}
		}
		switch d.Kind {
		case guest.Docker:
			g.Docker = &stateDocker{Image: d.Image}
		case guest.Libvirt:
			g.Libvirt = &stateLibvirt{MemoryMB: d.MemoryMB, CPUs: int(math.Ceil(d.CPUs))}
		case guest.Android:
			g.Android = new(struct{})
		}
		s.Guests[g.Name] = g
	}
	for i, name := range slices.Sorted(maps.Keys(s.Guests)) {
		g := s.Guests[name]
		g.ID = i
		s.Guests[name] = g
	}
	return s
}

// A runtime name is a project's name, a hyphen and a guest's.
var runtimeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,126}$`)

// guestName is the guest that TestbedOS means by a runtime name, "" when it is
// not named so.
func guestName(project, runtime string) string {
	name, ok := strings.CutPrefix(runtime, project+"-")
	if !ok || !nodeName.MatchString(name) {
		return ""
	}
	return name
}

func shortName(runtime string) string {
	if nodeName.MatchString(runtime) {
		return runtime
	}
	return hashedName(runtime)
}

// hashedName keeps names apart that are the same in what fits of them.
func hashedName(runtime string) string {
	sum := sha256.Sum256([]byte(runtime))
	return runtime[:min(len(runtime), 54)] + "-" + hex.EncodeToString(sum[:4])
}

// ownAddress is the first address of this machine that others can reach it by.
func ownAddress() string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
