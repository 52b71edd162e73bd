//go:build linux

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// TestSession: a command goes on without its client, who finds its output again.
func TestSession(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	started, err := c.Detach(t.Context(), client.Command{Cmd: shell("echo one; echo two >&2; read x < " + gate + "; echo three; exit 5")})
	if err != nil || started.Session == "" || started.PID == 0 {
		t.Fatal(started, err)
	}
	eventually(t, "two lines are there", func() bool {
		all, err := c.Sessions(t.Context())
		return err == nil && len(all) == 1 && all[0].To == 8 && all[0].Exit == nil && all[0].PID == started.PID
	})
	// The first client breaks off behind the first lines, the second goes on there.
	ctx, cancel := context.WithCancel(t.Context())
	out := &signalling{want: 8, reached: make(chan struct{})}
	p, err := c.Attach(ctx, client.Attachment{Session: started.Session, Stdout: out, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-out.reached; cancel() }()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) || p.Offset() != 8 {
		t.Errorf("%v at %d", err, p.Offset())
	}
	var rest bytes.Buffer
	again, err := c.Attach(t.Context(), client.Attachment{Session: started.Session, Offset: p.Offset(), Stdout: &rest})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	exit, err := again.Wait()
	if err != nil || exit.ExitCode != 5 || rest.String() != "three\n" {
		t.Errorf("%+v %v %q", exit, err, rest.String())
	}
	waited, err := c.WaitSession(t.Context(), started.Session)
	if err != nil || *waited != *exit {
		t.Errorf("%+v %v", waited, err)
	}
	if err := c.SignalSession(t.Context(), started.Session, 15); !errors.Is(err, unix.ESRCH) || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("a signal to a command that has ended: %v", err)
	}
	// It is all still there, until it is removed.
	var stdout, stderr bytes.Buffer
	if p, err = c.Attach(t.Context(), client.Attachment{Session: started.Session, Stdout: &stdout, Stderr: &stderr}); err != nil {
		t.Fatal(err)
	}
	if _, err = p.Wait(); err != nil || stdout.String() != "one\nthree\n" || stderr.String() != "two\n" {
		t.Errorf("%q %q %v", stdout.String(), stderr.String(), err)
	}
	if err := c.RemoveSession(t.Context(), started.Session); err != nil {
		t.Error(err)
	}
	if _, err := c.WaitSession(t.Context(), started.Session); !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
}

// signalling closes reached when it has taken want bytes.
type signalling struct {
	want    int
	reached chan struct{}
}

func (s *signalling) Write(p []byte) (int, error) {
	if s.want -= len(p); s.want == 0 {
		close(s.reached)
	}
	return len(p), nil
}

