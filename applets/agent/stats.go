//go:build linux

package agent

import (
	"cmp"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// stats tells what the kernel counts, once or in intervals.
func (a *Agent) stats(r *request) error {
	ms, err := r.fields.StatsInterval()
	if err != nil {
		return err
	}
	if ms == 0 {
		return replying(wire.WriteData(r.conn, a.sample()))
	}
	if err := a.beginStream(r.conn); err != nil {
		return err
	}
	s, err := r.begin(wire.StatsStarted{IntervalMS: ms})
	if err != nil {
		return err
	}
	said, stop := s.until()
	defer stop()
	ticker := time.NewTicker(time.Duration(ms) * time.Millisecond)
	defer ticker.Stop()
	for end := (wire.StatsEnd{}); ; {
		if err := s.Encode(wire.KindEvent, a.sample()); err != nil {
			return replying(err)
		}
		end.Samples++
		select {
		case <-ticker.C: // to a client that is slow some are not sent
		case err := <-said:
			if err != nil {
				return err
			}
			return s.end(end)
		case <-a.stopping:
			return errShuttingDown
		}
	}
}

// sample reads everything once. What can't be read is left as it is: a guest
// without /proc still gets an answer.
func (a *Agent) sample() wire.Stats {
	var up, now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	st := wire.Stats{
		TimeMS:      float64(now.Nano()/1000) / 1000,
		UptimeMS:    up.Nano() / 1e6,
		Memory:      parseMeminfo(read("/proc/meminfo")),
		Pressure:    pressure(),
		Disks:       parseDisks(read("/proc/diskstats"), isDisk),
		Filesystems: filesystems(parseMountinfo(read("/proc/self/mountinfo"))),
		Network:     parseNetDev(read("/proc/net/dev")),
		Agent:       a.ownStats(),
	}
	st.CPU, st.Processes = parseStatFile(read("/proc/stat"))
	st.CPU.Load, st.Processes.Threads = parseLoadavg(read("/proc/loadavg"))
	st.Processes.Processes = countProcesses()
	return st
}

// read returns what a file of /proc says; "" if it says nothing.
func read(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}

func pressure() *wire.PressureStats {
	cpu := read("/proc/pressure/cpu")
	if cpu == "" { // Linux before 4.20, or told not to
		return nil
	}
	return &wire.PressureStats{
		CPU:    parsePressure(cpu),
		Memory: parsePressure(read("/proc/pressure/memory")),
		IO:     parsePressure(read("/proc/pressure/io")),
	}
}

// isDisk tells whether a block device is a disk of its own: no part of one, and
// not made of others or of memory.
func isDisk(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "dm-", "md"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	_, err := os.Stat("/sys/block/" + name)
	return err == nil
}

func countProcesses() (n int) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, name := range names {
		if name[0] >= '0' && name[0] <= '9' {
			n++
		}
	}
	return n
}

func (a *Agent) ownStats() wire.AgentStats {
	st := wire.AgentStats{PID: os.Getpid(), Goroutines: runtime.NumGoroutine(), Memory: int64(a.memory.inUse())}
	if fields := strings.Fields(read("/proc/self/statm")); len(fields) > 1 {
		pages, _ := strconv.ParseInt(fields[1], 10, 64)
		st.RSS = pages * int64(os.Getpagesize())
	}
	a.mu.Lock()
	st.Connections = len(a.conns)
	a.mu.Unlock()
	a.sessions.mu.Lock()
	st.Sessions = len(a.sessions.byID)
	a.sessions.mu.Unlock()
	return st
}

// filesystems asks each filesystem for its size.
func filesystems(mounts []mountRow) []wire.FilesystemStats {
	list := []wire.FilesystemStats{}
	for _, m := range safeMounts(mounts) {
		var st unix.Statfs_t
		if len(list) == maxFilesystems || unix.Statfs(m.target, &st) != nil {
			continue
		}
		block := cmp.Or(st.Frsize, int64(st.Bsize))
		list = append(list, wire.FilesystemStats{
			Target: m.target, Source: m.source, Type: m.fstype,
			Size: int64(st.Blocks) * block, Free: int64(st.Bfree) * block, Available: int64(st.Bavail) * block,
			Inodes: int64(st.Files), InodesFree: int64(st.Ffree),
			ReadOnly: st.Flags&unix.ST_RDONLY != 0,
		})
	}
	return list
}
