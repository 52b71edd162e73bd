//go:build linux

package vsockclient

import (
	"strings"
	"testing"
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
