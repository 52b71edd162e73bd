package transport

import (
	"errors"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// SendFile is sendfile(2) of n bytes from where file is read, with the same care of
// a vsock socket as WriteVsock. A file that ends before is io.ErrUnexpectedEOF; one
// that the call does not take, or on a socket that it does not take,
// errors.ErrUnsupported.
func SendFile(socket syscall.RawConn, file, n int, vsock bool) (sent int, err error) {
	for sent < n {
		m, sendErr := 0, error(nil)
		err := socket.Write(func(fd uintptr) bool {
			m, sendErr = sendFile(int(fd), file, n-sent, vsock)
			return !errors.Is(sendErr, unix.EAGAIN)
		})
		sent += m
		switch {
		case err != nil:
			return sent, err
		case errors.Is(sendErr, unix.EINVAL), errors.Is(sendErr, unix.ENOSYS):
			return sent, errors.ErrUnsupported
		case sendErr != nil:
			return sent, sendErr
		case m == 0:
			return sent, io.ErrUnexpectedEOF
		}
	}
	return sent, nil
}

func sendFile(socket, file, n int, vsock bool) (sent int, err error) {
	if vsock {
		n = min(n, vsockPiece)
	}
	for begin := time.Now(); ; time.Sleep(memoryPause) {
		sent, err = unix.Sendfile(socket, file, nil, n)
		switch {
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.ENOMEM) || time.Since(begin) > memoryWait:
			return max(sent, 0), err
		}
	}
}
