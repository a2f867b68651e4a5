package host

import "fanin/internal/sample"

// Processors.
var (
	CPUSeconds = sample.NewCounter("testbed_host_cpu_seconds_total", "seconds", "Time the host's processors have spent, by mode; the modes add up to all time there was, so time given to virtual machines is in guest and not in user.")
	CPUs       = sample.NewGauge("testbed_host_cpus", "", "How many processors of the host are online.")
	Load1      = sample.NewGauge("testbed_host_load1", "", "Load average of the host over one minute.")
	Load5      = sample.NewGauge("testbed_host_load5", "", "Load average of the host over five minutes.")
	Load15     = sample.NewGauge("testbed_host_load15", "", "Load average of the host over fifteen minutes.")
	BootTime   = sample.NewGauge("testbed_host_boot_time_seconds", "seconds", "When the host was started, in seconds since 1970.")
)

// Memory.
var (
	MemoryTotal     = sample.NewGauge("testbed_host_memory_total_bytes", "bytes", "Memory of the host that the kernel can use.")
	MemoryAvailable = sample.NewGauge("testbed_host_memory_available_bytes", "bytes", "Memory of the host that could be used without swapping, as the kernel estimates it.")
	MemoryFree      = sample.NewGauge("testbed_host_memory_free_bytes", "bytes", "Memory of the host that is used for nothing at all.")
	MemoryCached    = sample.NewGauge("testbed_host_memory_cached_bytes", "bytes", "Memory of the host that holds cached files.")
	MemoryBuffers   = sample.NewGauge("testbed_host_memory_buffers_bytes", "bytes", "Memory of the host that holds blocks of disks.")
	SwapTotal       = sample.NewGauge("testbed_host_memory_swap_total_bytes", "bytes", "Swap space of the host.")
	SwapFree        = sample.NewGauge("testbed_host_memory_swap_free_bytes", "bytes", "Swap space of the host that is not used.")
)

// Pressure, as in the kernel's Documentation/accounting/psi.rst: waiting is
// "some", stalled is "full". For processors the kernel calls a whole system's
// "full" undefined.
var (
	PressureCPUWaiting    = sample.NewCounter("testbed_host_pressure_cpu_waiting_seconds_total", "seconds", "How long at least one task of the host waited for a core.")
	PressureMemoryWaiting = sample.NewCounter("testbed_host_pressure_memory_waiting_seconds_total", "seconds", "How long at least one task of the host waited for memory.")
	PressureMemoryStalled = sample.NewCounter("testbed_host_pressure_memory_stalled_seconds_total", "seconds", "How long all tasks of the host at once waited for memory.")
	PressureIOWaiting     = sample.NewCounter("testbed_host_pressure_io_waiting_seconds_total", "seconds", "How long at least one task of the host waited for a disk.")
	PressureIOStalled     = sample.NewCounter("testbed_host_pressure_io_stalled_seconds_total", "seconds", "How long all tasks of the host at once waited for a disk.")
)

// Network, by device.
var (
	ReceiveBytes    = sample.NewCounter("testbed_host_network_receive_bytes_total", "bytes", "Bytes received by the host on one of its interfaces.")
	ReceivePackets  = sample.NewCounter("testbed_host_network_receive_packets_total", "", "Packets received by the host on one of its interfaces.")
	ReceiveErrors   = sample.NewCounter("testbed_host_network_receive_errors_total", "", "Receive errors on one of the host's interfaces.")
	ReceiveDrops    = sample.NewCounter("testbed_host_network_receive_drops_total", "", "Received packets that the host dropped on one of its interfaces.")
	TransmitBytes   = sample.NewCounter("testbed_host_network_transmit_bytes_total", "bytes", "Bytes sent by the host on one of its interfaces.")
	TransmitPackets = sample.NewCounter("testbed_host_network_transmit_packets_total", "", "Packets sent by the host on one of its interfaces.")
	TransmitErrors  = sample.NewCounter("testbed_host_network_transmit_errors_total", "", "Transmit errors on one of the host's interfaces.")
	TransmitDrops   = sample.NewCounter("testbed_host_network_transmit_drops_total", "", "Packets to be sent that the host dropped on one of its interfaces.")
)

// Disks, by device.
var (
	DiskReadBytes    = sample.NewCounter("testbed_host_disk_read_bytes_total", "bytes", "Bytes the host has read from one of its disks.")
	DiskWrittenBytes = sample.NewCounter("testbed_host_disk_written_bytes_total", "bytes", "Bytes the host has written to one of its disks.")
	DiskReads        = sample.NewCounter("testbed_host_disk_reads_total", "", "Read requests of the host to one of its disks.")
	DiskWrites       = sample.NewCounter("testbed_host_disk_writes_total", "", "Write requests of the host to one of its disks.")
	DiskReadSeconds  = sample.NewCounter("testbed_host_disk_read_seconds_total", "seconds", "Time spent in read requests of the host to one of its disks.")
	DiskWriteSeconds = sample.NewCounter("testbed_host_disk_write_seconds_total", "seconds", "Time spent in write requests of the host to one of its disks.")
	DiskFlushSeconds = sample.NewCounter("testbed_host_disk_flush_seconds_total", "seconds", "Time spent in flush requests of the host to one of its disks.")
	DiskBusySeconds  = sample.NewCounter("testbed_host_disk_busy_seconds_total", "seconds", "Time in which one of the host's disks had at least one request to serve.")
)

// File systems, by where they are mounted.
var (
	FilesystemSize  = sample.NewGauge("testbed_host_filesystem_size_bytes", "bytes", "Size of one of the host's own file systems.")
	FilesystemAvail = sample.NewGauge("testbed_host_filesystem_avail_bytes", "bytes", "Space left on one of the host's own file systems for ordinary users.")
)

// The names TestbedOS gave, kept for its dashboards.
var (
	LegacyCPU    = sample.NewGauge("testbed_host_cpu", "percent", "Share of all cores of the host that was used since the sample before, 0 to 100.")
	LegacyMemory = sample.NewGauge("testbed_host_memory", "", "Memory of the host in use, in GB (1,000,000,000 bytes).")
)
