package transport

import (
	"errors"
	"io"
	"syscall"
	"time"
)

const (
	// vsockPiece is what is given to a vsock socket at once. The kernel copies it
	// into one run of pages, and where memory is scarce there may be no longer one.
	vsockPiece = 16 << 10

	memoryWait  = 10 * time.Second     // for the kernel to find one
	memoryPause = 5 * time.Millisecond // between tries
)

// WriteVsock writes p to a vsock connection, in pieces that the kernel can take
// when memory is scarce, and again where it could not (ENOMEM).
func WriteVsock(w io.Writer, p []byte) (n int, err error) {
	short := time.Time{} // since when there is no memory
	for n < len(p) {
		m, err := w.Write(p[n:min(len(p), n+vsockPiece)])
		n += m
		switch {
		case err == nil:
			short = time.Time{}
		case !errors.Is(err, syscall.ENOMEM):
			return n, err
		case short.IsZero():
			short = time.Now()
		case time.Since(short) > memoryWait:
			return n, err
		}
		if err != nil {
			time.Sleep(memoryPause)
		}
	}
	return n, nil
}
