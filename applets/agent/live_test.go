//go:build linux

package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the agent itself, and what tests need started
// in a process of its own, when it is started under such a name.
func TestMain(m *testing.M) {
	if run, ok := programs()[filepath.Base(os.Args[0])]; ok {
		os.Exit(run())
	}
	os.Exit(toTheEnd(func() int {
		// As hf-agent does: else commands of an agent in this process would inherit it.
		for _, n := range []os.Signal{unix.SIGHUP, unix.SIGINT} {
			if signal.Ignored(n) { // nohup, or a shell's background
				signal.Notify(make(chan os.Signal, 1), n)
			}
		}
		return m.Run()
	}))
}

// testLimits are the defaults, but that no machine is too slow for a client's part:
// a test that needs a short limit sets that one, and none beside it.
func testLimits() Limits {
	l := defaultLimits()
	l.Stall, l.Linger = patience, patience
	return l
}

// A live is an agent that serves a Unix socket in this process.
type live struct {
	*Agent
	socket string
	group  cgroup.Group // that the test made
}

// serve starts an agent, and ends it with the test.
func serve(t testing.TB, limits Limits) *live {
	t.Helper()
	group := testGroup(t)
	commands := cgroup.Group{}
	if group.Valid() {
		var err error
		if commands, err = group.Child(cgroup.Commands); err != nil {
			t.Fatal(err)
		}
	}
	a := New(logging.New(io.Discard, "agent", false), limits, transport.Anyone, commands)
	socket := filepath.Join(shortDir(t), "s")
	f, err := transport.Listen(transport.Address{Path: socket})
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); a.Serve(l) }()
	t.Cleanup(func() {
		a.Stop()
		a.commands.terminate(0)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		a.Wait(ctx)
		<-served
		if ctx.Err() != nil {
			t.Error("the agent's connections do not end")
			return
		}
		// Sessions are nobody's to wait for.
		eventually(t, "all memory is given back", func() bool { return a.memory.inUse() == 0 })
	})
	return &live{a, socket, group}
}

// testGroup makes a cgroup for a test and removes it, with all that is in it,
// after it. It is none where that can't be done.
func testGroup(t testing.TB) cgroup.Group {
	t.Helper()
	root, err := cgroup.Root()
	if err != nil || os.Getuid() != 0 {
		return cgroup.Group{}
	}
	g, err := root.Child(fmt.Sprintf("hf-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		return cgroup.Group{}
	}
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		eventually(t, "the test's cgroup can be removed", func() bool { return g.Remove() == nil })
	})
	return g
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func needCgroup(t testing.TB, l *live) {
	t.Helper()
	if !l.group.Valid() {
		t.Skip("needs cgroup v2 and root")
	}
}

// raceEnabled tells whether the race detector is in this binary: its memory is
// not the agent's.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

// shortDir is t.TempDir with a name that a socket's path has room for.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// patience is how long a test waits for what must come: only a fault takes so
// long, however busy the machine is.
const patience = time.Minute

// eventually waits for something that has to become true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("not within %v: %s", patience, what)
			return
		}
	}
}

// dial connects to an agent. What the test does with the connection must be done
// within patience.
func dial(t testing.TB, socket string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends bytes as they are and returns all that comes back until the agent
// ends the connection.
func say(t testing.TB, socket, request string) string {
	t.Helper()
	c := dial(t, socket)
	defer c.Close()
	go func() { _, _ = io.WriteString(c, request) }() // an agent may answer before it has all
	reply, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("after %d bytes: %v", len(reply), err)
	}
	return string(reply)
}

// A reply is every field that some reply has.
type reply struct {
	Success bool
	Error   string
	Code    string
	Data    struct {
		Content      []byte
		Size         int64
		BytesWritten int64 `json:"bytes_written"`
		Mode         string
		ModTime      string `json:"mod_time"`
		ExitCode     int    `json:"exit_code"`
		Stdout       string
		Stderr       string
		StdoutBase64 []byte `json:"stdout_base64"`
		StderrBase64 []byte `json:"stderr_base64"`
		Signal       int
		TimedOut     bool   `json:"timed_out"`
		Truncated    bool   `json:"truncated"`
		DurationMS   int64  `json:"duration_ms"`
		KillScope    string `json:"kill_scope"`
	}
}

// parseReply reads a line that must be a reply and nothing else.
func parseReply(t testing.TB, line string) reply {
	t.Helper()
	var r reply
	if !strings.HasSuffix(line, "\n") || strings.Count(line, "\n") != 1 {
		t.Errorf("not one line: %.300q", line)
	} else if err := json.Unmarshal([]byte(line), &r); err != nil {
		t.Errorf("%v in %.300q", err, line)
	}
	return r
}

// object is a request in the making.
type object map[string]any

func (o object) line() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		panic(err)
	}
	return b.String()
}

// call makes one request and reads its reply.
func call(t testing.TB, socket string, request object) reply {
	t.Helper()
	return parseReply(t, say(t, socket, request.line()))
}

// run runs a command that must have been answered.
func run(t testing.TB, socket string, request object) reply {
	t.Helper()
	request["operation"] = "exec"
	r := call(t, socket, request)
	if !r.Success {
		t.Errorf("%v: %s (%s)", request["cmd"], r.Error, r.Code)
	}
	return r
}

// sh is the request for a script.
func sh(script string) object {
	return object{"operation": "exec", "cmd": []string{"sh", "-c", script}}
}

func base64Of(content []byte) string { return base64.StdEncoding.EncodeToString(content) }

// A session is a connection that is kept.
type session struct {
	t testing.TB
	*net.UnixConn
	lines *bufio.Reader
}

func keep(t testing.TB, socket string) *session {
	c := dial(t, socket)
	return &session{t, c, bufio.NewReader(c)}
}

func (s *session) send(request string) {
	s.t.Helper()
	if _, err := io.WriteString(s, request); err != nil {
		s.t.Error(err)
	}
}

func (s *session) receive() string {
	s.t.Helper()
	line, err := s.lines.ReadString('\n')
	if err != nil {
		s.t.Errorf("reply %.100q: %v", line, err)
	}
	return line
}
