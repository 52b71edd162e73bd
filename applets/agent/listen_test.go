//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/net/nettest"
	"golang.org/x/sys/unix"
)

// visitor is a program of the guest: it says hello to whoever listens on a Unix
// socket, and does so again when it was hung up on, until the test ends.
func visitor(t *testing.T, path string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for t.Context().Err() == nil {
			c, err := net.Dial("unix", path)
			if err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			stop := context.AfterFunc(t.Context(), func() { _ = c.Close() })
			_, _ = io.WriteString(c, "hello")
			_ = c.(*net.UnixConn).CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			stop()
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { <-done })
}

// listenIn has an agent listen, and returns what it says.
func listenIn(t *testing.T, c *client.Client, network, address string) net.Listener {
	t.Helper()
	l, err := c.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestListenHTTP: a server of the host is served to the guest's programs.
func TestListenHTTP(t *testing.T) {
	c := client.New(client.Unix(serve(t, testLimits()).socket))
	l := listenIn(t, c, "tcp", "127.0.0.1:0")
	body := strings.Repeat("x", 1<<20)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err != nil || host != "127.0.0.1" {
			t.Errorf("the peer is %q", r.RemoteAddr)
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, body)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	for range 3 {
		guest := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := guest.Post("http://"+l.Addr().String(), "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if want := fmt.Sprint(len(body), body); err != nil || string(got) != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	eventually(t, "the port is free", func() bool {
		again, err := net.Listen("tcp", l.Addr().String())
		if err == nil {
			_ = again.Close()
		}
		return err == nil
	})
}

// TestListenConn holds an accepted connection to what every net.Conn does.
func TestListenConn(t *testing.T) {
	c := client.New(client.Unix(serve(t, testLimits()).socket))
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		l, err := c.Listen(t.Context(), "unix", filepath.Join(shortDir(t), "s"))
		if err != nil {
			return nil, nil, nil, err
		}
		defer l.Close()
		if c2, err = net.Dial("unix", l.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		c1, err = l.Accept()
		return c1, c2, func() { _ = c1.Close(); _ = c2.Close() }, err
	})
}

func TestListenRefused(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	taken := echo(t, "tcp", "127.0.0.1:0")
	for _, row := range []struct {
		network, address string
		want             unix.Errno
	}{
		{"tcp", taken.String(), unix.EADDRINUSE},
		{"udp", "127.0.0.1:0", unix.EINVAL},
		{"unix", "/nowhere/at/all", unix.ENOENT},
	} {
		if _, err := c.Listen(t.Context(), row.network, row.address); !errors.Is(err, row.want) {
			t.Errorf("%s %s: %v, want %v", row.network, row.address, err, row.want)
		}
	}
	for _, request := range []object{
		{"operation": "accept", "listener": "7", "connection": "1"},
		{"operation": "accept", "listener": "7"},
	} {
		if r := call(t, l.socket, request); r.Success {
			t.Errorf("%s: %+v", request.line(), r)
		}
	}
}

// TestListenClosed: the end of the listening ends those who wait, not those who
// were accepted, and removes the socket.
func TestListenClosed(t *testing.T) {
	a := serve(t, testLimits())
	c := client.New(client.Unix(a.socket))
	path := filepath.Join(shortDir(t), "s")
	l := listenIn(t, c, "unix", path)
	var guests []net.Conn
	for range 3 {
		g, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		guests = append(guests, g)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	_ = l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	for _, g := range guests[1:] {
		_ = g.SetDeadline(time.Now().Add(patience))
		if _, err := g.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one that waits: %v", err)
		}
	}
	if _, err := io.WriteString(guests[0], "still here"); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 10)
	if _, err := io.ReadFull(accepted, buf); err != nil || string(buf) != "still here" {
		t.Errorf("%q, %v", buf, err)
	}
	eventually(t, "the socket is gone", func() bool { _, err := os.Lstat(path); return err != nil })
	eventually(t, "the listener is forgotten", func() bool { return a.ports.find("1") == nil })
}

// TestVisits: those who are not accepted in time are hung up on, and no more wait
// than may.
func TestVisits(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	p := &port{listener: l, timeout: patience, room: make(chan struct{}, 2), visits: map[string]*visit{}}
	defer p.close()
	s := &stream{FrameWriter: wire.NewFrameWriter(io.Discard)}
	done := make(chan struct{})
	go func() { defer close(done); _ = p.accept(s) }()
	waiting := func() int { p.mu.Lock(); defer p.mu.Unlock(); return len(p.visits) }
	for range 4 {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "two wait", func() bool { return waiting() == 2 })
	time.Sleep(20 * time.Millisecond)
	if n := waiting(); n != 2 {
		t.Errorf("%d wait", n)
	}
	p.mu.Lock()
	p.timeout = time.Millisecond
	p.mu.Unlock()
	served := p.take("1", true)
	if served == nil || p.take("1", true) != nil {
		t.Error("a visit is not there once")
	}
	_ = served.Close()
	// The third takes its place and is late, and so is the fourth.
	eventually(t, "two were late", func() bool { return p.outcome().Lost == 2 })
	if late := p.take("3", true); late != nil {
		t.Error("one that was late is still there")
	}
	p.close()
	<-done
	if got := p.outcome(); got.Accepted != 1 || got.Lost != 3 {
		t.Errorf("%+v", got)
	}
}

// TestListenMisplaced: what has no place in a stream of events is told, and ends it.
func TestListenMisplaced(t *testing.T) {
	socket := serve(t, testLimits()).socket
	for _, request := range []object{
		{"operation": "listen", "address": "127.0.0.1:0"},
		{"operation": "stats", "interval_ms": 86_400_000},
	} {
		s := keep(t, socket)
		s.send(request.line())
		if r := parseReply(t, s.receive()); !r.Success {
			t.Fatalf("%+v", r)
		}
		if _, err := wire.NewFrameWriter(s).Bytes(wire.KindData, []byte("x")); err != nil {
			t.Fatal(err)
		}
		frames := wire.NewFrameReader(s.lines)
		k, _, err := frames.Next()
		for err == nil && k == wire.KindEvent {
			k, _, err = frames.Next()
		}
		var f wire.Failure
		if err == nil {
			err = frames.Decode(&f)
		}
		if err != nil || k != wire.KindError || f.Code != "EPROTO" {
			t.Errorf("%s: kind %d, %+v, %v", request.line(), k, f, err)
		}
	}
}
