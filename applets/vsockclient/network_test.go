//go:build linux

package vsockclient

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// upper answers each connection, when its sending has ended, with what it sent in
// capitals.
func upper(t *testing.T, network, address string) net.Listener {
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
				b, _ := io.ReadAll(c)
				_, _ = c.Write(bytes.ToUpper(b))
			}()
		}
	}()
	return l
}

func port(l net.Listener) string {
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

// ask sends a text, ends its sending, and returns the answer.
func ask(t *testing.T, network, address, text string) string {
	t.Helper()
	c, err := net.DialTimeout(network, address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, text)
	_ = closeWrite(c)
	b, _ := io.ReadAll(c) // what is missing shows
	return string(b)
}

func TestForward(t *testing.T) {
	liveAgent(t)
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	sock, here := filepath.Join(dir, "s"), filepath.Join(dir, "h")
	tcp := upper(t, "tcp", "127.0.0.1:0")
	upper(t, "unix", sock)
	closed := upper(t, "tcp", "127.0.0.1:0")
	_ = closed.Close()
	cmd := process(t, "forward", "--json", "0:"+port(tcp), "127.0.0.1:0:"+sock, here+":127.0.0.1:"+port(tcp), "0:"+port(closed))
	_, out, errs := pipes(t, cmd)
	lines := bufio.NewScanner(out)
	var listening []string
	for len(listening) < 4 && lines.Scan() {
		var l struct{ Listening, To string }
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		listening = append(listening, l.Listening)
	}
	if len(listening) < 4 || listening[2] != here {
		t.Fatalf("listens on %q", listening)
	}
	if info, err := os.Stat(here); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its socket: %v, %v", info, err)
	}
	long := strings.Repeat("many bytes ", 100_000)
	for i, network := range []string{"tcp", "tcp", "unix"} {
		for _, text := range []string{"a", long} {
			if got := ask(t, network, listening[i], text); got != strings.ToUpper(text) {
				t.Errorf("%s: %d bytes of %d", listening[i], len(got), len(text))
			}
		}
	}
	if got := ask(t, "tcp", listening[3], "x"); got != "" {
		t.Errorf("from a port that nobody listens on: %q", got)
	}
	said, err := bufio.NewReader(errs).ReadString('\n')
	if err != nil || !strings.Contains(said, listening[3]) || !strings.Contains(said, "refused") {
		t.Errorf("of a port that nobody listens on: %q, %v", said, err)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	if status := exitOf(cmd); status != 130 {
		t.Errorf("status %d", status)
	}
	if _, err := os.Stat(here); err == nil {
		t.Error("its socket is left")
	}
}

func TestForwardRefuses(t *testing.T) {
	liveAgent(t)
	taken := upper(t, "tcp", "127.0.0.1:0")
	for _, test := range []struct {
		spec   string
		status int
		stderr string
	}{
		{"port", 2, "want [[ADDR:]PORT:][HOST:]PORT, or a path for either side"},
		{port(taken) + ":80", 1, "address already in use"},
	} {
		if status, stdout, stderr := invoke("", "forward", test.spec); status != test.status || stdout != "" || !strings.Contains(stderr, test.stderr) {
			t.Errorf("%s: %d, %q, %q", test.spec, status, stdout, stderr)
		}
	}
}

// proxy with each end of a conversation first.
func TestProxy(t *testing.T) {
	liveAgent(t)
	tcp := upper(t, "tcp", "127.0.0.1:0")
	long := strings.Repeat("many bytes ", 100_000)
	for _, text := range []string{"", "a", long} { // stdin ends, and then the answer comes
		status, stdout, stderr := invoke(text, "proxy", port(tcp))
		if status != 0 || stdout != strings.ToUpper(text) || stderr != "" {
			t.Errorf("%d bytes: %d, %d bytes, %q", len(text), status, len(stdout), stderr)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan string, 1)
	go func() { // this one ends its sending first, and still hears what comes
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "banner\n")
		_ = closeWrite(c)
		b, _ := io.ReadAll(c)
		heard <- string(b)
	}()
	cmd := process(t, "proxy", "127.0.0.1:"+port(l))
	in, out, _ := pipes(t, cmd)
	if b, err := io.ReadAll(out); err != nil || string(b) != "banner\n" {
		t.Errorf("%q, %v", b, err)
	}
	_, _ = io.WriteString(in, "last words")
	_ = in.Close()
	if status := exitOf(cmd); status != 0 {
		t.Errorf("status %d", status)
	}
	if got := <-heard; got != "last words" {
		t.Errorf("the guest heard %q", got)
	}
	// It ends at its first signal, though stdin is open still.
	go func() {
		if c, err := l.Accept(); err == nil {
			_ = c.Close()
		}
	}()
	cmd = process(t, "proxy", port(l))
	_, out, errs := pipes(t, cmd)
	_, _ = io.ReadAll(out)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	said, _ := io.ReadAll(errs)
	if status := exitOf(cmd); status != 143 || string(said) != "hf-vsock-client: proxy: terminated\n" {
		t.Errorf("after the guest's end and a signal: status %d, %q", status, said)
	}
	closed := upper(t, "tcp", "127.0.0.1:0")
	_ = closed.Close()
	if status, _, stderr := invoke("", "proxy", port(closed)); status != 1 || !strings.Contains(stderr, "refused") {
		t.Errorf("%d, %q", status, stderr)
	}
}

// TestProxyOfSSH: ssh hangs up on its ProxyCommand when it is done, and people would
// read what that then says each time.
func TestProxyOfSSH(t *testing.T) {
	liveAgent(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			_, _ = io.WriteString(c, "banner\n")
			_, _ = io.ReadAll(c)
		}
	}()
	cmd := process(t, "proxy", port(l))
	_, out, errs := pipes(t, cmd)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "banner\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_ = cmd.Process.Signal(syscall.SIGHUP)
	said, err := io.ReadAll(errs)
	if status := exitOf(cmd); status != 129 || len(said) > 0 || err != nil {
		t.Errorf("%d %q, %v", status, said, err)
	}
}
