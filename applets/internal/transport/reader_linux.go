package transport

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A reader is what NewReader returns.
type reader struct {
	raw  syscall.RawConn
	much bool // the last read got much
}

// muchRead is what makes it likely that more follows at once, in bytes.
const muchRead = 16 << 10

// NewReader returns what reads from c as c does, but waits with [Soon] for what
// follows much, where c is a Unix socket. Others are returned as they are.
func NewReader(c net.Conn) io.Reader {
	if u, ok := c.(*net.UnixConn); ok {
		if raw, err := u.SyscallConn(); err == nil {
			return &reader{raw: raw}
		}
	}
	return c
}

func (r *reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	rawErr := r.raw.Read(func(fd uintptr) bool {
		for {
			n, err = syscall.Read(int(fd), p) // which the race detector knows, as net's
			switch {
			case err == unix.EINTR:
			case err != unix.EAGAIN:
				return true
			case !r.much || !Soon(fd, unix.POLLIN):
				return false
			}
		}
	})
	switch {
	case rawErr != nil:
		return 0, rawErr
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	r.much = n >= muchRead
	return n, nil
}
