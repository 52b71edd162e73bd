package vm

import "syscall"

// endWithParent makes the kernel end a child whose parent dies, however it dies.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
