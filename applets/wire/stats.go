package wire

// StatsStarted is the data of stats' reply where that begins a stream: a [Stats]
// in an event frame at once, and then one each interval.
type StatsStarted struct {
	IntervalMS int64 `json:"interval_ms"`
}

// StatsEnd is how a stream of stats ends.
type StatsEnd struct {
	Samples int `json:"samples"` // that were sent
}

// Stats is what the kernel counts in a guest, and the agent in itself: the data of
// stats' reply, or the payload of a KindEvent frame. What counts up does so from
// the machine's start; a rate is the difference between two of them.
type Stats struct {
	TimeMS      float64           `json:"time_ms"`   // when, by the clock of [LogLine]
	UptimeMS    int64             `json:"uptime_ms"` // since the machine's start, suspended or not
	CPU         CPUStats          `json:"cpu"`
	Memory      MemoryStats       `json:"memory"`
	Pressure    *PressureStats    `json:"pressure"` // null where the kernel does not tell
	Processes   ProcessStats      `json:"processes"`
	Disks       []DiskStats       `json:"disks"`       // at most 32
	Filesystems []FilesystemStats `json:"filesystems"` // on those disks, at most 32; not of a network, nor FUSE's
	Network     []NetworkStats    `json:"network"`     // at most 64
	Agent       AgentStats        `json:"agent"`
}

// CPUStats is CPU time, of all CPUs together; see proc_stat(5).
type CPUStats struct {
	CPUs      int        `json:"cpus"`    // online
	Load      [3]float64 `json:"load"`    // averages over 1, 5 and 15 minutes
	UserMS    int64      `json:"user_ms"` // guest time included
	NiceMS    int64      `json:"nice_ms"`
	SystemMS  int64      `json:"system_ms"`
	IdleMS    int64      `json:"idle_ms"`
	IOWaitMS  int64      `json:"iowait_ms"`
	IRQMS     int64      `json:"irq_ms"`
	SoftIRQMS int64      `json:"softirq_ms"`
	StealMS   int64      `json:"steal_ms"` // wanted, and taken by the host
	TotalMS   int64      `json:"total_ms"` // the sum
}

// MemoryStats is in bytes; see proc_meminfo(5).
type MemoryStats struct {
	Total     int64 `json:"total"`
	Free      int64 `json:"free"`
	Available int64 `json:"available"`
	Buffers   int64 `json:"buffers"`
	Cached    int64 `json:"cached"`
	Shared    int64 `json:"shared"` // tmpfs and shared memory
	Dirty     int64 `json:"dirty"`
	SwapTotal int64 `json:"swap_total"`
	SwapFree  int64 `json:"swap_free"`
}

// PressureStats is for how long work waited; see Documentation/accounting/psi.rst.
type PressureStats struct {
	CPU    Pressure `json:"cpu"`
	Memory Pressure `json:"memory"`
	IO     Pressure `json:"io"`
}

// Pressure is the time in which some, or all, of the work that there was waited.
type Pressure struct {
	Some PressureTime `json:"some"`
	Full PressureTime `json:"full"`
}

// PressureTime is the share of the last ten seconds in percent, and all of it.
type PressureTime struct {
	Avg10   float64 `json:"avg10"`
	TotalMS int64   `json:"total_ms"`
}

// ProcessStats counts processes.
type ProcessStats struct {
	Processes int   `json:"processes"`
	Threads   int   `json:"threads"` // the kernel's included
	Running   int   `json:"running"` // threads, or those that want to
	Blocked   int   `json:"blocked"` // threads that wait for a disk
	Forks     int64 `json:"forks"`   // since the machine's start
}

// DiskStats counts what a disk did; see Documentation/admin-guide/iostats.rst.
type DiskStats struct {
	Name       string `json:"name"`
	Reads      int64  `json:"reads"`
	ReadBytes  int64  `json:"read_bytes"`
	ReadMS     int64  `json:"read_ms"` // of all reads, added up
	Writes     int64  `json:"writes"`
	WriteBytes int64  `json:"write_bytes"`
	WriteMS    int64  `json:"write_ms"`
	InFlight   int64  `json:"in_flight"`
	BusyMS     int64  `json:"busy_ms"` // in which there was something to do
}

// FilesystemStats is one filesystem, where it was mounted first. Sizes are in
// bytes.
type FilesystemStats struct {
	Target     string `json:"target"`
	Source     string `json:"source"`
	Type       string `json:"type"`
	Size       int64  `json:"size"`
	Free       int64  `json:"free"`
	Available  int64  `json:"available"` // to users other than root
	Inodes     int64  `json:"inodes"`    // 0 where there is no limit to them
	InodesFree int64  `json:"inodes_free"`
	ReadOnly   bool   `json:"read_only"`
}

// NetworkStats counts what passed through an interface.
type NetworkStats struct {
	Name      string `json:"name"`
	RxBytes   int64  `json:"rx_bytes"`
	RxPackets int64  `json:"rx_packets"`
	RxErrors  int64  `json:"rx_errors"`
	RxDrops   int64  `json:"rx_drops"`
	TxBytes   int64  `json:"tx_bytes"`
	TxPackets int64  `json:"tx_packets"`
	TxErrors  int64  `json:"tx_errors"`
	TxDrops   int64  `json:"tx_drops"`
}

// AgentStats is the agent itself.
type AgentStats struct {
	PID         int   `json:"pid"`
	RSS         int64 `json:"rss"` // bytes
	Goroutines  int   `json:"goroutines"`
	Connections int   `json:"connections"` // this one included
	Sessions    int   `json:"sessions"`    // those that ended too
	Memory      int64 `json:"memory"`      // bytes that requests hold at the moment
}
