//go:build linux

// Package initd is PID 1. It does what only PID 1 can do and nothing else: it
// boots (boot.go), keeps the agent and the workload running (supervise.go), reaps,
// and shuts down (shutdown.go). It reads no input from outside but its command
// line and signals.
package initd

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	_ "github.com/hyperfleet/init/applets/internal/entry" // where the binary starts
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/machine"
	"github.com/hyperfleet/init/applets/internal/sigaction"
	"github.com/hyperfleet/init/applets/internal/version"
	"golang.org/x/sys/unix"
)

// started is when this program's own code began to run.
var started = time.Now()

// Run is init. As PID 1 it returns only where the machine can't be ended, with
// the status to exit with.
func Run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	return run(args, stdout, stderr, ordinaryLimits())
}

func run(args []string, stdout, stderr io.Writer, l limits) int {
	if len(args) == 0 { // a container's runtime may pass nothing at all
		args = []string{"/init"}
	}
	runtime.LockOSThread() // before a system call gives it another thread, see standAside
	if os.Getpid() != 1 {
		return notPID1(args[1:], stdout, stderr)
	}
	if err := checkProc(); err != nil {
		fmt.Fprintf(stderr, "init: %v\n", err)
		return 1
	}
	// What a container's runtime left open is not for the agent and the workload.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11
	unix.Umask(0o022)                                                // as the kernel has it, and not every container's runtime
	standAside()
	status := make(chan int, 1)
	go func() { status <- serve(args, catchSignals(), l) }() // on another thread, which needs not wait for this one
	return <-status
}

// serve is the life of PID 1.
func serve(args []string, stop <-chan os.Signal, l limits) int {
	whole := takeCtrlAltDel()
	o := parseOptions(args[1:])
	log := logging.New(os.Stderr, "init", o.debug)
	kept := logging.NewJournal(logging.JournalLimit)
	log.Keep(kept.Add)
	log.Debug("starting", "version", version.String(), "args", fmt.Sprintf("%q", args))
	for _, err := range o.wrong {
		log.Warn("a wrong option is ignored", "err", err)
	}
	if len(o.ignored) > 0 {
		log.Debug("words that are not for init", "words", fmt.Sprintf("%q", o.ignored))
	}
	s := newSupervisor(log, o, args[0])
	s.kept = kept
	s.whole, s.limits = whole, l
	go s.reap()
	s.boot()
	end := s.supervise(stop)
	return s.shutdown(end)
}

const usage = `usage: init=/init -- [FLAG]… [-- CMD ARG…]   on the kernel's command line

PID 1: boots, starts the agent and CMD, supervises, reaps, shuts down.

  -d, --debug          log more
  --listen ADDR        where the agent listens: vsock:PORT or unix:/PATH; may be
                       repeated (default vsock:52 and unix:/run/hyperfleet.sock)
  --peers WHO          whom it admits: host, host+root (default) or any
  --on-exit ACTION     when CMD has ended: poweroff (default), reboot, stay, or
                       exit with its status, in a container
  --power-off METHOD   poweroff, restart, or auto (default): restart where the
                       machine has no power-off, as in Firecracker
`

// notPID1 is what init has to say as any other process.
func notPID1(args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 {
		switch args[0] {
		case "--version":
			fmt.Fprintf(stdout, "init %s\n", version.String())
			return 0
		case "-h", "--help":
			fmt.Fprint(stdout, usage)
			return 0
		}
	}
	fmt.Fprintln(stderr, "init: must be run as PID 1")
	return 1
}

// checkProc refuses to be PID 1 of a pid namespace that sees another's /proc: its
// mounts are then the machine's too, and this program would mount over them, take
// its own process numbers for theirs, and unmount all in the end.
func checkProc() error {
	var st unix.Statfs_t
	if unix.Statfs("/proc", &st) != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return nil
	}
	if self, err := os.Readlink("/proc/self"); err != nil || self != "1" {
		return errors.New("/proc is another pid namespace's: give this one its own (unshare --mount-proc)")
	}
	return nil
}

// catchSignals takes every signal that can be taken. The kernel drops those that
// PID 1 does not handle, but the Go runtime handles all, and ends the program for
// most; so each is either received here, or caught and forgotten if it means nothing,
// or given back to the kernel.
func catchSignals() (stop <-chan os.Signal) {
	ends := make(chan os.Signal, 1) // the first one does
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	// The runtime ends the program when the other end of a standard descriptor is
	// gone, unless it is received.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	for n := unix.Signal(1); n <= lastSignal; n++ {
		switch n {
		case unix.SIGTERM, unix.SIGINT, unix.SIGPIPE, unix.SIGKILL, unix.SIGSTOP:
		case unix.SIGURG, unix.SIGPROF: // harmless, and the runtime's own
		default:
			if leftToKernel(n) {
				// The runtime takes one that sigqueue(3) sent for a fault of its own.
				// With the default action the kernel drops it, from whomever it
				// comes, and a real fault is the end with or without a handler.
				sigaction.Default(n)
			} else {
				sigaction.Catch(n)
			}
		}
	}
	return ends
}

// standAside keeps the process's first thread, which the main goroutine is locked to,
// from all signals but those that are left to the kernel. Linux (6.1 at
// least) drops such a signal for PID 1 only if this thread has not blocked it. If it
// has, as a thread has all while it handles another or starts a thread or a process,
// and another thread has not, then the signal is the end of PID 1. What other
// signals ask for, other threads handle.
func standAside() {
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	for n := unix.Signal(1); n <= lastSignal; n++ {
		if leftToKernel(n) {
			all.Val[0] &^= 1 << (n - 1)
		}
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &all, nil)
}

// leftToKernel tells whether PID 1 leaves a signal its default action: those of a
// fault, those of the C library, which os/signal does not catch, and SIGCHLD, which
// nobody waits for.
func leftToKernel(n unix.Signal) bool {
	switch n {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, unix.SIGSTKFLT, unix.SIGCHLD, 32, 33, 34:
		return true
	}
	return false
}

// takeCtrlAltDel makes the kernel send SIGINT for Ctrl-Alt-Del, which Firecracker's
// SendCtrlAltDel presses, instead of restarting the machine at once. It tells
// whether PID 1 has the machine to itself: in any pid namespace but the first the
// kernel refuses the call (reboot_pid_ns in kernel/pid_namespace.c). /proc would
// tell too, but it may be missing, and whoever is root in the guest may hide it.
func takeCtrlAltDel() (whole bool) {
	return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) == nil
}

// lastSignal is SIGRTMAX.
const lastSignal = unix.Signal(64)

// milliseconds are for people: three digits behind the point.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func formatMS(ms float64) string { return strconv.FormatFloat(ms, 'f', 1, 64) + " ms" }

// An ending is why and how PID 1 stops.
type ending struct {
	why    string
	action machine.Action
	exit   *int // exit with this status instead
}
