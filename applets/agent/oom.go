//go:build linux

package agent

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"golang.org/x/sys/unix"
)

// An oomCounter is where the kernel counts the commands' processes that it has
// killed for want of memory: nil where it has no memory controller.
type oomCounter struct{ *os.File }

func openOOMCounter(commands cgroup.Group) oomCounter {
	if !commands.Valid() {
		return oomCounter{}
	}
	f, _ := os.Open(commands.String() + "/memory.events")
	return oomCounter{f}
}

func (o oomCounter) read() int {
	if o.File == nil {
		return 0
	}
	var b [256]byte
	n, _ := o.ReadAt(b[:], 0) // io.EOF, since there is less
	for line := range strings.Lines(string(b[:n])) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.Atoi(strings.TrimSpace(count))
			return kills
		}
	}
	return 0
}

// oomScore is a process's file; see proc(5).
func oomScore(pid int) string { return fmt.Sprintf("/proc/%d/oom_score_adj", pid) }

// ownOOMScoreIsZero asks with as few system calls as possible: os.ReadFile makes
// three times as many, at each exec.
func ownOOMScoreIsZero() bool {
	fd, err := unix.Open("/proc/self/oom_score_adj", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true // no /proc, in which the command's could be written
	}
	defer unix.Close(fd)
	var b [8]byte
	n, err := retry(func() (int, error) { return unix.Read(fd, b[:]) })
	return err == nil && string(b[:n]) == "0\n"
}

// resetLimit bounds the search for what a command has forked.
const resetLimit = 50 * time.Millisecond

// resetOOMScore makes a command an ordinary victim for the OOM killer, which is
// to pass over the agent: a child inherits its parent's score. What the command
// has forked by now inherited it too.
func (cs *commands) resetOOMScore(c *command) {
	if ownOOMScoreIsZero() {
		return
	}
	reset := map[int]bool{}
	// What forks as fast as this looks must not hold up its own timeout.
	deadline := time.Now().Add(resetLimit)
	for again := true; again && time.Now().Before(deadline); {
		again = false
		pids := []int{c.pid}
		if c.group.Valid() && len(reset) > 0 {
			pids, _ = c.group.Procs()
		}
		for _, pid := range pids {
			if !reset[pid] {
				reset[pid] = true
				again = os.WriteFile(oomScore(pid), []byte("0"), 0) == nil && c.group.Valid() || again
			}
		}
	}
}

// oomKilled tells whether the kernel killed the command for want of memory: it
// was killed, not from here, and while it ran such a kill was counted. Of several
// commands that are killed at the same time by different causes, it may take one
// for the other. (A controller, and so a counter, for each command's own group
// would not, but makes every exec dearer, and leaves a memory cgroup behind that
// lasts for as long as a page of the page cache that was read under it: only those
// with limits have one.)
func (cs *commands) oomKilled(c *command) bool {
	if !c.gotKilled() || c.killed.Load() {
		return false
	}
	if c.limited {
		own := openOOMCounter(c.group)
		defer own.Close()
		return own.read() > 0
	}
	return cs.oom.read() > c.oomKills
}
