package client

import (
	"errors"
	"io"
	"net"
	"os"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
)

// sendFile sends what a regular file holds now as data frames that do not pass
// through this process's memory, where that can be done. The rest, or all of it, is
// to be read. Only an error of f counts.
func (s *stream) sendFile(f *os.File) (sent int64, err error) {
	conn, ok := s.conn.(*net.UnixConn) // where it gains something
	if !ok {
		return 0, nil
	}
	socket, err := conn.SyscallConn()
	if err != nil {
		return 0, nil
	}
	for size := remaining(f); sent < size && err == nil; {
		n := int(min(size-sent, wire.MaxPayload))
		var sourceErr error
		err = s.Send(wire.KindData, n, func() error {
			m, err := transport.SendFile(socket, int(f.Fd()), n, false)
			if errors.Is(err, errors.ErrUnsupported) {
				_, err = io.CopyN(onlyWriter{conn}, f, int64(n-m))
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF { // a frame can't be taken back
				sourceErr = &os.PathError{Op: "read", Path: f.Name(), Err: io.ErrUnexpectedEOF}
			}
			return err
		})
		if sourceErr != nil {
			return sent, sourceErr
		}
		sent += int64(n)
	}
	return sent, nil
}

// splice receives what it can of the payload without that it passes through this
// process's memory: all of what is not in a buffer, if it is for a file.
func (s *stream) splice(w io.Writer) error {
	sum, ok := w.(*summer)
	if !ok || sum.hash != nil {
		return nil
	}
	f, ok := sum.w.(*os.File)
	conn, isUnix := s.conn.(*net.UnixConn) // from which ReadFrom splices
	n := s.Unread()
	if !ok || !isUnix || n == 0 {
		return nil
	}
	m, err := f.ReadFrom(&io.LimitedReader{R: conn, N: int64(n)})
	s.Took(int(m))
	sum.n += m
	return err
}

// remaining tells how much of a regular file has not been read.
func remaining(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	here, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return info.Size() - here
}
