//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"golang.org/x/sys/unix"
)

const pingLine, pong = `{"operation":"ping"}` + "\n", `{"success":true,"data":{"pong":true}}` + "\n"

// TestIdleConnections: at the limit, those that idle make room, the oldest first.
func TestIdleConnections(t *testing.T) {
	limits := testLimits()
	limits.Conns = 8
	l := serve(t, limits)
	var idle []*session
	for range 8 {
		s := keep(t, l.socket)
		s.send(`{"operation":"ping","keep_alive":true}` + "\n")
		s.receive()
		idle = append(idle, s)
	}
	for _, s := range idle { // 8 are within the limit
		s.send(`{"operation":"ping","keep_alive":true}` + "\n")
		if s.receive() != pong {
			t.Fatal("a connection within the limit was closed")
		}
	}
	for range 20 {
		if got := say(t, l.socket, pingLine); got != pong {
			t.Fatalf("beside idle connections: %q", got)
		}
	}
	if n, err := idle[0].Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the connection that idled longest: %v", err)
	}
	last := idle[len(idle)-1]
	last.send(pingLine)
	if got := last.receive(); got != pong {
		t.Errorf("the connection that idled shortest: %q", got)
	}
}

// TestBusyConnections: where nobody idles, a new client waits for its turn.
func TestBusyConnections(t *testing.T) {
	for _, limit := range []int{1, 4} {
		limits := testLimits()
		limits.Conns = limit
		l := serve(t, limits)
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				c, err := net.Dial("unix", l.socket)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, sh("sleep 0.05; echo ok").line())
				if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), `"stdout":"ok\n"`) {
					t.Errorf("limit %d: %q %v", limit, b, err)
				}
			})
		}
		wg.Wait()
	}
}

// TestBurst: 64 clients with 30 connections each are all served. (FAULTS.md 1.24)
func TestBurst(t *testing.T) {
	l := serve(t, testLimits())
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 30 {
				c, err := net.Dial("unix", l.socket)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.WriteString(c, pingLine)
				if b, err := io.ReadAll(c); string(b) != pong {
					t.Errorf("%q %v", b, err)
				}
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

// TestStalledSender: a request that stops, or a client that never asks, frees its
// place in time, and not before.
func TestStalledSender(t *testing.T) {
	const short = 150 * time.Millisecond
	idle, stall := testLimits(), testLimits()
	idle.Idle, stall.Stall = short, short
	for _, row := range []struct {
		part   string
		limits Limits // the other one is many times as long
	}{{"", idle}, {`{"operation":`, stall}, {`{"operation":"file_write","path":"/nosuch/x","content":"QUJD`, stall}} {
		l := serve(t, row.limits)
		begin := time.Now()
		c := dial(t, l.socket)
		_, _ = io.WriteString(c, row.part)
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
			t.Errorf("%q: %q %v", row.part, b, err)
		}
		if took := time.Since(begin); took < short || took > 20*time.Second {
			t.Errorf("%q: closed after %v", row.part, took)
		}
	}
}

// TestSlowSender: a client that takes longer for its request than it may stop, and
// never stops for so long, is served.
func TestSlowSender(t *testing.T) {
	t.Parallel()
	limits := testLimits()
	limits.Stall = 5 * time.Second
	l := serve(t, limits)
	s := keep(t, l.socket)
	for _, c := range pingLine {
		s.send(string(c))
		time.Sleep(300 * time.Millisecond)
	}
	if got := s.receive(); got != pong {
		t.Errorf("slow: %q", got)
	}
}

// TestStuckReader: a client that reads nothing frees its place.
func TestStuckReader(t *testing.T) {
	limits := testLimits()
	limits.Conns, limits.Stall = 1, 300*time.Millisecond
	l := serve(t, limits)
	stuck := dial(t, l.socket)
	_, _ = io.WriteString(stuck, object{"operation": "exec", "cmd": []string{"head", "-c", "4194304", "/dev/zero"}}.line())
	if _, err := stuck.Read(make([]byte, 1)); err != nil { // the reply has begun
		t.Fatal(err)
	}
	if got := say(t, l.socket, pingLine); got != pong {
		t.Error(got)
	}
	if b, _ := io.ReadAll(stuck); strings.HasSuffix(string(b), "\n") {
		t.Error("the reply was not cut: this test shows nothing")
	}
}

// TestPausingReader: a client that pauses before the end of a reply gets all of
// it. (FAULTS.md part 2: a reader that pauses before the tail)
func TestPausingReader(t *testing.T) {
	t.Parallel()
	l := serve(t, testLimits()) // whose patience is many times the pause
	const size = 4 << 20
	paused := keep(t, l.socket)
	paused.send(object{"operation": "exec", "cmd": []string{"head", "-c", "4194304", "/dev/zero"}}.line())
	head := make([]byte, size)
	n, err := io.ReadFull(paused.lines, head)
	time.Sleep(5 * time.Second)
	rest, restErr := io.ReadAll(paused.lines)
	if err != nil || restErr != nil {
		t.Fatal(err, restErr)
	}
	if r := parseReply(t, string(head[:n])+string(rest)); len(r.Data.StdoutBase64) != size || len(r.Data.Stdout) != size {
		t.Errorf("%d bytes", len(r.Data.StdoutBase64))
	}
}

// TestResets: clients that break off at any point leave nothing behind.
func TestResets(t *testing.T) {
	l := serve(t, testLimits())
	dir := t.TempDir()
	settled := func() (files, goroutines int) {
		eventually(t, "no connection is left", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.conns) == 0
		})
		l.wg.Wait()
		return len(readDir(t, "/proc/self/fd")), runtime.NumGoroutine()
	}
	for range 3 { // the runtime's own, and pools
		say(t, l.socket, sh("true").line())
	}
	files, goroutines := settled()
	requests := []string{
		object{"operation": "file_write", "path": dir + "/f", "content": base64Of(make([]byte, 500<<10))}.line(),
		sh("head -c 300000 /dev/zero; sleep 0.05").line(),
		object{"operation": "file_read", "path": "/proc/self/exe"}.line(),
		sh("sleep 100").line(),
		pingLine,
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			c, err := net.Dial("unix", l.socket)
			if err != nil {
				t.Error(err)
				return
			}
			request := requests[i%len(requests)]
			if i%3 == 0 {
				request = request[:len(request)*(i%10)/10]
			}
			_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
			_, _ = io.WriteString(c, request)
			if i%2 == 0 {
				_, _ = c.Read(make([]byte, 100))
			}
			_ = c.Close()
		})
	}
	wg.Wait()
	eventually(t, "open files and goroutines are back where they were", func() bool {
		f, g := settled()
		return f <= files && g <= goroutines
	})
	for _, name := range readDir(t, dir) {
		if name != "f" {
			t.Errorf("%s is left", name)
		}
	}
	if l.group.Valid() {
		for _, name := range readDir(t, l.group.String()+"/commands") {
			if !strings.Contains(name, ".") {
				t.Errorf("cgroup %s is left", name)
			}
		}
	}
	if got := say(t, l.socket, pingLine); got != pong {
		t.Error(got)
	}
}

