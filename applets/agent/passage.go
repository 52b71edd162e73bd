//go:build linux

package agent

import (
	"cmp"
	"errors"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A passage sends what a command writes to a pipe as frames, past this process's
// memory. Only a command that writes much gets to use it.
type passage struct {
	stream *stream
	kind   wire.Kind
	lost   func() // is called when the client can't be reached
	duct   *duct  // nil until it is needed
	size   int    // of the duct, and of the pipe, in bytes
	broken bool   // it is not to be used any more
}

// largePassage is how much the duct of a passage holds, in bytes, and as much the pipe,
// which is widened: what is in them is memory while the client does not read. Where
// less is to spare, each holds ductSize.
const largePassage = wire.MaxPayload

// newPassage returns a passage, or nil where it gains nothing: a vsock socket copies
// what it is given by splice(2), and some kernels do that a page at a time.
func (s *stream) newPassage(kind wire.Kind, lost func()) *passage {
	if s.conn.raw == nil || s.conn.vsock {
		return nil
	}
	return &passage{stream: s, kind: kind, lost: lost}
}

// open tells whether the passage can be used, and makes its duct.
func (p *passage) open(pipe uintptr) bool {
	if p == nil || p.broken {
		return false
	}
	memory := p.stream.conn.memory
	if p.size = largePassage; !memory.TakeSpare(2 * p.size) {
		if p.size = ductSize; !memory.Take(2 * p.size) {
			return false
		}
	}
	var err error
	if p.duct, err = newDuct(p.size); err != nil {
		memory.Give(2 * p.size)
		return false
	}
	resizePipe(pipe, p.size)
	return true
}

// isOpen tells whether what comes is to go through the passage.
func (p *passage) isOpen() bool { return p != nil && p.duct != nil && !p.broken }

func (p *passage) close() {
	if p != nil && p.duct != nil {
		p.duct.close()
		p.duct = nil
		p.stream.conn.memory.Give(2 * p.size)
	}
}

// move sends what the pipe holds as one frame, and returns its length, or 0 at the
// end. What is in the duct is known to be there; from the pipe itself others may
// read meanwhile.
func (p *passage) move(pipe uintptr) (int, error) {
	n, err := p.duct.fill(pipe, p.size)
	if n <= 0 || err != nil {
		return n, err
	}
	if err := p.stream.Send(p.kind, n, func() error { return p.send(n) }); err != nil {
		p.broken = true // and its duct may hold the rest
		p.lost()
	}
	return n, nil
}

// send sends the n bytes that the duct holds.
func (p *passage) send(n int) error {
	for n > 0 {
		m, sendErr := int64(0), error(nil)
		err := p.stream.conn.raw.Write(func(socket uintptr) bool {
			m, sendErr = retry(func() (int64, error) {
				return unix.Splice(p.duct.r, nil, int(socket), nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			return !errors.Is(sendErr, unix.EAGAIN)
		})
		if err = cmp.Or(err, sendErr); err != nil {
			return err
		}
		n -= int(m)
		p.stream.conn.written += m
	}
	return nil
}
