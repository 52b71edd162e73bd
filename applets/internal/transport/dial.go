// Package transport connects to agents and listens for their clients: over
// AF_VSOCK, over the Unix socket in which Firecracker and Cloud Hypervisor offer
// a VM's vsock ports, and over plain Unix sockets.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// LocalSocket is where root in the guest reaches the agent without vsock.
const LocalSocket = "/run/hyperfleet.sock"

// LocalCID is the address by which a guest reaches itself: see vsock(7).
const LocalCID = 1

// anyCID and anyPort are VMADDR_CID_ANY and VMADDR_PORT_ANY: nobody's address.
const (
	anyCID  = 1<<32 - 1
	anyPort = 1<<32 - 1
)

// A Kind is a way to reach an agent.
type Kind int

const (
	Vsock Kind = iota + 1 // AF_VSOCK, by CID and port
	UDS                   // the hypervisor's Unix socket, by path and port
	Unix                  // a Unix socket of the agent's own, by path
	Guest                 // from inside: vsock loopback, else a Unix socket
)

// A Target is where an agent is to be reached.
type Target struct {
	Kind Kind
	CID  uint32 // Vsock
	Port uint32 // Vsock, UDS, Guest
	Path string // UDS, Unix, Guest
}

// ParseTarget reads "vsock:CID", "vsock:CID:PORT", "uds:PATH" or "unix:PATH".
func ParseTarget(s string) (Target, error) {
	network, rest, _ := strings.Cut(s, ":")
	switch network {
	case "vsock":
		cid, port, hasPort := strings.Cut(rest, ":")
		t := Target{Kind: Vsock, Port: wire.Port}
		var err error
		if t.CID, err = number(cid, anyCID); err != nil {
			return Target{}, fmt.Errorf("%q: CID %w", s, err)
		}
		if hasPort {
			if t.Port, err = ParsePort(port); err != nil {
				return Target{}, fmt.Errorf("%q: %w", s, err)
			}
		}
		return t, nil
	case "uds", "unix":
		if rest == "" {
			return Target{}, fmt.Errorf("%q: the path is missing", s)
		}
		if network == "unix" {
			return Target{Kind: Unix, Path: rest}, nil
		}
		return Target{Kind: UDS, Path: rest, Port: wire.Port}, nil
	}
	return Target{}, fmt.Errorf("%q: want vsock:CID[:PORT], uds:PATH or unix:PATH", s)
}

// ParsePort reads the number of a vsock port.
func ParsePort(s string) (uint32, error) {
	n, err := number(s, anyPort)
	if err == nil && n == 0 {
		err = errors.New("must not be 0")
	}
	if err != nil {
		return 0, fmt.Errorf("port %w", err)
	}
	return n, nil
}

// number reads a decimal number below limit.
func number(s string, limit uint32) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || uint32(n) >= limit {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", s, limit-1)
	}
	return uint32(n), nil
}

// String is what ParseTarget reads, except that it has no form for the port of
// a UDS target, nor for Guest.
func (t Target) String() string {
	switch t.Kind {
	case Vsock:
		return fmt.Sprintf("vsock:%d:%d", t.CID, t.Port)
	case UDS:
		return "uds:" + t.Path
	case Unix:
		return "unix:" + t.Path
	case Guest:
		return "guest"
	}
	return "no target"
}

// describe names the target in an error.
func (t Target) describe() string {
	switch t.Kind {
	case Vsock:
		return fmt.Sprintf("vsock CID %d port %d", t.CID, t.Port)
	case UDS:
		return fmt.Sprintf("%s port %d", t.Path, t.Port)
	}
	return t.Path
}

// ErrNoTarget says that nothing tells which agent is meant.
var ErrNoTarget = errors.New("which VM? give --cid N, --uds PATH or --unix PATH, or set HF_VSOCK=vsock:CID[:PORT], uds:PATH or unix:PATH")

// DefaultTarget is the agent that HF_VSOCK names or, inside a guest, the
// guest's own. A guest is told by the socket that its agent has in /run.
// Otherwise the error is ErrNoTarget.
func DefaultTarget() (Target, error) {
	return defaultTarget(os.Getenv("HF_VSOCK"), LocalSocket)
}

func defaultTarget(env, local string) (Target, error) {
	if env != "" {
		t, err := ParseTarget(env)
		if err != nil {
			return Target{}, fmt.Errorf("HF_VSOCK: %w", err)
		}
		return t, nil
	}
	if info, err := os.Stat(local); err == nil && info.Mode()&os.ModeSocket != 0 {
		return Target{Kind: Guest, Port: wire.Port, Path: local}, nil
	}
	return Target{}, ErrNoTarget
}

// Dial connects to an agent. A context that ends later does not touch the
// connection.
//
// The agent itself admits only callers that it trusts, so a vsock connection
// within the guest (CID 1) is made from a port below 1024, which takes root.
func Dial(ctx context.Context, t Target) (net.Conn, error) {
	var c net.Conn
	var err error
	switch t.Kind {
	case Vsock:
		c, err = dialVsock(ctx, t.CID, t.Port)
	case UDS:
		c, err = dialUDS(ctx, t.Path, t.Port)
	case Unix:
		c, err = dialUnix(ctx, t.Path)
	case Guest:
		return dialGuest(ctx, t)
	default:
		return nil, ErrNoTarget
	}
	switch {
	case ctx.Err() != nil:
		if err == nil {
			_ = c.Close()
		}
		return nil, &DialError{Target: t, Err: WhyEnded(ctx)}
	case err == nil:
		return c, nil
	}
	return nil, &DialError{Target: t, Err: err, Hint: hint(t, err)}
}

