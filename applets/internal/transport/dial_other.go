//go:build !linux

package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
)

// dialVsock has no AF_VSOCK to work with.
func dialVsock(context.Context, uint32, uint32) (net.Conn, error) {
	return nil, fmt.Errorf("vsock needs Linux, this is %s: use --uds or --unix: %w", runtime.GOOS, errors.ErrUnsupported)
}
