package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

func dialVsock(ctx context.Context, cid, port uint32) (net.Conn, error) {
	if cid == LocalCID {
		return dialLoopback(ctx, port)
	}
	for {
		c, err := vsock.DialContext(ctx, cid, port, nil)
		if err == nil {
			return vsockConn{c}, nil
		}
		// The kernel gives up after 2 s, and a guest may be paused, or its host too
		// busy to run it, for longer than that. Who sets a deadline waits until then.
		if _, limited := ctx.Deadline(); !limited || !errors.Is(err, unix.ETIMEDOUT) {
			return nil, err // and not a nil *vsock.Conn in an interface
		}
	}
}

// vsockConn writes as WriteVsock does.
type vsockConn struct{ *vsock.Conn }

func (c vsockConn) Write(p []byte) (int, error) { return WriteVsock(c.Conn, p) }

// Ports below 1024 take CAP_NET_BIND_SERVICE to bind: by one the agent knows a
// caller within the guest for root. The lower half is left to servers.
const lowPort, highPort = privilegedPorts / 2, privilegedPorts - 1

// dialLoopback connects within the machine, from a low port.
func dialLoopback(ctx context.Context, port uint32) (net.Conn, error) {
	c, err := socket.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0, "vsock", nil)
	if err != nil {
		return nil, err
	}
	local, err := bindLow(c)
	if err == nil {
		_, err = c.Connect(ctx, &unix.SockaddrVM{CID: LocalCID, Port: port})
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &loopbackConn{c, vsock.Addr{ContextID: LocalCID, Port: local}, vsock.Addr{ContextID: LocalCID, Port: port}}, nil
}

// bindLow binds to a free low port and returns it: the next one each time, since the
// other end may still know a port that was just used, and take what comes from it for
// more of the old connection.
//
// To bind to CID 1, not to any CID, makes a kernel without the loopback
// transport say EADDRNOTAVAIL at once. Unbound it would send the connection to
// the hypervisor, which drops it, and connect would time out.
func bindLow(c *socket.Conn) (uint32, error) {
	const n = highPort - lowPort + 1
	start := lastLow().Add(1)
	err := error(unix.EADDRINUSE)
	for i := uint32(0); i < n && errors.Is(err, unix.EADDRINUSE); i++ {
		port := lowPort + (start+i)%n
		if err = c.Bind(&unix.SockaddrVM{CID: LocalCID, Port: port}); err == nil {
			return port, nil
		}
	}
	return 0, err
}

// lastLow returns the number of the last low port that this process has tried. The
// first comes of the time, so that programs that are started one after the other do
// not begin at the same one either.
var lastLow = sync.OnceValue(func() *atomic.Uint32 {
	var last atomic.Uint32
	last.Store(uint32(time.Now().UnixMilli()))
	return &last
})

// loopbackConn makes a net.Conn of a socket that vsock.Dial can't make.
type loopbackConn struct {
	*socket.Conn
	local, remote vsock.Addr
}

func (c *loopbackConn) LocalAddr() net.Addr  { return &c.local }
func (c *loopbackConn) RemoteAddr() net.Addr { return &c.remote }

// Write writes as WriteVsock does.
func (c *loopbackConn) Write(p []byte) (int, error) { return WriteVsock(c.Conn, p) }

// Read reports a connection that the peer reset after it had closed as its end,
// as vsock.Conn does.
func (c *loopbackConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, unix.ENOTCONN) {
		err = io.EOF
	}
	return n, err
}
