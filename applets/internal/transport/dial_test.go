package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/agenttest"
)

// No test here may dial vsock: it would be the machine's own, see vsock(7).

func TestParseTarget(t *testing.T) {
	for _, test := range []struct {
		in   string
		want Target
	}{
		{"vsock:3", Target{Kind: Vsock, CID: 3, Port: 52}},
		{"vsock:3:1024", Target{Kind: Vsock, CID: 3, Port: 1024}},
		{"vsock:0", Target{Kind: Vsock, Port: 52}},
		{"vsock:4294967294:4294967294", Target{Kind: Vsock, CID: 4294967294, Port: 4294967294}},
		{"uds:/run/vm:1.sock", Target{Kind: UDS, Path: "/run/vm:1.sock", Port: 52}},
		{"uds:relative", Target{Kind: UDS, Path: "relative", Port: 52}},
		{"unix:/run/hyperfleet.sock", Target{Kind: Unix, Path: "/run/hyperfleet.sock"}},
	} {
		got, err := ParseTarget(test.in)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v", test.in, got, err)
		}
		if again, err := ParseTarget(got.String()); err != nil || again != got {
			t.Errorf("%s: its String %s reads as %+v, %v", test.in, got, again, err)
		}
	}
	for _, in := range []string{
		"", "vsock", "vsock:", "vsock::", "vsock:3:", "vsock:3:0", "vsock:x", "vsock:-1", "vsock:+1", "vsock:4294967295", "vsock:4294967296",
		"vsock:3:4294967295", "vsock:3:52:1", "vsock: 3", "uds", "uds:", "unix:", "3", "/run/x", "tcp:1", "VSOCK:3",
	} {
		if got, err := ParseTarget(in); err == nil {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

func TestDefaultTarget(t *testing.T) {
	sock := agenttest.Listen(t, agenttest.Linger)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		env, local string
		want       Target
		err        string
	}{
		{"vsock:7", sock, Target{Kind: Vsock, CID: 7, Port: 52}, ""},
		{"", sock, Target{Kind: Guest, Port: 52, Path: sock}, ""},
		{"", file, Target{}, ErrNoTarget.Error()},
		{"", file + "x", Target{}, ErrNoTarget.Error()},
		{"seven", sock, Target{}, "HF_VSOCK: "},
	} {
		got, err := defaultTarget(test.env, test.local)
		if got != test.want || (err != nil) != (test.err != "") || err != nil && !strings.HasPrefix(err.Error(), test.err) {
			t.Errorf("%+v: %+v, %v", test, got, err)
		}
	}
}

func TestDialUnix(t *testing.T) {
	sock := agenttest.Listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "hello") })
	c, err := Dial(context.Background(), Target{Kind: Unix, Path: sock})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestHandshake(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer string
		want   string // of the error
	}{
		{"ok", "OK 1073741824\nhello", ""},
		{"refused", "", "port 77: the hypervisor closed the connection instead of answering CONNECT: is the agent listening in the guest?"},
		{"cut short", "OK 107", "closed the connection instead of answering"},
		{"garbage", "HTTP/1.1 400 Bad Request\r\n\r\n", `answers CONNECT with "HTTP/1.1 400 Bad Request\r": is this a VM's vsock socket?`},
		{"not a number", "OK x\n", `answers CONNECT with "OK x"`},
		{"no number", "OK\n", `answers CONNECT with "OK"`},
		{"number out of range", "OK 4294967296\n", "answers CONNECT with"},
		{"endless", strings.Repeat("x", 1000), "answers CONNECT with"},
		{"empty line", "\n", `answers CONNECT with ""`},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := make(chan string, 1)
			sock := agenttest.Listen(t, func(c net.Conn) {
				line, _ := agenttest.ReadLine(c)
				asked <- line
				_, _ = io.WriteString(c, test.answer)
			})
			c, err := Dial(context.Background(), Target{Kind: UDS, Path: sock, Port: 77})
			if line := <-asked; line != "CONNECT 77" {
				t.Errorf("asked %q", line)
			}
			if test.want != "" {
				var dial *DialError
				if !errors.As(err, &dial) || !strings.HasPrefix(err.Error(), sock+" port 77: ") || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want … %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			// What came with the answer belongs to the caller.
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// A hypervisor that does not answer is given up when the context ends, and not
// sooner; afterwards the context has no power over the connection.
func TestHandshakeAndContext(t *testing.T) {
	silent := agenttest.Listen(t, agenttest.Linger)
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, Target{Kind: UDS, Path: silent, Port: 52})
	if d := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || d < 50*time.Millisecond || d > 20*time.Second {
		t.Errorf("%v after %v", err, d)
	}

	ctx, cancel = context.WithCancel(context.Background())
	echo := agenttest.Listen(t, func(c net.Conn) {
		_, _ = agenttest.ReadLine(c)
		_, _ = io.WriteString(c, "OK 1\n")
		_, _ = io.Copy(c, c)
	})
	c, err := Dial(ctx, Target{Kind: UDS, Path: echo, Port: 52})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	time.Sleep(20 * time.Millisecond)
	if _, err := io.WriteString(c, "still"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
	if _, err := Dial(ctx, Target{Kind: UDS, Path: echo, Port: 52}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDialErrors(t *testing.T) {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	dead := filepath.Join(dir, "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	long := "/" + strings.Repeat("x", 200)
	for _, test := range []struct {
		target Target
		is     error
		want   string
	}{
		{Target{Kind: Unix, Path: "/none"}, syscall.ENOENT, "/none: no such file or directory: is the agent running, and this the path of its socket?"},
		{Target{Kind: Unix, Path: dead}, syscall.ECONNREFUSED, dead + ": connection refused: is the agent still running?"},
		{Target{Kind: UDS, Path: dead, Port: 52}, syscall.ECONNREFUSED, dead + " port 52: connection refused: is the VM still running?"},
		{Target{Kind: Unix, Path: long}, syscall.EINVAL, long + ": invalid argument: the path of a Unix socket may have about 100 bytes"},
		{Target{}, ErrNoTarget, ErrNoTarget.Error()},
	} {
		if _, err := Dial(context.Background(), test.target); !errors.Is(err, test.is) || err.Error() != test.want {
			t.Errorf("%v: %v, want %s", test.target, err, test.want)
		}
	}
	for err, want := range map[error]string{
		syscall.ECONNRESET: "vsock CID 3 port 52: connection reset by peer: is the VM up and its agent listening?",
		os.NewSyscallError("connect", syscall.ENODEV): "vsock CID 3 port 52: no such device: no VM has this CID, or the kernel lacks a vsock transport (on a host: modprobe vhost_vsock)",
		errors.New("something new"):                   "vsock CID 3 port 52: something new",
	} {
		vm := Target{Kind: Vsock, CID: 3, Port: 52}
		if got := (&DialError{Target: vm, Err: err, Hint: hint(vm, err)}).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// More callers at once than a backlog holds must all be served.
func TestFullBacklog(t *testing.T) {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "s")
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: sock}), syscall.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), sock)
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const n = 20
	results := make(chan error, n)
	for range n {
		go func() {
			c, err := Dial(context.Background(), Target{Kind: Unix, Path: sock})
			if err == nil {
				err = c.Close()
			}
			results <- err
		}()
	}
	time.Sleep(20 * time.Millisecond)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	for range n {
		if err := <-results; err != nil {
			t.Error(fmt.Errorf("with a backlog of 1: %w", err))
		}
	}
}
