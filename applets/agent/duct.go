//go:build linux

package agent

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// A duct is a pipe of the agent's own, through which bytes get from one descriptor
// to another without passing through this process's memory; see splice(2).
type duct struct{ r, w int }

// ductSize is how much a duct holds, in bytes: four times what a pipe does.
const ductSize = 256 << 10

func newDuct(size int) (*duct, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	resizePipe(uintptr(p[1]), size)
	return &duct{p[0], p[1]}, nil
}

// resizePipe makes a pipe hold size bytes, if it may.
func resizePipe(pipe uintptr, size int) { _, _ = unix.FcntlInt(pipe, unix.F_SETPIPE_SZ, size) }

func (d *duct) close() {
	if d != nil {
		_ = unix.Close(d.r)
		_ = unix.Close(d.w)
	}
}

// fill moves what there is, up to max bytes, into the duct, which must be empty. 0
// is the end. errors.ErrUnsupported is for what can't be moved so.
func (d *duct) fill(from uintptr, max int) (int, error) {
	n, err := retry(func() (int64, error) {
		return unix.Splice(int(from), nil, d.w, nil, max, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	})
	return int(n), spliceError(err)
}

// pour moves n bytes, which the duct holds, out to a file.
func (d *duct) pour(to uintptr, n int) error {
	for n > 0 {
		m, err := retry(func() (int64, error) {
			return unix.Splice(d.r, nil, int(to), nil, n, unix.SPLICE_F_MOVE)
		})
		switch {
		case errors.Is(spliceError(err), errors.ErrUnsupported): // this filesystem
			return d.copy(to, n)
		case err != nil:
			return err
		case m == 0:
			return io.ErrShortWrite
		}
		n -= int(m)
	}
	return nil
}

// copy is pour for files that splice(2) does not write to.
func (d *duct) copy(to uintptr, n int) error {
	buf := make([]byte, 4<<10)
	for n > 0 {
		m, err := retry(func() (int, error) { return unix.Read(d.r, buf[:min(n, len(buf))]) })
		if err != nil {
			return err
		}
		for p := buf[:m]; len(p) > 0; {
			w, err := retry(func() (int, error) { return unix.Write(int(to), p) })
			if err != nil {
				return err
			}
			p = p[w:]
		}
		n -= m
	}
	return nil
}

func spliceError(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return errors.ErrUnsupported
	}
	return err
}
