//go:build linux

package vsockclient

import (
	"io"
	"strings"
	"syscall"
	"testing"
)

// detached starts a session and returns its name.
func detached(t *testing.T, args ...string) string {
	t.Helper()
	status, stdout, stderr := invoke("", append([]string{"exec", "-d"}, args...)...)
	if status != 0 || stderr != "" {
		t.Fatalf("%d, %q", status, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}

func TestSessionsFromTheCommandLine(t *testing.T) {
	liveAgent(t)
	done := detached(t, "--", "sh", "-c", "echo one; echo two; exit 4")
	errs := detached(t, "--", "sh", "-c", "echo err >&2")
	for _, test := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"session wait " + done, 4, "", ""},
		{"session wait " + errs, 0, "", ""},
		{"attach " + errs, 0, "", "err\n"},
		{"attach " + done, 4, "one\ntwo\n", ""},
		{"attach --offset 2 " + done, 4, "e\ntwo\n", ""},
		{"attach --tail 2 " + done, 4, "o\n", ""},
		{"attach --tail 0 " + done, 4, "", ""},
		{"attach --offset 9 " + done, 125, "", "hf-vsock-client: offset: is beyond the output\n"},
		{"attach none", 125, "", "hf-vsock-client: session_attach: there is no session \"none\" (sessions lists them)\n"},
		{"session", 2, "", "hf-vsock-client: session: which? session wait, session kill, session rm (see hf-vsock-client --help)\n"},
		{"session rm " + done + " none", 1, "", "hf-vsock-client: session_remove: there is no session \"none\" (sessions lists them)\n"},
		{"session rm " + done, 1, "", "hf-vsock-client: session_remove: there is no session \"" + done + "\" (sessions lists them)\n"},
	} {
		status, stdout, stderr := invoke("", strings.Fields(test.args)...)
		stderr = strings.Replace(stderr, "session_attach: offset:", "offset:", 1)
		if status != test.status || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("%s: %d, %q, %q", test.args, status, stdout, stderr)
		}
	}
	runs := detached(t, "sleep", "600")
	if _, stdout, _ := invoke("", "sessions"); !strings.Contains(stdout, "running") || !strings.Contains(stdout, "sleep 600") {
		t.Errorf("sessions: %s", stdout)
	}
	if status, _, stderr := invoke("", "session", "kill", "-s", "INT", runs); status != 0 || stderr != "" {
		t.Errorf("kill: %d, %q", status, stderr)
	}
	if status, _, _ := invoke("", "session", "wait", runs); status != 130 {
		t.Errorf("status %d", status)
	}
	if _, stdout, _ := invoke("", "ps"); !strings.Contains(stdout, "PPID  S  THR") || !strings.Contains(stdout, "hf-agent") {
		t.Errorf("ps: %.500s", stdout)
	}
}

// Output that the ring does not hold any more is missed aloud.
func TestAttachTellsOfAGap(t *testing.T) {
	liveAgent(t)
	id := detached(t, "--", "sh", "-c", "head -c 3000000 /dev/zero; echo end")
	if status, _, _ := invoke("", "session", "wait", id); status != 0 {
		t.Fatalf("status %d", status)
	}
	status, stdout, stderr := invoke("", "attach", id)
	if status != 0 || !strings.HasSuffix(stdout, "end\n") || len(stdout) > 1<<20 ||
		!strings.HasPrefix(stderr, "hf-vsock-client: attach: ") || !strings.Contains(stderr, " of output (bytes 0 to ") {
		t.Errorf("%d, %d bytes, %q", status, len(stdout), stderr)
	}
}

// The stdin of a session that was started with -i is open for who attaches.
func TestDetachedInputIsOpen(t *testing.T) {
	liveAgent(t)
	id := detached(t, "-i", "cat")
	status, stdout, stderr := invoke("for cat\n", "attach", "-i", id)
	if status != 0 || stdout != "for cat\n" || stderr != "" {
		t.Errorf("%d, %q, %q", status, stdout, stderr)
	}
}

// A shell that is left with the keys for it, or whose client dies, goes on.
func TestTerminalSessionIsLeftAndComeBackTo(t *testing.T) {
	liveAgent(t)
	c := onConsole(t, 24, 80, "exec", "-it", "--keep", "-e", "PS1=$ ", "--", "sh")
	c.keys("x=kept\n")
	c.keys("echo $x-1\n")
	c.awaitText("kept-1")
	c.keys("\x10\x11")
	if status, restored := c.end(); status != 0 || !restored {
		t.Errorf("detached: status %d, restored %v", status, restored)
	}
	c.awaitText("session 1 goes on")

	c = onConsole(t, 30, 90, "attach", "--detach-keys", "none", "1")
	c.awaitText("kept-1") // which the ring replays
	c.keys("echo $x-2; stty size\n")
	c.awaitText("kept-2\n30 90")
	c.keys("\x10\x11\x15echo $x-3\n") // no keys detach now; ^U is for the guest's terminal
	c.awaitText("kept-3")
	_ = c.cmd.Process.Signal(syscall.SIGHUP)
	if status, restored := c.end(); status != 129 || !restored {
		t.Errorf("hung up: status %d, restored %v", status, restored)
	}

	c = onConsole(t, 24, 80, "attach", "--tail", "0", "1")
	c.keys("echo $x-4\n")
	c.awaitText("kept-4")
	_ = c.window.Close() // its own way to hang up
	if status := exitOf(c.cmd); status == 0 {
		t.Errorf("its window closed: status %d", status)
	}

	c = onConsole(t, 24, 80, "attach", "1")
	c.keys("exit 5\n")
	if status, restored := c.end(); status != 5 || !restored {
		t.Errorf("exit: status %d, restored %v", status, restored)
	}
}

// ^C leaves a session that has no terminal, and its command alone.
func TestSessionWithoutTerminalIsLeftBySignal(t *testing.T) {
	liveAgent(t)
	id := detached(t, "--", "sh", "-c", "echo ready; sleep 600")
	cmd := process(t, "attach", id)
	_, out, errs := pipes(t, cmd)
	_, _ = io.ReadFull(out, make([]byte, 6))
	_ = cmd.Process.Signal(syscall.SIGINT)
	said, _ := io.ReadAll(errs)
	if status := exitOf(cmd); status != 130 || !strings.Contains(string(said), "session "+id+" goes on: attach --offset 6 "+id) {
		t.Errorf("status %d, %q", status, said)
	}
	if _, stdout, _ := invoke("", "sessions"); !strings.Contains(stdout, "running") {
		t.Errorf("sessions: %s", stdout)
	}
}
