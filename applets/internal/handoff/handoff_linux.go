// Package handoff is how listening sockets get from PID 1 to the agent: those
// that are open when the agent starts by the convention of systemd's socket
// activation, see sd_listen_fds(3), and those that open later over a socket pair.
package handoff

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// BootFile holds what PID 1 tells about the boot: a wire.Boot in JSON.
	BootFile = "/run/hyperfleet/boot.json"

	// InitLog and AgentLog are what PID 1 keeps of its own log and of what agents
	// print: a logging.Journal each.
	InitLog  = "/run/hyperfleet/init.log"
	AgentLog = "/run/hyperfleet/agent.log"

	// control is the name, in LISTEN_FDNAMES, of the descriptor that is not a
	// listening socket but the socket pair to PID 1.
	control = "control"

	firstFD = 3 // SD_LISTEN_FDS_START
)

// Environment returns what tells a new process about the files that it gets as
// descriptors 3, 4 and so on: listening sockets, and the control socket last.
//
// LISTEN_PID is left out: it would have to be known before the fork. Without it
// the words speak to any process, so the agent drops them at once.
func Environment(listeners int) []string {
	names := make([]string, listeners, listeners+1)
	for i := range names {
		names[i] = "listener"
	}
	return []string{
		"LISTEN_FDS=" + strconv.Itoa(listeners+1),
		"LISTEN_FDNAMES=" + strings.Join(append(names, control), ":"),
	}
}

// Inherited takes over what the environment says this process was given.
// ctl is nil under any parent but our PID 1.
func Inherited() (listeners []*os.File, ctl *Control, err error) {
	n, pid, names := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID"), strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	if n == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil, nil, nil
	}
	count, err := strconv.Atoi(n)
	if err != nil || count < 0 || count > 1024 {
		return nil, nil, fmt.Errorf("LISTEN_FDS=%q: not a number of descriptors", n)
	}
	for i := range count {
		fd := firstFD + i
		unix.CloseOnExec(fd)
		name := ""
		if i < len(names) {
			name = names[i]
		}
		if name == control {
			if ctl, err = newControl(fd); err != nil {
				return nil, nil, err
			}
			continue
		}
		listeners = append(listeners, os.NewFile(uintptr(fd), name))
	}
	return listeners, ctl, nil
}

// A Control is one end of the socket pair between PID 1 and the agent. PID 1
// sends listening sockets, and says that the machine is up, before which the agent
// accepts nothing, and in the end that it is to stop; the agent says that it is ready
// and, then, that it starts nothing more. A message is a datagram of one byte.
type Control struct {
	f   *os.File
	raw syscall.RawConn
}

// A Message is what comes over a Control.
type Message byte

// The messages.
const (
	Listener Message = 'l' // to the agent, with a listening socket
	Booted   Message = 'b' // to the agent: accept connections
	Stop     Message = 'e' // to the agent: start no more commands, answer, and end
	Ready    Message = 'r' // to PID 1: the agent accepts connections
	Stopping Message = 's' // to PID 1: the agent starts no more commands
)

// Pair returns the two ends: PID 1's, and the file for the agent.
func Pair() (*Control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	c, err := newControl(fds[0])
	return c, os.NewFile(uintptr(fds[1]), control), err
}

// newControl takes over a descriptor, which must not block: nobody's thread waits
// for the other end.
func newControl(fd int) (*Control, error) {
	f := os.NewFile(uintptr(fd), control)
	raw, err := f.SyscallConn()
	return &Control{f, raw}, err
}

// Send sends a message, with a file if f is not nil. It does not wait.
func (c *Control) Send(m Message, f *os.File) error {
	var rights []byte
	if f != nil {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) }); err != nil {
			return err
		}
	}
	var sent error
	err := c.raw.Control(func(fd uintptr) {
		sent = unix.Sendmsg(int(fd), []byte{byte(m)}, rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// Receive waits for a message; f is the file that came with it, if one did. The
// error is io.EOF when the other end is gone.
func (c *Control) Receive() (m Message, f *os.File, err error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	var received error
	err = c.raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, received = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return received != unix.EAGAIN && received != unix.EINTR
	})
	switch {
	case err != nil:
		return 0, nil, err
	case received != nil:
		return 0, nil, os.NewSyscallError("recvmsg", received)
	case n == 0:
		return 0, nil, io.EOF
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) > 0 {
			f = os.NewFile(uintptr(fds[0]), "listener")
		}
	}
	return Message(buf[0]), f, nil
}

// Close closes this end.
func (c *Control) Close() error { return c.f.Close() }
