//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A conn is a socket without Go's network poller: what is measured is the other
// side. It does not go through the client's package for the same reason, and what it
// reads goes to a buffer that many may share.
type conn struct {
	fd  int
	buf []byte
}

// bufferSize is what is read at once, in bytes.
const bufferSize = 256 << 10

// dial connects to unix:PATH or vsock:CID:PORT.
func dial(address string, buf []byte) (*conn, error) {
	var sa unix.Sockaddr
	family := unix.AF_UNIX
	if rest, ok := strings.CutPrefix(address, "vsock:"); ok {
		cid, port, _ := strings.Cut(rest, ":")
		c, err := strconv.ParseUint(cid, 10, 32)
		p, portErr := strconv.ParseUint(port, 10, 32)
		if err := errors.Join(err, portErr); err != nil {
			return nil, fmt.Errorf("%s: %w", address, err)
		}
		family, sa = unix.AF_VSOCK, &unix.SockaddrVM{CID: uint32(c), Port: uint32(p)}
	} else {
		sa = &unix.SockaddrUnix{Name: strings.TrimPrefix(address, "unix:")}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return &conn{fd, buf}, nil
}

func (c *conn) Close() error { return unix.Close(c.fd) }

func (c *conn) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(c.fd, p[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, os.NewSyscallError("write", err)
		}
		n += m
	}
	return n, nil
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// line reads up to the newline that ends all that comes, and returns the first
// bytes of it.
func (c *conn) line() ([]byte, error) {
	var first []byte
	for {
		n, err := c.Read(c.buf)
		if err != nil {
			return first, fmt.Errorf("after %d bytes of a reply: %w", len(first), err)
		}
		if first == nil {
			first = append(first, c.buf[:min(n, 200)]...)
		}
		if c.buf[n-1] == '\n' {
			return first, nil
		}
	}
}

// full reads n bytes, and nothing of what they are.
func (c *conn) full(n int64) error {
	for n > 0 {
		m, err := c.Read(c.buf[:min(n, int64(len(c.buf)))])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// call sends a request and reads its reply, which must tell success.
func (c *conn) call(request []byte) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	return c.success()
}

func (c *conn) success() error {
	reply, err := c.line()
	if err == nil && !bytes.HasPrefix(reply, []byte(`{"success":true,`)) {
		err = fmt.Errorf("the agent says %q", reply)
	}
	return err
}
