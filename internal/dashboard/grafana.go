package dashboard

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
)

// The dashboards of TestbedOS, whose panels the shipped ones keep, and the
// project's own of guests of all types.
const (
	allGuestsBoard = "fanin-guests/testbed-guests-of-all-types"

	hostsBoard  = "a501b9c3-2632-4862-b91c-00d9575a6ba3/testbed-hosts"
	guestsBoard = "c74125df-061c-43fd-9eae-3ae6c8d0d37e/testbed-guests"
)

// grafana makes the addresses of single panels.
type grafana struct {
	base   string // without a slash at the end
	origin string // "" when it is the page's own
}

// Graph is one embedded panel.
type graph struct {
	Title string
	URL   string
}

func newGrafana(base string) (*grafana, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, errors.New("is no address")
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Opaque != "" || strings.ContainsAny(base, "?#;,'\" \\"):
		return nil, errors.New("must be a path or an address without user, query and fragment")
	case u.Scheme == "" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return &grafana{base: strings.TrimRight(u.EscapedPath(), "/")}, nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		origin := u.Scheme + "://" + u.Host
		return &grafana{base: origin + strings.TrimRight(u.EscapedPath(), "/"), origin: origin}, nil
	}
	return nil, errors.New("must begin with / or with http:// or https://")
}

// panel is the address of one panel; variables are pairs of name and value.
func (g *grafana) panel(board string, id int, variables ...string) string {
	var b strings.Builder
	b.WriteString(g.base + "/d-solo/" + board + "?orgId=1&refresh=5s&from=now-30m&to=now&panelId=" + strconv.Itoa(id))
	for i := 0; i < len(variables); i += 2 {
		b.WriteString("&var-" + variables[i] + "=" + url.QueryEscape(variables[i+1]))
	}
	return b.String()
}

func (g *grafana) host(name string) []graph {
	if g == nil {
		return nil
	}
	return []graph{
		{"CPU of " + name, g.panel(hostsBoard, 1, "host_n", name)},
		{"Memory of " + name, g.panel(hostsBoard, 2, "host_n", name)},
	}
}

// project is one frame with all panels of a deployment, without Grafana's own
// bars.
func (g *grafana) project(name string) *graph {
	if g == nil {
		return nil
	}
	return &graph{"All guests of " + name, g.base + "/d/" + allGuestsBoard + "?orgId=1&kiosk&refresh=5s&from=now-30m&to=now&var-project=" + url.QueryEscape(name)}
}

func (g *grafana) guest(project, name string) []graph {
	if g == nil {
		return nil
	}
	return []graph{
		{"CPU of " + name, g.panel(guestsBoard, 3, "proj_n", project, "guest_n", name)},
		{"Memory of " + name, g.panel(guestsBoard, 4, "proj_n", project, "guest_n", name)},
	}
}
