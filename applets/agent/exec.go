//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// exec runs a command and replies when it has ended.
func (a *Agent) exec(r *request) error {
	e, err := r.fields.Exec(a.limits.Content)
	if err != nil {
		return err
	}
	r.fields = nil // which would double what a long command line holds
	if e.Stream {
		if err := a.beginStream(r.conn); err != nil {
			return err
		}
	}
	switch {
	case e.Detach:
		return a.execDetached(r, &e)
	case e.Stream:
		return a.execStream(r, &e)
	}
	err = a.run(r, &e)
	var unusable *commandError
	var sent errReplying
	switch {
	case errors.As(err, &unusable):
		return a.replyExec(r, wire.ExecResult{ExitCode: unusable.exitCode}, nil, strings.NewReader(unusable.Error()+"\n"))
	case err == nil, errors.As(err, &sent):
		return err
	}
	return fmt.Errorf("exec: %w", err)
}

// run runs a command and replies. A *commandError is one that could not be run.
func (a *Agent) run(r *request, e *wire.Exec) error {
	plan, err := resolve(*e)
	if err != nil {
		return err
	}
	defer plan.close()
	if plan.stdin, err = stdin(r.stdin); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	out := newOutput(e.MaxOutput, r.conn.memory, a.openSpool)
	errs := newOutput(e.MaxOutput, r.conn.memory, a.openSpool)
	defer out.close()
	defer errs.close()

	name := e.Cmd[0]
	c, err := a.commands.start(plan, out, errs)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	// It may run for long: what it was started with is of no more use.
	plan.argv, plan.env, e.Cmd, e.Env = nil, nil, nil, nil
	r.lines.Free()
	defer a.commands.release(c) // behind the reply
	a.commands.brief(c, r.conn, e.Timeout)
	a.commands.follow(c)
	gone := context.Background()
	if !c.over() || !out.ended || !errs.ended {
		out.start(a.log)
		errs.start(a.log)
		var stop func()
		gone, stop = withGone(r)
		defer stop()
	}
	timedOut, err := c.await(gone, e.Timeout, e.Grace)
	a.commands.finish(c, a.limits.DrainGrace)
	if gone.Err() != nil {
		return replying(errors.New("the client is gone"))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	result := c.result()
	result.TimedOut = timedOut
	result.OOMKilled = c.oom
	result.Truncated = out.truncated || errs.truncated
	return a.replyExec(r, result, out.reader(), errs.reader())
}

// replyExec writes the reply of exec; stdout and stderr are read twice.
func (a *Agent) replyExec(r *request, result wire.ExecResult, stdout, stderr io.ReadSeeker) error {
	streams := []struct {
		name string
		src  io.ReadSeeker
	}{{"stdout", stdout}, {"stderr", stderr}}
	reply := r.newReply()
	reply.Value("exit_code", result.ExitCode)
	for _, s := range streams {
		if s.src == nil {
			s.src = strings.NewReader("")
		}
		reply.Text(s.name, s.src)
		if _, err := s.src.Seek(0, io.SeekStart); err != nil {
			return replying(err)
		}
		reply.Base64(s.name+"_base64", s.src)
	}
	if result.Signal != 0 {
		reply.Value("signal", result.Signal)
	}
	reply.Value("timed_out", result.TimedOut)
	reply.Value("oom_killed", result.OOMKilled)
	reply.Value("truncated", result.Truncated)
	reply.Value("duration_ms", result.DurationMS)
	return replying(reply.End())
}

// stdin returns what a command reads: what its client sent, else nothing.
// Little goes through a pipe that is filled before the command starts, so that
// nobody has to feed it; more is a file.
func stdin(s *spool) (*os.File, error) {
	switch {
	case s == nil:
		// os.Open would try to poll it.
		fd, err := retry(func() (int, error) { return unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
		if errors.Is(err, unix.ENOENT) {
			return stdin(&spool{}) // a guest without devices: an empty pipe reads the same
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
		}
		return os.NewFile(uintptr(fd), os.DevNull), nil
	case s.err != nil:
		return nil, s.err
	case s.file != nil:
		f := s.file
		s.file = nil
		_, err := f.Seek(0, io.SeekStart)
		return f, err
	}
	if r := filledPipe(s.mem); r != nil {
		return r, nil
	}
	if err := s.turn(); err != nil {
		return nil, err
	}
	return stdin(s)
}

// filledPipe returns a pipe that holds content, and has no end to write to, or
// nil if it doesn't fit: a pipe holds 16 pages, but one page where its user, not
// being root, has many.
func filledPipe(content []byte) *os.File {
	var p [2]int
	if unix.Pipe2(p[:], unix.O_CLOEXEC) != nil {
		return nil
	}
	defer unix.Close(p[1])
	if unix.SetNonblock(p[1], true) == nil {
		n, err := retry(func() (int, error) { return unix.Write(p[1], content) })
		if err == nil && n == len(content) {
			return os.NewFile(uintptr(p[0]), "stdin")
		}
	}
	_ = unix.Close(p[0])
	return nil
}
