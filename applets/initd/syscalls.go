//go:build linux

package initd

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// swapoff is swapoff(2), which x/sys/unix lacks.
func swapoff(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return os.NewSyscallError("swapoff "+path, errno)
	}
	return nil
}
