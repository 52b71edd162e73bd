//go:build linux

package agent

import (
	"cmp"
	"errors"
	"io"
	"os"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// An input is what one client says to a command.
type input struct {
	*streamed
	from *stream
	deaf bool // the command does not want to read any more
	last byte // that was written
}

// listen does what a client's frames say, until it is gone (errGone), breaks the
// rules, or stopReading.
func (p *streamed) listen(s *stream) error {
	in := input{streamed: p, from: s}
	ended := false
	for {
		k, n, err := s.Next()
		switch {
		case err == io.EOF && ended:
			return s.awaitGone(p.done) // a half-close says no more than the end frame
		case err != nil && isTransport(err):
			return errGone
		case err != nil:
			return err
		case k == wire.KindStdin && !ended:
			err = in.feed(n)
		case k == wire.KindEnd && !ended:
			ended = true
			err = in.end()
		case k == wire.KindSignal:
			err = in.signal()
		case k == wire.KindResize && p.terminal:
			var size wire.Resize
			if err = s.Decode(&size); err == nil {
				_ = resize(p.stdin, size.Rows, size.Cols)
			}
		default:
			err = misplaced(k)
		}
		if err != nil {
			return err
		}
	}
}

// endOfInput is what a terminal takes for the end of its input; see termios(3). Behind
// an unfinished line it ends only that, and must come again.
const endOfInput = 0x04

func (in *input) end() error {
	if in.terminal {
		if l := in.last; l != 0 && l != '\n' && l != '\r' && l != endOfInput {
			return in.write([]byte{endOfInput, endOfInput})
		}
		return in.write([]byte{endOfInput})
	}
	_ = in.stdin.Close()
	return nil
}

// feed writes the payload of the current frame, size bytes, to the command.
func (in *input) feed(size int) error {
	buf, release := make([]byte, min(size, smallStreamBuffer)), func() {}
	if size > smallStreamBuffer {
		buf, release = in.from.conn.memory.buffer()
	}
	defer release()
	for {
		n, err := in.from.Read(buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return errGone
		}
		if err := in.write(buf[:n]); err != nil {
			return err
		}
	}
}

// write writes to the command, for as long as the client stays. What the command does
// not want to read is dropped.
func (in *input) write(b []byte) error {
	if in.deaf || len(b) == 0 {
		return nil
	}
	in.last = b[len(b)-1]
	rest, err := in.offer(b)
	if err == nil && len(rest) > 0 {
		err = in.insist(rest)
	}
	if err == errGone {
		return err
	}
	in.deaf = err != nil
	return nil
}

// offer writes what fits.
func (in *input) offer(b []byte) (rest []byte, err error) {
	raw, err := in.stdin.SyscallConn()
	if err != nil {
		return b, err
	}
	n, writeErr := 0, error(nil)
	// Not by raw.Write, which would wait behind another client of the session.
	err = raw.Control(func(fd uintptr) {
		n, writeErr = retry(func() (int, error) { return unix.Write(int(fd), b) })
	})
	if errors.Is(writeErr, unix.EAGAIN) {
		return b, nil
	}
	return b[max(n, 0):], cmp.Or(err, writeErr)
}

// insist writes what did not fit, and waits for that as long as the client does.
func (in *input) insist(b []byte) error {
	for {
		n, err := 0, error(nil)
		written := make(chan struct{})
		go func() {
			defer close(written)
			n, err = in.stdin.Write(b)
		}()
		if gone := in.from.await(written, func() { _ = in.stdin.SetWriteDeadline(time.Now()) }); gone != nil {
			_ = in.stdin.SetWriteDeadline(time.Time{}) // for the other clients of a session
			return gone
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		b = b[n:] // another client has gone, and this write was ended with its own
	}
}

// signal sends the signal of the current frame.
func (in *input) signal() error {
	var n wire.Signal
	if err := in.from.Decode(&n); err != nil {
		return err
	}
	if n.Signal < 1 || n.Signal > 64 {
		return wire.BadFrame("there is no signal %d", n.Signal)
	}
	in.send(unix.Signal(n.Signal))
	return nil
}

// send sends a signal to the command's process group, and SIGKILL to all that it
// started. It tells whether the command was still there.
func (c *command) send(n unix.Signal) bool {
	select {
	case <-c.done:
		return false
	default:
	}
	if n == unix.SIGKILL {
		c.kill()
		return true
	}
	_ = unix.Kill(-c.pid, n)
	return true
}
