//go:build linux

package agent

import (
	"os"
	"os/signal"
	"strconv"

	"github.com/hyperfleet/init/applets/internal/sigaction"
	"golang.org/x/sys/unix"
)

// disinherit sees to it that commands get nothing of what the agent's own parent
// may have left it: open files, signals that are ignored, a umask. (Blocked
// signals are seen to at each fork.)
func disinherit() {
	unix.Umask(0o022)
	// A signal that is caught is back at its default after execve; one that is
	// ignored stays ignored. The Go runtime catches the others.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) // it ends the program for this one, where it comes of a write
	sigaction.Catch(unix.SIGHUP, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
	sigaction.TakeBack()
	// Nobody waits for this one: a child's end is told by its pidfd. The handler would
	// wake a thread for each.
	sigaction.Default(unix.SIGCHLD)
	const first, last = 3, 1<<31 - 1
	if unix.CloseRange(first, last, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, _ := os.ReadDir("/proc/self/fd") // before Linux 5.11
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
}
