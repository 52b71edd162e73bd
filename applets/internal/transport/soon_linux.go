package transport

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// moment is how long Soon waits.
	moment = time.Millisecond

	// mostMoments bounds the threads that wait in Soon.
	mostMoments = 8
)

var moments atomic.Int32

// Soon waits a moment, in the calling thread, and tells whether the descriptor is
// ready for events, as in poll(2), or has failed. It is for what moves much and had
// to stop: what comes next is nearer than the poller of the runtime, which takes
// several system calls and the wake-up of another thread. If Soon is false, the
// poller is to wait. It is so at once when many threads wait already.
func Soon(fd uintptr, events int16) bool {
	defer moments.Add(-1)
	if moments.Add(1) > mostMoments {
		return false
	}
	timeout := unix.NsecToTimespec(int64(moment))
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: events}}, &timeout, nil)
	return n > 0 || err == unix.EINTR // then it is to be tried
}
