//go:build linux

package main

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// jobs is of many commands, some at a time.
func (s *suite) jobs() error {
	n := 1000
	if s.scale > 1 {
		n = 200
	}
	for _, parallel := range []int{1, 8, 64} {
		if err := s.contest(contest{
			group: "commands", name: fmt.Sprintf("%d, %d at a time", n, parallel), count: n, rounds: 20, limit: 8 * time.Second, reach: atLeast(0.9),
			figure: timed(func() error { return s.commands(n, parallel) }),
			floors: []named{{fmt.Sprintf("xargs -P %d", parallel), timed(func() error { return s.xargs(n, parallel) })}},
		}); err != nil {
			return err
		}
	}
	return nil
}

// commands has the agent run it, on as many connections. All of them are one
// thread's, which takes as little of the processor from the commands as it can.
func (s *suite) commands(n, parallel int) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(epoll)
	conns := map[int32]*conn{}
	asked, answered := 0, 0
	for range parallel {
		c, err := s.dial(s.agent)
		if err != nil {
			return err
		}
		defer c.Close()
		conns[int32(c.fd)] = c
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}); err != nil {
			return err
		}
		if _, err := c.Write(execKept); err != nil {
			return err
		}
		asked++
	}
	events := make([]unix.EpollEvent, parallel)
	for answered < n {
		k, err := unix.EpollWait(epoll, events, -1)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return err
		}
		for _, e := range events[:k] {
			c := conns[e.Fd]
			reply, err := c.line()
			if err != nil {
				return err
			}
			if !bytes.HasPrefix(reply, []byte(`{"success":true,"data":{"exit_code":0,`)) {
				return fmt.Errorf("the agent says %q", reply)
			}
			answered++
			if asked < n {
				if _, err := c.Write(execKept); err != nil {
					return err
				}
				asked++
			}
		}
	}
	return nil
}
