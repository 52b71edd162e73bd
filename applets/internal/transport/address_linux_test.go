package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestAddresses(t *testing.T) {
	for _, row := range []struct{ network, address, want string }{
		{"tcp", "127.0.0.1:80", "[127.0.0.1:80]"},
		{"tcp", "[::1]:80", "[[::1]:80]"},
		{"tcp", "[fe80::1%lo]:80", "[[fe80::1%lo]:80]"},
		{"tcp", ":80", "[:80]"},
		{"tcp4", "[::ffff:10.0.0.1]:80", "[10.0.0.1:80]"},
		{"tcp6", "127.0.0.1:80", "lookup 127.0.0.1: no such host"},
		{"tcp", "127.0.0.1", "address 127.0.0.1: missing port in address"},
		{"tcp", "127.0.0.1:http", "address 127.0.0.1:http: the port is no number up to 65535"},
		{"tcp", "127.0.0.1:65536", "address 127.0.0.1:65536: the port is no number up to 65535"},
	} {
		all, err := Addresses(row.network, row.address)
		got := fmt.Sprint(all)
		if err != nil {
			got = err.Error()
		}
		if got != row.want {
			t.Errorf("%s %s: %s, want %s", row.network, row.address, got, row.want)
		}
	}
}

func TestLookup(t *testing.T) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	text := "# 1.1.1.1 db\n10.0.0.1\tdb.example DB # x\n::2 db\nnonsense db\n10.0.0.3\n"
	if err := os.WriteFile(hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"db": "[10.0.0.1 ::2]", "db.EXAMPLE": "[10.0.0.1]", "x": "[]", "10.0.0.3": "[10.0.0.3]", "localhost": "[127.0.0.1 ::1]",
	} {
		if got := fmt.Sprint(lookup(host, hosts)); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
	if got := fmt.Sprint(lookup("localhost", hosts+".none")); got != "[127.0.0.1 ::1]" {
		t.Errorf("without the file: %s", got)
	}
}

// TestConnect to what listens, what does not, and what does not answer.
func TestConnect(t *testing.T) {
	l, err := ListenOn("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, address := range []string{"127.0.0.1:" + port, "localhost:" + port, ":" + port} {
		c, err := Connect(t.Context(), "tcp", address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if _, ok := c.(*net.TCPConn); !ok || c.RemoteAddr().String() != l.Addr().String() {
			t.Errorf("%s: a %T to %v", address, c, c.RemoteAddr())
		}
		_ = c.Close()
	}
	_ = l.Close()
	if c, err := Connect(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v, %v", c, err)
	}
	// A listener that accepts nothing, and whose queue is full.
	full, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	raw, _ := full.(*net.TCPListener).SyscallConn()
	_ = raw.Control(func(fd uintptr) { _ = syscall.Listen(int(fd), 0) })
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		c, err := Connect(ctx, "tcp", full.Addr().String())
		cancel()
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("nobody accepts: %v", err)
			}
			break
		}
		defer c.Close()
	}
}
