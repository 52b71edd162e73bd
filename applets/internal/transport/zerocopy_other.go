//go:build !linux

package transport

import (
	"errors"
	"syscall"
)

// SendFile has no system call that is the same everywhere.
func SendFile(syscall.RawConn, int, int, bool) (int, error) { return 0, errors.ErrUnsupported }
