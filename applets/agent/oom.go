//go:build linux

package agent

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
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

// zeroScore makes a process's 0; see oom_score_adj in proc(5).
func zeroScore(pid int) error {
	return cgroup.WriteFile("/proc/"+strconv.Itoa(pid), "oom_score_adj", "0")
}

// openOOMScore opens the agent's own, which is looked at for each command; nil if
// there is no /proc, in which the command's could be written.
func openOOMScore() *os.File {
	f, _ := os.Open("/proc/self/oom_score_adj")
	return f
}

// scoreIsZero tells whether the agent's own is 0.
func (cs *commands) scoreIsZero() bool {
	var b [8]byte
	n, _ := cs.score.ReadAt(b[:], 0) // io.EOF, since there is less; none of no file
	return n == 0 || string(b[:n]) == "0\n"
}

// resetLimit bounds the search for what a command has forked.
const resetLimit = 50 * time.Millisecond

// resetOOMScore makes a command an ordinary victim for the OOM killer, which is
// to pass over the agent: a child inherits its parent's score. What the command
// has forked by now inherited it too; see resetOOMScores.
func (cs *commands) resetOOMScore(c *command) {
	if !cs.scoreIsZero() {
		_ = zeroScore(c.pid)
	}
}

// resetOOMScores does that to all that are in a command's group. One that has ended
// within a moment, and has left nothing, does not need it.
func (cs *commands) resetOOMScores(g cgroup.Group) {
	if !g.Valid() || cs.scoreIsZero() {
		return
	}
	var reset []int
	// What forks as fast as this looks must not hold up its own timeout.
	deadline := time.Now().Add(resetLimit)
	for again := true; again && time.Now().Before(deadline); {
		again = false
		pids, _ := g.Procs()
		for _, pid := range pids {
			if !slices.Contains(reset, pid) {
				reset = append(reset, pid)
				again = zeroScore(pid) == nil || again
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