// TestSessionInput: the clients of a session can talk to it, one after another,
// and none of them ends it by leaving.
func TestSessionInput(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	ctx, cancel := context.WithCancel(t.Context())
	first := &signalling{want: 6, reached: make(chan struct{})}
	keyboard, keys := io.Pipe()
	p, err := c.StartSession(ctx, client.Command{Cmd: []string{"cat"}, Stdin: keyboard, Stdout: first})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(keys, "first\n"); <-first.reached; cancel() }()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var out bytes.Buffer
	second, err := c.Attach(t.Context(), client.Attachment{Session: p.Session, Stdin: strings.NewReader("second\n"), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := second.Wait(); err != nil || exit.ExitCode != 0 || out.String() != "first\nsecond\n" {
		t.Errorf("%+v %v %q", exit, err, out.String())
	}
}

// TestSessionGap: who comes too late is told what is missing.
func TestSessionGap(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	started, err := c.Detach(t.Context(), client.Command{Cmd: shell("head -c 100000 /dev/zero; echo end"), Ring: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitSession(t.Context(), started.Session); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var gaps [][2]int64
	for _, row := range []struct {
		offset int64
		gap    string
		length int
	}{
		{0, "[[0 99004]]", 1000},
		{50, "[[50 99004]]", 1000},
		{99999, "[]", 5},
		{-4, "[]", 4},
		{-5000, "[]", 1000},
		{client.Live, "[]", 0},
	} {
		out.Reset()
		gaps = nil
		p, err := c.Attach(t.Context(), client.Attachment{
			Session: started.Session, Offset: row.offset, Stdout: &out,
			Gap: func(from, to int64) { gaps = append(gaps, [2]int64{from, to}) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil || fmt.Sprint(gaps) != row.gap || out.Len() != row.length || p.Offset() != 100004 {
			t.Errorf("from %d: %v, %d bytes, at %d, %v", row.offset, gaps, out.Len(), p.Offset(), err)
		}
	}
	if _, err := c.Attach(t.Context(), client.Attachment{Session: started.Session, Offset: 100005}); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

// TestSessionSignals: a signal reaches the command, and removal ends it whole.
func TestSessionSignals(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	path := filepath.Join(t.TempDir(), "pids")
	script := family
	n := 5
	if l.group.Valid() {
		script, n = family+escaped, 7
	}
	started, err := c.Detach(t.Context(), client.Command{Cmd: shell("echo $$ >> $PIDS" + script + "while :; do sleep 1; done"), Env: []string{"PIDS=" + path}})
	if err != nil {
		t.Fatal(err)
	}
	pids := waitForPIDs(t, path, n)
	if err := c.SignalSession(t.Context(), started.Session, int(unix.SIGTERM)); err != nil { // which it ignores
		t.Error(err)
	}
	if !running(started.PID) {
		t.Error("it is gone")
	}
	if err := c.RemoveSession(t.Context(), started.Session); err != nil {
		t.Error(err)
	}
	allGone(t, pids)
}

// TestSessionLimit: sessions that have ended make room, others do not.
func TestSessionLimit(t *testing.T) {
	limits := testLimits()
	limits.Sessions = 3
	l := serve(t, limits)
	c := client.New(client.Unix(l.socket))
	for range 5 {
		s, err := c.Detach(t.Context(), client.Command{Cmd: []string{"true"}})
		if err == nil {
			_, err = c.WaitSession(t.Context(), s.Session)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var last *wire.ExecStarted
	for range 3 {
		var err error
		if last, err = c.Detach(t.Context(), client.Command{Cmd: []string{"sleep", "300"}}); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Detach(t.Context(), client.Command{Cmd: []string{"sleep", "300"}}); !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
	all, err := c.Sessions(t.Context())
	if err != nil || len(all) != 3 || all[2].Session != last.Session {
		t.Errorf("%+v %v", all, err)
	}
}

// TestManySessions: 500 sessions at once, whose output takes no memory.
func TestManySessions(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	c := client.New(client.Unix(a.socket))
	before := a.kilobytes(t, "VmRSS")
	const n = 500
	for range n {
		if _, err := c.Detach(t.Context(), client.Command{Cmd: shell("head -c 300000 /dev/zero; exec sleep 300")}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all have written", func() bool {
		all, err := c.Sessions(t.Context())
		if err != nil || len(all) != n {
			t.Fatal(len(all), err)
		}
		for _, s := range all {
			if s.To != 300000 {
				return false
			}
		}
		return true
	})
	after := a.kilobytes(t, "VmRSS")
	t.Logf("%d kB, %d kB with %d sessions", before, after, n)
	if !raceEnabled() && after-before > n*64 {
		t.Errorf("%d kB more than before", after-before)
	}
}

// TestPS finds a process that it knows.
func TestPS(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	all, err := c.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.PID == os.Getpid() {
			if p.PPID != os.Getppid() || p.UID != uint32(os.Geteuid()) || p.Threads < 2 || p.RSS < 1<<20 || p.Age <= 0 || fmt.Sprint(p.Cmd) != fmt.Sprint(os.Args) || !strings.Contains("RSD", p.State) {
				t.Errorf("%+v", p)
			}
			return
		}
	}
	t.Errorf("%d processes, and not this one", len(all))
}

func TestParseStat(t *testing.T) {
	const rest = " S 1 12 12 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 3 0 1000 1000000 42 18446744073709551615"
	p, started, ok := parseStat([]byte("12 (a) b (c)" + rest))
	if !ok || p.Name != "a) b (c" || p.State != "S" || p.PPID != 1 || p.CPUMS != 4000 || p.Threads != 3 || p.RSS != 42*int64(os.Getpagesize()) || started != 10000 {
		t.Errorf("%+v %d %v", p, started, ok)
	}
	for _, s := range []string{"", "12", "12 (a", "12 a) (b", "12 (a) S 1", "12 (a) S x" + rest[4:]} {
		if _, _, ok := parseStat([]byte(s)); ok {
			t.Errorf("%q is taken", s)
		}
	}
}
