package client

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/applets/internal/transport"
)

// An Error is the agent's reply to an operation that failed.
type Error struct {
	Op      string // the operation's name in the protocol, such as file_read
	Message string // what failed, in the agent's words
	Code    string // name of a Linux errno, such as ENOENT; "" from old agents
}

func (e *Error) Error() string {
	if strings.HasPrefix(e.Message, e.Op+": ") {
		return e.Message // the agent's own words may start so
	}
	return e.Op + ": " + e.Message
}

// Unwrap returns the [syscall.Errno] that Code names on this system, or nil.
func (e *Error) Unwrap() error {
	if errno := errnoByName(e.Code); errno != 0 {
		return errno
	}
	return nil
}

// maxErrno is beyond the errnos of any system that this builds for.
const maxErrno = 200

func errnoByName(name string) syscall.Errno {
	if name == "" {
		return 0
	}
	for e := syscall.Errno(1); e < maxErrno; e++ {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return 0
}

// A DialError reports an agent that could not be reached, and what to try. It
// unwraps to what the operating system said, or the context.
type DialError = transport.DialError

// ErrNoTarget is the error of [DefaultTarget] where nothing tells which agent is
// meant.
var ErrNoTarget = transport.ErrNoTarget

// ErrReply says that the agent's reply is not one of the protocol.
var ErrReply = errors.New("not a reply of the protocol")

func replyError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrReply, fmt.Sprintf(format, args...))
}
