//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/init/applets/wire"
)

// A rawConn is a connection to the guest on which a check says what it wants,
// where the client would know better.
type rawConn struct {
	*os.File
	lines *bufio.Reader
}

// How long a connection may take to be made. The kernel's own limit is 2 s, which
// suits a host that tries until a guest listens; a guest that does, on a machine
// that is busy enough, may need longer.
const (
	firstConnect = 2 * time.Second
	everyConnect = time.Minute
)

// dial connects to the guest's agent.
func (h *hostVM) dial() (*rawConn, error) { return h.dialWithin(everyConnect) }

func (h *hostVM) dialWithin(limit time.Duration) (*rawConn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	timeout := unix.NsecToTimeval(limit.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &timeout)
	if err == nil {
		err = connect(fd, &unix.SockaddrVM{CID: h.config.CID, Port: wire.Port})
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	c := &rawConn{File: os.NewFile(uintptr(fd), "vsock")}
	c.lines = bufio.NewReader(c.File)
	return c, c.SetDeadline(time.Now().Add(hostPatience))
}

// connect waits for a connection without blocking in connect(2): a signal, of
// which Go's runtime sends itself many, would break it off there, and a second
// try from the same port would meet what the first had left in the guest.
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(p, -1); n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return err
}

// closeWrite ends the sending alone.
func (c *rawConn) closeWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	shutErr := err
	if err := raw.Control(func(fd uintptr) { shutErr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return os.NewSyscallError("shutdown", shutErr)
}

// A rawReply is what the checks look at in a reply.
type rawReply struct {
	Success bool
	Code    string
	Data    struct {
		Content  []byte
		Stdout   []byte `json:"stdout_base64"`
		UptimeMS int64  `json:"uptime_ms"`
	}
}

// receive reads the next reply.
func (c *rawConn) receive() (*rawReply, error) {
	line, err := c.lines.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("after %d bytes of a reply: %w", len(line), err)
	}
	return parseReply(line)
}

func parseReply(line []byte) (*rawReply, error) {
	r := new(rawReply)
	return r, json.Unmarshal(line, r)
}

// say sends bytes as they are and returns the reply.
func (h *hostVM) say(request string) (*rawReply, error) {
	c, err := h.dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		return nil, err
	}
	return c.receive()
}

// object is a request's line.
func object(fields map[string]any) string {
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}
