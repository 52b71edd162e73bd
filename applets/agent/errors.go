//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A refusal is an error for the client with the errno it is known by.
type refusal struct {
	code    unix.Errno
	message string
}

func (r *refusal) Error() string        { return r.message }
func (r *refusal) Is(target error) bool { return target == r.code }

func refuse(code unix.Errno, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

var errShuttingDown = refuse(unix.ESHUTDOWN, "shutting down")

// describe turns an error into the two fields of a failed reply.
func describe(err error) (message, code string) {
	var field *wire.FieldError
	var syntax *wire.SyntaxError
	var refused *refusal
	var frame *wire.FrameError
	var errno unix.Errno
	var address *net.AddrError
	var lookup *net.DNSError
	var network net.Error
	number := unix.EIO
	switch {
	case errors.As(err, &refused):
		number = refused.code
	case errors.As(err, &field):
		number = unix.EINVAL
	case errors.As(err, &syntax):
		number = unix.EBADMSG
	case errors.As(err, &frame):
		number = unix.EPROTO
	case errors.Is(err, wire.ErrTooLong):
		number = unix.EMSGSIZE
	case errors.As(err, &errno):
		number = errno
	case errors.Is(err, fs.ErrNotExist):
		number = unix.ENOENT
	case errors.As(err, &address):
		number = unix.EINVAL
	case errors.As(err, &lookup):
		number = unix.EHOSTUNREACH
	case errors.As(err, &network) && network.Timeout(): // a deadline of a file's too
		number = unix.ETIMEDOUT
	}
	if code = unix.ErrnoName(number); code == "" {
		code = "EIO"
	}
	message = err.Error()
	if len(message) > maxMessage { // it may hold a name that the client made up
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return message, code
}

// maxMessage is how much of an error is told, in bytes: a path has 4095 at most.
const maxMessage = 8 << 10
