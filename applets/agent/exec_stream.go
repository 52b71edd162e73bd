//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// execStream runs a command whose input and output are frames.
func (a *Agent) execStream(r *request, e *wire.Exec) error {
	p, err := a.startStreamed(r, e)
	var unusable *commandError
	switch {
	case errors.As(err, &unusable):
		return unusable.stream(r)
	case err != nil:
		return fmt.Errorf("exec: %w", err)
	}
	s, err := r.begin(wire.ExecStarted{PID: p.pid})
	if err != nil {
		a.discard(p)
		return err
	}
	return a.converse(s, p, e)
}

// execDetached starts a command that runs without its client, who may stay to
// listen.
func (a *Agent) execDetached(r *request, e *wire.Exec) error {
	s, err := a.detach(r, e)
	var unusable *commandError
	switch {
	case errors.As(err, &unusable) && e.Stream:
		return unusable.stream(r)
	case errors.As(err, &unusable):
		code := unix.EACCES
		if unusable.exitCode == 127 {
			code = unix.ENOENT
		}
		return refuse(code, "%v", err)
	case err != nil:
		return err
	}
	started := wire.ExecStarted{PID: s.process.pid, Session: s.id}
	if !e.Stream {
		return replying(wire.WriteData(r.conn, started))
	}
	st, err := r.begin(started)
	if err != nil {
		return err
	}
	return s.attach(st, 0)
}

// discard ends a command that nobody will hear of.
func (a *Agent) discard(p *streamed) {
	p.kill()
	a.commands.finish(p.command, 0)
	a.commands.release(p.command)
	_ = p.stdin.Close()
}

// stream tells of a command that can't be run, as a shell would.
func (e *commandError) stream(r *request) error {
	s, err := r.begin(wire.ExecStarted{})
	if err != nil {
		return err
	}
	if _, err := s.Bytes(wire.KindStderr, []byte(e.Error()+"\n")); err != nil {
		return replying(err)
	}
	return s.end(wire.ExecExit{ExitCode: e.exitCode})
}

// A streamed is a command whose input and output are frames.
type streamed struct {
	*command
	stdin    *os.File // ours: of a pipe, or the terminal
	terminal bool
}

// startStreamed starts the command; its output waits until converse.
func (a *Agent) startStreamed(r *request, e *wire.Exec) (*streamed, error) {
	plan, err := resolve(*e)
	if err != nil {
		return nil, err
	}
	defer plan.close()
	plan.measured = true
	p := &streamed{terminal: e.TTY}
	outputs := []*output{newOutput(0, r.conn.memory, nil)}
	if e.TTY {
		uid := 0
		if plan.cred != nil {
			uid = int(plan.cred.Uid)
		}
		p.stdin, plan.tty, err = openPTY(e.Rows, e.Cols, uid)
		outputs[0].r = p.stdin
	} else {
		outputs = append(outputs, newOutput(0, r.conn.memory, nil))
		if e.Stream {
			plan.stdin, p.stdin, err = inputPipe()
		} else {
			plan.stdin, err = stdin(r.stdin)
		}
	}
	if err == nil {
		if p.command, err = a.commands.start(plan, outputs...); err == nil {
			a.commands.follow(p.command)
			return p, nil
		}
	}
	for _, o := range outputs {
		o.close()
	}
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	return nil, fmt.Errorf("%s: %w", e.Cmd[0], err)
}

// inputPipe makes a pipe for a command's input. Only our end does not block.
func inputPipe() (theirs, ours *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	_ = unix.SetNonblock(p[1], true)
	return os.NewFile(uintptr(p[0]), "stdin"), os.NewFile(uintptr(p[1]), "stdin"), nil
}

// converse passes input and output on until the command has ended, and brings
// that about when its time is up, when its client is gone, or when that sends what
// is no frame.
func (a *Agent) converse(s *stream, p *streamed, e *wire.Exec) error {
	broken, breakOff := context.WithCancelCause(context.Background())
	defer breakOff(nil)
	for i, o := range p.outputs {
		kind := wire.KindStdout + wire.Kind(i)
		if !p.terminal {
			o.passage = s.newPassage(kind, func() { breakOff(errGone) })
			defer o.passage.close()
		}
		o.sink = func(b []byte) {
			if _, err := s.Bytes(kind, b); err != nil {
				breakOff(errGone)
			}
		}
		o.start(a.log)
	}
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		if err := p.listen(s); err != nil {
			breakOff(err)
		}
	}()
	timedOut, err := p.await(broken, e.Timeout, e.Grace)
	a.commands.finish(p.command, a.limits.DrainGrace)
	defer a.commands.release(p.command)
	cause := context.Cause(broken)
	// What is still said to it is of no use.
	_ = p.stdin.Close()
	s.stopReading()
	<-listening
	switch {
	case cause != nil:
		return cause
	case err != nil:
		return fmt.Errorf("exec: %w", err)
	}
	return s.end(p.exit(timedOut))
}

// exit tells how the command ended.
func (p *streamed) exit(timedOut bool) wire.ExecExit {
	r := p.result()
	e := wire.ExecExit{
		ExitCode:   r.ExitCode,
		Signal:     r.Signal,
		TimedOut:   timedOut,
		OOMKilled:  p.oom,
		DurationMS: r.DurationMS,
		CPUMS:      p.spent.cpu.Milliseconds(),
		MemoryPeak: p.spent.memory,
	}
	for _, o := range p.outputs {
		e.PipesHeld = e.PipesHeld || o.held
	}
	return e
}
