package transport

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseAddress(t *testing.T) {
	for _, row := range []struct {
		s    string
		want Address
		ok   bool
	}{
		{"vsock:52", Address{Port: 52}, true},
		{"vsock:4294967294", Address{Port: 4294967294}, true},
		{"unix:/run/x", Address{Path: "/run/x"}, true},
		{"vsock:0", Address{}, false}, {"vsock:4294967295", Address{}, false}, {"vsock:", Address{}, false}, {"vsock:x", Address{}, false},
		{"vsock:-1", Address{}, false}, {"unix:", Address{}, false}, {"unix:x", Address{}, false}, {"", Address{}, false}, {"tcp:52", Address{}, false}, {"52", Address{}, false},
	} {
		got, err := ParseAddress(row.s)
		if got != row.want || (err == nil) != row.ok {
			t.Errorf("%q: %v %v", row.s, got, err)
		}
		if row.ok && got.String() != row.s {
			t.Errorf("%q reads %q", row.s, got)
		}
	}
}

// listen makes a listener in a directory whose path is short enough for one.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	f, err := Listen(Address{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	l, err := FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func TestListenUnix(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	if st, err := os.Stat(path); err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if _, err := Listen(Address{Path: path}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a socket that is in use: %v", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Error("the socket was taken away: ", err)
	} else {
		_ = c.Close()
	}
	_ = l.Close()
	l = listen(t, path) // abandoned
	_ = l.Close()
	file := path + "file"
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Address{Path: file}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Error("a file that is no socket was replaced")
	}
	if _, err := Listen(Address{Path: path + "/nosuch"}); err == nil {
		t.Error("no error")
	}
}

func TestPeerOf(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if p, err := PeerOf(a); err != nil || p.UID != os.Getuid() || p.PID != os.Getpid() {
		t.Errorf("%v %v", p, err)
	}
	x, y := net.Pipe()
	defer x.Close()
	defer y.Close()
	if p, err := PeerOf(x); err == nil {
		t.Errorf("a pipe has the peer %v", p)
	}
}

// TestGone: a half-close is not the end, a close is, though input is unread.
func TestGone(t *testing.T) {
	path := socketPath(t)
	l := listen(t, path)
	for _, unread := range []string{"", "unread"} {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := a.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		gone := func() (g bool) {
			_ = raw.Control(func(fd uintptr) { g = Gone(fd) })
			return g
		}
		if gone() {
			t.Error("gone before it did anything")
		}
		_, _ = c.Write([]byte(unread))
		_ = c.(*net.UnixConn).CloseWrite()
		time.Sleep(time.Millisecond)
		if gone() {
			t.Error("gone after a half-close")
		}
		_ = c.Close()
		time.Sleep(time.Millisecond)
		if !gone() {
			t.Errorf("not gone after a close, unread %q", unread)
		}
		_ = a.Close()
	}
}

func TestFileListener(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if l, err := FileListener(r); err == nil {
		t.Errorf("a pipe is a listener: %v", l)
	}
}
