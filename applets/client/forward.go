package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// Dial connects to an address as the guest sees it: network is tcp, tcp4, tcp6
// or unix, as for [net.Dial]. The connection is a [net.Conn] with CloseWrite; it
// can be an [http.Transport]'s DialContext. ctx bounds the connecting only.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	req := newRequest(wire.OpForward)
	req.string("network", network)
	req.string("address", address)
	s, cancel, err := c.longStream(ctx, req, nil)
	if err != nil {
		return nil, err
	}
	return &forwarded{stream: s, remote: address, network: network, cancel: cancel}, nil
}

// longStream is stream for one that outlives ctx, which bounds the asking only.
func (c *Client) longStream(ctx context.Context, req *request, header any) (*stream, context.CancelCauseFunc, error) {
	life, cancel := context.WithCancelCause(context.Background())
	stop := context.AfterFunc(ctx, func() { cancel(transport.WhyEnded(ctx)) })
	s, err := c.stream(life, req, header)
	if !stop() { // ctx has ended
		if err == nil {
			s.close()
		}
		err = fmt.Errorf("%s: %w", req.op, transport.WhyEnded(ctx))
	}
	if err != nil {
		cancel(nil)
		return nil, nil, err
	}
	return s, cancel, nil
}

// A forwarded is a connection to an address in the guest.
type forwarded struct {
	stream          *stream
	network, remote string
	cancel          context.CancelCauseFunc
	gone            atomic.Bool // Close was called

	read   sync.Mutex
	ended  error // what Read returns from now on
	writes sync.Mutex
	closed bool // for writing
}

func (f *forwarded) Read(p []byte) (int, error) {
	f.read.Lock()
	defer f.read.Unlock()
	if f.gone.Load() {
		return 0, f.fail(nil)
	}
	if f.ended != nil || len(p) == 0 {
		return 0, f.ended
	}
	for {
		n, err := f.stream.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != io.EOF {
			return 0, f.fail(err)
		}
		k, _, err := f.stream.next()
		switch {
		case err != nil:
			return 0, f.fail(err)
		case k == wire.KindEnd || k == wire.KindExit:
			f.ended = io.EOF
			return 0, io.EOF
		case k != wire.KindData:
			return 0, f.fail(replyError("a frame of kind %d", k))
		}
	}
}

// fail remembers an error, unless it is one that passes: a deadline's. Behind Close it is
// that which a net.Conn is to return.
func (f *forwarded) fail(err error) error {
	if f.gone.Load() {
		return &net.OpError{Op: "read", Net: f.network, Addr: f.RemoteAddr(), Err: net.ErrClosed}
	}
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		return network
	}
	f.ended = err
	return err
}

func (f *forwarded) Write(p []byte) (int, error) {
	f.writes.Lock()
	defer f.writes.Unlock()
	if f.closed {
		return 0, os.ErrClosed
	}
	return f.stream.Bytes(wire.KindData, p)
}

// CloseWrite ends what is sent; what comes can still be read.
func (f *forwarded) CloseWrite() error {
	f.writes.Lock()
	defer f.writes.Unlock()
	if f.closed {
		return os.ErrClosed
	}
	f.closed = true
	return f.stream.Empty(wire.KindEnd)
}

func (f *forwarded) Close() error {
	f.gone.Store(true)
	f.cancel(nil)
	f.stream.close()
	return nil
}

func (f *forwarded) LocalAddr() net.Addr                { return f.stream.conn.LocalAddr() }
func (f *forwarded) RemoteAddr() net.Addr               { return guestAddr{f.network, f.remote} }
func (f *forwarded) SetDeadline(t time.Time) error      { return f.stream.conn.SetDeadline(t) }
func (f *forwarded) SetReadDeadline(t time.Time) error  { return f.stream.conn.SetReadDeadline(t) }
func (f *forwarded) SetWriteDeadline(t time.Time) error { return f.stream.conn.SetWriteDeadline(t) }

// A guestAddr is an address in the guest.
type guestAddr struct{ network, address string }

func (a guestAddr) Network() string { return a.network }
func (a guestAddr) String() string  { return a.address }
