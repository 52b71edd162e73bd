package client

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// A Command is a command in the guest whose input and output are streamed.
type Command struct {
	// Cmd, Env, Cwd, User and Options are as in [ExecRequest].
	Cmd     []string
	Env     []string
	Cwd     string
	User    string
	Options ExecOptions

	// Timeout is how long the command may run, to the millisecond; 0 is for ever.
	Timeout time.Duration

	// Stdin is the command's input as it comes; with nil there is none.
	Stdin io.Reader

	// Stdout and Stderr receive the output as it comes, each in its order; with
	// nil it is dropped. A writer that blocks holds up the command.
	Stdout, Stderr io.Writer

	// Terminal, if not nil, gives the command a terminal of that size, whose
	// output is Stdout's.
	Terminal *wire.Resize

	// Ring is how much of a session's output is kept, in bytes; 0 is the agent's
	// default, 1 MiB. It is for [Client.Detach] and [Client.StartSession].
	Ring int64
}

func (e *Command) request(stream, detach bool) *request {
	r := (&ExecRequest{Cmd: e.Cmd, Env: e.Env, Cwd: e.Cwd, User: e.User, Options: e.Options, Timeout: cmp.Or(e.Timeout, NoTimeout)}).request()
	r.name("stream")
	r.json(stream)
	if detach {
		r.name("detach")
		r.json(true)
	}
	if e.Ring != 0 {
		r.name("ring")
		r.json(e.Ring)
	}
	if e.Terminal != nil {
		r.name("tty")
		r.json(true)
		r.name("rows")
		r.json(e.Terminal.Rows)
		r.name("cols")
		r.json(e.Terminal.Cols)
	}
	return r
}

// A Process is a command that runs.
type Process struct {
	PID     int    // in the guest; 0 if it could not be started, or there is no stream
	Session string // "" for a command that ends with its client
	TTY     bool   // it has a terminal
	// Result is nil, but where the agent is too old to stream: see [Client.Start].
	Result *ExecResult

	stream *stream
	stdout io.Writer
	stderr io.Writer
	gap    func(from, to int64)

	once   sync.Once
	status *wire.ExecExit
	err    error

	mu     sync.Mutex
	offset int64
}

// Start starts a command. When ctx ends, or the connection breaks, the agent
// kills it with all that it started. The caller must call Wait.
//
// An agent that is too old to stream passes over what it does not know: it runs the
// command without Stdin, Terminal and Options, and Start returns when that has ended.
// Who needs those asks before, by [Client.Info], whether [wire.OpSessionAttach] is
// among its operations.
func (c *Client) Start(ctx context.Context, e Command) (*Process, error) {
	return c.start(ctx, e, false)
}

func (c *Client) start(ctx context.Context, e Command, detach bool) (*Process, error) {
	var started struct {
		wire.ExecStarted
		ended
	}
	req := e.request(true, detach)
	out := newOutputs(e.Stdout, e.Stderr, 0)
	req.sink = out.sink
	s, err := c.stream(ctx, req, &started)
	if err != nil {
		return nil, err
	}
	if started.ended.ExitCode != nil {
		s.close()
		return out.process(s, &started.ended)
	}
	p := &Process{
		PID: started.PID, Session: started.Session, TTY: e.Terminal != nil,
		stream: s, stdout: orDiscard(e.Stdout), stderr: orDiscard(e.Stderr),
	}
	go p.feed(e.Stdin)
	return p, nil
}

// process is a command that has been run by an agent which does not stream.
func (o *outputs) process(s *stream, data *ended) (*Process, error) {
	if err := o.check(data); err != nil {
		return nil, s.wrap(err)
	}
	r := data.result()
	p := &Process{Result: r, stream: s, status: &wire.ExecExit{
		ExitCode: r.ExitCode, Signal: r.Signal, TimedOut: r.TimedOut, DurationMS: r.Duration.Milliseconds(),
	}}
	p.once.Do(func() {})
	return p, nil
}

// feed sends the input. Errors of the connection show where it is read.
func (p *Process) feed(stdin io.Reader) {
	frame := wire.NewFrame(32 << 10)
	for stdin != nil {
		n, err := stdin.Read(frame.Payload())
		if n > 0 && p.stream.WriteFrame(wire.KindStdin, frame, n) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	_ = p.stream.Empty(wire.KindEnd)
}

// Wait receives output until the command has ended, and tells how. It does not
// wait for a read of Stdin that is under way; for a write to Stdout or Stderr it does,
// also when ctx has ended.
func (p *Process) Wait() (*wire.ExecExit, error) {
	p.once.Do(func() {
		defer p.stream.close()
		p.status, p.err = p.receive()
	})
	return p.status, p.err
}

func (p *Process) receive() (*wire.ExecExit, error) {
	buf := make([]byte, pieceSize)
	for {
		k, _, err := p.stream.next()
		if err != nil {
			return nil, err
		}
		switch k {
		case wire.KindStdout, wire.KindStderr:
			w := p.stdout
			if k == wire.KindStderr {
				w = p.stderr
			}
			n, err := io.CopyBuffer(onlyWriter{w}, onlyReader{p.stream}, buf)
			p.advance(n)
			if err != nil {
				return nil, p.stream.wrap(err)
			}
		case wire.KindEvent:
			var gap wire.Gap
			if err := p.stream.Decode(&gap); err != nil {
				return nil, p.stream.wrap(err)
			}
			if gap.Gap.To > gap.Gap.From {
				p.advance(gap.Gap.To - gap.Gap.From)
				if p.gap != nil {
					p.gap(gap.Gap.From, gap.Gap.To)
				}
			}
		case wire.KindExit:
			status := new(wire.ExecExit)
			if err := p.stream.Decode(status); err != nil {
				return nil, p.stream.wrap(err)
			}
			return status, nil
		default:
			return nil, fmt.Errorf("%s: %w", p.stream.op, replyError("a frame of kind %d", k))
		}
	}
}

// onlyReader and onlyWriter hide what would make io.CopyBuffer use a buffer of
// its own.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// Signal sends a signal, by its number on Linux, to the command's process group.
func (p *Process) Signal(n int) error {
	return p.stream.Encode(wire.KindSignal, wire.Signal{Signal: n})
}

// Resize tells the command how large its terminal is now.
func (p *Process) Resize(rows, cols uint16) error {
	return p.stream.Encode(wire.KindResize, wire.Resize{Rows: rows, Cols: cols})
}
