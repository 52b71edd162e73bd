package vsockclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

const execHelp = `CMD is looked up in the guest's PATH; there is no shell but the one you name:
exec -- sh -c 'ls | wc'. What it writes to stdout and stderr is passed on as it
comes. With --json the reply is printed instead, when it has ended.

-it is for a command that talks to people: all keys go to it, ^C, ^Z and ^\ too,
and it is told when the window changes. Without -t the first ^C (SIGINT or
SIGTERM) is passed on to it, the second ends the client, which ends the command.

Exit status: that of the command; 128 and a signal's number if that ended it, as
137 at --timeout; 126 if it can't be executed, 127 if it is not found; 125 if
the agent could not be reached or did not run it.
`

// streamMark is an operation of every agent that can stream commands: those that
// can't list exec too.
const streamMark = wire.OpSessionAttach

func execute(ctx context.Context, c *call) (int, error) {
	if err := c.checkOptions(ctx); err != nil {
		return 0, err
	}
	once := c.json && !c.detach || c.maxOutput > 0
	switch {
	case once && (c.tty || c.detach || c.keep):
		return 0, usagef("-t, -d and --keep go with neither --json nor --max-output")
	case c.keep && c.detach:
		return 0, usagef("-d is --keep already")
	case once:
		return c.execOnce(ctx)
	case c.tty && c.input && !c.detach && terminalOf(c.stdin) == nil:
		return 0, usagef("stdin is not a terminal: leave out -t, or -i")
	}
	if c.input || c.tty || c.detach || c.keep {
		// An agent that does not know of these would run the command without.
		info, err := c.quiet.Info(ctx)
		var refused *client.Error
		switch {
		case errors.As(err, &refused):
			info = &wire.Info{Version: "too old to say"}
		case err != nil:
			return 0, ofExec(err)
		}
		switch {
		case slices.Contains(info.Operations, streamMark):
		case c.tty || c.detach || c.keep:
			return 0, fmt.Errorf("exec: the agent (version %s) is too old for -t, -d and --keep: without them the command can run", info.Version)
		default:
			return c.execOnce(ctx)
		}
	}
	return c.execStream(ctx)
}

// ofExec makes an error of info one of exec.
func ofExec(err error) error {
	var dial *client.DialError
	if errors.As(err, &dial) {
		return fmt.Errorf("exec: %w", dial)
	}
	return err
}

// execOnce runs a command whose output comes when it has ended.
func (c *call) execOnce(ctx context.Context) (int, error) {
	req := client.ExecRequest{
		Cmd:       c.args,
		Env:       c.env,
		Cwd:       c.dir,
		User:      c.user,
		Options:   c.exec,
		Timeout:   c.timeout,
		MaxOutput: c.maxOutput,
	}
	switch {
	case !c.timed:
		c.timeout = wire.DefaultTimeout
	case c.timeout == 0:
		req.Timeout = client.NoTimeout
	}
	if c.input {
		req.Stdin = c.stdin
	}
	if !c.json {
		req.Stdout, req.Stderr = c.stdout, c.stderr
	}
	result, err := c.client.Exec(ctx, req)
	if err != nil {
		return 0, err
	}
	c.tellWhy(result.TimedOut, result.OOMKilled, result.Truncated)
	return result.ExitCode, nil
}

// tellWhy tells what the exit status and the output can't.
func (c *call) tellWhy(timedOut, oomKilled, truncated bool) {
	if timedOut {
		c.complain(fmt.Errorf("exec: killed after %v (--timeout D gives it longer, 0 for ever)", c.timeout))
	}
	switch {
	case oomKilled && c.exec.MemoryMax > 0:
		c.complain(errors.New("exec: killed by the guest's kernel, at its --memory limit or for want of memory"))
	case oomKilled:
		c.complain(errors.New("exec: killed by the guest's kernel, which is out of memory"))
	}
	if truncated {
		c.complain(errors.New("exec: output is cut short (--max-output N keeps more)"))
	}
}

// execStream runs a command whose input and output pass as they come.
func (c *call) execStream(ctx context.Context) (int, error) {
	cmd := client.Command{
		Cmd: c.args, Env: c.env, Cwd: c.dir, User: c.user, Timeout: c.timeout, Options: c.exec,
		Stdout: c.stdout, Stderr: c.stderr,
	}
	if c.tty {
		cmd.Terminal = terminalSize(c.stdin, c.stdout)
		cmd.Env = withTerm(cmd.Env)
	}
	if c.detach {
		return c.execDetached(ctx, cmd)
	}
	start := c.client.Start
	if c.keep {
		start = c.client.StartSession
	}
	var p *client.Process
	status, err := c.converse(ctx, c.input, func(ctx context.Context, stdin io.Reader) (_ *client.Process, err error) {
		cmd.Stdin = stdin
		p, err = start(ctx, cmd)
		return p, err
	})
	if err != nil {
		return 0, err
	}
	if r := p.Result; r != nil {
		c.tellWhy(r.TimedOut, r.OOMKilled, r.Truncated)
	} else {
		c.tellWhy(status.TimedOut, status.OOMKilled, false)
	}
	return status.ExitCode, nil
}

// execDetached starts a session and prints its name.
func (c *call) execDetached(ctx context.Context, cmd client.Command) (int, error) {
	if !c.input {
		started, err := c.client.Detach(ctx, cmd)
		if err != nil {
			return c.notStarted(ctx, err)
		}
		return 0, c.print("%s\n", started.Session)
	}
	// Its stdin stays open for a client that attaches.
	leaving, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd.Stdin = silence{}
	p, err := c.client.StartSession(leaving, cmd)
	if err != nil {
		return 0, err
	}
	if p.Session == "" { // it could not be run, and its end says why
		status, err := p.Wait()
		if err != nil {
			return 0, err
		}
		return status.ExitCode, nil
	}
	cancel()
	_, _ = p.Wait()
	return 0, c.print("%s\n", p.Session)
}

// notStarted tells, as a shell would, of a command that could not be run: of those
// without a stream the errno tells, which that of c.dir can be too.
func (c *call) notStarted(ctx context.Context, err error) (int, error) {
	var refused *client.Error
	status, ok := 0, errors.As(err, &refused)
	switch {
	case ok && errors.Is(err, syscall.ENOENT):
		status = 127
	case ok && errors.Is(err, syscall.EACCES):
		status = 126
	default:
		return 0, err
	}
	if c.dir != "" {
		if st, dirErr := c.quiet.Stat(ctx, c.dir); dirErr != nil || !st.IsDir {
			return 0, err
		}
	}
	return status, err
}

// silence is input that never comes and never ends.
type silence struct{}

func (silence) Read([]byte) (int, error) { select {} }

// withTerm tells a command which terminal it is shown on.
func withTerm(env []string) []string {
	term := os.Getenv("TERM")
	for _, word := range env {
		if strings.HasPrefix(word, "TERM=") {
			return env
		}
	}
	if term == "" {
		return env
	}
	return append(slices.Clone(env), "TERM="+term)
}
