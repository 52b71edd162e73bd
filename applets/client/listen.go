package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/hyperfleet/init/applets/wire"
)

// Listen listens at an address as the guest sees it: network is tcp, tcp4, tcp6 or
// unix, as for [net.Listen]. What programs of the guest connect to there is
// accepted here; an [http.Server] can serve it. ctx bounds the asking only.
//
// A connection waits ten seconds for its Accept. The addresses of the listener
// and its connections are the guest's.
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	req := newRequest(wire.OpListen)
	req.string("network", network)
	req.string("address", address)
	var header wire.Listening
	s, cancel, err := c.longStream(ctx, req, &header)
	if err != nil {
		return nil, err
	}
	l := &listener{client: c, stream: s, cancel: cancel, id: header.Listener, address: guestAddr{network, header.Address}}
	l.life, l.end = context.WithCancel(context.Background())
	return l, nil
}

// A listener listens in the guest.
type listener struct {
	client  *Client
	stream  *stream
	cancel  context.CancelCauseFunc
	id      string
	address guestAddr
	life    context.Context // until Close
	end     context.CancelFunc

	mu sync.Mutex // of Accept
}

// Accept waits for a connection. That one could not be had is an error that is
// Temporary, as [http.Server] asks.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		var v wire.Visit
		if err := l.stream.event(&v); err != nil {
			return nil, l.fail(err)
		}
		c, err := l.claim(v)
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, syscall.ESRCH): // it had waited too long, as have those behind it
		case l.life.Err() != nil:
			return nil, l.fail(err)
		default:
			return nil, l.fail(temporary{err})
		}
	}
}

// claim makes a connection of one that waits.
func (l *listener) claim(v wire.Visit) (net.Conn, error) {
	req := newRequest(wire.OpAccept)
	req.string("listener", l.id)
	req.string("connection", v.Connection)
	s, cancel, err := l.client.longStream(l.life, req, nil)
	if err != nil {
		return nil, err
	}
	return &forwarded{stream: s, remote: v.Peer, network: l.address.network, cancel: cancel}, nil
}

func (l *listener) fail(err error) error {
	if l.life.Err() != nil {
		err = net.ErrClosed
	}
	return &net.OpError{Op: "accept", Net: l.address.network, Addr: l.address, Err: err}
}

// Close ends the listening. What was accepted goes on.
func (l *listener) Close() error {
	if l.life.Err() != nil {
		return fmt.Errorf("listen: %w", net.ErrClosed)
	}
	l.end()
	l.cancel(nil)
	l.stream.close()
	return nil
}

func (l *listener) Addr() net.Addr { return l.address }

// temporary marks an error behind which the next try may succeed.
type temporary struct{ error }

func (t temporary) Unwrap() error { return t.error }
func (temporary) Temporary() bool { return true }
func (temporary) Timeout() bool   { return false }
