package boards

// chosen are the variables of guests of all types.
var chosen = []variable{
	{"project", "Deployment", `label_values(testbed_guest_up, project)`, true},
	{"host", "Host", `label_values(testbed_guest_up{project=~"$project"}, host_name)`, true},
	{"type", "Type", `label_values(testbed_guest_up{project=~"$project"}, guest_type)`, true},
	{"guest", "Guest", `label_values(testbed_guest_up{project=~"$project",host_name=~"$host",guest_type=~"$type"}, guest_name)`, true},
}

const (
	ofGuests = `{project=~"$project",host_name=~"$host",guest_type=~"$type",guest_name=~"$guest"}`
	ofGuest  = `{project="$project",guest_name="$guest"}`
	guestIs  = "{{project}} {{guest_name}}"
)

func rate(metric, of string) string { return "rate(" + metric + of + "[$__rate_interval])" }

func sumRate(by, metric, of string) string { return "sum by (" + by + ") (" + rate(metric, of) + ")" }

var all = []board{
	{
		file: "all-guests.json", uid: "fanin-guests", title: "Testbed: guests of all types",
		text:      "VMs, containers, emulators and unikernels of one or several deployments, the largest twenty on each chart. The band of disturbed time is testbed_deployment_disturbed_ratio.",
		variables: chosen,
		rows: []row{
			{"Now", []panel{
				{title: "Up", text: "Guests that run.", unit: "none", stat: true, queries: []query{{`count(testbed_guest_up` + ofGuests + ` == 1) or vector(0)`, "up"}}},
				{title: "Not up", text: "Guests of active deployments that do not run or are not seen.", unit: "none", stat: true, warn: 1, queries: []query{{`count(testbed_guest_up` + ofGuests + ` == 0) or vector(0)`, "not up"}}},
				{title: "Cores in use", text: "By all of them.", unit: "short", stat: true, queries: []query{{"sum(" + rate("testbed_guest_cpu_usage_seconds_total", ofGuests) + ")", "cores"}}},
				{title: "Memory in use", text: "Charged to the hosts on their account.", unit: "bytes", stat: true, queries: []query{{"sum(testbed_guest_memory_usage_bytes" + ofGuests + ")", "memory"}}},
				{title: "Disturbed", text: "The largest share of the last ten seconds in which the testbed kept one of them from running.", unit: "percentunit", stat: true, warn: 0.05, bad: 0.3, queries: []query{{`max(testbed_deployment_disturbed_ratio{project=~"$project"})`, "disturbed"}}},
				{title: "Silent hosts", text: "Hosts whose pusher is not heard.", unit: "none", stat: true, bad: 1, queries: []query{{`count(testbed_host_up == 0) or vector(0)`, "silent"}}},
			}},
			{"What they use", []panel{
				{title: "CPU, of what each may use", text: "Share of the guest's limit.", unit: "percent", warn: 80, bad: 95, most: 100, queries: []query{{top("testbed_guest_cpu" + ofGuests), guestIs}}},
				{title: "Cores", text: "Processor time a second.", unit: "short", queries: []query{{top(sumRate("project, guest_name", "testbed_guest_cpu_usage_seconds_total", ofGuests)), guestIs}}},
				{title: "Memory", text: "Charged to the host on the guest's account.", unit: "bytes", queries: []query{{top("sum by (project, guest_name) (testbed_guest_memory_usage_bytes" + ofGuests + ")"), guestIs}}},
				{title: "Received", text: "The guest's own view, all interfaces.", unit: "Bps", queries: []query{{top(sumRate("project, guest_name", "testbed_guest_network_receive_bytes_total", ofGuests)), guestIs}}},
				{title: "Sent", text: "The guest's own view, all interfaces.", unit: "Bps", queries: []query{{top(sumRate("project, guest_name", "testbed_guest_network_transmit_bytes_total", ofGuests)), guestIs}}},
				{title: "Disks", text: "Read and written.", unit: "Bps", queries: []query{
					{top(sumRate("project, guest_name", "testbed_guest_disk_read_bytes_total", ofGuests)), guestIs + " read"},
					{top(sumRate("project, guest_name", "testbed_guest_disk_written_bytes_total", ofGuests)), guestIs + " written"},
				}},
			}},
			{"Guest or testbed?", []panel{
				{title: "Disturbed, by deployment", text: "The largest share of time in which the testbed kept a guest of it from running; 0 below 0.05.", unit: "percentunit", warn: 0.05, bad: 0.3, most: 1, queries: []query{{`testbed_deployment_disturbed_ratio{project=~"$project"}`, "{{project}}"}}},
				{title: "Disturbed, by guest", text: "The worst of each guest's causes.", unit: "percentunit", warn: 0.05, bad: 0.3, most: 1, queries: []query{{top(`testbed_guest_disturbed_ratio{cause="any",project=~"$project",host_name=~"$host",guest_type=~"$type",guest_name=~"$guest"}`), guestIs}}},
				{title: "Causes", text: "Mean over the guests chosen, by cause.", unit: "percentunit", most: 1, queries: []query{{`avg by (cause) (testbed_guest_disturbed_ratio{cause!="any",project=~"$project",host_name=~"$host",guest_type=~"$type",guest_name=~"$guest"})`, "{{cause}}"}}},
			}},
		},
	},
	{
		file: "guest.json", uid: "fanin-guest", title: "Testbed: one guest in depth",
		text:      "All that is known of one guest. What its type does not have stays empty.",
		variables: []variable{{"project", "Deployment", `label_values(testbed_guest_up, project)`, false}, {"guest", "Guest", `label_values(testbed_guest_up{project="$project"}, guest_name)`, false}},
		rows: []row{
			{"Now", []panel{
				{title: "Up", text: "Whether it runs.", unit: "bool_yes_no", stat: true, queries: []query{{"max(testbed_guest_up" + ofGuest + ")", "up"}}},
				{title: "Runs since", text: "Age of its process or container.", unit: "s", stat: true, queries: []query{{"time() - max(testbed_guest_start_time_seconds" + ofGuest + ")", "age"}}},
				{title: "CPU", text: "Share of its limit.", unit: "percent", stat: true, warn: 80, bad: 95, queries: []query{{"max(testbed_guest_cpu" + ofGuest + ")", "cpu"}}},
				{title: "Cores it may use", text: "Its limit.", unit: "short", stat: true, queries: []query{{"max(testbed_guest_cpu_limit_cores" + ofGuest + ")", "cores"}}},
				{title: "Memory it may use", text: "Its limit.", unit: "bytes", stat: true, queries: []query{{"max(testbed_guest_memory_limit_bytes" + ofGuest + ")", "memory"}}},
				{title: "Disturbed", text: "Share of the last ten seconds in which the testbed kept it from running.", unit: "percentunit", stat: true, warn: 0.05, bad: 0.3, queries: []query{{`max(testbed_guest_disturbed_ratio{cause="any",project="$project",guest_name="$guest"})`, "disturbed"}}},
			}},
			{"Processor", []panel{
				{title: "Cores, by mode", text: "As the host accounts them, and the limit.", unit: "short", queries: []query{
					{sumRate("mode", "testbed_guest_cpu_seconds_total", ofGuest), "{{mode}}"}, {"testbed_guest_cpu_limit_cores" + ofGuest, "limit"},
				}},
				{title: "Virtual processors", text: "Share of time each has run. Of VMs only.", unit: "percentunit", most: 1, queries: []query{{rate("testbed_guest_vcpu_seconds_total", ofGuest), "{{vcpu}}"}}},
				{title: "Kept from running, by cause", text: "Shares of the last ten seconds.", unit: "percentunit", most: 1, queries: []query{{"testbed_guest_disturbed_ratio" + ofGuest, "{{cause}}"}}},
			}},
			{"Memory and pressure", []panel{
				{title: "Memory", text: "Charged to the host, and what can not be taken back at once.", unit: "bytes", queries: []query{
					{"testbed_guest_memory_usage_bytes" + ofGuest, "charged"},
					{"testbed_guest_memory_working_set_bytes" + ofGuest, "working set"},
					{"testbed_guest_memory_cache_bytes" + ofGuest, "cached files"},
					{"testbed_guest_memory_limit_bytes" + ofGuest, "limit"},
				}},
				{title: "Pressure", text: "Share of time in which some task of it waited. Control groups of version 2 only.", unit: "percentunit", most: 1, queries: []query{
					{rate("testbed_guest_pressure_cpu_waiting_seconds_total", ofGuest), "for a core"},
					{rate("testbed_guest_pressure_memory_waiting_seconds_total", ofGuest), "for memory"},
					{rate("testbed_guest_pressure_io_waiting_seconds_total", ofGuest), "for a disk"},
				}},
				{title: "Processes", text: "That the host sees.", unit: "short", queries: []query{{"testbed_guest_processes" + ofGuest, "processes"}}},
			}},
			{"Network and disks", []panel{
				{title: "Network", text: "The guest's own view, by interface.", unit: "Bps", queries: []query{
					{rate("testbed_guest_network_receive_bytes_total", ofGuest), "{{device}} received"}, {rate("testbed_guest_network_transmit_bytes_total", ofGuest), "{{device}} sent"},
				}},
				{title: "Drops and errors", text: "Packets a second.", unit: "pps", queries: []query{
					{rate("testbed_guest_network_receive_drops_total", ofGuest), "{{device}} received, dropped"},
					{rate("testbed_guest_network_transmit_drops_total", ofGuest), "{{device}} sent, dropped"},
					{rate("testbed_guest_network_receive_errors_total", ofGuest), "{{device}} received, in error"},
					{rate("testbed_guest_network_transmit_errors_total", ofGuest), "{{device}} sent, in error"},
				}},
				{title: "Disks", text: "By device.", unit: "Bps", queries: []query{
					{rate("testbed_guest_disk_read_bytes_total", ofGuest), "{{device}} read"}, {rate("testbed_guest_disk_written_bytes_total", ofGuest), "{{device}} written"},
				}},
			}},
		},
	},
	{
		file: "apps.json", uid: "fanin-apps", title: "Testbed: programs inside guests",
		text:      "Guests that serve a page of metrics of their own, scraped by the pusher of their host. What they say has their own names; these panels are about the pages.",
		variables: chosen[:1],
		rows: []row{{"Pages of metrics", []panel{
			{title: "Taken", text: "Pages that were taken the last time.", unit: "none", stat: true, queries: []query{{`sum(testbed_guest_exporter_up{project=~"$project"}) or vector(0)`, "taken"}}},
			{title: "Not taken", text: "Pages that somebody named and that could not be taken.", unit: "none", stat: true, warn: 1, queries: []query{{`count(testbed_guest_exporter_up{project=~"$project"} == 0) or vector(0)`, "not taken"}}},
			{title: "Series", text: "Of all pages.", unit: "short", stat: true, queries: []query{{`sum(testbed_guest_exporter_series{project=~"$project"})`, "series"}}},
			{title: "State", text: "1 when the page was taken, 0 with a reason.", unit: "short", most: 1, queries: []query{{top(`testbed_guest_exporter_up{project=~"$project"}`), "{{guest_name}}:{{port}} {{reason}}"}}},
			{title: "Time of a scrape", text: "How long the guest took to answer.", unit: "s", queries: []query{{top(`testbed_guest_exporter_scrape_duration_seconds{project=~"$project"}`), "{{guest_name}}:{{port}}"}}},
			{title: "Series of each page", text: "How many were taken.", unit: "short", queries: []query{{top(`testbed_guest_exporter_series{project=~"$project"}`), "{{guest_name}}:{{port}}"}}},
		}}},
	},
	{
		file: "system.json", uid: "fanin-system", title: "Testbed: fanin about itself",
		text: "The way of the samples: pushers, gateway, readers. What is lost or refused is counted here to the sample.",
		rows: []row{
			{"Now", []panel{
				{title: "Hosts heard", text: "Of those in the cluster.", unit: "none", stat: true, queries: []query{{`sum(testbed_host_up)`, "heard"}}},
				{title: "Hosts silent", text: "See the alert HostSilent.", unit: "none", stat: true, bad: 1, queries: []query{{`count(testbed_host_up == 0) or vector(0)`, "silent"}}},
				{title: "Samples a second", text: "Taken into the window.", unit: "short", stat: true, queries: []query{{"sum(" + rate("fanin_ingest_samples_total", "") + ")", "samples"}}},
				{title: "Series", text: "In the window.", unit: "short", stat: true, queries: []query{{`fanin_window_series`, "series"}}},
				{title: "Lost on nodes", text: "Samples that nodes have given up in the last hour.", unit: "short", stat: true, bad: 1, queries: []query{{`sum(increase(fanin_samples_dropped_total[1h])) or vector(0)`, "lost"}}},
				{title: "Lost to readers", text: "Samples that left the window before a reader collected them, in the last hour.", unit: "short", stat: true, bad: 1, queries: []query{{`sum(increase(fanin_window_reader_lost_points_total[1h])) or vector(0)`, "lost"}}},
			}},
			{"Pushers", []panel{
				{title: "Samples taken, by host", text: "A second.", unit: "short", queries: []query{{top("sum by (node) (" + rate("fanin_ingest_samples_total", "") + ")"), "{{node}}"}}},
				{title: "Not yet collected, by host", text: "Samples that wait on the node.", unit: "short", queries: []query{{top(`fanin_samples_pending{host_name!=""}`), "{{host_name}}"}}},
				{title: "Clock offset", text: "How far a host's clock is ahead of the gateway's, transfer time included.", unit: "s", queries: []query{{top(`abs(testbed_host_clock_offset_seconds)`), "{{host_name}}"}}},
				{title: "Time of a sample, by source", text: "The slowest host of each source.", unit: "s", queries: []query{{`max by (source) (fanin_source_duration_seconds)`, "{{source}}"}}},
				{title: "Sources that fail", text: "1 when the source's last sample was complete.", unit: "short", most: 1, queries: []query{{`min by (source) (fanin_source_up)`, "{{source}}"}}},
				{title: "Pushes, by answer", text: "A second.", unit: "reqps", queries: []query{{sumRate("code", "fanin_ingest_requests_total", ""), "{{code}}"}}},
			}},
			{"Gateway and readers", []panel{
				{title: "Window", text: "Memory of the points that wait for readers, and its bound.", unit: "bytes", queries: []query{{`fanin_window_bytes`, "in use"}, {`fanin_window_max_bytes`, "bound"}}},
				{title: "Behind, by reader", text: "Points that have arrived since the reader's last confirmed page.", unit: "short", queries: []query{{`fanin_window_reader_lag_points`, "{{reader}} {{path}} {{node}}"}}},
				{title: "Last seen, by reader", text: "How long ago it asked for a page.", unit: "s", warn: 60, bad: 120, queries: []query{{`time() - fanin_window_reader_last_seen_timestamp_seconds`, "{{reader}} {{path}} {{node}}"}}},
				{title: "Processor of the gateway", text: "Cores.", unit: "short", queries: []query{{rate("process_cpu_seconds_total", `{job="gateway"}`), "gateway"}}},
				{title: "Memory of the gateway", text: "Resident.", unit: "bytes", queries: []query{{`process_resident_memory_bytes{job="gateway"}`, "gateway"}}},
				{title: "Scrape of the page", text: "How long Prometheus took for it.", unit: "s", warn: 1, bad: 5, queries: []query{{`scrape_duration_seconds{job="testbed"}`, "page"}}},
			}},
		},
	},
}
