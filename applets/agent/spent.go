//go:build linux

package agent

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// spent is what a command used.
type spent struct {
	cpu    time.Duration
	memory int64 // bytes at most, at one time
}

// measure asks the command's cgroup, which knows about all that it started, as far
// as it keeps account; else what the kernel tells about the process and those that
// it waited for.
func (c *command) measure() spent {
	s := spent{
		cpu:    time.Duration(c.usage.Utime.Nano() + c.usage.Stime.Nano()),
		memory: c.usage.Maxrss << 10,
	}
	if !c.measured || !c.group.Valid() {
		return s
	}
	stat, _ := os.ReadFile(c.group.String() + "/cpu.stat")
	for line := range strings.Lines(string(stat)) {
		if n, ok := strings.CutPrefix(line, "usage_usec "); ok {
			if us, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64); err == nil {
				s.cpu = time.Duration(us) * time.Microsecond
			}
		}
	}
	if c.limited { // only such a group has a memory controller
		b, _ := os.ReadFile(c.group.String() + "/memory.peak") // Linux 5.19
		if peak, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			s.memory = peak
		}
	}
	return s
}
