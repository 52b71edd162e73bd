//go:build linux

package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// userHZ is the clock of /proc: the ticks a second that it counts in, on every
// architecture that this builds for.
const userHZ = 100

// ps tells about every process.
func (a *Agent) ps(r *request) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	reply := wire.NewReply(r.conn)
	reply.List("processes", func(yield func(any) bool) {
		for _, name := range names {
			pid, err := strconv.Atoi(name)
			if err != nil {
				continue
			}
			if p, ok := readProcess(pid, up.Nano()/1e6); ok && !yield(p) {
				return
			}
		}
	})
	return replying(reply.End())
}

// readProcess reads what /proc tells about a process, which may have ended
// meanwhile; see proc_pid_stat(5).
func readProcess(pid int, upMS int64) (p wire.Process, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	p, started, ok := parseStat(b)
	if !ok {
		return p, false
	}
	p.PID = pid
	p.Age = max(0, upMS-started)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		p.UID = st.Uid
	}
	p.Cmd = []string{}
	if b, err := os.ReadFile(dir + "/cmdline"); err == nil && len(b) > 0 {
		for word := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
			p.Cmd = append(p.Cmd, string(word))
		}
	}
	return p, true
}

// parseStat reads the fields of a process's stat file that ps tells; started is in
// milliseconds after the machine's start.
func parseStat(b []byte) (p wire.Process, started int64, ok bool) {
	s := string(b)
	// The name is in parentheses, and may hold some itself.
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return p, 0, false
	}
	f := strings.Fields(s[end+1:]) // from the third field on
	if len(f) < 22 {
		return p, 0, false
	}
	number := func(field int) int64 {
		n, err := strconv.ParseInt(f[field-3], 10, 64)
		ok = ok && err == nil
		return n
	}
	ok = true
	p = wire.Process{
		Name:    s[open+1 : end],
		State:   f[0],
		PPID:    int(number(4)),
		CPUMS:   (number(14) + number(15)) * 1000 / userHZ,
		Threads: int(number(20)),
		RSS:     number(24) * int64(os.Getpagesize()),
	}
	started = number(22) * 1000 / userHZ
	return p, started, ok
}
