//go:build linux

package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"golang.org/x/sys/unix"
)

// TestFollow: what listens is served when PID 1 says that the machine is up, not
// before; also what it hands over before and after that.
func TestFollow(t *testing.T) {
	control, theirs, err := handoff.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	say := func(m handoff.Message, rights []byte) {
		t.Helper()
		if err := unix.Sendmsg(int(theirs.Fd()), []byte{byte(m)}, rights, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	dir := shortDir(t)
	listening := func(name string) (*os.File, net.Conn) {
		t.Helper()
		f, err := transport.Listen(transport.Address{Path: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", filepath.Join(dir, name))
		if err == nil {
			_, err = io.WriteString(c, "{\"operation\":\"ping\"}\n")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return f, c
	}
	answers := func(c net.Conn, limit time.Duration) error {
		_ = c.SetReadDeadline(time.Now().Add(limit))
		_, err := c.Read(make([]byte, 1))
		return err
	}

	first, a := listening("a")
	second, b := listening("b")
	third, c := listening("c")
	l, err := transport.FileListener(first)
	if err != nil {
		t.Fatal(err)
	}
	agent := New(logging.New(io.Discard, "agent", false), testLimits(), transport.Anyone, cgroup.Group{})
	go agent.follow(control, []net.Listener{l})
	t.Cleanup(agent.Stop)

	say(handoff.Listener, unix.UnixRights(int(second.Fd())))
	for _, early := range []net.Conn{a, b} {
		if err := answers(early, 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("before the machine is up: %v", err)
		}
	}
	say(handoff.Booted, nil)
	said := make([]byte, 1)
	if err := unix.SetNonblock(int(theirs.Fd()), false); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Read(int(theirs.Fd()), said); err != nil || handoff.Message(said[0]) != handoff.Ready {
		t.Errorf("the agent said %q, %v", said, err)
	}
	say(handoff.Listener, unix.UnixRights(int(third.Fd())))
	for name, conn := range map[string]net.Conn{"handed over at the start": a, "before the machine is up": b, "after": c} {
		if err := answers(conn, patience); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
