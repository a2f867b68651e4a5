package guest

import "fanin/internal/sample"

// State and identity.
var (
	Up        = sample.NewGauge("testbed_guest_up", "", "1 while the guest runs, 0 with a reason otherwise.")
	Info      = sample.NewGauge("testbed_guest_info", "", "Always 1; the labels carry what identifies the guest on its host.")
	StartTime = sample.NewGauge("testbed_guest_start_time_seconds", "seconds", "When the guest was started, in seconds since 1970.")
	Restarts  = sample.NewCounter("testbed_guest_restarts_total", "", "How often the runtime has restarted the guest by itself, since the pusher has known the guest.")
)

// HostGuests counts a host's guests, whoever owns them; its labels are
// guest_type and state.
var HostGuests = sample.NewGauge("testbed_host_guests", "", "How many guests of a type and state the host has, whether or not a deployment owns them.")

// Processor time.
var (
	CPUUsage         = sample.NewCounter("testbed_guest_cpu_usage_seconds_total", "seconds", "Processor time the guest has used.")
	CPUMode          = sample.NewCounter("testbed_guest_cpu_seconds_total", "seconds", "Processor time the guest has used, by mode as the host accounts it.")
	CPULimit         = sample.NewGauge("testbed_guest_cpu_limit_cores", "", "How many cores the guest may use at the most.")
	ThrottledSeconds = sample.NewCounter("testbed_guest_cpu_throttled_seconds_total", "seconds", "How long the guest was kept from running by its quota.")
	ThrottledPeriods = sample.NewCounter("testbed_guest_cpu_throttled_periods_total", "", "In how many enforcement periods the guest ran into its quota.")
	Periods          = sample.NewCounter("testbed_guest_cpu_periods_total", "", "How many enforcement periods have passed in which the guest was runnable.")
	VCPU             = sample.NewCounter("testbed_guest_vcpu_seconds_total", "seconds", "Processor time used by one virtual processor.")
	VCPUWait         = sample.NewCounter("testbed_guest_vcpu_wait_seconds_total", "seconds", "How long one virtual processor waited for a core of the host, as the scheduler's statistics have it; absent unless kernel.sched_schedstats is 1.")
	VCPUDelay        = sample.NewCounter("testbed_guest_vcpu_delay_seconds_total", "seconds", "How long one virtual processor was runnable and had to wait for a core of the host.")
)

// Memory.
var (
	MemoryUsage      = sample.NewGauge("testbed_guest_memory_usage_bytes", "bytes", "Memory charged to the host on the guest's account.")
	MemoryWorkingSet = sample.NewGauge("testbed_guest_memory_working_set_bytes", "bytes", "Memory in use that can not be taken back at once.")
	MemoryLimit      = sample.NewGauge("testbed_guest_memory_limit_bytes", "bytes", "How much memory the guest may use at the most.")
	MemoryUnused     = sample.NewGauge("testbed_guest_memory_unused_bytes", "bytes", "Memory the guest leaves wholly unused, as the guest itself says.")
	MemoryAvailable  = sample.NewGauge("testbed_guest_memory_available_bytes", "bytes", "Memory the guest sees in all, as the guest itself says.")
	MemoryUsable     = sample.NewGauge("testbed_guest_memory_usable_bytes", "bytes", "Memory the guest could use without swapping, as the guest itself says.")
	MemoryCache      = sample.NewGauge("testbed_guest_memory_cache_bytes", "bytes", "Memory that holds cached files.")
	MemorySwap       = sample.NewGauge("testbed_guest_memory_swap_bytes", "bytes", "Memory of the guest that is swapped out on the host.")
	MemoryStatsAge   = sample.NewGauge("testbed_guest_memory_stats_age_seconds", "seconds", "How old the balloon driver's numbers are; absent when there is no balloon driver.")
	OOMKills         = sample.NewCounter("testbed_guest_oom_kills_total", "", "How many processes of the guest were killed for want of memory, as far back as the pusher knows.")
	Processes        = sample.NewGauge("testbed_guest_processes", "", "Processes and threads of the guest that the host sees.")
)

