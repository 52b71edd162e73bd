//go:build linux

package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// streamRun runs a command to its end.
func streamRun(t *testing.T, c *client.Client, e client.Command) (stdout, stderr string, exit *wire.ExecExit) {
	t.Helper()
	var out, errs bytes.Buffer
	e.Stdout, e.Stderr = &out, &errs
	p, err := c.Start(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	exit, err = p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), exit
}

func shell(script string) []string { return []string{"sh", "-c", script} }

// TestStreamed: output, status and input of streamed commands.
func TestStreamed(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	for _, row := range []struct {
		name           string
		cmd            []string
		stdin          string
		stdout, stderr string
		status, signal int
	}{
		{"output", shell("echo out; echo err >&2; exit 3"), "", "out\n", "err\n", 3, 0},
		{"input", []string{"cat"}, "hello", "hello", "", 0, 0},
		{"no input", []string{"cat"}, "", "", "", 0, 0},
		{"signal", shell("kill -9 $$"), "", "", "", 137, 9},
		{"not found", []string{"nosuch"}, "", "", "nosuch: command not found\n", 127, 0},
		{"input that nobody reads", shell("exec <&-; sleep 0.2; echo done"), strings.Repeat("x", 1<<20), "done\n", "", 0, 0},
	} {
		e := client.Command{Cmd: row.cmd}
		if row.stdin != "" {
			e.Stdin = strings.NewReader(row.stdin)
		}
		stdout, stderr, exit := streamRun(t, c, e)
		if stdout != row.stdout || stderr != row.stderr || exit.ExitCode != row.status || exit.Signal != row.signal || exit.TimedOut || exit.PipesHeld {
			t.Errorf("%s: %.100q %.100q %+v", row.name, stdout, stderr, exit)
		}
	}
}

// TestStreamedBytes: much goes in and comes out whole.
func TestStreamedBytes(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	content := make([]byte, 20<<20)
	_, _ = rand.Read(content)
	stdout, stderr, exit := streamRun(t, c, client.Command{Cmd: shell("tee /dev/stderr"), Stdin: bytes.NewReader(content)})
	want := sha256.Sum256(content)
	if sha256.Sum256([]byte(stdout)) != want || sha256.Sum256([]byte(stderr)) != want || exit.ExitCode != 0 {
		t.Errorf("%d and %d bytes of %d, %+v", len(stdout), len(stderr), len(content), exit)
	}
}

// TestStreamedConversation: what a command says arrives before it ends.
func TestStreamedConversation(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p, err := c.Start(t.Context(), client.Command{Cmd: []string{"cat"}, Stdin: inR, Stdout: outW})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan *wire.ExecExit)
	go func() {
		exit, err := p.Wait()
		if err != nil {
			t.Error(err)
		}
		done <- exit
	}()
	for i := range 100 {
		word := fmt.Sprintf("word %d\n", i)
		_, _ = io.WriteString(inW, word)
		got := make([]byte, len(word))
		if _, err := io.ReadFull(outR, got); err != nil || string(got) != word {
			t.Fatalf("%q %v", got, err)
		}
	}
	if err := p.Signal(int(unix.SIGTERM)); err != nil {
		t.Error(err)
	}
	if exit := <-done; exit == nil || exit.Signal != int(unix.SIGTERM) {
		t.Errorf("%+v", exit)
	}
}

// TestStreamedTerminal: a command on a terminal sees its size, its changes, and
// the keys.
func TestStreamedTerminal(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	stdout, _, exit := streamRun(t, c, client.Command{
		Cmd:      shell("tty; stty size; test -t 0 && test -t 1 && test -t 2; echo $?; cat"),
		Stdin:    strings.NewReader("typed\n"),
		Terminal: &wire.Resize{Rows: 33, Cols: 101},
	})
	for _, want := range []string{"/dev/pts/", "33 101\r\n", "\n0\r\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in %q", want, stdout)
		}
	}
	if n := strings.Count(stdout, "typed\r\n"); n != 2 { // the terminal's echo, and cat's
		t.Errorf("%d times what was typed in %q", n, stdout)
	}
	if exit.ExitCode != 0 || exit.PipesHeld {
		t.Errorf("%+v", exit)
	}
	// Ctrl-C reaches what runs in the foreground.
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	p, err := c.Start(t.Context(), client.Command{Cmd: shell("trap 'stty size; exit 7' WINCH; trap 'echo interrupted' INT; echo ready; while :; do sleep 0.05; done"), Stdin: inR, Stdout: outW, Terminal: &wire.Resize{Rows: 1, Cols: 2}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan *wire.ExecExit)
	go func() {
		exit, err := p.Wait()
		if err != nil {
			t.Error(err)
		}
		_ = outW.Close()
		done <- exit
	}()
	expect := func(want string) {
		t.Helper()
		var got []byte
		for b := make([]byte, 1); !strings.Contains(string(got), want); got = append(got, b...) {
			if _, err := outR.Read(b); err != nil {
				t.Fatalf("%q: %v", got, err)
			}
		}
	}
	expect("ready")
	_, _ = io.WriteString(inW, "\x03")
	expect("interrupted")
	if err := p.Resize(44, 55); err != nil {
		t.Error(err)
	}
	expect("44 55")
	go func() { _, _ = io.Copy(io.Discard, outR) }()
	if exit := <-done; exit == nil || exit.ExitCode != 7 {
		t.Errorf("%+v", exit)
	}
}

