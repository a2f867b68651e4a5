package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"fanin/internal/cgroup"
	"fanin/internal/guest"
)

// Guests lists the containers of this node, sorted by name, running or not.
// Limits are told for those that run, and are the host's where a container
// has none. No socket is no guest and no error; a socket that may not be used
// is an error. It takes nothing from Sample or Run and may be called while
// they are at work.
func (s *Source) Guests(ctx context.Context) ([]guest.Description, error) {
	s.setup()
	if s.badHost != nil {
		return nil, s.badHost
	}
	a, err := connect(ctx, s.socket)
	if errors.Is(err, errMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("docker at %s: %w; run as root or as a member of the socket's group", s.Host, err)
	}
	defer a.close()
	list, err := a.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("docker at %s: %w", s.Host, err)
	}
	layout, err := cgroup.DetectIn(s.ProcRoot)
	if err != nil {
		return nil, err
	}
	var n node
	if err := n.refresh(s.ProcRoot, time.Now()); err != nil {
		return nil, err
	}
	var guests []guest.Description
	for _, e := range list {
		if e.name == "" {
			continue
		}
		d := guest.Description{Name: e.name, Kind: guest.Docker, Running: e.state == running, Image: e.image}
		if g, err := layout.Container(e.id); err == nil {
			var st cgroup.Stats
			if err := g.Read(&st); err == nil {
				d.CPUs, d.MemoryMB = n.coresFor(&st), int64(n.memoryFor(&st))>>20
			}
			_ = g.Close()
		}
		guests = append(guests, d)
	}
	slices.SortFunc(guests, func(a, b guest.Description) int { return strings.Compare(a.Name, b.Name) })
	return guests, nil
}
