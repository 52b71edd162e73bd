package transport

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/hyperfleet/init/applets/wire"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// An Address is where an agent listens.
type Address struct {
	Port uint32 // of vsock, if Path is empty
	Path string // of a Unix socket
}

// ParseAddress reads "vsock:PORT" or "unix:/PATH".
func ParseAddress(s string) (Address, error) {
	network, rest, _ := strings.Cut(s, ":")
	switch network {
	case "vsock":
		port, err := strconv.ParseUint(rest, 10, 32)
		if err != nil || port == 0 || port == unix.VMADDR_PORT_ANY {
			return Address{}, fmt.Errorf("%q: want vsock:PORT, as vsock:52", s)
		}
		return Address{Port: uint32(port)}, nil
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return Address{}, fmt.Errorf("%q: want unix:/PATH, absolute", s)
		}
		return Address{Path: rest}, nil
	}
	return Address{}, fmt.Errorf("%q: want vsock:PORT or unix:/PATH", s)
}

func (a Address) String() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return "vsock:" + strconv.FormatUint(uint64(a.Port), 10)
}

// DefaultAddresses is where an agent listens that was not told otherwise.
func DefaultAddresses() []Address {
	return []Address{{Port: wire.Port}, {Path: LocalSocket}}
}

// Listen opens a listening socket without accepting from it. A vsock one is
// bound to every CID, so that it goes on listening when a restored snapshot
// comes up with another; see vsock(7). A Unix one has mode 0600 from the start,
// and takes the place of a socket that nothing listens on.
func Listen(a Address) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, &net.OpError{Op: "listen", Net: strings.Split(a.String(), ":")[0], Err: fmt.Errorf("%s: %w", a, err)}
	}
	family, addr := unix.AF_VSOCK, unix.Sockaddr(&unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: a.Port})
	if a.Path != "" {
		family, addr = unix.AF_UNIX, &unix.SockaddrUnix{Name: a.Path}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	if a.Path != "" {
		// The file that bind makes takes its mode from the socket.
		err = unix.Fchmod(fd, 0o600)
	}
	if err == nil {
		err = unix.Bind(fd, addr)
	}
	if errors.Is(err, unix.EADDRINUSE) && a.Path != "" && abandoned(a.Path) {
		if err = unix.Unlink(a.Path); err == nil {
			err = unix.Bind(fd, addr)
		}
	}
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fail(err)
	}
	return os.NewFile(uintptr(fd), a.String()), nil
}

// abandoned tells whether path is a socket on which nothing listens.
func abandoned(path string) bool {
	// To connect to a file of another kind is refused as well.
	if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// FileListener accepts from a listening socket that Listen opened, perhaps in
// another process. It closes f, whose socket lives on in the listener.
func FileListener(f *os.File) (net.Listener, error) {
	defer f.Close()
	domain, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if domain == unix.AF_VSOCK {
		return vsock.FileListener(f)
	}
	return net.FileListener(f)
}

// A Peer is the other end of an accepted connection.
type Peer struct {
	CID  uint32 // of a vsock peer
	Port uint32 // that a vsock peer connected from
	UID  int    // of a Unix peer, as SO_PEERCRED has it; -1 for a vsock one
	PID  int    // likewise
}

func (p Peer) String() string {
	if p.UID < 0 {
		return fmt.Sprintf("vsock:%d:%d", p.CID, p.Port)
	}
	return fmt.Sprintf("uid:%d,pid:%d", p.UID, p.PID)
}

// PeerOf tells who connected.
func PeerOf(c net.Conn) (Peer, error) {
	switch c := c.(type) {
	case *vsock.Conn:
		a := c.RemoteAddr().(*vsock.Addr)
		return Peer{CID: a.ContextID, Port: a.Port, UID: -1, PID: -1}, nil
	case *net.UnixConn:
		raw, err := c.SyscallConn()
		if err != nil {
			return Peer{}, err
		}
		var cred *unix.Ucred
		var credErr error
		if err := raw.Control(func(fd uintptr) {
			cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		}); err != nil {
			return Peer{}, err
		}
		if credErr != nil {
			return Peer{}, os.NewSyscallError("getsockopt SO_PEERCRED", credErr)
		}
		return Peer{UID: int(cred.Uid), PID: int(cred.Pid)}, nil
	}
	return Peer{}, fmt.Errorf("peer of a %T is unknown", c)
}

// Gone tells, without reading, whether the peer of a connection will read no
// more: it closed, or the connection broke. One that only ended its own sending
// (a half-close) is still there.
func Gone(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd)}}
	if n, err := unix.Poll(p, 0); err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		return true
	}
	// vsock does not poll as hung up when the peer has closed, but refuses to
	// send; to send nothing asks without consequences.
	err := unix.Sendto(int(fd), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNRESET)
}
