//go:build linux

package agent

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A stream is a connection after the line of a reply, when both sides speak
// frames. It is the last thing on its connection.
type stream struct {
	*wire.FrameReader
	*wire.FrameWriter
	conn *conn

	mu   sync.Mutex
	deaf bool // see stopReading
}

// stopReading ends a Next or Read that waits, and all that follow.
func (s *stream) stopReading() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = true
	_ = s.conn.SetReadDeadline(time.Now())
}

// begin answers a request with data and makes its connection a stream. From then
// on the operation ends with [stream.end], or with an error that goes out as a
// frame.
func (r *request) begin(data any) (*stream, error) {
	if err := wire.WriteData(r.conn, data); err != nil {
		return nil, replying(err)
	}
	if !r.conn.unbound() {
		return nil, errGone
	}
	r.lines.Free()
	r.stream = &stream{FrameReader: wire.NewFrameReader(r.lines), FrameWriter: wire.NewFrameWriter(r.conn), conn: r.conn}
	return r.stream, nil
}

// end sends the result of the operation, which is the last frame.
func (s *stream) end(result any) error { return replying(s.Encode(wire.KindExit, result)) }

// fail sends, as the last frame, why there is no result.
func (s *stream) fail(err error) error {
	message, code := describe(err)
	return s.Encode(wire.KindError, wire.Failure{Error: message, Code: code})
}

// misplaced is the error of a frame that has no meaning where it came.
func misplaced(k wire.Kind) error { return wire.BadFrame("kind %d has no place here", k) }

// errGone is for a client that went away in the middle.
var errGone = replying(errors.New("the client is gone"))

// next is FrameReader.Next for operations whose client has to stay: its end is
// errGone.
func (s *stream) next() (wire.Kind, int, error) {
	k, n, err := s.FrameReader.Next()
	if err != nil && isTransport(err) {
		err = errGone
	}
	return k, n, err
}

// copyPayload writes the payload of the current frame to w, directly where w has a
// descriptor for that. What w refuses is returned as it is, and what the client
// does not send as errGone.
func (s *stream) copyPayload(w io.Writer, buf []byte) error {
	for {
		if d, ok := w.(descriptor); ok && s.Unread() > 0 {
			if err := s.passPayload(d); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
		}
		n, err := s.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return errGone
		}
	}
}

// A descriptor is a writer that lets bytes go to a file past it.
type descriptor interface {
	// past tells where the next n bytes may go; no duct is nowhere.
	past(n int) (through *duct, fd uintptr)
	passed(n int) // tells that they have
}

// passPayload moves what is left of the payload past this process's memory.
// errors.ErrUnsupported is for what can't be: it, or the rest of it, is to be read.
func (s *stream) passPayload(d descriptor) error {
	through, to := d.past(s.Unread())
	if through == nil || s.conn.raw == nil {
		return errors.ErrUnsupported
	}
	for s.Unread() > 0 {
		n, fillErr := 0, error(nil)
		err := s.conn.raw.Read(func(socket uintptr) bool {
			n, fillErr = through.fill(socket, s.Unread())
			return !errors.Is(fillErr, unix.EAGAIN)
		})
		switch {
		case errors.Is(fillErr, errors.ErrUnsupported):
			return fillErr
		case err != nil, fillErr != nil, n == 0:
			return errGone
		}
		s.Took(n)
		if err := through.pour(to, n); err != nil {
			return err
		}
		d.passed(n)
	}
	return nil
}

const (
	streamBuffer      = 64 << 10 // what a stream reads at once, in bytes
	smallStreamBuffer = 4 << 10  // where the budget has no room for that
)

var streamBuffers = sync.Pool{New: func() any { b := make([]byte, streamBuffer); return &b }}

// buffer returns room for what passes, as much as there is memory for, until it is
// released.
func (s *share) buffer() (buf []byte, release func()) {
	if !s.Take(streamBuffer) {
		return make([]byte, smallStreamBuffer), func() {}
	}
	large := streamBuffers.Get().(*[]byte)
	return *large, func() {
		streamBuffers.Put(large)
		s.Give(streamBuffer)
	}
}

// awaitGone waits for done, or for a client that has nothing more to say to go
// away, which is errGone.
func (s *stream) awaitGone(done <-chan struct{}) error {
	gone := make(chan struct{})
	stop := s.conn.watch(func() { close(gone) })
	defer func() {
		stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.deaf { // the watch ends by a deadline
			_ = s.conn.SetReadDeadline(time.Time{})
		}
	}()
	select {
	case <-done:
		return nil
	case <-gone:
		return errGone
	}
}

// await is awaitGone for what stop brings about.
func (s *stream) await(done <-chan struct{}, stop func()) error {
	err := s.awaitGone(done)
	if err != nil {
		stop()
		<-done
	}
	return err
}

// until returns what gets a value when the client wants no more: nil for its end
// frame, errGone if it went away, and what is wrong with anything else that it
// sent. Nothing else may read from s until stop is called.
func (s *stream) until() (ended <-chan error, stop func()) {
	said := make(chan error, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		switch k, _, err := s.next(); {
		case err != nil:
			said <- err
		case k == wire.KindEnd:
			said <- nil
		default:
			said <- misplaced(k)
		}
	}()
	return said, func() { s.stopReading(); <-read }
}
