//go:build linux

package agent

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// briefly is how long a thread waits for a command.
	briefly = 5 * time.Millisecond

	// mostBriefs bounds the threads that do.
	mostBriefs = 8
)

// brief waits for the end of a command, and collects its output meanwhile, in the
// thread that started it. Most commands end before goroutines, and the poller that
// wakes them, would have come to wait for them: those are for what has not ended by
// then, or whose client is gone. limit is the command's own; 0 is none.
func (cs *commands) brief(c *command, client *conn, limit time.Duration) {
	if c.pidfd < 0 || client.raw == nil {
		return
	}
	if limit == 0 || limit > briefly {
		limit = briefly
	}
	wait := func(fd uintptr) {
		// The process is asked for first: when it has ended, so has what it wrote.
		all := [4]unix.PollFd{{Fd: int32(c.pidfd), Events: unix.POLLIN}, {Fd: int32(fd)}}
		fds := all[:2+len(c.outputs)]
		for i, o := range c.outputs {
			fds[2+i] = unix.PollFd{Fd: int32(o.fd), Events: unix.POLLIN}
		}
		for left := limit; left > 0 && fds[1].Revents == 0; left = limit - time.Since(c.started) {
			timeout := unix.NsecToTimespec(int64(left))
			if n, err := unix.Ppoll(fds, &timeout, nil); n <= 0 {
				if err == unix.EINTR {
					continue
				}
				return
			}
			for i, o := range c.outputs {
				if p := &fds[2+i]; p.Revents != 0 && o.brief(cs, p.Revents) {
					p.Fd = -1
				}
			}
			if fds[0].Revents != 0 {
				if c.collect(syscall.WNOHANG) { // or it can't be polled
					cs.ended(c)
				}
				return
			}
		}
	}
	if cs.briefs.Add(1) <= mostBriefs {
		_ = client.raw.Control(wait)
	}
	cs.briefs.Add(-1)
}

// brief takes what the pipe holds, and tells whether it is at its end.
func (o *output) brief(cs *commands, revents int16) bool {
	defer survive(cs.log, "collecting output")
	o.ended = revents&unix.POLLIN == 0 || o.drain(uintptr(o.fd), pipeBuffer)
	return o.ended
}
