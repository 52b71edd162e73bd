// Package vsockclient is hf-vsock-client: the operations of an agent as
// commands. What it knows of the protocol is in package client.
package vsockclient

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/version"
)

const program = "hf-vsock-client"

// Exit statuses of the client's own. exec and the like otherwise have the
// command's.
const (
	statusFailed  = 1   // the operation failed, or the agent could not be reached
	statusUsage   = 2   // nothing was tried
	statusTimeout = 124 // what was waited for has not come, as timeout(1) has it
	statusExec    = 125 // statusFailed for exec, as env and docker have it
	statusSignal  = 128 // and the number of the signal that ended the client
)

// A command is one row of the table.
type command struct {
	name     string // one word or two
	operands string // as the usage line has them
	min, max int    // number of operands; max < 0 is any
	synopsis string
	details  string // for --help
	// flags adds the command's own flags.
	flags func(*flag.FlagSet, *options)
	times bool // among them --timeout, which is not about the answer
	// limit is the default of --timeout, 0 for ever: how long the client waits for
	// the answer.
	limit  time.Duration
	failed int  // exit status
	local  bool // it needs no agent
	// endless is for what SIGINT is the usual end of, and no failure to tell of. So is
	// SIGHUP, by which a terminal or ssh, of its ProxyCommand, takes leave.
	endless bool
	// complete names what its operands can be, for a shell: words, or host or guest
	// for paths.
	complete string
	run      func(context.Context, *call) (int, error)
}

// A call is a command on its way.
type call struct {
	*options
	client         *client.Client
	quiet          *client.Client // does not print replies, --json or not
	replies        *replies       // those of client, with --json; or nil
	signals        *signals
	args           []string // operands
	stdin          io.Reader
	stdout, stderr io.Writer
}

// A usageError is a command line that makes no sense.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// A timeoutError tells of a --timeout.
type timeoutError struct{ message string }

func (e *timeoutError) Error() string { return e.message }
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }

func timeoutf(format string, args ...any) error {
	return &timeoutError{fmt.Sprintf(format, args...)}
}

// Run runs hf-vsock-client. args[0] is its name; the result is its exit status.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	status, err := run(args[min(1, len(args)):], stdin, stdout, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", program, printable(err.Error()))
	}
	return status
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	var o options
	rest, err := o.parse(args, nil)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0, print(stdout, usage())
	case err != nil:
		return statusUsage, fmt.Errorf("%w (see %s --help)", err, program)
	case o.version:
		return 0, print(stdout, fmt.Sprintf("%s %s\n", program, version.String()))
	case len(rest) == 0:
		return statusUsage, fmt.Errorf("which command? (see %s --help)", program)
	}
	cmd, rest, err := find(rest)
	if err != nil {
		return statusUsage, fmt.Errorf("%w (see %s --help)", err, program)
	}
	o.timeout = cmd.limit
	rest, err = o.parse(rest, cmd)
	if err == nil && !o.version {
		err = cmd.check(rest)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0, print(stdout, cmd.help())
	case err != nil:
		return statusUsage, fmt.Errorf("%s: %w (see %s %s --help)", cmd.name, err, program, cmd.name)
	case o.version:
		return 0, print(stdout, fmt.Sprintf("%s %s\n", program, version.String()))
	}
	c := &call{options: &o, args: rest, stdin: stdin, stdout: stdout, stderr: stderr}
	if !cmd.local {
		target, err := o.target()
		if err != nil {
			return statusUsage, err
		}
		c.quiet = client.New(target)
		c.client = c.quiet
		if o.json {
			c.replies = &replies{w: stdout}
			c.client = c.quiet.Tee(c.replies)
		}
	}
	status, err := cmd.start(c)
	if err != nil && status != statusUsage {
		c.fail(err)
	}
	return status, err
}

// check tells whether the number of operands is right.
func (cmd *command) check(operands []string) error {
	switch {
	case len(operands) < cmd.min:
		return usagef("too few operands: want %s", cmd.operands)
	case cmd.max >= 0 && len(operands) > cmd.max:
		return usagef("%q is one operand too many", operands[cmd.max])
	}
	return nil
}

// start runs a command until it is done, its time is up or a signal comes.
func (cmd *command) start(c *call) (int, error) {
	ctx, signals, stop := interruptible(context.Background())
	defer stop()
	c.signals = signals
	run := ctx
	if c.timeout > 0 && !cmd.times {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeoutCause(ctx, c.timeout, timeoutf("no answer within %v (--timeout)", c.timeout))
		defer cancel()
	}
	status, err := cmd.run(run, c)
	var sig signalError
	var use *usageError
	var left *detachedError
	switch {
	case err == nil:
		return status, nil
	case errors.As(err, &left):
		return 0, err
	case errors.As(context.Cause(ctx), &sig), errors.As(err, &sig):
		if cmd.endless && (sig == signalError(syscall.SIGINT) || sig == signalError(syscall.SIGHUP)) {
			return statusSignal + int(sig), nil
		}
		return statusSignal + int(sig), fmt.Errorf("%s: %w", cmd.name, sig)
	case errors.As(err, &use):
		return statusUsage, fmt.Errorf("%s: %w", cmd.name, err)
	}
	return cmp.Or(status, cmd.failed), c.hint(cmd, err)
}

// hint adds what to try, where the error alone does not tell.
func (c *call) hint(cmd *command, err error) error {
	for _, h := range []struct {
		command string // how its name begins
		errno   syscall.Errno
		tried   bool
		try     string
	}{
		{"", syscall.ENOSYS, false, "the agent is older than this client: info tells what it can do"},
		{"rm", syscall.ENOTEMPTY, c.recursive, "rm -r removes what is in it too"},
		{"mkdir", syscall.ENOENT, c.parents, "mkdir -p makes those above it too"},
		{"mkdir", syscall.EEXIST, c.parents, "mkdir -p does not mind a directory"},
		{"session", syscall.ESRCH, false, "sessions lists them"},
		{"attach", syscall.ESRCH, false, "sessions lists them"},
	} {
		var refused *client.Error
		if !h.tried && errors.As(err, &refused) && errors.Is(err, h.errno) && strings.HasPrefix(cmd.name, h.command) {
			return fmt.Errorf("%w (%s)", err, h.try)
		}
	}
	return err
}
