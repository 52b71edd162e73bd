//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// streamChecks run commands whose input and output are streamed, by the Go client
// and by hf-vsock-client.
func streamChecks() []check {
	return []check{
		{"streamed, 4 MiB in, and out again while it comes", func() (string, error) { return withClient(echoes) }},
		{"streamed, stdout and stderr, each in its order", func() (string, error) { return withClient(bothOutputs) }},
		{"streamed, output comes before input ends", func() (string, error) { return withClient(converses) }},
		{"streamed, TERM goes to the whole group", func() (string, error) { return withClient(groupSignal) }},
		{"streamed, a timeout", func() (string, error) { return withClient(timesOut) }},
		{"streamed, a command that is not there", func() (string, error) {
			return "", want(127, "", "", "exec", "--", "no-such-command")
		}},
		{"streamed, a client that is lost ends the tree", func() (string, error) { return withClient(lostClient) }},
		{"streamed, exec -i through hf-vsock-client", func() (string, error) {
			in := string(noise(9, 2<<20))
			return "", want(0, in, in, "exec", "-i", "--", self, "cat")
		}},
		{"streamed, a frame that is none ends the command", func() (string, error) { return "", badFrame() }},
	}
}

// noise returns n bytes that depend on the seed alone, and that no two seeds share.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// ran runs a streamed command to its end.
func ran(ctx context.Context, c *api.Client, e api.Command) (*wire.ExecExit, error) {
	p, err := c.Start(ctx, e)
	if err != nil {
		return nil, err
	}
	return p.Wait()
}

func echoes(ctx context.Context, c *api.Client) (string, error) {
	in, out := noise(1, 4<<20), sha256.New()
	begin := time.Now()
	exit, err := ran(ctx, c, api.Command{Cmd: []string{self, "cat"}, Stdin: bytes.NewReader(in), Stdout: out})
	if err != nil {
		return "", err
	}
	if sum := sha256.Sum256(in); exit.ExitCode != 0 || !bytes.Equal(out.Sum(nil), sum[:]) {
		return "", fmt.Errorf("%+v, and other bytes than those that were sent", *exit)
	}
	return fmt.Sprintf("%.1f MB/s", 4*1.048576/time.Since(begin).Seconds()), nil
}

func bothOutputs(ctx context.Context, c *api.Client) (string, error) {
	const size = 1 << 20
	out, errs := sha256.New(), sha256.New()
	exit, err := ran(ctx, c, api.Command{Cmd: []string{self, "noise", fmt.Sprint(size), "42"}, Stdout: out, Stderr: errs})
	if err != nil {
		return "", err
	}
	wantOut, wantErr := sha256.Sum256(noise(2, size)), sha256.Sum256(noise(3, size))
	if exit.ExitCode != 42 || !bytes.Equal(out.Sum(nil), wantOut[:]) || !bytes.Equal(errs.Sum(nil), wantErr[:]) {
		err = fmt.Errorf("%+v, and other bytes than those that were written", *exit)
	}
	return fmt.Sprintf("cpu %d ms, %d KiB", exit.CPUMS, exit.MemoryPeak>>10), err
}

// writeNoise is the command "noise SIZE STATUS": it writes both outputs at once.
func writeNoise(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	done := make(chan error)
	go func() { _, err := stderr.Write(noise(3, number(args[0]))); done <- err }()
	_, err := stdout.Write(noise(2, number(args[0])))
	if err := errors.Join(err, <-done); err != nil {
		return 1
	}
	return number(args[1])
}

// converses holds a conversation: each answer comes while the input stays open.
func converses(ctx context.Context, c *api.Client) (string, error) {
	stdin, typed := io.Pipe()
	told, stdout := io.Pipe()
	p, err := c.Start(ctx, api.Command{Cmd: []string{self, "cat"}, Stdin: stdin, Stdout: stdout})
	if err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() {
		exit, err := p.Wait()
		if err == nil && exit.ExitCode != 0 {
			err = fmt.Errorf("%+v", *exit)
		}
		stdout.CloseWithError(err)
		ended <- err
	}()
	for i := range 20 {
		said := fmt.Sprintf("line %d\n", i)
		if _, err := io.WriteString(typed, said); err != nil {
			return "", err
		}
		heard := make([]byte, len(said))
		if _, err := io.ReadFull(told, heard); err != nil || string(heard) != said {
			return "", fmt.Errorf("%q came back, %v", heard, err)
		}
	}
	typed.Close() // which is the end of its input, and so the command's
	return "", <-ended
}

// groupSignal signals a command whose child, which is in its group, has to get the
// signal too.
func groupSignal(ctx context.Context, c *api.Client) (string, error) {
	before := len(processes())
	told, stdout := io.Pipe()
	p, err := c.Start(ctx, api.Command{Cmd: []string{self, "pair"}, Stdout: stdout})
	if err != nil {
		return "", err
	}
	go func() {
		io.ReadFull(told, make([]byte, len(pairReady)))
		p.Signal(int(syscall.SIGTERM))
		io.Copy(io.Discard, told)
	}()
	exit, err := p.Wait()
	if err == nil && (exit.Signal != 15 || exit.ExitCode != 143) {
		err = fmt.Errorf("%+v", *exit)
	}
	if err != nil {
		return "", err
	}
	return "", settled(before)
}

