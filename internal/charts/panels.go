package charts

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Panel is one chart: a line for each guest, or each host.
type Panel struct {
	ID    string // in addresses
	Title string
	Unit  string // percent, bytes or bytes per second

	hosts bool
	slow  bool   // some of its sources are read every 5 or 10 s only
	expr  string // with $of for the matchers and $w for the time looked back on
}

// Units of [Panel].
const (
	Percent        = "percent"
	Bytes          = "bytes"
	BytesPerSecond = "bytes/s"
)

// What a host has that stands on something else that is counted too.
const (
	virtualNets  = `device!~"lo|veth.*|vnet.*|tap.*|tun.*|virbr.*|docker.*|br-.*|dummy.*|ifb.*"`
	virtualDisks = `device!~"dm-.*|md.*|loop.*|zram.*|ram.*|nbd.*"`
)

var guestPanels = []Panel{
	{
		ID: "guest-cpu", Title: "CPU of guests, of what each may use", Unit: Percent,
		expr: `avg by (guest_name) (avg_over_time(testbed_guest_cpu{$of}[$w]))`,
	},
	{
		ID: "guest-memory", Title: "Memory of guests", Unit: Bytes,
		expr: `max by (guest_name) (avg_over_time(testbed_guest_memory_usage_bytes{$of}[$w]))`,
	},
	{
		ID: "guest-received", Title: "Network, received by guests", Unit: BytesPerSecond,
		expr: `sum by (guest_name) (rate(testbed_guest_network_receive_bytes_total{$of,device!="lo"}[$w]))`,
	},
	{
		ID: "guest-sent", Title: "Network, sent by guests", Unit: BytesPerSecond,
		expr: `sum by (guest_name) (rate(testbed_guest_network_transmit_bytes_total{$of,device!="lo"}[$w]))`,
	},
	{
		ID: "guest-read", Title: "Disk, read by guests", Unit: BytesPerSecond, slow: true,
		expr: `sum by (guest_name) (rate(testbed_guest_disk_read_bytes_total{$of}[$w]))`,
	},
	{
		ID: "guest-written", Title: "Disk, written by guests", Unit: BytesPerSecond, slow: true,
		expr: `sum by (guest_name) (rate(testbed_guest_disk_written_bytes_total{$of}[$w]))`,
	},
}

var hostPanels = []Panel{
	{
		ID: "host-cpu", Title: "CPU of hosts, of all their cores", Unit: Percent, hosts: true,
		expr: `avg by (host_name) (avg_over_time(testbed_host_cpu{$of}[$w]))`,
	},
	{
		ID: "host-memory", Title: "Memory of hosts in use", Unit: Bytes, hosts: true,
		expr: `avg by (host_name) (avg_over_time(testbed_host_memory_total_bytes{$of}[$w]) - avg_over_time(testbed_host_memory_available_bytes{$of}[$w]))`,
	},
	{
		ID: "host-received", Title: "Network, received by hosts", Unit: BytesPerSecond, hosts: true,
		expr: `sum by (host_name) (rate(testbed_host_network_receive_bytes_total{$of,` + virtualNets + `}[$w]))`,
	},
	{
		ID: "host-sent", Title: "Network, sent by hosts", Unit: BytesPerSecond, hosts: true,
		expr: `sum by (host_name) (rate(testbed_host_network_transmit_bytes_total{$of,` + virtualNets + `}[$w]))`,
	},
	{
		ID: "host-read", Title: "Disk, read by hosts", Unit: BytesPerSecond, hosts: true,
		expr: `sum by (host_name) (rate(testbed_host_disk_read_bytes_total{$of,` + virtualDisks + `}[$w]))`,
	},
	{
		ID: "host-written", Title: "Disk, written by hosts", Unit: BytesPerSecond, hosts: true,
		expr: `sum by (host_name) (rate(testbed_host_disk_written_bytes_total{$of,` + virtualDisks + `}[$w]))`,
	},
}

// Of are the panels of a deployment's page; without a deployment those of the
// page of all hosts.
func Of(deployment string) []Panel {
	if deployment == "" {
		return hostPanels
	}
	return append(guestPanels[:len(guestPanels):len(guestPanels)], hostPanels...)
}

func (p *Panel) label() string {
	if p.hosts {
		return "host_name"
	}
	return "guest_name"
}

// slowLook is how far slow numbers are looked back on: two of them at least.
const slowLook = 25 * time.Second

// query is the panel's expression for a deployment, about its guests and hosts
// and no others. With names it is about those of them alone.
func (p *Panel) query(s Scope, look time.Duration, names []string) string {
	if p.slow {
		look = max(look, slowLook)
	}
	var of []string
	if p.hosts {
		if s.Deployment != "" {
			names = s.hosts(names)
		}
		of = append(of, `guest_name=""`)
	} else {
		of = append(of, "project="+strconv.Quote(s.Deployment))
	}
	if names != nil {
		quoted := make([]string, len(names))
		for i, n := range names {
			quoted[i] = regexp.QuoteMeta(strings.ReplaceAll(strings.ToValidUTF8(n, "?"), "\uFFFD", "?")) // PromQL has no such characters
		}
		of = append(of, p.label()+"=~"+strconv.Quote(strings.Join(quoted, "|")))
	}
	return strings.NewReplacer("$of", strings.Join(of, ","), "$w", model.Duration(look).String()).Replace(p.expr)
}

// hosts are those of the deployment with one of these names, or all of them.
// They are never nil: a deployment may have none.
func (s Scope) hosts(names []string) []string {
	own := []string{}
	for _, h := range s.Hosts {
		if names == nil || slices.Contains(names, h) {
			own = append(own, h)
		}
	}
	return own
}

// disturbedQuery is the verdict on a deployment: the worst in each step.
func disturbedQuery(deployment string, look time.Duration) string {
	return "max(max_over_time(testbed_deployment_disturbed_ratio{project=" + strconv.Quote(deployment) + "}[" + model.Duration(look).String() + "]))"
}
