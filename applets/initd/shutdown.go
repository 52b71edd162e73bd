//go:build linux

package initd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/machine"
	"github.com/hyperfleet/init/applets/internal/mounts"
	"golang.org/x/sys/unix"
)

// How long each part of a shutdown may take.
const (
	agentGrace = time.Second     // for the agent to start nothing more
	termGrace  = 2 * time.Second // between TERM and KILL
	killLimit  = 2 * time.Second // for what KILL can't end: a process in state D
	logLimit   = time.Second     // for a log to be written down
)

// limits are how long what only a fault makes long may take.
type limits struct {
	sync   time.Duration // per sync
	umount time.Duration // per filesystem
	all    time.Duration // of the shutdown
}

func ordinaryLimits() limits {
	return limits{sync: 30 * time.Second, umount: 2 * time.Second, all: 90 * time.Second}
}

// shutdown ends the machine in an orderly way. The first reason to do so wins:
// nobody listens to signals any more. It returns, with the status to exit with,
// only if the machine can't be ended from here.
func (s *supervisor) shutdown(end ending) int {
	start := time.Now()
	s.log.Info("shutting down", "why", end.why, "then", end)
	time.AfterFunc(s.limits.all, func() {
		s.log.Error("the shutdown hangs and is cut short")
		s.log.Flush(time.Second)
		os.Exit(s.end(end))
	})
	s.stopAgent()
	s.endProcesses()
	s.sync()
	s.closeLogs()
	s.unmountAll()
	s.sync()
	s.log.Info(fmt.Sprintf("%s after %s", end, formatMS(milliseconds(time.Since(start)))))
	s.log.Flush(time.Second)
	return s.end(end)
}

// closeLogs closes what would keep /run from being unmounted.
func (s *supervisor) closeLogs() {
	for _, j := range []*logging.Journal{s.kept, s.agentKept} {
		j.Close(logLimit)
	}
}

func (e ending) String() string {
	if e.exit != nil {
		return fmt.Sprintf("exit with status %d", *e.exit)
	}
	return e.action.String()
}

func (s *supervisor) sync() {
	if err := limited(s.limits.sync, func() error { unix.Sync(); return nil }); err != nil {
		s.log.Warn("sync", "err", err)
	}
}

// end makes the last call. Where the kernel refuses it, PID 1 can only exit.
func (s *supervisor) end(end ending) int {
	if end.exit != nil {
		return *end.exit
	}
	if err := machine.End(end.action, s.options.powerOff); err != nil {
		s.log.Error("the machine can't be ended", "err", err)
		s.log.Flush(time.Second)
	}
	return 0
}

// stopAgent closes the listening sockets and waits until the agent starts no more
// commands. It goes on to answer what it has begun.
func (s *supervisor) stopAgent() {
	for _, l := range s.listeners {
		_ = l.file.Close()
	}
	if s.agent.pid <= 0 || s.control.Send(handoff.Stop, nil) != nil {
		return
	}
	timeout := time.After(agentGrace)
	for {
		select {
		case m := <-s.messages:
			if m.from == s.control && (m.what == handoff.Stopping || m.err != nil) {
				return
			}
		case e := <-s.ended:
			if e.pid == s.agent.pid {
				s.agent.pid = 0
				return
			}
		case <-timeout:
			s.log.Warn("the agent does not stop")
			return
		}
	}
}

// endProcesses ends every process of the machine: TERM, time to act on it, KILL
// until none is left. A stopped process must go on to receive its TERM.
func (s *supervisor) endProcesses() {
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGCONT)
	if s.awaitChildless(termGrace) {
		return
	}
	s.log.Info("killing what did not end in time")
	for deadline := time.Now().Add(killLimit); time.Now().Before(deadline); {
		_ = unix.Kill(-1, unix.SIGKILL) // again: some may have been forking
		if s.awaitChildless(20 * time.Millisecond) {
			return
		}
	}
	s.log.Warn("processes are left that can't be killed")
}

// awaitChildless waits until no process is left but this one, or until limit.
func (s *supervisor) awaitChildless(limit time.Duration) bool {
	timeout := time.After(limit)
	for {
		// Asked at each event: what childless holds may be older than the last child.
		if _, none := s.reaper.Reap(); none {
			return true
		}
		select {
		case <-s.ended:
		case <-s.messages:
		case <-s.childless:
		case <-timeout:
			return false
		}
	}
}

// limited runs f, but waits no longer than limit for it: a disk or a server of
// files may hang, and then the thread that asked it does.
func limited(limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("hangs: given up after %s", limit)
	}
}

// keepMounted tells whether the mount at i of a list is needed to the end, or is the
// end: the root, and on /proc, /sys and /dev what was mounted first, if it is such that
// nothing in it is worth unmounting for. Anything may be mounted over them.
func keepMounted(list []mounts.Mounted, i int) bool {
	m := list[i]
	switch m.Target {
	case "/":
		return true
	case "/proc", "/sys", "/dev":
		first := slices.IndexFunc(list, func(other mounts.Mounted) bool { return other.Target == m.Target })
		return i == first && slices.Contains([]string{"proc", "sysfs", "devtmpfs", "tmpfs"}, m.FSType)
	}
	return false
}