// Pressure, as in the kernel's Documentation/accounting/psi.rst: waiting is
// "some", stalled is "full".
var (
	PressureCPUWaiting    = sample.NewCounter("testbed_guest_pressure_cpu_waiting_seconds_total", "seconds", "How long at least one task of the guest waited for a core.")
	PressureCPUStalled    = sample.NewCounter("testbed_guest_pressure_cpu_stalled_seconds_total", "seconds", "How long all tasks of the guest at once waited for a core.")
	PressureMemoryWaiting = sample.NewCounter("testbed_guest_pressure_memory_waiting_seconds_total", "seconds", "How long at least one task of the guest waited for memory.")
	PressureMemoryStalled = sample.NewCounter("testbed_guest_pressure_memory_stalled_seconds_total", "seconds", "How long all tasks of the guest at once waited for memory.")
	PressureIOWaiting     = sample.NewCounter("testbed_guest_pressure_io_waiting_seconds_total", "seconds", "How long at least one task of the guest waited for a disk.")
	PressureIOStalled     = sample.NewCounter("testbed_guest_pressure_io_stalled_seconds_total", "seconds", "How long all tasks of the guest at once waited for a disk.")
)

// Network, in the guest's own view.
var (
	ReceiveBytes    = sample.NewCounter("testbed_guest_network_receive_bytes_total", "bytes", "Bytes received by the guest on one of its interfaces.")
	ReceivePackets  = sample.NewCounter("testbed_guest_network_receive_packets_total", "", "Packets received by the guest on one of its interfaces.")
	ReceiveErrors   = sample.NewCounter("testbed_guest_network_receive_errors_total", "", "Receive errors on one of the guest's interfaces.")
	ReceiveDrops    = sample.NewCounter("testbed_guest_network_receive_drops_total", "", "Packets for the guest that were dropped on one of its interfaces.")
	TransmitBytes   = sample.NewCounter("testbed_guest_network_transmit_bytes_total", "bytes", "Bytes sent by the guest on one of its interfaces.")
	TransmitPackets = sample.NewCounter("testbed_guest_network_transmit_packets_total", "", "Packets sent by the guest on one of its interfaces.")
	TransmitErrors  = sample.NewCounter("testbed_guest_network_transmit_errors_total", "", "Transmit errors on one of the guest's interfaces.")
	TransmitDrops   = sample.NewCounter("testbed_guest_network_transmit_drops_total", "", "Packets from the guest that were dropped on one of its interfaces.")
)

// Disks.
var (
	DiskReadBytes    = sample.NewCounter("testbed_guest_disk_read_bytes_total", "bytes", "Bytes the guest has read from one of its disks.")
	DiskWrittenBytes = sample.NewCounter("testbed_guest_disk_written_bytes_total", "bytes", "Bytes the guest has written to one of its disks.")
	DiskReads        = sample.NewCounter("testbed_guest_disk_reads_total", "", "Read requests of the guest to one of its disks.")
	DiskWrites       = sample.NewCounter("testbed_guest_disk_writes_total", "", "Write requests of the guest to one of its disks.")
	DiskReadSeconds  = sample.NewCounter("testbed_guest_disk_read_seconds_total", "seconds", "Time spent in read requests of the guest to one of its disks.")
	DiskWriteSeconds = sample.NewCounter("testbed_guest_disk_write_seconds_total", "seconds", "Time spent in write requests of the guest to one of its disks.")
	DiskFlushSeconds = sample.NewCounter("testbed_guest_disk_flush_seconds_total", "seconds", "Time spent in flush requests of the guest to one of its disks.")
)

// The names TestbedOS gave, kept for its dashboards.
var (
	LegacyCPU    = sample.NewGauge("testbed_guest_cpu", "percent", "Share of the guest's CPU limit used since the sample before, 0 to 100.")
	LegacyMemory = sample.NewGauge("testbed_guest_memory", "percent", "Share of the guest's memory limit in use, 0 to 100; absent when unknown.")
)