// TestStreamedTerminalEnd: the end of what is typed is one also where its last line has
// none, and no more than one where it has.
func TestStreamedTerminalEnd(t *testing.T) {
	c := client.New(client.Unix(serve(t, testLimits()).socket))
	for typed, want := range map[string]string{"line": "[line]", "one\nline": "[one\r\nline]", "line\n": "[line\r\n]", "line\r": "[line\r\n]", "": "[]", "line\n\x04": "[line\r\n]", "li\x04ne": "[line]"} {
		stdout, _, exit := streamRun(t, c, client.Command{
			Cmd: shell(`stty -echo; got=$(cat; echo .); echo "[${got%.}]"`), Timeout: patience,
			Stdin: strings.NewReader(typed), Terminal: new(wire.Resize),
		})
		if exit.ExitCode != 0 || !strings.HasSuffix(stdout, want+"\r\n") {
			t.Errorf("%q: %q, %+v", typed, stdout, exit)
		}
	}
}

// TestStreamedGone: a client that goes away ends its command, whatever that is
// blocked on.
func TestStreamedGone(t *testing.T) {
	l := serve(t, testLimits())
	for name, script := range map[string]string{
		"idle":                  "",
		"writing to nobody":     "yes & echo $! >> $PIDS; ",
		"deaf to its input":     "",
		"end of input was sent": "",
	} {
		path := filepath.Join(t.TempDir(), "pids")
		c := dial(t, l.socket)
		request := sh(script + "echo $$ >> $PIDS; sleep 300")
		request["stream"] = true
		request["env"] = map[string]string{"PIDS": path}
		_, _ = io.WriteString(c, request.line())
		w := wire.NewFrameWriter(c)
		switch name {
		case "deaf to its input":
			go func() { _, _ = w.Bytes(wire.KindStdin, make([]byte, 8<<20)) }()
		case "end of input was sent":
			_ = w.Empty(wire.KindEnd)
		}
		pids := waitForPIDs(t, path, 1+strings.Count(script, "$!"))
		_ = c.Close()
		t.Log(name)
		allGone(t, pids)
	}
}

// TestStreamedFaults: a client that breaks the rules is told, and its command
// ended.
func TestStreamedFaults(t *testing.T) {
	l := serve(t, testLimits())
	for name, frames := range map[string]string{
		"unknown kind":   "\xff\x00\x00\x00\x00",
		"too long":       "\x01\xff\xff\xff\xff",
		"out of place":   "\x02\x00\x00\x00\x01x",
		"no terminal":    "\x07\x00\x00\x00\x15{\"rows\":1,\"cols\":200}",
		"no JSON":        "\x06\x00\x00\x00\x01x",
		"no such signal": "\x06\x00\x00\x00\x0d{\"signal\":65}",
	} {
		path := filepath.Join(t.TempDir(), "pids")
		c := dial(t, l.socket)
		request := sh("echo $$ >> $PIDS; sleep 300")
		request["stream"] = true
		request["env"] = map[string]string{"PIDS": path}
		_, _ = io.WriteString(c, request.line())
		pids := waitForPIDs(t, path, 1)
		_, _ = io.WriteString(c, frames)
		reply, err := io.ReadAll(c)
		_, rest, _ := bytes.Cut(reply, []byte("\n"))
		r := wire.NewFrameReader(bytes.NewReader(rest))
		k, _, nextErr := r.Next()
		var failure wire.Failure
		if err != nil || nextErr != nil || k != wire.KindError || r.Decode(&failure) != nil || failure.Code != "EPROTO" {
			t.Errorf("%s: %q %v", name, reply, err)
		}
		allGone(t, pids)
	}
}

// TestStreamedRefused: what is wrong before the command starts is an ordinary
// reply.
func TestStreamedRefused(t *testing.T) {
	l := serve(t, testLimits())
	c := client.New(client.Unix(l.socket))
	for _, e := range []client.Command{
		{Cmd: nil},
		{Cmd: []string{"true"}, Cwd: "/nosuch"},
		{Cmd: []string{"true"}, User: "nosuch"},
	} {
		if _, err := c.Start(t.Context(), e); !errors.As(err, new(*client.Error)) {
			t.Errorf("%+v: %v", e, err)
		}
	}
}
