//go:build linux

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/vsockclient"
)

// behindFirecracker puts an agent where a client reaches it through a stand-in
// for Firecracker's socket, whose path it returns. What the real one drops after
// 2 s and 8 s this one drops after a quarter of it.
func behindFirecracker(t *testing.T, limits Limits, hostBuffer int) (l *live, uds string) {
	t.Helper()
	l = serve(t, limits)
	return l, agenttest.Listen(t, (&agenttest.Firecracker{
		Guest: l.socket, Shutdown: 500 * time.Millisecond, Reset: 2 * time.Second, HostBuffer: hostBuffer,
	}).Serve)
}

// within is a context that ends before a test hangs.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestFirecracker calls every operation through Firecracker's socket, with both
// clients.
func TestFirecracker(t *testing.T) {
	_, uds := behindFirecracker(t, testLimits(), 0)
	file := filepath.Join(t.TempDir(), "f")
	size := 20 << 20
	if raceEnabled() {
		size = 2 << 20 // the detector makes every byte dear
	}
	big := string(allBytes(size))
	for _, row := range []struct {
		args   string
		stdin  string
		status int
		out    string // all of it, or with … its start
	}{
		{"wait", "", 0, "ready after …"},
		{"--json ping", "", 0, `{"success":true,"data":{"pong":true}}` + "\n"},
		{"--json info", "", 0, `{"success":true,"data":{"version":…`},
		{"write --mode 600 " + file, big, 0, ""},
		{"read " + file, "", 0, big},
		{"--json stat " + file, "", 0, `{"success":true,"data":{"path":"` + file + `","size":` + strconv.Itoa(size) + `,"mode":"600",…`},
		{"exec -- cat " + file, "", 0, big},
		{"exec -i --max-output 30000000 -- cat", big, 0, big},
		{"exec -- sh -c exit${IFS}3", "", 3, ""},
		{"exec --timeout 100ms -- sleep 600", "", 137, ""},
		{"rm " + file, "", 0, ""},
		{"rm " + file, "", 1, ""},
		{`raw {"operation":"nope"}`, "", 1, `{"success":false,"error":"operation: there is none named \"nope\"","code":"ENOSYS"}` + "\n"},
		{"--port 53 ping", "", 1, ""},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"hf-vsock-client", "--uds", uds}, strings.Fields(row.args)...)
		status := vsockclient.Run(args, strings.NewReader(row.stdin), &out, &errs)
		got := out.String()
		if start, ok := strings.CutSuffix(row.out, "…"); ok {
			got, row.out = got[:min(len(got), len(start))], start
		}
		if status != row.status || got != row.out {
			t.Errorf("%s: status %d, %d bytes: %.100q, %.200q", row.args, status, out.Len(), got, errs.String())
		}
	}
	ctx, c := within(t), client.New(client.UDS(uds, client.DefaultPort))
	if _, err := c.WriteFile(ctx, file, strings.NewReader(big)); err != nil {
		t.Error(err)
	}
	var out strings.Builder
	if _, err := c.ReadFile(ctx, file, &out); err != nil || out.String() != big {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	if r, err := c.Exec(ctx, client.ExecRequest{Cmd: []string{"false"}}); err != nil || r.ExitCode != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// askOver sends a request over Firecracker's socket.
func askOver(t *testing.T, uds string, o object) *net.UnixConn {
	t.Helper()
	c, err := transport.Dial(within(t), client.UDS(uds, client.DefaultPort))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, o.line()); err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// TestFirecrackerTail: who reads a reply all but its end, and pauses for longer
// than the VMM keeps what a guest left behind, still has it whole: the agent is
// there until it is read. That the stand-in would lose it is shown by an agent
// that does not linger. (FAULTS.md 2: a reader that pauses 5 s before the tail)
func TestFirecrackerTail(t *testing.T) {
	const (
		pause  = 5 * time.Second // the stand-in drops after 2
		unread = 96 << 10        // more than the client's socket holds, less than all on the way
	)
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, allBytes(4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	read := object{"operation": "file_read", "path": file}
	run := object{"operation": "exec", "cmd": []string{"cat", file}}
	for _, row := range []struct {
		name    string
		request object
		linger  time.Duration
		want    bool // to have it whole
	}{
		{"a file", read, defaultLimits().Linger, true},
		{"output", run, defaultLimits().Linger, true},
		{"a file, of an agent that does not linger", read, time.Millisecond, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			limits := testLimits()
			limits.Linger = row.linger
			l, uds := behindFirecracker(t, limits, 16<<10)
			whole := len(say(t, l.socket, row.request.line()))
			c := askOver(t, uds, row.request)
			reply := make([]byte, whole)
			at := whole - unread
			if _, err := io.ReadFull(c, reply[:at]); err != nil {
				t.Fatal(err)
			}
			if !row.want {
				eventually(t, "the agent has closed", func() bool {
					l.mu.Lock()
					closed := len(l.conns) == 0
					l.mu.Unlock()
					if !closed { // there may be less room on the way than there mostly is
						time.Sleep(50 * time.Millisecond)
						n, err := c.Read(reply[at:min(at+1<<10, whole)])
						if at += n; err != nil {
							t.Fatal(err)
						}
					}
					return closed
				})
			}
			time.Sleep(pause)
			// A digit more or less of the duration is no matter.
			n, err := io.ReadAtLeast(c, reply[at:], whole-at-5)
			if got := err == nil; got != row.want {
				t.Errorf("%d bytes of the last %d: %v", n, whole-at, err)
			}
		})
	}
}

// TestFirecrackerToTheEnd: who reads to the end of the connection has the reply
// whole as well, though the VMM shows him no half-close: a small one soon, which
// the agent does not wait for, and a large one when the agent is done lingering.
func TestFirecrackerToTheEnd(t *testing.T) {
	limits := testLimits()
	limits.Linger = defaultLimits().Linger // to the end of which it takes
	_, uds := behindFirecracker(t, limits, 0)
	for _, size := range []int{0, 40 << 10, 64 << 10, 2 << 20} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(file, allBytes(size), 0o600); err != nil {
				t.Fatal(err)
			}
			c := askOver(t, uds, object{"operation": "file_read", "path": file})
			time.Sleep(time.Second) // longer than it waits with a small one
			reply, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			if r := parseReply(t, string(reply)); !bytes.Equal(r.Data.Content, allBytes(size)) {
				t.Errorf("%d bytes", len(r.Data.Content))
			}
		})
	}
}

