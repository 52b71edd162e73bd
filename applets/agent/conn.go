//go:build linux

package agent

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"golang.org/x/sys/unix"
)

// A conn is a connection that enforces deadlines: every read and every write
// must make progress in time.
type conn struct {
	net.Conn
	raw     syscall.RawConn
	limits  Limits
	memory  *share
	opened  time.Time    // the zero of its clock, which is monotonic
	state   atomic.Int64 // since when it waits for a request, in ns; or one of those below
	written int64        // bytes of replies
	vsock   bool

	streaming bool // it is one of Agent.streams

	// lag is by how long the client is behind the slowest rate that it should
	// have, in ns; since is when the read or write began that waits for it, or 0.
	lag, since atomic.Int64
}

const (
	working   = 0  // on a request
	expired   = -1 // while it waited; no request of it is taken any more
	receiving = -2 // a request that has begun
	sending   = -3
	endless   = -4 // a stream, in which both sides may be silent for ever
)

func newConn(nc net.Conn, limits Limits, memory *share) *conn {
	c := &conn{Conn: nc, limits: limits, memory: memory, opened: time.Now()}
	c.vsock = nc.LocalAddr().Network() == "vsock"
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	c.wait()
	return c
}

// now is never 0.
func (c *conn) now() int64 { return int64(time.Since(c.opened)) + 1 }

// wait says that c waits for a request.
func (c *conn) wait() {
	c.lag.Store(0)
	c.enter(c.now())
}

// enter says what c does now. It is false if c has expired.
func (c *conn) enter(state int64) bool {
	for {
		old := c.state.Load()
		if old == expired {
			return false
		}
		if c.state.CompareAndSwap(old, state) {
			return true
		}
	}
}

// work says that its request is there: what the client was late with is made up for,
// and does not count when it reads the reply.
func (c *conn) work() bool {
	c.lag.Store(0)
	return c.enter(working)
}

// expire makes sure that c, if it is still in a state, takes no request: so it can be
// closed, and nothing is done that nobody hears of.
func (c *conn) expire(state int64) bool { return c.state.CompareAndSwap(state, expired) }

// idled tells for how long c has waited for a request, if it does, and what to
// call expire with.
func (c *conn) idled() (d time.Duration, state int64, waits bool) {
	state = c.state.Load()
	return time.Duration(c.now() - state), state, state > 0
}

// slowest is the rate, in bytes a second, below which a client falls behind.
const slowest = 1 << 10

// lags tells how far the client is behind, and what to call expire with. While a
// command runs it is not.
func (c *conn) lags() (d time.Duration, state int64) {
	if state = c.state.Load(); state != receiving && state != sending {
		return 0, state
	}
	d = time.Duration(c.lag.Load())
	if since := c.since.Load(); since > 0 {
		d += time.Duration(c.now() - since)
	}
	return d, state
}

// begin says that a read or write begins, and when: it does not ask the clock twice.
func (c *conn) begin() time.Time {
	now := c.now()
	c.since.Store(now)
	return c.opened.Add(time.Duration(now))
}

// passed says that n bytes have passed since a read or write began.
func (c *conn) passed(n int) {
	took := c.now() - c.since.Swap(0)
	c.lag.Store(max(0, c.lag.Load()+took-int64(n)*int64(time.Second)/slowest))
}

// unbound ends the enforcing of deadlines: the two sides of a stream may be silent,
// and one that does not read holds up the other on purpose. It is false if c has
// expired.
func (c *conn) unbound() bool {
	_ = c.SetDeadline(time.Time{})
	return c.enter(endless)
}

// costly tells whether the client is so far behind that it can't have the memory that
// its request holds for longer, as others wait for some.
func (c *conn) costly() bool {
	return time.Duration(c.lag.Load()) > c.limits.Lag && c.memory.inTheWay()
}

func (c *conn) Read(p []byte) (int, error) {
	if c.state.Load() == endless {
		return c.Conn.Read(p)
	}
	limit, idle := c.limits.Stall, c.state.Load() > 0
	if idle {
		limit = c.limits.Idle
	}
	_ = c.SetReadDeadline(c.begin().Add(limit))
	n, err := c.Conn.Read(p)
	c.passed(n)
	if n > 0 && idle {
		c.lag.Store(0) // it was not late: nobody waited
	}
	if n > 0 && (!c.enter(receiving) || c.costly()) {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	bound := c.state.Load() != endless
	if bound && !c.enter(sending) {
		return 0, net.ErrClosed
	}
	size, written := len(p), 0
	if bound { // in pieces, so that the deadline is one for progress whatever len(p) is
		size = 64 << 10
		if len(p) > size {
			written = c.writeNow(p)
		}
	}
	for written < len(p) {
		piece := p[written:min(len(p), written+size)]
		if now := c.begin(); bound {
			_ = c.SetWriteDeadline(now.Add(c.limits.Stall))
		}
		n, err := c.write(piece)
		c.passed(n)
		written += n
		c.written += int64(n)
		if err == nil && c.costly() {
			err = net.ErrClosed
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeNow writes what a Unix socket takes at once and returns how much that is. It
// waits for nothing, so that it needs no deadline and no pieces, each of which would
// wake the client.
func (c *conn) writeNow(p []byte) (n int) {
	if c.vsock || c.raw == nil {
		return 0
	}
	c.since.Store(c.now())
	_ = c.raw.Write(func(fd uintptr) bool {
		n, _ = unix.Write(int(fd), p)
		return true
	})
	n = max(n, 0)
	c.passed(n)
	c.written += int64(n)
	return n
}

func (c *conn) write(p []byte) (int, error) {
	if c.vsock {
		return transport.WriteVsock(c.Conn, p)
	}
	return c.Conn.Write(p)
}

// smallReply is what surely fits the buffers between guest and host, so that
// nothing is lost when the connection is closed behind it.
const smallReply = 64 << 10

// linger ends a connection in the order that loses nothing: the end of the
// replies is announced, and the connection kept until the client has closed it.
// A VMM drops what it has not delivered when the guest closes first. The wait is
// long only where something can be lost: some clients read until the connection
// is closed, and some VMMs pass on no half-close.
func (c *conn) linger(unread bool) {
	limit := 50 * time.Millisecond
	if c.written > smallReply || unread {
		limit = c.limits.Linger
	}
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
	}
	_ = c.SetReadDeadline(time.Now().Add(limit))
	buf := make([]byte, 4<<10)
	for {
		if _, err := c.Conn.Read(buf); err != nil {
			return
		}
	}
}

// watch calls gone, once, if the client disappears before stop is called. A
// client that has only ended its sending has not.
func (c *conn) watch(gone func()) (stop func()) {
	if c.raw == nil {
		return func() {}
	}
	_ = c.SetReadDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		lost := false
		// The function is called again whenever the socket's state changes.
		_ = c.raw.Read(func(fd uintptr) bool {
			lost = transport.Gone(fd)
			return lost
		})
		if lost {
			gone()
		}
	}()
	return func() {
		_ = c.SetReadDeadline(time.Now()) // which is past
		<-done
	}
}
