//go:build linux

package vsockclient

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// readyFile makes a file for cat FILE -, a command that says ready and waits, and
// that any SIGINT ends. Debian's sh -c 'echo ready; sleep 600' is none: dash
// catches SIGINT, and one that comes while it starts sleep ends neither of them.
func readyFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ready")
	if err := os.WriteFile(name, []byte("ready\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// Every ^C reaches the command, also one that is typed as soon as it shows itself.
func TestInterruptIsNotLost(t *testing.T) {
	liveAgent(t)
	ready := readyFile(t)
	for i := range 15 {
		c := onConsole(t, 24, 80, "exec", "-it", "--", "cat", ready, "-")
		c.awaitText("ready")
		c.keys("\x03")
		if status, restored := c.end(); status != 130 || !restored {
			t.Fatalf("%d: status %d, terminal restored: %v; it showed %q", i, status, restored, c.all())
		}
	}
}

// A ^C that is sent with the request waits in no buffer for a command that does not
// read: the terminal has its process group by then, which it ends.
func TestInterruptBeforeTheCommandRuns(t *testing.T) {
	g := liveAgent(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 15 {
		typed, keys := io.Pipe()
		defer keys.Close()
		go func() { _, _ = keys.Write([]byte("\x03")) }()
		p, err := g.client().Start(ctx, client.Command{Cmd: []string{"sleep", "600"}, Terminal: &wire.Resize{Rows: 24, Cols: 80}, Stdin: typed})
		if err != nil {
			t.Fatal(err)
		}
		exit, err := p.Wait()
		if err != nil || exit.Signal != int(syscall.SIGINT) || exit.ExitCode != 130 {
			t.Fatalf("%+v, %v", exit, err)
		}
	}
}

// What is typed before the command reads, or before the client has taken over the
// terminal, is not lost.
func TestTypedAheadIsKept(t *testing.T) {
	liveAgent(t)
	c := onConsole(t, 24, 80, "exec", "-it", "--", "sh", "-c", "read first; echo got $first")
	c.keys("early\n")
	c.awaitText("got early")
	if status, restored := c.end(); status != 0 || !restored {
		t.Errorf("status %d, terminal restored: %v", status, restored)
	}
}
