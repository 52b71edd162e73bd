package client

import (
	"context"
	"io"
	"math"

	"github.com/hyperfleet/init/applets/wire"
)

// StartSession is Start for a command that goes on when ctx ends or the
// connection breaks. See the result's Session.
func (c *Client) StartSession(ctx context.Context, e Command) (*Process, error) {
	return c.start(ctx, e, true)
}

// Detach starts a command as a session and leaves it to itself. Its input is
// /dev/null, or on a terminal what [Client.Attach] sends; Stdin, Stdout and Stderr
// have no meaning.
func (c *Client) Detach(ctx context.Context, e Command) (*wire.ExecStarted, error) {
	started := new(wire.ExecStarted)
	if err := c.call(ctx, e.request(false, true), nil, started); err != nil {
		return nil, err
	}
	return started, nil
}

// An Attachment says how to become a client of a session.
type Attachment struct {
	Session string

	// Offset is where in its output to begin, in bytes of stdout and stderr
	// together: what [Process.Offset] told before a connection broke. -n, for a
	// number above 0, is n bytes before what has come so far, and [Live] is that
	// itself.
	Offset int64

	// Gap, if not nil, is told of output that the agent does not keep any more,
	// from an offset up to another.
	Gap func(from, to int64)

	// Stdin, Stdout and Stderr are as in [Command], except that the end of a nil
	// Stdin is not passed on.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Live as an Offset leaves out what a session has written so far.
const Live = math.MinInt64

// Attach becomes a client of a session: it gets its output, and may send it
// input. When ctx ends, the session goes on.
func (c *Client) Attach(ctx context.Context, a Attachment) (*Process, error) {
	req := newRequest(wire.OpSessionAttach)
	req.string("session", a.Session)
	switch {
	case a.Offset == Live:
		req.name("tail")
		req.json(0)
	case a.Offset < 0:
		req.name("tail")
		req.json(-a.Offset)
	default:
		req.name("offset")
		req.json(a.Offset)
	}
	var attached wire.Attached
	s, err := c.stream(ctx, req, &attached)
	if err != nil {
		return nil, err
	}
	p := &Process{
		PID: attached.PID, Session: attached.Session, TTY: attached.TTY, offset: attached.Offset,
		stream: s, stdout: orDiscard(a.Stdout), stderr: orDiscard(a.Stderr), gap: a.Gap,
	}
	if a.Stdin != nil {
		go p.feed(a.Stdin)
	}
	return p, nil
}

// Offset is where in the output of its session a process's client is: where
// another [Client.Attach] would go on.
func (p *Process) Offset() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.offset
}

func (p *Process) advance(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offset += n
}

// Sessions returns all sessions, the oldest first, those that have ended too.
func (c *Client) Sessions(ctx context.Context) ([]wire.SessionInfo, error) {
	var data struct {
		Sessions []wire.SessionInfo `json:"sessions"`
	}
	err := c.call(ctx, newRequest(wire.OpSessionList), nil, &data)
	return data.Sessions, err
}

// SignalSession sends a signal, by its number on Linux, to the process group of a
// session's command; SIGKILL goes to all that it started.
func (c *Client) SignalSession(ctx context.Context, session string, signal int) error {
	req := newRequest(wire.OpSessionSignal)
	req.string("session", session)
	req.name("signal")
	req.json(signal)
	return c.call(ctx, req, nil, nil)
}

// WaitSession waits for the end of a session's command.
func (c *Client) WaitSession(ctx context.Context, session string) (*wire.ExecExit, error) {
	req := newRequest(wire.OpSessionWait)
	req.string("session", session)
	exit := new(wire.ExecExit)
	if err := c.call(ctx, req, nil, exit); err != nil {
		return nil, err
	}
	return exit, nil
}

// RemoveSession forgets a session. If its command still runs, it is killed.
func (c *Client) RemoveSession(ctx context.Context, session string) error {
	req := newRequest(wire.OpSessionRemove)
	req.string("session", session)
	return c.call(ctx, req, nil, nil)
}

// Processes returns the processes of the guest.
func (c *Client) Processes(ctx context.Context) ([]wire.Process, error) {
	var data struct {
		Processes []wire.Process `json:"processes"`
	}
	err := c.call(ctx, newRequest(wire.OpPS), nil, &data)
	return data.Processes, err
}
