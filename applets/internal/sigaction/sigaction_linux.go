// Package sigaction gives signals back to the kernel where os/signal can't: its
// Reset leaves the handler of the Go runtime in place.
package sigaction

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// action is the kernel's struct sigaction; the zero value is SIG_DFL.
type action struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const ignore = 1 // SIG_IGN

func call(n unix.Signal, set, get *action) {
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)),
		unsafe.Sizeof(action{}.mask), 0, 0)
}

// Default gives a signal the default action; see rt_sigaction(2).
func Default(n unix.Signal) { call(n, &action{}, nil) }

// TakeBack gives the signals of the C library, which os/signal does not catch,
// their default action if they are ignored: what is executed would inherit that.
// glibc's posix_spawn, make's for one, ignores them in what it starts.
func TakeBack() {
	for n := unix.Signal(32); n <= 34; n++ {
		var now action
		call(n, nil, &now)
		if now.handler == ignore {
			Default(n)
		}
	}
}

// Fork runs fork, which starts a process, on a thread that blocks no signal: a process
// starts with those blocked that the thread blocks which forks it, and the Go runtime's
// threads block what their process was started with. A container's runtime may leave some.
func Fork(fork func() (pid int, err error)) (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, &old); err != nil {
		return 0, os.NewSyscallError("sigprocmask", err)
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	return fork()
}
