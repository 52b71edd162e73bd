// Package sigaction gives signals back to the kernel where os/signal can't: its
// Reset leaves the handler of the Go runtime in place.
package sigaction

import (
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
