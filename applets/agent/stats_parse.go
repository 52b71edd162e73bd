//go:build linux

package agent

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets/internal/mounts"
	"github.com/hyperfleet/init/applets/wire"
)

// How much is told, so that all of it fits a frame.
const (
	maxDisks       = 32
	maxFilesystems = 32
	maxInterfaces  = 64
	maxMountName   = 255 // bytes of a mount's target, and of its source
)

// numbers reads the words that are numbers; one that is not reads 0, and so does
// one that is missing, up to a count.
func numbers(words []string, count int) []int64 {
	list := make([]int64, max(count, len(words)))
	for i, w := range words {
		if n, err := strconv.ParseInt(w, 10, 64); err == nil && n > 0 {
			list[i] = n
		}
	}
	return list
}

// parseStatFile reads /proc/stat; see proc_stat(5).
func parseStatFile(text string) (c wire.CPUStats, p wire.ProcessStats) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch name := words[0]; {
		case name == "cpu":
			n := numbers(words[1:], 8)
			for i, to := range []*int64{&c.UserMS, &c.NiceMS, &c.SystemMS, &c.IdleMS, &c.IOWaitMS, &c.IRQMS, &c.SoftIRQMS, &c.StealMS} {
				*to = n[i] * (1000 / userHZ)
				c.TotalMS += *to
			}
		case strings.HasPrefix(name, "cpu"):
			c.CPUs++
		case name == "processes":
			p.Forks = numbers(words[1:], 1)[0]
		case name == "procs_running":
			p.Running = int(numbers(words[1:], 1)[0])
		case name == "procs_blocked":
			p.Blocked = int(numbers(words[1:], 1)[0])
		}
	}
	return c, p
}

// parseLoadavg reads /proc/loadavg: "0.10 0.20 0.30 1/234 567".
func parseLoadavg(text string) (load [3]float64, threads int) {
	words := strings.Fields(text)
	if len(words) < 4 {
		return load, 0
	}
	for i := range load {
		load[i] = decimal(words[i])
	}
	_, all, _ := strings.Cut(words[3], "/")
	return load, int(numbers([]string{all}, 1)[0])
}

// decimal reads a number with a point, as the kernel writes one: never NaN.
func decimal(word string) float64 {
	x, err := strconv.ParseFloat(word, 64)
	if err != nil || !(x >= 0 && x < 1e9) {
		return 0
	}
	return x
}

// parseMeminfo reads /proc/meminfo, which counts in KiB; see proc_meminfo(5).
func parseMeminfo(text string) (m wire.MemoryStats) {
	to := map[string]*int64{
		"MemTotal:": &m.Total, "MemFree:": &m.Free, "MemAvailable:": &m.Available, "Buffers:": &m.Buffers,
		"Cached:": &m.Cached, "Shmem:": &m.Shared, "Dirty:": &m.Dirty, "SwapTotal:": &m.SwapTotal, "SwapFree:": &m.SwapFree,
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || to[words[0]] == nil {
			continue
		}
		*to[words[0]] = numbers(words[1:2], 1)[0] << 10
	}
	return m
}

// parsePressure reads a file of /proc/pressure:
// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", the total in µs.
func parsePressure(text string) (p wire.Pressure) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		to := &p.Full
		if words[0] == "some" {
			to = &p.Some
		}
		for _, w := range words[1:] {
			switch name, value, _ := strings.Cut(w, "="); name {
			case "avg10":
				to.Avg10 = decimal(value)
			case "total":
				to.TotalMS = numbers([]string{value}, 1)[0] / 1000
			}
		}
	}
	return p
}

// sector is the unit of /proc/diskstats, whatever the disk's own.
const sector = 512

// parseDisks reads /proc/diskstats; see Documentation/admin-guide/iostats.rst.
func parseDisks(text string, wanted func(name string) bool) []wire.DiskStats {
	list := []wire.DiskStats{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 14 || len(list) == maxDisks || !wanted(words[2]) {
			continue
		}
		n := numbers(words[3:], 0)
		list = append(list, wire.DiskStats{
			Name:  words[2],
			Reads: n[0], ReadBytes: n[2] * sector, ReadMS: n[3],
			Writes: n[4], WriteBytes: n[6] * sector, WriteMS: n[7],
			InFlight: n[8], BusyMS: n[9],
		})
	}
	return list
}

// parseNetDev reads /proc/net/dev: two lines of headings, then
// "name: bytes packets errors drops … bytes packets errors drops …".
func parseNetDev(text string) []wire.NetworkStats {
	list := []wire.NetworkStats{}
	for line := range strings.Lines(text) {
		colon := strings.LastIndexByte(line, ':') // an interface's name may hold one
		if colon < 0 || len(list) == maxInterfaces {
			continue
		}
		words := strings.Fields(line[colon+1:])
		if len(words) < 16 {
			continue
		}
		n := numbers(words, 0)
		list = append(list, wire.NetworkStats{
			Name:    strings.TrimSpace(line[:colon]),
			RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDrops: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDrops: n[11],
		})
	}
	return list
}

// A mountRow is a line of /proc/self/mountinfo.
type mountRow struct {
	device, target, fstype, source string
}

// parseMountinfo reads /proc/self/mountinfo; see proc_pid_mountinfo(5).
func parseMountinfo(text string) (list []mountRow) {
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Split(after, " ")
		if !ok || len(fields) < 6 || len(rest) < 3 {
			continue
		}
		list = append(list, mountRow{fields[2], mounts.Unescape(fields[4]), rest[0], mounts.Unescape(rest[1])})
	}
	return list
}

// safeMounts returns the mounts of filesystems on disks, each disk once, that can
// be asked for their size without waiting for anybody: whoever serves FUSE or a
// network's filesystem may be gone, and even to look at what is mounted below
// theirs would wait for them.
func safeMounts(all []mountRow) (list []mountRow) {
	var unsafe []string
	for _, m := range all {
		if !m.onDisk() && !slices.Contains(inMemory(), m.fstype) {
			unsafe = append(unsafe, m.target)
		}
	}
	seen := map[string]bool{}
	for _, m := range all {
		waits := slices.ContainsFunc(unsafe, func(target string) bool {
			return m.target == target || strings.HasPrefix(m.target, strings.TrimSuffix(target, "/")+"/")
		})
		if waits || !m.onDisk() || seen[m.device] || len(m.target) > maxMountName || len(m.source) > maxMountName {
			continue
		}
		seen[m.device] = true
		list = append(list, m)
	}
	return list
}

// onDisk tells of a filesystem whose device has a number, as only a disk has. btrfs
// makes up its own, and an overlay is as large as what is below it.
func (m mountRow) onDisk() bool {
	return m.fstype == "btrfs" || m.fstype == "overlay" || !strings.HasPrefix(m.device, "0:") && !strings.HasPrefix(m.fstype, "fuse")
}

// inMemory are the filesystems that are not on a disk and wait for nobody.
func inMemory() []string {
	return []string{
		"bpf", "binfmt_misc", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl",
		"hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rootfs", "securityfs", "selinuxfs", "sysfs",
		"tmpfs", "tracefs",
	}
}