const pairReady = "ready\n"

// pair is a command that waits beside a child.
func pair(_ []string, _ io.Reader, stdout, _ io.Writer) int {
	if err := exec.Command(self, "nap", "600000").Start(); err != nil {
		return 1
	}
	fmt.Fprint(stdout, pairReady)
	time.Sleep(time.Hour)
	return 0
}

func timesOut(ctx context.Context, c *api.Client) (string, error) {
	exit, err := ran(ctx, c, api.Command{Cmd: []string{self, "nap", "600000"}, Timeout: 300 * time.Millisecond})
	if err == nil && (!exit.TimedOut || exit.ExitCode < 128) {
		err = fmt.Errorf("%+v", *exit)
	}
	return "", err
}

// lostClient closes the connection of a command that ignores TERM and has started
// others, which left its group.
func lostClient(ctx context.Context, c *api.Client) (string, error) {
	before := len(processes())
	os.Remove(escaped)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := c.Start(ctx, api.Command{Cmd: []string{self, "escape"}})
	if err != nil {
		return "", err
	}
	if err := eventually(20*time.Second, func() error { _, err := os.Stat(escaped); return err }); err != nil {
		return "", err
	}
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		return "", fmt.Errorf("the client's error is %v", err)
	}
	return "", settled(before)
}

// badFrame sends what is no frame to a command that runs, which has to end for it.
func badFrame() error {
	before := len(processes())
	conn, err := dialAgent()
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintf(conn, `{"operation":"exec","stream":true,"cmd":[%q,"nap","600000"]}`+"\n", self)
	conn.Write([]byte{99, 0, 0, 0, 0})
	said, err := io.ReadAll(conn)
	if err != nil || !bytes.Contains(said, []byte("EPROTO")) {
		return fmt.Errorf("%q, %v", said, err)
	}
	return settled(before)
}

// terminalChecks are about commands on a terminal.
func terminalChecks() []check {
	return []check{
		{"terminal, its size, TERM, and who it belongs to", func() (string, error) { return withClient(ttyTells) }},
		{"terminal, ^C ends the foreground", func() (string, error) { return withClient(controlC) }},
		{"terminal, ^Z stops a job, its parent goes on", func() (string, error) { return withClient(jobControl) }},
		{"terminal, a full-screen program is resized in shell, through hf-vsock-client on a terminal", resizedInShell},
	}
}

func ttyTells(ctx context.Context, c *api.Client) (string, error) {
	var out bytes.Buffer
	exit, err := ran(ctx, c, api.Command{
		Cmd: []string{self, "tty"}, Env: []string{"TERM=xterm-256color"},
		Terminal: &wire.Resize{Rows: 33, Cols: 111}, Stdout: &out,
	})
	if err == nil && (exit.ExitCode != 0 || out.String() != "33 111 xterm-256color 0:5 620 leads\r\n") {
		err = fmt.Errorf("%+v, %q", *exit, out.String())
	}
	return strings.TrimSpace(out.String()), err
}

func controlC(ctx context.Context, c *api.Client) (string, error) {
	t, err := onTerminal(ctx, c, api.Command{Cmd: []string{self, "pair"}})
	if err != nil {
		return "", err
	}
	if err := t.hears("ready"); err != nil {
		return "", err
	}
	t.types("\x03")
	exit, err := t.ends()
	if err == nil && (exit.Signal != int(syscall.SIGINT) || exit.ExitCode != 130) {
		err = fmt.Errorf("%+v", *exit)
	}
	return "", err
}

func jobControl(ctx context.Context, c *api.Client) (string, error) {
	t, err := onTerminal(ctx, c, api.Command{Cmd: []string{self, "job"}})
	if err != nil {
		return "", err
	}
	if err := t.hears("job runs"); err != nil {
		return "", err
	}
	t.types("\x1a")
	if err := t.hears("job stopped"); err != nil {
		return "", err
	}
	t.types("go on\r")
	exit, err := t.ends()
	if err == nil && (exit.ExitCode != 5 || !strings.Contains(t.all(), "typed: go on")) {
		err = fmt.Errorf("%+v, %q", *exit, t.all())
	}
	return "", err
}

// streamCommands are what these checks run in the guest.
func streamCommands() map[string]command {
	return map[string]command{
		"noise": writeNoise, "pair": pair, "tty": ttyInfo, "job": job, "onlook": onlook, "box": box, "ticker": ticker,
		"deaf": func([]string, io.Reader, io.Writer, io.Writer) int {
			signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
			time.Sleep(time.Hour)
			return 0
		},
	}
}

// scratch is a directory of a check's own.
func scratch(name string) (string, error) {
	dir := filepath.Join("/srv/check", name)
	return dir, errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755))
}
