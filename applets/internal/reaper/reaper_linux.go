// Package reaper is the one place where PID 1 waits for processes: its own
// children and every orphan of the machine.
package reaper

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/internal/sigaction"
	"golang.org/x/sys/unix"
)

// A Reaper starts processes and reaps them, and all others.
type Reaper struct {
	// mu is held from a fork until the child is in the list, so that a child that
	// ends at once is not taken for an orphan, and from a wait until the child is
	// out of it, so that its number can't be a new child's in between.
	mu       sync.Mutex
	children map[int]Ended
}

// Ended is told of the end of a process that Start started.
type Ended func(pid int, status syscall.WaitStatus)

// New returns a Reaper. A process must have no more than one, and nothing else in
// it may wait for processes.
func New() *Reaper { return &Reaper{children: map[int]Ended{}} }

// Start starts a process; ended is called, from Reap, with its status when it has
// been reaped. It must not block.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr, ended Ended) (pid int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = sigaction.Fork(func() (int, error) { return syscall.ForkExec(path, argv, attr) })
	if err != nil {
		return 0, &os.PathError{Op: "fork/exec", Path: path, Err: err}
	}
	r.children[pid] = ended
	return pid, nil
}

// Reap reaps what has ended, and returns how many processes that were and whether
// no child, and so no process of the machine, is left.
func (r *Reaper) Reap() (reaped int, none bool) {
	for {
		pid, status, ended, err := r.wait()
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil: // ECHILD
			return reaped, true
		case pid == 0:
			return reaped, false
		}
		reaped++
		if ended != nil {
			ended(pid, status)
		}
	}
}

// Await waits until there may be something to reap. The kernel wakes the thread that
// is in waitid(2) itself, and it goes straight on to reap: SIGCHLD would come to some
// other thread, and from there by two goroutines.
func Await() {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, 0, unix.WEXITED|unix.WNOWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 { // ECHILD: the next child may be anybody's orphan
			time.Sleep(childlessPause)
		}
		return
	}
}

// childlessPause is how long the first child after none may wait: little, since it may
// be a workload that ends at once, and there is no other process to take time from.
const childlessPause = time.Millisecond

// wait reaps one process, if one has ended. ended is nil for an orphan.
func (r *Reaper) wait() (pid int, status syscall.WaitStatus, ended Ended, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err = syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == nil && pid > 0 {
		ended = r.children[pid]
		delete(r.children, pid)
	}
	return pid, status, ended, err
}

// Describe says how a process ended, as a shell would.
func Describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		name := unix.SignalName(status.Signal())
		if name == "" { // a real-time one
			name = "signal " + strconv.Itoa(int(status.Signal()))
		}
		return "killed by " + name
	}
	return "exit status " + strconv.Itoa(status.ExitStatus())
}

// ExitCode is the status as a shell has it: 128 and the signal's number for a
// process that a signal ended.
func ExitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
