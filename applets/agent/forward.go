//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// forwardTimeout is how long a connection to a port of the guest may take.
const forwardTimeout = 10 * time.Second

// forward connects to an address as the guest sees it, and passes bytes on in
// both directions until both have ended.
func (a *Agent) forward(r *request) error {
	f, err := r.fields.Forward()
	if err != nil {
		return err
	}
	gone, stop := withGone(r)
	ctx, cancel := context.WithTimeout(gone, forwardTimeout)
	target, err := transport.Connect(ctx, f.Network, f.Address)
	cancel()
	stop()
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	defer target.Close()
	s, err := r.begin(struct{}{})
	if err != nil {
		return err
	}
	return a.pipe(s, target)
}

// pipe is stream.pipe, which a shutdown ends: neither side need ever do so.
func (a *Agent) pipe(s *stream, target net.Conn) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-a.stopping:
			_ = target.Close()
			s.stopReading()
		case <-done:
		}
	}()
	err := s.pipe(target)
	if err != nil && a.isStopping() {
		return errShuttingDown
	}
	return err
}

// piped is the result of a stream that passed a connection's bytes on.
type piped struct {
	Sent     int64 `json:"sent"`     // bytes to the target
	Received int64 `json:"received"` // bytes from it
}

// pipe passes bytes between the client and a connection, as data frames. The end
// of one direction is passed on and leaves the other open.
func (s *stream) pipe(target net.Conn) error {
	var result piped
	var sendErr error
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if result.Received, sendErr = s.sendAll(target); sendErr != nil {
			// The other direction is not to wait for it, nor for a client that is silent.
			_ = target.Close()
			s.stopReading()
		}
	}()
	var err error
	if result.Sent, err = s.receiveAll(target); err == nil {
		if c, ok := target.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
		err = s.await(sent, func() { _ = target.Close() })
	} else {
		_ = target.Close()
		<-sent
	}
	if sendErr != nil && !errors.Is(sendErr, net.ErrClosed) { // else err is why it was closed
		err = sendErr
	}
	if err != nil {
		return err
	}
	return s.end(result)
}

// sendAll sends what src holds as data frames, up to its end, and an end frame.
func (s *stream) sendAll(src io.Reader) (n int64, err error) {
	buf, release := s.conn.memory.buffer()
	defer release()
	frame := wire.Frame(buf)
	for {
		m, err := src.Read(frame.Payload())
		if m > 0 {
			if err := s.WriteFrame(wire.KindData, frame, m); err != nil {
				return n, errGone
			}
			n += int64(m)
		}
		if err == io.EOF {
			return n, replying(s.Empty(wire.KindEnd))
		}
		if err != nil {
			return n, err
		}
	}
}

// receiveAll writes the client's data frames to dst, up to its end frame.
func (s *stream) receiveAll(dst io.Writer) (n int64, err error) {
	buf, release := s.conn.memory.buffer()
	defer release()
	for {
		k, length, err := s.next()
		switch {
		case err != nil:
			return n, err
		case k == wire.KindEnd:
			return n, nil
		case k != wire.KindData:
			return n, misplaced(k)
		}
		if err := s.copyPayload(dst, buf); err != nil {
			return n, err
		}
		n += int64(length)
	}
}
