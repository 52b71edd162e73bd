//go:build linux

package agent

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"golang.org/x/sys/unix"
)

// TestManyConnections: with the default limit, 1,023 connections that idle, that
// send a request and never end it or read nothing of a reply do not stop a ping.
// (FAULTS.md 2: 1,023 idle connections → a ping is still served)
func TestManyConnections(t *testing.T) {
	big := filepath.Join(shortDir(t), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 64<<20); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, say string }{
		{"idle", ""},
		{"half a request", `{"operation":"pi`},
		{"an unread reply", object{"operation": "file_read", "path": big}.line()},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := spawn(t, prepare{}, nil, "--max-lag=500ms")
			for range 1023 {
				c := dial(t, a.socket)
				if _, err := io.WriteString(c, row.say); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				if got := say(t, a.socket, pingLine); got != pong {
					t.Errorf("%q", got)
				}
			}
			peak := a.kilobytes(t, "VmHWM")
			t.Logf("peak %d kB", peak)
			if limit := int(defaultLimits().resident() >> 10); peak > limit && !raceEnabled() {
				t.Errorf("the agent's peak is %d kB, more than %d", peak, limit)
			}
		})
	}
}

// drip sends one byte of a request, and then another, until the connection breaks.
func drip(c net.Conn, every time.Duration) {
	request := `{"operation":"ping","x":"` + strings.Repeat("x", 1<<20)
	for i := range request {
		if _, err := io.WriteString(c, request[i:i+1]); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// TestDrippingClients: where there is no room, those that drip lose their
// connections; commands that run, and clients as fast as can be asked, do not.
func TestDrippingClients(t *testing.T) {
	limits := testLimits()
	limits.Conns, limits.Lag = 8, 500*time.Millisecond
	l := serve(t, limits)
	running := keep(t, l.socket)
	request := sh("sleep 3; echo done").line() // which came slowly, but is there
	running.send(request[:10])
	time.Sleep(2 * limits.Lag)
	running.send(request[10:])
	l.awaitState(t, working, 1)
	read := filepath.Join(shortDir(t), "f")
	if err := os.WriteFile(read, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var sips sync.WaitGroup
	var clients []net.Conn
	for i := range 7 {
		c := dial(t, l.socket)
		clients = append(clients, c)
		if i%2 == 0 {
			sips.Go(func() { drip(c, 50*time.Millisecond) })
			continue
		}
		_, _ = io.WriteString(c, object{"operation": "file_read", "path": read}.line())
		sips.Go(func() {
			for {
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	eventually(t, "all are served", func() bool { return l.size() == 8 })
	for range 10 {
		if got := say(t, l.socket, pingLine); got != pong {
			t.Errorf("beside clients that drip: %q", got)
		}
	}
	if r := parseReply(t, running.receive()); r.Data.Stdout != "done\n" {
		t.Errorf("the command that ran: %+v", r)
	}
	for _, c := range clients {
		_ = c.Close()
	}
	sips.Wait()
}

// awaitState waits until n connections are in a state.
func (l *live) awaitState(t *testing.T, state int64, n int) {
	eventually(t, "the connections are in their states", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		in := 0
		for c := range l.conns {
			if c.state.Load() == state {
				in++
			}
		}
		return in == n
	})
}

// slowest tells how far the one that is the furthest behind is.
func (l *live) slowest() (most time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		d, _ := c.lags()
		most = max(most, d)
	}
	return most
}

func (l *live) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// TestDrippingWithRoom: while there is room nobody loses a connection.
func TestDrippingWithRoom(t *testing.T) {
	limits := testLimits()
	// For all of them at once: the agent may still be closing the last ones.
	limits.Conns, limits.Lag = 1+len(pingLine), time.Millisecond
	l := serve(t, limits)
	slow := keep(t, l.socket)
	for i := range pingLine {
		slow.send(pingLine[i : i+1])
		if got := say(t, l.socket, pingLine); got != pong {
			t.Fatal(got)
		}
	}
	if got := slow.receive(); got != pong {
		t.Error(got)
	}
}

// TestSlowestFirst: of those that drip, the one that is the furthest behind makes
// room.
func TestSlowestFirst(t *testing.T) {
	limits := testLimits()
	limits.Conns, limits.Lag = 2, time.Second
	l := serve(t, limits)
	half := pingLine[:10]
	slowest, slower := keep(t, l.socket), keep(t, l.socket)
	slowest.send(half)
	l.awaitState(t, receiving, 1)
	eventually(t, "it is behind", func() bool { return l.slowest() > 300*time.Millisecond })
	slower.send(half)
	l.awaitState(t, receiving, 2)
	if got := say(t, l.socket, pingLine); got != pong {
		t.Fatal(got)
	}
	if n, err := slowest.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the slowest: %d bytes, %v", n, err)
	}
	slower.send(pingLine[10:])
	if got := slower.receive(); got != pong {
		t.Errorf("the other: %q", got)
	}
}

// TestDispensable: who idles makes room first, then who is slow, at once though somebody
// has just connected; who has asked never does.
func TestDispensable(t *testing.T) {
	const long, lag = time.Hour, time.Minute
	at := func(state int64, lag time.Duration) *conn {
		c := &conn{opened: time.Now().Add(-2 * long)}
		c.state.Store(state)
		c.lag.Store(int64(lag))
		return c
	}
	idle := func(d time.Duration) *conn { return at(int64(2*long-d), 0) }
	conns := map[string]*conn{
		"fresh": idle(-long), // and stays so, however slow the machine is
		"idles": idle(lag), "longer": idle(long), "busy": at(working, long),
		"fast": at(receiving, 0), "slow": at(receiving, 2*lag), "slower": at(sending, 3*lag),
	}
	for _, row := range []struct{ there, want string }{
		{"idles longer fresh slower busy", "longer"},
		{"fresh slow slower fast busy", "slower"},
		{"fresh slow", "slow"},
		{"slow idles", "idles"},
		{"fresh fast busy", ""},
		{"busy", ""},
	} {
		a := &Agent{limits: Limits{Lag: lag}, conns: map[*conn]struct{}{}}
		for _, name := range strings.Fields(row.there) {
			a.conns[conns[name]] = struct{}{}
		}
		c, state, _, pause := a.dispensable()
		if c != conns[row.want] || c == nil && pause <= 0 || c != nil && c.state.Load() != state {
			t.Errorf("of %s not %q; pause %v", row.there, row.want, pause)
		}
	}
}

// TestLateRequest: who was slow to ask is not behind when the reply comes, and is not
// closed for it: the command has run.
func TestLateRequest(t *testing.T) {
	l := serve(t, testLimits())
	late := keep(t, l.socket)
	request := sh("sleep 1000").line()
	late.send(request[:10])
	eventually(t, "it is behind", func() bool { return l.slowest() > 300*time.Millisecond })
	late.send(request[10:])
	l.awaitState(t, working, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if lag := time.Duration(c.lag.Load()); lag > 0 {
			t.Errorf("%v behind, and there is nothing to read yet", lag)
		}
	}
}

// TestSilentlyDead: connections that died without a word, as they do when a VM is
// restored from a snapshot, are dropped in time, and their places are free.
// (FAULTS.md 2: Snapshots: connections open at the snapshot → dropped, slots freed)
func TestSilentlyDead(t *testing.T) {
	limits := testLimits()
	limits.Idle, limits.Stall = 2*time.Second, 2*time.Second
	l := serve(t, limits)
	begin := time.Now()
	var dead []net.Conn
	for _, said := range []string{"", strings.Replace(pingLine, "}", `,"keep_alive":true}`, 1), pingLine[:10], `{"operation":"file_write","path":"/nosuch/x","content":"QUJD`} {
		c := dial(t, l.socket)
		_, _ = io.WriteString(c, said)
		dead = append(dead, c) // it is open until the test ends
	}
	for i, c := range dead {
		if b, err := io.ReadAll(c); err != nil || string(b) != []string{"", pong, "", ""}[i] {
			t.Errorf("connection %d: %q, %v", i, b, err)
		}
		if took := time.Since(begin); took < limits.Stall {
			t.Errorf("connection %d: dropped after %v", i, took)
		}
	}
	eventually(t, "their places are free", func() bool { return l.size() == 0 })
	if got := say(t, l.socket, pingLine); got != pong {
		t.Error(got)
	}
}

// panicking is a connection in whose reading a fault of the agent strikes.
type panicking struct{ net.Conn }

func (panicking) Read([]byte) (int, error) { panic("a test's") }

// TestPanicOutsideHandlers: wherever a connection's goroutine panics, it is the end of
// that connection alone. (FAULTS.md 2: a panic in a handler)
func TestPanicOutsideHandlers(t *testing.T) {
	var log lockedBuffer
	a := New(logging.New(&log, "agent", false), testLimits(), transport.Anyone, cgroup.Group{})
	ours, theirs := net.Pipe()
	a.begin(panicking{theirs})
	if n, err := ours.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("its client: %d bytes, %v", n, err)
	}
	l := &live{Agent: a}
	eventually(t, "its place is free", func() bool { return l.size() == 0 })
	a.log.Flush(patience)
	if s := log.String(); !strings.Contains(s, "serving a connection panicked") || !strings.Contains(s, "panicking.Read") {
		t.Errorf("the log: %s", s)
	}
	ours, theirs = net.Pipe()
	a.begin(theirs)
	go func() { _, _ = io.WriteString(ours, pingLine) }()
	got := make([]byte, len(pong))
	if _, err := io.ReadFull(ours, got); err != nil || string(got) != pong {
		t.Errorf("the next: %q, %v", got, err)
	}
	_ = ours.Close()
	a.wg.Wait()
}

// TestPanicInCollection: one that strikes while output is collected costs output.
func TestPanicInCollection(t *testing.T) {
	o := newOutput(1<<20, nil, func() (*os.File, error) { panic("a test's") })
	w, err := o.pipe()
	if err != nil {
		t.Fatal(err)
	}
	var text lockedBuffer
	log := logging.New(&text, "agent", false)
	o.start(log)
	f := os.NewFile(uintptr(w), "pipe")
	_, _ = f.Write(make([]byte, 60<<10))
	_, _ = f.Write(make([]byte, 60<<10))
	_ = f.Close()
	o.finish(time.Now().Add(patience))
	log.Flush(patience)
	if s := text.String(); !strings.Contains(s, "collecting output panicked") {
		t.Errorf("the log: %s", s)
	}
	o.close()
}

// A lockedBuffer is a log that a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNoFilesForARequest: what needs more open files than there are is an error,
// and works again when there are. (FAULTS.md 2: fork EAGAIN, EMFILE → recovers)
func TestNoFilesForARequest(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	limit := func(n uint64) {
		t.Helper()
		if err := unix.Prlimit(a.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: 1024}, nil); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(filepath.Dir(a.socket), "f")
	requests := []object{
		{"operation": "file_write", "path": path, "content": base64Of(make([]byte, 100<<10))},
		{"operation": "file_read", "path": path},
		{"operation": "exec", "cmd": []string{"echo", "ok"}},
		{"operation": "exec", "cmd": []string{"cat"}, "stdin": base64Of([]byte("ok"))},
	}
	for _, r := range requests {
		r["keep_alive"] = true
	}
	asks := keep(t, a.socket)
	all := func() (refused int) {
		for _, request := range requests {
			asks.send(request.line())
			switch r := parseReply(t, asks.receive()); {
			case r.Code == "EMFILE":
				refused++
			case !r.Success:
				t.Errorf("%v: %s (%s)", request["operation"], r.Error, r.Code)
			}
		}
		return refused
	}
	if all() > 0 {
		t.Fatal("not even at first")
	}
	most := 0
	// Of what is open now the agent may just be closing some.
	for n := max(a.openFiles(t)-10, 4); n < a.openFiles(t)+8; n++ {
		limit(uint64(n))
		most = max(most, all())
	}
	if most != len(requests) {
		t.Errorf("of %d requests %d were refused", len(requests), most)
	}
	limit(1024)
	eventually(t, "all is well", func() bool { return all() == 0 })
}
