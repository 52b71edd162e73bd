package nsguest

import (
	"errors"
	"syscall"
	"unsafe"
)

// Fork is fork(2), which the Go runtime does not outlive: all that the child may
// do is make raw system calls, and [Leave]. It returns ^0 where it fails.
//
//go:norace
//go:nosplit
func Fork() uintptr {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return ^uintptr(0)
	}
	return pid
}

// Leave ends such a child.
//
//go:norace
//go:nosplit
func Leave(status uintptr) {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, status, 0, 0)
	}
}

// Orphans forks n children, each of which forks some and ends at once: those end
// as orphans 5 ms later.
//
//go:norace
func Orphans(n, each int) error {
	pause := syscall.Timespec{Nsec: 5e6}
	for range n {
		pid := Fork()
		if pid == 0 {
			for range each {
				if Fork() == 0 {
					syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
					Leave(7)
				}
			}
			Leave(0)
		}
		if pid == ^uintptr(0) {
			return errors.New("fork fails")
		}
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(int(pid), &status, 0, nil); err != syscall.EINTR {
				break
			}
		}
	}
	return nil
}
