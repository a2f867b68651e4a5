// Package fleet makes up a testbed of any size, for measuring: its nodes and
// guests, the deployments they belong to, and what each node says tick after
// tick, as bodies of remote write and as pages of text. It imports nothing of
// the project's, so that what it makes can be sent to any receiver.
package fleet

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Fleet is how large the testbed is. A series of it is one of a guest.
type Fleet struct {
	Nodes  int
	Guests int // of each node
	Series int // of each guest
}

// Total is how many series there are.
func (f Fleet) Total() int { return f.Nodes * f.Guests * f.Series }

// Node is the name of a node.
func Node(node int) string { return fmt.Sprintf("node-%05d", node) }

// A deployment's file holds at most 10,000 guests.
const deploymentGuests = 5000

// guest is one of a node's: the deployment it is in and its name there.
func (f Fleet) guest(node, guest int) (project, name string) {
	each := max(1, deploymentGuests/max(1, f.Guests)) // nodes to a deployment
	return "lab" + strconv.Itoa(node/each), fmt.Sprintf("web-%06d", node*f.Guests+guest)
}

// WriteStates writes the state files of the deployments that all guests belong
// to, one <project>-state.json each, as TestbedOS writes them.
func (f Fleet) WriteStates(dir string) error {
	type host struct {
		IP string `json:"ip"`
	}
	type guest struct {
		Name   string            `json:"name"`
		Docker map[string]string `json:"docker"`
		Host   string            `json:"testbed_host"`
	}
	type state struct {
		Project string           `json:"project_name"`
		Hosts   map[string]host  `json:"testbed_hosts"`
		Guests  map[string]guest `json:"testbed_guests"`
	}
	states := map[string]*state{}
	for node := range f.Nodes {
		for g := range f.Guests {
			project, name := f.guest(node, g)
			s := states[project]
			if s == nil {
				s = &state{project, map[string]host{}, map[string]guest{}}
				states[project] = s
			}
			s.Hosts[Node(node)] = host{fmt.Sprintf("10.%d.%d.1", node/250, node%250)}
			s.Guests[name] = guest{name, map[string]string{"image": "web"}, Node(node)}
		}
	}
	for project, s := range states {
		content, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, project+"-state.json"), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// family is a metric of a guest.
type family struct {
	name, unit, help string
	counter          bool
	value            func(from, tick float64) float64
}

// Three kinds of values: whole numbers that grow, times in microseconds that
// grow, and sizes in pages that go up and down. All change with each tick,
// which a real guest's do not: it is the dear case for whoever compresses.
func count(from, tick float64) float64 { return from*1000 + tick*(17+from) }
func spent(from, tick float64) float64 { return (from*1e6 + tick*(13579+from)) / 1e6 }
func pages(from, tick float64) float64 { return 4096 * (from*100 + float64(int(tick*7+from)%1000)) }

var families = []family{
	{"testbed_guest_cpu_periods_total", "", "How many enforcement periods have passed in which the guest was runnable.", true, count},
	{"testbed_guest_cpu_seconds_total", "seconds", "Processor time the guest has used, by mode as the host accounts it.", true, spent},
	{"testbed_guest_cpu_throttled_periods_total", "", "In how many enforcement periods the guest ran into its quota.", true, count},
	{"testbed_guest_cpu_throttled_seconds_total", "seconds", "How long the guest was kept from running by its quota.", true, spent},
	{"testbed_guest_cpu_usage_seconds_total", "seconds", "Processor time the guest has used.", true, spent},
	{"testbed_guest_disk_flush_seconds_total", "seconds", "Time spent in flush requests of the guest to one of its disks.", true, spent},
	{"testbed_guest_disk_read_bytes_total", "bytes", "Bytes the guest has read from one of its disks.", true, count},
	{"testbed_guest_disk_reads_total", "", "Read requests of the guest to one of its disks.", true, count},
	{"testbed_guest_disk_writes_total", "", "Write requests of the guest to one of its disks.", true, count},
	{"testbed_guest_disk_written_bytes_total", "bytes", "Bytes the guest has written to one of its disks.", true, count},
	{"testbed_guest_memory_cache_bytes", "bytes", "Memory that holds cached files.", false, pages},
	{"testbed_guest_memory_usage_bytes", "bytes", "Memory charged to the host on the guest's account.", false, pages},
	{"testbed_guest_memory_working_set_bytes", "bytes", "Memory in use that can not be taken back at once.", false, pages},
	{"testbed_guest_network_receive_bytes_total", "bytes", "Bytes received by the guest on one of its interfaces.", true, count},
	{"testbed_guest_network_receive_drops_total", "", "Packets for the guest that were dropped on one of its interfaces.", true, count},
	{"testbed_guest_network_receive_errors_total", "", "Receive errors on one of the guest's interfaces.", true, count},
	{"testbed_guest_network_receive_packets_total", "", "Packets received by the guest on one of its interfaces.", true, count},
	{"testbed_guest_network_transmit_bytes_total", "bytes", "Bytes sent by the guest on one of its interfaces.", true, count},
	{"testbed_guest_network_transmit_drops_total", "", "Packets from the guest that were dropped on one of its interfaces.", true, count},
	{"testbed_guest_network_transmit_packets_total", "", "Packets sent by the guest on one of its interfaces.", true, count},
	{"testbed_guest_pressure_cpu_waiting_seconds_total", "seconds", "How long at least one task of the guest waited for a core.", true, spent},
	{"testbed_guest_pressure_io_waiting_seconds_total", "seconds", "How long at least one task of the guest waited for a disk.", true, spent},
	{"testbed_guest_pressure_memory_waiting_seconds_total", "seconds", "How long at least one task of the guest waited for memory.", true, spent},
	{"testbed_guest_processes", "", "Processes and threads of the guest that the host sees.", false, count},
	{"testbed_guest_vcpu_seconds_total", "seconds", "Processor time used by one virtual processor.", true, spent},
}

// label is one of a series, in the order of its name.
type label struct{ name, value string }

// series is one of a node, with the labels that a stock sender adds to our
// pusher's own (job and instance).
type series struct {
	*family
	guest  int
	device int
	labels []label // without the name
	from   float64
}

// of lists a node's series, each guest's together. device is what stands in
// front of a device's number.
func (f Fleet) of(node int, device string) []series {
	all := make([]series, 0, f.Guests*f.Series)
	for g := range f.Guests {
		project, name := f.guest(node, g)
		for i := range f.Series {
			s := series{family: &families[i%len(families)], guest: g, device: i / len(families), from: float64((node*131 + g*17 + i) % 5000)}
			s.labels = []label{
				{"device", device + strconv.Itoa(s.device)},
				{"guest", project + "-" + name},
				{"instance", Node(node) + ".testbed.lan:9371"},
				{"job", "testbed-guests"},
			}
			all = append(all, s)
		}
	}
	return all
}