// flaky is a listener that fails a number of times before it accepts.
type flaky struct {
	net.Listener
	left  atomic.Int32
	tries atomic.Int32
}

func (f *flaky) Accept() (net.Conn, error) {
	f.tries.Add(1)
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", unix.EMFILE)}
	}
	return f.Listener.Accept()
}

// TestAcceptFails: without file descriptors the agent waits, instead of spinning,
// and goes on. (FAULTS.md 1.23)
func TestAcceptFails(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{Listener: inner}
	f.left.Store(6)
	a := New(logging.New(io.Discard, "agent", false), testLimits(), transport.Anyone, cgroup.Group{})
	done := make(chan struct{})
	begin := time.Now()
	go func() { defer close(done); a.Serve(f) }()
	if got := say(t, inner.Addr().String(), pingLine); got != pong {
		t.Error(got)
	}
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("six failures in %v", took)
	}
	a.Stop()
	<-done
	if n := f.tries.Load(); n > 9 {
		t.Errorf("%d tries", n)
	}
}

// TestNoFilesLeft: a process that really has no descriptors left answers again
// when it has.
func TestNoFilesLeft(t *testing.T) {
	a := spawn(t, prepare{Open: 24}, nil, "--max-connections=1000")
	var conns []*session
	for range 40 {
		conns = append(conns, keep(t, a.socket))
	}
	eventually(t, "there are none left", func() bool { return strings.Contains(readFile(t, a.log), "accept failed") })
	before := cpuTime(t, a)
	time.Sleep(time.Second)
	if cpu := cpuTime(t, a) - before; cpu > 300*time.Millisecond {
		t.Errorf("%v of CPU time with nothing to do", cpu)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	eventually(t, "a command runs", func() bool {
		r := parseReply(t, say(t, a.socket, sh("echo ok").line()))
		return r.Data.Stdout == "ok\n"
	})
	if n := a.openFiles(t); n > 24 {
		t.Errorf("%d open files", n)
	}
}

// cpuTime is what a process has used.
func cpuTime(t *testing.T, p *process) time.Duration {
	t.Helper()
	stat := readFile(t, fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+2:])
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// TestHalfClose: a half-close is not the end of a client.
func TestHalfClose(t *testing.T) {
	l := serve(t, testLimits())
	end := filepath.Join(t.TempDir(), "end")
	s := keep(t, l.socket)
	s.send(sh("until [ -e " + end + " ]; do sleep 0.02; done; echo ok").line())
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // in which the command would be killed
	if err := os.WriteFile(end, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := parseReply(t, s.receive()); r.Data.Stdout != "ok\n" {
		t.Errorf("%+v", r)
	}
	if _, err := s.lines.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
