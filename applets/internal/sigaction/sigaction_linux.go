// Package sigaction does with signals what os/signal can't: its Reset leaves the
// handler of the Go runtime in place, and its Notify wakes two threads for each
// signal, which for all of them takes longer than the rest of a boot.
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

// Catch has signals do nothing, and what is executed get them with their default
// action: an ignored one would stay ignored.
func Catch(signals ...unix.Signal) {
	var a action
	call(unix.SIGURG, nil, &a) // the runtime has a handler for it from the start, on a stack of its own
	a.handler = nothing()
	for _, n := range signals {
		call(n, &a, nil)
	}
}

// nothing returns the address of a handler that does nothing.
func nothing() uintptr

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
	if old != (unix.Sigset_t{}) {
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	}
	return fork()
}
