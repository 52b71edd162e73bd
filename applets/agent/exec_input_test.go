//go:build linux

package agent

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// insisting tells how many clients wait for a command to read.
func insisting() int {
	stacks := make([]byte, 4<<20)
	return bytes.Count(stacks[:runtime.Stack(stacks, true)], []byte("(*input).insist("))
}

// TestSessionInputOfTwo: when one of two clients that wait for a command to read
// goes away, the other's input still comes whole.
func TestSessionInputOfTwo(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	started, err := c.StartSession(t.Context(), client.Command{Cmd: shell("read x < " + gate + "; exec wc -c"), Stdin: never{}})
	if err != nil {
		t.Fatal(err)
	}
	const size = 300_000
	var out strings.Builder
	stays, err := c.Attach(t.Context(), client.Attachment{Session: started.Session, Stdin: noise(1, size), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "one waits", func() bool { return insisting() == 1 })
	conn := dial(t, l.socket)
	if _, err := io.WriteString(conn, `{"operation":"session_attach","session":"`+started.Session+"\"}\n\x01\x00\x00\x00\x01x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both wait", func() bool { return insisting() == 2 })
	_ = conn.Close()
	eventually(t, "one has gone", func() bool { return insisting() == 1 })
	if err := os.WriteFile(gate, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if exit, err := stays.Wait(); err != nil || exit.ExitCode != 0 || out.String() != "300000\n" {
		t.Errorf("%+v, %v, %q", exit, err, out.String())
	}
}

// TestEndOfFullTerminal: an end frame for a terminal that takes no more does not keep
// the agent from seeing that the client goes.
func TestEndOfFullTerminal(t *testing.T) {
	ours, theirs, err := openPTY(24, 80, os.Getuid())
	if err != nil {
		t.Skip(err)
	}
	defer ours.Close()
	defer theirs.Close()
	// As programs set theirs that show a full screen: all that is typed is kept.
	mode, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err == nil {
		mode.Lflag = 0
		err = unix.IoctlSetTermios(int(theirs.Fd()), unix.TCSETS, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ours.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the terminal is full", func() bool { // the kernel moves it on meanwhile
		// No more can move on once the program's end has all it can.
		waiting, err := unix.IoctlGetInt(int(theirs.Fd()), unix.TIOCINQ)
		full := err == nil && waiting >= 4095
		_ = raw.Control(func(fd uintptr) {
			for _, size := range []int{4096, 1} {
				for second(unix.Write(int(fd), make([]byte, size))) == nil {
					full = false
				}
			}
		})
		return full
	})
	far, near := agenttest.Pair(t)
	c := newConn(near, testLimits(), nil)
	s := &stream{FrameReader: wire.NewFrameReader(c), conn: c}
	in := &input{streamed: &streamed{stdin: ours, terminal: true}, from: s}
	ended := make(chan error, 1)
	go func() { ended <- in.end() }()
	_ = far.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, errGone) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it waits for the command")
	}
}

// never reads nothing, for ever.
type never struct{}

func (never) Read([]byte) (int, error) { select {} }
