package client

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/wire"
)

// NoTimeout as a Timeout lets a command run for as long as it wants.
const NoTimeout time.Duration = -1

// An ExecRequest is a command to run in the guest.
type ExecRequest struct {
	// Cmd is the command, looked up in the guest's PATH, and its arguments. No
	// shell is involved.
	Cmd []string

	// Env are "name=value" words, added to the agent's default environment. Of
	// two with one name the last counts.
	Env []string

	Cwd  string // absolute directory to start in; "" is /
	User string // name or uid, with an optional :group; "" is root

	// Options are what else can be said about a command.
	Options ExecOptions

	// Stdin is the command's input, up to its end; with nil it is /dev/null. The
	// command starts when all of it has arrived.
	Stdin io.Reader

	// Stdout and Stderr receive what the command wrote, first all of the one and
	// then all of the other, after it has ended; with nil it is dropped.
	Stdout, Stderr io.Writer

	// Timeout is how long the command may run, to the millisecond; then all it
	// started is killed (see Options.Grace). 0 is the agent's default, 30 seconds.
	Timeout time.Duration

	// MaxOutput is how many bytes of Stdout, and of Stderr, the agent keeps; what
	// is beyond is dropped, and the result says Truncated. 0 is the agent's
	// default, 16 MiB.
	MaxOutput int64
}

func (e *ExecRequest) request() *request {
	r := newRequest(wire.OpExec)
	r.list("cmd", e.Cmd)
	if len(e.Env) > 0 {
		r.env(e.Env)
	}
	if e.Cwd != "" {
		r.string("cwd", e.Cwd)
	}
	if e.User != "" {
		r.string("user", e.User)
	}
	e.Options.add(r)
	if e.Timeout != 0 {
		r.name("timeout")
		r.json(timeoutMS(e.Timeout))
	}
	if e.MaxOutput != 0 {
		r.name("max_output")
		r.json(e.MaxOutput)
	}
	if e.Stdin != nil {
		r.base64("stdin", e.Stdin)
	}
	return r
}

// timeoutMS is a timeout in the protocol's milliseconds, in which 0 is none: one
// too short for them becomes 1.
func timeoutMS(d time.Duration) int64 {
	if d < 0 {
		return 0
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// env adds the environment: an object, in which no name may occur twice.
func (r *request) env(words []string) {
	last := make(map[string]int, len(words))
	for i, w := range words {
		name, _, ok := strings.Cut(w, "=")
		if (!ok || name == "") && r.err == nil {
			r.err = fmt.Errorf("env: %q is not name=value", w)
		}
		last[name] = i
	}
	r.name("env")
	sep := byte('{')
	for i, w := range words {
		name, value, _ := strings.Cut(w, "=")
		if last[name] != i {
			continue
		}
		r.head.WriteByte(sep)
		sep = ','
		r.text("env", name)
		r.head.WriteByte(':')
		r.text("env", value)
	}
	r.head.WriteByte('}')
}

// An ExecResult tells how a command ended.
type ExecResult struct {
	// ExitCode is the command's, or 128 and the number of the signal that ended
	// it; 126 for a command that can't be executed, 127 for one not found.
	ExitCode  int
	Signal    int           // that ended it, or 0
	TimedOut  bool          // it was ended at its timeout
	OOMKilled bool          // the guest's kernel killed it for want of memory
	Truncated bool          // it wrote more than MaxOutput
	Duration  time.Duration // that it ran, to the millisecond
}

// Exec runs a command in the guest and waits for its end. A command that fails
// is no error: see the result's ExitCode. A result is returned only without an
// error.
//
// When ctx ends, the agent kills the command and all that it started. If the
// agent refuses the command early, Exec returns without waiting for a call of
// Stdin.Read that is still under way.
func (c *Client) Exec(ctx context.Context, e ExecRequest) (*ExecResult, error) {
	req := e.request()
	out := newOutputs(e.Stdout, e.Stderr, e.MaxOutput)
	var data ended
	if err := c.call(ctx, req, out.sink, &data); err != nil {
		return nil, err
	}
	if err := out.check(&data); err != nil {
		return nil, fmt.Errorf("%s: %w", req.op, err)
	}
	return data.result(), nil
}

// ended is the data of exec's reply when the command has.
type ended struct {
	ExitCode *int `json:"exit_code"`
	wire.ExecResult
}

func (data *ended) result() *ExecResult {
	return &ExecResult{
		ExitCode:  *data.ExitCode,
		Signal:    data.Signal,
		TimedOut:  data.TimedOut,
		OOMKilled: data.OOMKilled,
		Truncated: data.Truncated,
		Duration:  time.Duration(data.DurationMS) * time.Millisecond,
	}
}

// outputs take a command's out of such a reply.
type outputs struct{ stdout, stderr receiver }

func newOutputs(stdout, stderr io.Writer, limit int64) *outputs {
	// A guest that sends more than it was asked for is not to fill the caller's disk.
	limit = cmp.Or(limit, wire.DefaultMaxOutput)
	return &outputs{receiver{w: orDiscard(stdout), limit: limit}, receiver{w: orDiscard(stderr), limit: limit}}
}

func (o *outputs) sink(path string, _ []byte) io.Writer {
	switch path {
	case "data.stdout_base64":
		return o.stdout.open()
	case "data.stderr_base64":
		return o.stderr.open()
	case "data.stdout", "data.stderr": // the same once more, as text
		return wire.Skip
	}
	return nil
}

func (o *outputs) check(data *ended) error {
	switch {
	case data.ExitCode == nil || *data.ExitCode < 0 || *data.ExitCode > 255:
		return replyError("data: exit_code is missing or no exit status")
	case o.stdout.twice || o.stderr.twice:
		return errTwice
	case !o.stdout.seen || !o.stderr.seen:
		// Its text may have lost bytes; that is not passed off as the output.
		return replyError("data: stdout_base64 or stderr_base64 is missing: is the agent too old?")
	}
	return nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
