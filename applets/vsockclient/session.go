package vsockclient

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

const sessionWaitHelp = `Exit status: that of the command; 124 if it has not ended within --timeout.
`

const attachHelp = `Output that the agent does not keep any more is told of on stderr. What is
typed goes to the session; where stdin is no terminal, only with -i. A session
that has a terminal is left with ctrl-p ctrl-q, one that has none with ^C; both
go on.

With --json a line tells of each piece of its output, as exec's reply has all,
of each gap in it, and of its end. Then it has no terminal here, and no keys
leave it.

Exit status: that of the command if it ended, 0 after ctrl-p ctrl-q.
`

func attachFlags(f *flag.FlagSet, o *options) {
	f.BoolVar(&o.input, "i", false, "give it the client's stdin, to its end, even if that is not a terminal")
	number := func(s string) (int64, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0, errors.New("want a number of bytes")
		}
		return n, nil
	}
	f.Func("offset", "begin at byte `N` of its output (default 0: at the first that is kept)", func(s string) (err error) {
		o.offset, err = number(s)
		return err
	})
	f.Func("tail", "begin with the last `N` bytes of its output so far", func(s string) error {
		n, err := number(s)
		if o.offset = -n; n == 0 {
			o.offset = client.Live
		}
		return err
	})
	keyFlag(f, o)
}

func attach(ctx context.Context, c *call) (int, error) {
	a := client.Attachment{
		Session: c.args[0], Offset: c.offset, Stdout: c.stdout, Stderr: c.stderr,
		Gap: func(from, to int64) {
			c.complain(fmt.Errorf("attach: %s of output (bytes %d to %d) are not kept any more", size(to-from), from, to))
		},
	}
	if c.json {
		a.Stdout = writerFunc(func(b []byte) (int, error) { return len(b), c.line(outputLine{Stdout: string(b), StdoutBase64: b}) })
		a.Stderr = writerFunc(func(b []byte) (int, error) { return len(b), c.line(outputLine{Stderr: string(b), StderrBase64: b}) })
		a.Gap = func(from, to int64) {
			var gap wire.Gap
			gap.Gap.From, gap.Gap.To = from, to
			_ = c.line(gap) // if it can't be written, the next output can't
		}
	}
	status, err := c.converse(ctx, c.input || !c.json && terminalOf(c.stdin) != nil, func(ctx context.Context, stdin io.Reader) (*client.Process, error) {
		a.Stdin = stdin
		return c.quiet.Attach(ctx, a)
	})
	if err == nil && c.json {
		err = c.line(status)
	}
	if err != nil {
		return 0, err
	}
	return status.ExitCode, nil
}

// An outputLine is a piece of output for a program, as exec's reply has all of it.
type outputLine struct {
	Stdout       string `json:"stdout,omitempty"`
	StdoutBase64 []byte `json:"stdout_base64,omitempty"`
	Stderr       string `json:"stderr,omitempty"`
	StderrBase64 []byte `json:"stderr_base64,omitempty"`
}

func sessions(ctx context.Context, c *call) (int, error) {
	all, err := c.client.Sessions(ctx)
	if err != nil {
		return 0, err
	}
	rows := [][]string{{"SESSION", "PID ", "STARTED", "STATE", "CLIENTS ", "OUTPUT ", "COMMAND"}}
	for _, s := range all {
		state := "running"
		switch e := s.Exit; {
		case e == nil:
		case e.TimedOut:
			state = "timed out"
		case e.Signal != 0:
			state = "signal " + strconv.Itoa(e.Signal)
		default:
			state = "exit " + strconv.Itoa(e.ExitCode)
		}
		started := s.Started
		if t, err := time.Parse(time.RFC3339, started); err == nil {
			started = t.Local().Format(time.DateTime)
		}
		rows = append(rows, []string{
			printable(s.Session), strconv.Itoa(s.PID), printable(started), state,
			strconv.Itoa(s.Attached), size(s.To), printable(strings.Join(s.Cmd, " ")),
		})
	}
	return 0, c.table(rows)
}

func sessionWait(ctx context.Context, c *call) (int, error) {
	exit, err := c.client.WaitSession(ctx, c.args[0])
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return statusTimeout, timeoutf("session wait: %s has not ended within %v (--timeout)", c.args[0], c.timeout)
	case err != nil:
		return 0, err
	}
	if exit.TimedOut {
		c.complain(fmt.Errorf("session wait: %s was killed at exec's --timeout", c.args[0]))
	}
	return exit.ExitCode, nil
}

func killFlags(f *flag.FlagSet, o *options) {
	o.signal = int(syscall.SIGTERM)
	f.Func("s", "the `SIGNAL`: a name or a number of Linux's (default TERM)", func(s string) error {
		n, err := parseSignal(s)
		o.signal = n
		return err
	})
}

// The signals of Linux whose numbers differ between systems. (Those of x86 and ARM
// are the same.)
func linuxSignals() map[string]int {
	return map[string]int{
		"BUS": 7, "USR1": 10, "USR2": 12, "STKFLT": 16, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20,
		"TTIN": 21, "TTOU": 22, "URG": 23, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
	}
}

func parseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	if n, ok := linuxSignals()[name]; ok {
		return n, nil
	}
	if n := unix.SignalNum("SIG" + name); n > 0 {
		return int(n), nil
	}
	return 0, errors.New("want a signal, as INT or 2")
}

func sessionKill(ctx context.Context, c *call) (int, error) {
	return c.each(func(session string) error { return c.client.SignalSession(ctx, session, c.signal) })
}

func sessionRemove(ctx context.Context, c *call) (int, error) {
	return c.each(func(session string) error { return c.client.RemoveSession(ctx, session) })
}

// each does something with every operand, the rest too if it fails with one.
func (c *call) each(do func(string) error) (int, error) {
	var failed error
	for i, operand := range c.args {
		if err := do(operand); err != nil {
			failed = err
			if i < len(c.args)-1 {
				c.complain(err)
				c.fail(err)
				continue
			}
			return 0, err
		}
	}
	if failed != nil {
		return statusFailed, nil // which has been told
	}
	return 0, nil
}

func ps(ctx context.Context, c *call) (int, error) {
	all, err := c.client.Processes(ctx)
	if err != nil {
		return 0, err
	}
	rows := [][]string{{"UID ", "PID ", "PPID ", "S", "THR ", "RSS ", "CPU ", "AGE ", "COMMAND"}}
	for _, p := range all {
		rows = append(rows, []string{
			strconv.Itoa(int(p.UID)), strconv.Itoa(p.PID), strconv.Itoa(p.PPID), printable(p.State), strconv.Itoa(p.Threads),
			size(p.RSS), clock(p.CPUMS), clock(p.Age), processName(p),
		})
	}
	return 0, c.table(rows)
}

// processName is the command line or, as ps has it, a thread of the kernel's name.
func processName(p wire.Process) string {
	if len(p.Cmd) == 0 {
		return "[" + printable(p.Name) + "]"
	}
	return printable(strings.Join(p.Cmd, " "))
}

// clock writes milliseconds as [days-][hours:]minutes:seconds.
func clock(ms int64) string {
	s := ms / 1000
	days, hours, minutes := s/86400, s/3600%24, s/60%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d-%02d:%02d:%02d", days, hours, minutes, s%60)
	case hours > 0:
		return fmt.Sprintf("%d:%02d:%02d", hours, minutes, s%60)
	}
	return fmt.Sprintf("%d:%02d", minutes, s%60)
}
