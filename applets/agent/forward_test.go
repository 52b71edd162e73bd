//go:build linux

package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// echo listens on an address and sends back what comes, until the test ends.
func echo(t *testing.T, network, address string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr()
}

// TestForward: bytes pass in both directions, and the end of one leaves the
// other open.
func TestForward(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	content := make([]byte, 5<<20)
	_, _ = rand.Read(content)
	for _, target := range []net.Addr{
		echo(t, "tcp", "127.0.0.1:0"),
		echo(t, "unix", filepath.Join(shortDir(t), "echo")),
	} {
		for _, size := range []int{0, 1, len(content)} {
			conn, err := c.Dial(t.Context(), target.Network(), target.String())
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				if _, err := conn.Write(content[:size]); err != nil {
					t.Error(err)
				}
				if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Error(err)
				}
			}()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, content[:size]) {
				t.Errorf("%s, %d bytes: %d came back, %v", target, size, len(got), err)
			}
			_ = conn.Close()
		}
	}
}

func TestForwardRefused(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	if _, err := c.Dial(t.Context(), "unix", filepath.Join(t.TempDir(), "nobody")); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	if _, err := c.Dial(t.Context(), "udp", "127.0.0.1:1"); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

// TestForwardClosed: what is read after Close, or is being read, is net.ErrClosed, as of
// any other connection; servers and proxies ask for that.
func TestForwardClosed(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	target := echo(t, "tcp", "127.0.0.1:0")
	for _, waits := range []bool{false, true} {
		conn, err := c.Dial(t.Context(), target.Network(), target.String())
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		read := func() {
			_, err := conn.Read(make([]byte, 1))
			failed <- err
		}
		if waits {
			go read()
			time.Sleep(50 * time.Millisecond)
		}
		_ = conn.Close()
		if !waits {
			read()
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("waiting %v: %v", waits, err)
		}
		if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
}

// TestContextCause: an operation whose context ends says why, and that it has ended.
func TestContextCause(t *testing.T) {
	l := serve(t, testLimits())
	why := errors.New("a test's")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	c := client.New(client.Unix(l.socket))
	_, dialErr := c.Dial(ctx, "tcp", "127.0.0.1:1")
	for _, err := range []error{dialErr, c.Ping(ctx)} {
		if !errors.Is(err, why) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// TestForwardConn holds a forwarded connection to what every net.Conn does.
func TestForwardConn(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		target, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
		if err != nil {
			return nil, nil, nil, err
		}
		defer target.Close()
		if c1, err = c.Dial(t.Context(), "unix", target.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		c2, err = target.Accept()
		return c1, c2, func() { _ = c1.Close(); _ = c2.Close() }, err
	})
}
