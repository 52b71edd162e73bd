//go:build linux

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// TestForwardReset: a client that only listens hears that the connection in the
// guest broke.
func TestForwardReset(t *testing.T) {
	l := serve(t, testLimits())
	target, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	c, err := client.New(client.Unix(l.socket)).Dial(t.Context(), "unix", target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	visit, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "never read"); err != nil {
		t.Fatal(err)
	}
	if _, err := visit.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = visit.Close() // with more to read: the other side is reset
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadAll(c); !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
}

// TestForwardAddresses: what is wrong with an address is told by a code of its own.
func TestForwardAddresses(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	for address, want := range map[string]error{
		"127.0.0.1":       unix.EINVAL,
		"127.0.0.1:99999": unix.EINVAL,
		"[::1:80":         unix.EINVAL,
		"a name:80":       unix.EHOSTUNREACH, // which is looked up nowhere
	} {
		if _, err := c.Dial(t.Context(), "tcp", address); !errors.Is(err, want) {
			t.Errorf("forward to %s: %v", address, err)
		}
		if _, err := c.Listen(t.Context(), "tcp", address); !errors.Is(err, want) {
			t.Errorf("listen at %s: %v", address, err)
		}
	}
	for _, err := range []error{context.DeadlineExceeded, os.ErrDeadlineExceeded, &os.PathError{Err: os.ErrDeadlineExceeded}, &net.OpError{Err: context.DeadlineExceeded}} {
		if _, code := describe(err); code != "ETIMEDOUT" {
			t.Errorf("%#v: %s", err, code)
		}
	}
}