// WhyEnded is the cause of a context's end, which is also what its Err tells.
func WhyEnded(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return &endError{cause, ctx.Err()}
}

// An endError reads as its cause.
type endError struct{ cause, err error }

func (e *endError) Error() string   { return e.cause.Error() }
func (e *endError) Unwrap() []error { return []error{e.cause, e.err} }

// dialGuest tries vsock loopback, and the local socket if that fails for
// whatever reason: many guest kernels have no loopback transport.
func dialGuest(ctx context.Context, t Target) (net.Conn, error) {
	c, err := Dial(ctx, Target{Kind: Vsock, CID: LocalCID, Port: t.Port})
	if err == nil || ctx.Err() != nil {
		return c, err
	}
	c, err2 := Dial(ctx, Target{Kind: Unix, Path: t.Path})
	if err2 != nil {
		return nil, fmt.Errorf("%w; %w", err, err2)
	}
	return c, nil
}

// A Unix socket whose backlog is full refuses at once instead of making the
// caller wait, as every other kind does.
const (
	backlogWait  = 5 * time.Second
	backlogPause = 5 * time.Millisecond
)

func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	for start := time.Now(); ; {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, syscall.EAGAIN) || time.Since(start) > backlogWait {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(backlogPause):
		}
	}
}

// maxAnswer bounds the line that answers CONNECT.
const maxAnswer = 64

// dialUDS asks the hypervisor, on the Unix socket that stands for the VM's vsock
// device, for a connection to a port of the guest.
func dialUDS(ctx context.Context, path string, port uint32) (net.Conn, error) {
	c, err := dialUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	// Wake the handshake when ctx ends; not the connection once it is the caller's.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = connect(c, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// errNotOK is an answer to CONNECT other than "OK PORT".
var errNotOK = errors.New("is this a VM's vsock socket?")

// errHungUp is no answer to CONNECT: so a hypervisor says that the guest refused.
var errHungUp = errors.New("the hypervisor closed the connection instead of answering CONNECT")

// connect speaks the handshake. It reads byte by byte: what follows the line
// belongs to the caller.
func connect(c net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return handshakeError(err)
	}
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, b); err != nil {
			return handshakeError(err)
		}
		if b[0] == '\n' {
			break
		}
		if line = append(line, b[0]); len(line) > maxAnswer {
			return fmt.Errorf("answers CONNECT with %q…: %w", line, errNotOK)
		}
	}
	number, ok := strings.CutPrefix(string(line), "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("answers CONNECT with %q: %w", line, errNotOK)
	}
	return nil
}

func handshakeError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return errHungUp
	}
	return err
}

// A DialError reports an agent that could not be reached. It unwraps to what the
// operating system or the context said.
type DialError struct {
	Target Target
	Err    error
	Hint   string // what to try, if anything is known
}

func (e *DialError) Error() string {
	// Of "dial unix /p: connect: no such file or directory" the target says all
	// but the end.
	reason := e.Err
	var errno syscall.Errno
	if errors.As(e.Err, &errno) {
		reason = errno
	}
	s := e.Target.describe() + ": " + reason.Error()
	if e.Hint != "" {
		s += ": " + e.Hint
	}
	return s
}

func (e *DialError) Unwrap() error { return e.Err }

// hint tells what to try, by kind and error; the first row that fits counts.
func hint(t Target, err error) string {
	rows := []struct {
		kind Kind
		err  error
		hint string
	}{
		{Vsock, syscall.ECONNRESET, "is the VM up and its agent listening?"},
		{Vsock, syscall.ETIMEDOUT, "is the VM up and its agent listening?"},
		{Vsock, syscall.ENODEV, "no VM has this CID, or the kernel lacks a vsock transport (on a host: modprobe vhost_vsock)"},
		{Vsock, syscall.EADDRNOTAVAIL, "the kernel has no vsock loopback (modprobe vsock_loopback, or use --unix " + LocalSocket + ")"},
		{Vsock, syscall.EAFNOSUPPORT, "the kernel has no AF_VSOCK: use --uds or --unix"},
		{Vsock, syscall.EACCES, "inside a guest only root may call the agent"},
		{UDS, errHungUp, "is the agent listening in the guest?"},
		{UDS, syscall.ENOENT, "is the VM running, and this the path of its vsock socket?"},
		{UDS, syscall.ECONNREFUSED, "is the VM still running?"},
		{UDS, syscall.EACCES, "only its owner and root may connect"},
		{Unix, syscall.ENOENT, "is the agent running, and this the path of its socket?"},
		{Unix, syscall.ECONNREFUSED, "is the agent still running?"},
		{Unix, syscall.EACCES, "only its owner and root may connect"},
	}
	for _, r := range rows {
		if t.Kind == r.kind && errors.Is(err, r.err) {
			return r.hint
		}
	}
	if t.Kind != Vsock && errors.Is(err, syscall.EINVAL) && len(t.Path) > 100 {
		return "the path of a Unix socket may have about 100 bytes"
	}
	return ""
}
