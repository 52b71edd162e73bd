// Package agenttest stands in for an agent in the tests of its clients: one that
// keeps its files in memory, and one that says whatever a test scripts.
package agenttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hyperfleet/init/applets/wire"
)

// Listen serves connections to a Unix socket until the test ends, each in its own
// goroutine, and returns the socket's path.
func Listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	// t.TempDir would be too long for a socket's path in a test of a long name.
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		_ = os.RemoveAll(dir)
	})
	return path
}

// Script returns a server that reads a request's line and answers it with reply,
// as it is, whatever it was.
func Script(reply string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := ReadLine(c); err != nil {
			return
		}
		_, _ = io.WriteString(c, reply)
		Linger(c)
	}
}

// ReadLine reads up to a newline, byte by byte.
func ReadLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(r, b); err != nil {
			return string(line), err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
}

// Linger waits for the client to close, as an agent does after its reply.
func Linger(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// A File is one of an Agent's.
type File struct {
	Content []byte
	Mode    string // octal
}

// An Agent is an agent whose guest is made up. Its commands are echo, cat, false
// and sleep, which never ends.
type Agent struct {
	mu    sync.Mutex
	files map[string]File
	last  wire.Exec
}

// Put makes a file.
func (a *Agent) Put(path string, f File) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.files == nil {
		a.files = map[string]File{}
	}
	a.files[path] = f
}

// Get returns a file.
func (a *Agent) Get(path string) (File, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, ok := a.files[path]
	return f, ok
}

// LastExec returns the last command that was asked for.
func (a *Agent) LastExec() wire.Exec {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Serve answers the request of one connection.
func (a *Agent) Serve(c net.Conn) {
	var content bytes.Buffer
	line, err := wire.NewReader(c, wire.MaxLine).ReadLine(func(path string, _ []byte) io.Writer {
		if path == "content" || path == "stdin" {
			return &content
		}
		return nil
	})
	if err != nil {
		_ = wire.WriteFailure(c, err.Error(), "EINVAL")
		return
	}
	if err := a.answer(c, line, content.Bytes()); err != nil {
		code := "EINVAL"
		if errors.Is(err, os.ErrNotExist) {
			code = "ENOENT"
		}
		_ = wire.WriteFailure(c, err.Error(), code)
	}
	Linger(c)
}

func (a *Agent) answer(c net.Conn, line, content []byte) error {
	f, err := wire.ParseFields(line)
	if err != nil {
		return err
	}
	h, err := f.Header()
	if err != nil {
		return err
	}
	switch h.Operation {
	case wire.OpPing:
		return wire.WriteData(c, map[string]bool{"pong": true})
	case wire.OpInfo:
		return wire.WriteData(c, wire.Info{
			Version: "v1.0.0", Protocol: 1, Operations: []string{"ping", "info"}, Kernel: "6.1.0", Arch: "x86_64",
			Hostname: "hyperfleet", PID: 42, UptimeMS: 1500, KillScope: "cgroup",
			Boot: &wire.Boot{ReadyMS: 3.5, Steps: []wire.BootStep{{Name: "mount /proc", MS: 0.25}, {Name: "mount /tmp", MS: 1, Error: "no \x1b[31mmemory"}}},
		})
	case wire.OpFileWrite:
		return a.write(c, f, content)
	case wire.OpExec:
		return a.exec(c, f, content)
	}
	path, err := f.Path()
	if err != nil {
		return err
	}
	file, ok := a.Get(path)
	if !ok {
		return fmt.Errorf("path: %s: %w", path, os.ErrNotExist)
	}
	switch h.Operation {
	case wire.OpFileRead:
		r := wire.NewReply(c)
		r.Base64("content", bytes.NewReader(file.Content))
		r.Value("size", len(file.Content))
		return r.End()
	case wire.OpFileStat:
		return wire.WriteData(c, wire.Stat{Path: path, Size: int64(len(file.Content)), Mode: file.Mode, ModTime: "2026-11-23T15:04:05Z"})
	case wire.OpFileDelete:
		a.mu.Lock()
		delete(a.files, path)
		a.mu.Unlock()
		return wire.WriteData(c, struct{}{})
	}
	return fmt.Errorf("operation: %s: unknown", h.Operation)
}

func (a *Agent) write(c net.Conn, f wire.Fields, content []byte) error {
	w, err := f.FileWrite()
	if err != nil {
		return err
	}
	file, ok := a.Get(w.Path)
	if !ok {
		file.Mode = "644"
	}
	if w.Mode >= 0 {
		file.Mode = strconv.FormatInt(int64(w.Mode), 8)
	}
	if !w.Append {
		file.Content = nil
	}
	file.Content = append(file.Content[:len(file.Content):len(file.Content)], content...)
	a.Put(w.Path, file)
	return wire.WriteData(c, map[string]int{"bytes_written": len(content)})
}

func (a *Agent) exec(c net.Conn, f wire.Fields, stdin []byte) error {
	e, err := f.Exec(64 << 20)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.last = e
	a.mu.Unlock()
	var stdout, stderr []byte
	result := wire.ExecResult{DurationMS: 7}
	switch e.Cmd[0] {
	case "echo":
		stdout = []byte(strings.Join(e.Cmd[1:], " ") + "\n")
	case "cat":
		stdout = stdin
	case "false":
		result.ExitCode = 1
	case "crash":
		stdout, stderr = []byte("half"), []byte("\xff\x00segfault")
		result.ExitCode, result.Signal = 139, 11
	case "slow":
		result.ExitCode, result.Signal, result.TimedOut = 137, 9, true
	case "hungry":
		result.ExitCode, result.Signal, result.OOMKilled = 137, 9, true
	case "yes":
		stdout, result.Truncated = bytes.Repeat([]byte("y\n"), int(e.MaxOutput/2)), true
	case "sleep":
		Linger(c) // until the client has gone
		return nil
	default:
		result.ExitCode = 127
		stderr = []byte(e.Cmd[0] + ": not found\n")
	}
	r := wire.NewReply(c)
	r.Value("exit_code", result.ExitCode)
	if result.Signal != 0 {
		r.Value("signal", result.Signal)
	}
	r.Value("timed_out", result.TimedOut)
	r.Value("oom_killed", result.OOMKilled)
	r.Value("truncated", result.Truncated)
	r.Value("duration_ms", result.DurationMS)
	r.Text("stdout", bytes.NewReader(stdout))
	r.Text("stderr", bytes.NewReader(stderr))
	r.Base64("stdout_base64", bytes.NewReader(stdout))
	r.Base64("stderr_base64", bytes.NewReader(stderr))
	return r.End()
}