// TestFirecrackerHalfClose: of a half-close Firecracker makes a close, so the
// client gets no reply and the command ends, with all it started.
// (FAULTS.md 2: client gone mid-exec)
func TestFirecrackerHalfClose(t *testing.T) {
	_, uds := behindFirecracker(t, testLimits(), 0)
	pids := filepath.Join(t.TempDir(), "pids")
	c := askOver(t, uds, sh("sleep 600 & echo $$ $! > "+pids+".new; mv "+pids+".new "+pids+"; wait"))
	eventually(t, "the command runs", func() bool { _, err := os.Stat(pids); return err == nil })
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
	var shell, child int
	if _, err := fmt.Sscan(readFile(t, pids), &shell, &child); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{shell, child} {
		eventually(t, "the command and its child are gone", func() bool { return ended(pid) })
	}
}

// ended tells whether a process is gone; a zombie that nobody has waited for yet
// is.
func ended(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// TestFirecrackerBeforeTheAgent: as long as nobody listens in the guest, the
// error says so, and who waits gets through when somebody does.
func TestFirecrackerBeforeTheAgent(t *testing.T) {
	guest := filepath.Join(shortDir(t), "guest")
	uds := agenttest.Listen(t, (&agenttest.Firecracker{Guest: guest}).Serve)
	c := client.New(client.UDS(uds, client.DefaultPort))
	err := c.Ping(within(t))
	var dialError *client.DialError
	if !errors.As(err, &dialError) || !strings.Contains(err.Error(), "is the agent listening in the guest?") {
		t.Errorf("before: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- c.Wait(within(t)) }()
	select {
	case err := <-waited:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := os.Symlink(serve(t, testLimits()).socket, guest); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := client.New(client.UDS(uds+"x", client.DefaultPort)).Ping(within(t)); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

// allBytes returns n bytes among which is every value.
func allBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}
