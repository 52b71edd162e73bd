//go:build linux

package agent

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
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
	few    bool   // the last frame was small, and more may follow it at once
}

// passageSizes are how much the duct of a passage may hold, in bytes, and as much the
// pipe, which is widened: the first for which there is memory. It is in use while the
// client does not read. No frame holds more than the first.
var passageSizes = []int{wire.MaxPayload, ductSize}

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
	if p == nil || p.duct != nil {
		return p != nil
	}
	fits := slices.IndexFunc(passageSizes, func(size int) bool { return p.stream.conn.memory.Take(2 * size) })
	if fits < 0 {
		return false
	}
	p.size = passageSizes[fits]
	var err error
	if p.duct, err = newDuct(p.size); err != nil {
		p.stream.conn.memory.Give(2 * p.size)
		return false
	}
	widen(pipe, p.size)
	return true
}

func (p *passage) close() {
	if p != nil && p.duct != nil {
		p.duct.close()
		p.duct = nil
		p.stream.conn.memory.Give(2 * p.size)
	}
}

// gather is how long a command that writes much in small pieces may go on before they
// are read, which the kernel's timer slack doubles. A frame for each costs more than
// it holds.
const gather = 50 * time.Microsecond

// move sends what the pipe holds as one frame, and returns its length, or 0 at the
// end. What is in the duct is known to be there; from the pipe itself others may
// read meanwhile. What comes when the pipe has been empty does not wait for more.
func (p *passage) move(pipe uintptr) (int, error) {
	if p.few { // time.Sleep would be a millisecond
		_, _ = unix.Ppoll(nil, &unix.Timespec{Nsec: int64(gather)}, nil)
	}
	n, err := p.duct.fill(pipe, p.size)
	p.few = n > 0 && n < p.size/2
	if n <= 0 || err != nil {
		return n, err
	}
	if err := p.stream.Send(p.kind, n, func() error { return p.send(n) }); err != nil {
		p.lost()
	}
	return n, nil
}

// send sends the n bytes that the duct holds.
func (p *passage) send(n int) error {
	for n > 0 {
		m, sendErr := int64(0), error(nil)
		err := p.stream.conn.raw.Write(func(socket uintptr) bool {
			for {
				m, sendErr = retry(func() (int64, error) {
					return unix.Splice(p.duct.r, nil, int(socket), nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
				})
				if !errors.Is(sendErr, unix.EAGAIN) {
					return true
				}
				p.few = false // this wait gathers as well
				if !transport.Soon(socket, unix.POLLOUT) {
					return false
				}
			}
		})
		if err = cmp.Or(err, sendErr); err != nil {
			return err
		}
		n -= int(m)
		p.stream.conn.written += m
	}
	return nil
}