// unmountAll takes the filesystems apart in the reverse of the order in which
// they were mounted, loop devices and swap between them, until nothing more comes
// loose. What stays is made read-only, and the root last of all.
func (s *supervisor) unmountAll() {
	s.restoreProc()
	if s.whole {
		s.swapOff()
	}
	for range maxPasses {
		list, err := mounts.List()
		if err != nil {
			s.log.Warn("what is mounted is unknown", "err", err)
			list = tableAsMounted()
		}
		progress := false
		for i, m := range slices.Backward(list) {
			if keepMounted(list, i) {
				continue
			}
			err := limited(s.limits.umount, func() error { return m.Unmount(false) })
			s.log.Debug("unmount", "mounted", m.Target, "err", err)
			progress = progress || err == nil
		}
		if s.whole && s.detachLoops() {
			progress = true
		}
		if !progress {
			break
		}
	}
	s.makeReadOnly()
}

// restoreProc brings /proc back where something hides it or it was unmounted:
// only there is it said what else is mounted, and what is swapped to.
func (s *supervisor) restoreProc() {
	for range maxPasses {
		if s.procMounted() {
			return
		}
		if limited(s.limits.umount, func() error { return mounts.Mounted{Target: "/proc"}.Unmount(true) }) != nil {
			break
		}
	}
	for _, m := range mounts.Table() {
		if m.FSType != "proc" || s.procMounted() {
			continue
		}
		err := limited(s.limits.umount, m.Make)
		s.log.Warn("/proc was gone", "err", err)
	}
}

// procMounted tells whether /proc is what it should be. It may be a server of files.
func (s *supervisor) procMounted() bool {
	return limited(s.limits.umount, func() error {
		var st unix.Statfs_t
		if err := unix.Statfs("/proc", &st); err != nil || st.Type == unix.PROC_SUPER_MAGIC {
			return err
		}
		return errors.New("/proc is something else")
	}) == nil
}

// maxPasses bounds how deep loops on filesystems on loops may be stacked.
const maxPasses = 16

// tableAsMounted stands in for the list of mounts where there is no /proc.
func tableAsMounted() []mounts.Mounted {
	var list []mounts.Mounted
	for _, m := range mounts.Table() {
		if mounts.IsMountPoint(m.Target) {
			list = append(list, mounts.Mounted{Target: m.Target, FSType: m.FSType})
		}
	}
	return append(list, mounts.Mounted{Target: "/"})
}

// makeReadOnly is for what could not be unmounted, the root always among it.
func (s *supervisor) makeReadOnly() {
	list, err := mounts.List()
	if err != nil {
		list = tableAsMounted()
	}
	for i, m := range slices.Backward(list) {
		if m.ReadOnly || m.FSType == "rootfs" || keepMounted(list, i) && m.Target != "/" {
			continue
		}
		if err := limited(s.limits.umount, func() error { return m.MakeReadOnly(s.whole) }); err != nil {
			s.log.Warn("shutdown", "err", err)
			s.freeze(m)
		}
		if m.Target == "/" {
			continue
		}
		err := limited(s.limits.umount, func() error { return m.Unmount(true) })
		s.log.Warn("a filesystem is still in use", "mounted", m.Target, "err", err)
	}
}

// freeze is for a filesystem that can't be made read-only, as the root can't where
// the file that PID 1 runs from was replaced: it writes out all there is, leaves
// nothing to be recovered, and takes no more. There is no thawing it.
func (s *supervisor) freeze(m mounts.Mounted) {
	if !s.whole { // others use it
		return
	}
	if err := limited(s.limits.sync, m.Freeze); err != nil {
		s.log.Warn("shutdown", "err", err)
		return
	}
	s.log.Info("frozen instead", "mounted", m.Target)
}

// swapOff ends the use of swap; see swapoff(2).
func (s *supervisor) swapOff() {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return
	}
	lines := strings.Split(string(b), "\n")
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		swap := mounts.Unescape(fields[0])
		if err := limited(s.limits.sync, func() error { return swapoff(swap) }); err != nil {
			s.log.Warn("swap stays in use", "swap", swap, "err", err)
		}
	}
}

// detachLoops frees the loop devices that nothing uses any more, so that the
// filesystems of their files can be unmounted; see loop(4).
func (s *supervisor) detachLoops() (any bool) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		device := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file)))
		err := limited(s.limits.umount, func() error {
			f, err := os.Open(device)
			if err == nil {
				_, err = unix.IoctlRetInt(int(f.Fd()), unix.LOOP_CLR_FD)
				err = errors.Join(err, f.Close())
			}
			return err
		})
		if err != nil {
			s.log.Warn("a loop device stays", "device", device, "err", err)
			continue
		}
		any = true
	}
	return any
}
