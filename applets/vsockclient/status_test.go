//go:build linux

package vsockclient

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
)

// A session's --timeout holds without a client, and who waits for it learns how it
// ended, or that it has not.
func TestSessionTimeouts(t *testing.T) {
	liveAgent(t)
	start := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := invoke("", append([]string{"exec", "-d"}, args...)...)
		if status != 0 || stderr != "" {
			t.Fatalf("%d, %q", status, stderr)
		}
		return strings.TrimSpace(stdout)
	}
	short := start("--timeout", "300ms", "sleep", "600")
	status, _, stderr := invoke("", "session", "wait", short)
	if want := program + ": session wait: " + short + " was killed at exec's --timeout\n"; status != 137 || stderr != want {
		t.Errorf("%d, %q, want %q", status, stderr, want)
	}
	if _, stdout, _ := invoke("", "sessions"); !strings.Contains(stdout, "timed out") {
		t.Errorf("sessions: %s", stdout)
	}
	long := start("sleep", "600")
	status, _, stderr = invoke("", "session", "wait", "--timeout", "200ms", long)
	if want := program + ": session wait: " + long + " has not ended within 200ms (--timeout)\n"; status != 124 || stderr != want {
		t.Errorf("%d, %q, want %q", status, stderr, want)
	}
	if status, _, stderr := invoke("", "session", "kill", long); status != 0 {
		t.Errorf("%d, %q", status, stderr)
	}
	if status, _, stderr := invoke("", "session", "wait", "--timeout", "30s", long); status != 143 || stderr != "" {
		t.Errorf("%d, %q", status, stderr)
	}
	if status, _, stderr := invoke("", "session", "wait", "none-such"); status != 125 || !strings.Contains(stderr, "(sessions lists them)") {
		t.Errorf("%d, %q", status, stderr)
	}
}

// Who loses a session's connection is told whether there is one to come back to:
// sessions end with the agent, and the next agent counts from 1 again.
func TestLostSession(t *testing.T) {
	const listed = `{"success":true,"data":{"sessions":[{"session":"1","pid":%s}]}}` + "\n"
	for list, want := range map[string]string{
		strings.Replace(listed, "%s", "42", 1): "(session 1 goes on: attach --offset 3 1)\n",
		strings.Replace(listed, "%s", "43", 1): "(session 1 has ended with its agent)\n",
		"":                                     "(session 1 goes on, unless its agent has ended: attach --offset 3 1)\n",
	} {
		sock := agenttest.Listen(t, func(c net.Conn) {
			line, _ := agenttest.ReadLine(c)
			if strings.Contains(line, wire.OpSessionList) {
				_, _ = io.WriteString(c, list)
				return
			}
			_, _ = io.WriteString(c, `{"success":true,"data":{"session":"1","pid":42,"tty":false,"offset":0}}`+"\n")
			_, _ = wire.NewFrameWriter(c).Bytes(wire.KindStdout, []byte("out"))
		})
		status, stdout, stderr := invoke("", "--unix", sock, "attach", "1")
		if status != 125 || stdout != "out" || !strings.HasSuffix(stderr, want) {
			t.Errorf("%d, %q, %q, want …%q", status, stdout, stderr, want)
		}
	}
}
