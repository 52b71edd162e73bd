package transport

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A reader is what NewReader returns.
type reader struct {
	raw    syscall.RawConn
	much   bool      // the last read got much
	rested time.Time // when the poller last waited
}

// muchRead is what makes it likely that more follows at once, in bytes.
const muchRead = 16 << 10

// NewReader returns what reads from c as c does, but where c is a Unix socket waits a
// moment, in the calling thread, for what follows much: it is nearer than the poller of
// the runtime, which takes several system calls. Others are returned as they are.
func NewReader(c net.Conn) io.Reader {
	if u, ok := c.(*net.UnixConn); ok {
		if raw, err := u.SyscallConn(); err == nil {
			return &reader{raw: raw}
		}
	}
	return c
}

func (r *reader) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	rawErr := r.raw.Read(func(fd uintptr) bool {
		for {
			n, err = syscall.Read(int(fd), p) // which the race detector knows, as net's
			switch {
			case err == unix.EINTR:
			case err != unix.EAGAIN:
				return true
			case !r.much || time.Since(r.rested) > moment || !soon(fd):
				r.rested = time.Now()
				return false
			}
		}
	})
	switch {
	case rawErr != nil:
		return 0, rawErr
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	r.much = n >= muchRead
	return n, nil
}

const (
	// moment is how long a thread waits, and for how long it does not let the poller
	// see to others.
	moment = time.Millisecond

	// mostMoments bounds the threads that wait.
	mostMoments = 8
)

var moments atomic.Int32

// soon waits a moment and tells whether there is something to read, or nothing ever
// again. It does not wait at all when many threads do, or all processors but one.
func soon(fd uintptr) bool {
	defer moments.Add(-1)
	if int(moments.Add(1)) > min(mostMoments, runtime.GOMAXPROCS(0)-1) {
		return false
	}
	timeout := unix.NsecToTimespec(int64(moment))
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, &timeout, nil)
	return n > 0 || err == unix.EINTR // then it is to be tried
}
