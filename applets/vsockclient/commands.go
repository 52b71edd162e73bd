package vsockclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// answerLimit is how long an operation may take that has little to do.
const answerLimit = 30 * time.Second

// commands is the table. A function, not a variable: nothing can change it.
func commands() []command {
	return []command{
		{name: "ping", synopsis: "ask whether the agent answers", run: ping,
			limit: 10 * time.Second, failed: statusFailed},
		{name: "info", synopsis: "tell about the agent and its guest", run: info,
			limit: 10 * time.Second, failed: statusFailed},
		{name: "wait", synopsis: "wait until the agent answers", run: wait,
			limit: time.Minute, failed: statusFailed},

		{name: "exec", operands: "[--] CMD [ARGS…]", min: 1, max: -1, synopsis: "run a command and exit with its status", run: execute,
			flags: execFlags, times: true, failed: statusExec, details: execHelp},
		{name: "shell", synopsis: "log in: the user's shell, in their home directory", run: shell,
			flags: commandFlags, failed: statusExec, details: shellHelp},
		{name: "sessions", synopsis: "list the sessions", run: sessions,
			limit: answerLimit, failed: statusFailed},
		{name: "attach", operands: "SESSION", min: 1, max: 1, synopsis: "see a session's output and give it input", run: attach,
			flags: attachFlags, failed: statusExec, details: attachHelp},
		{name: "session wait", operands: "SESSION", min: 1, max: 1, synopsis: "wait for the end of a session's command", run: sessionWait,
			failed: statusExec, details: sessionWaitHelp},
		{name: "session kill", operands: "SESSION…", min: 1, max: -1, synopsis: "send a signal to a session's command", run: sessionKill,
			flags: killFlags, limit: answerLimit, failed: statusFailed},
		{name: "session rm", operands: "SESSION…", min: 1, max: -1, synopsis: "forget a session, and end it if it runs", run: sessionRemove,
			limit: answerLimit, failed: statusFailed},
		{name: "ps", synopsis: "list the guest's processes", run: ps,
			limit: answerLimit, failed: statusFailed},

		{name: "cp", operands: "SRC… DST", min: 2, max: -1, synopsis: "copy files into the guest, out of it, or inside it", run: cp,
			flags: cpFlags, failed: statusFailed, details: cpHelp, complete: hostPaths},
		{name: "read", operands: "PATH [FILE]", min: 1, max: 2, synopsis: "copy a file of the guest to FILE or stdout", run: read,
			failed: statusFailed, details: readHelp, complete: hostPaths},
		{name: "write", operands: "PATH [FILE]", min: 1, max: 2, synopsis: "make FILE or stdin a file of the guest", run: write,
			flags: writeFlags, failed: statusFailed, details: writeHelp, complete: hostPaths},
		{name: "cat", operands: "PATH…", min: 1, max: -1, synopsis: "print files", run: cat,
			failed: statusFailed},
		{name: "tee", operands: "PATH", min: 1, max: 1, synopsis: "write stdin to a file and to stdout", run: tee,
			flags: teeFlags, failed: statusFailed},
		{name: "ls", operands: "[PATH…]", max: -1, synopsis: "list directories, hidden names too (default /)", run: ls,
			flags: lsFlags, failed: statusFailed},
		{name: "stat", operands: "PATH", min: 1, max: 1, synopsis: "describe a file", run: stat,
			limit: answerLimit, failed: statusFailed},
		{name: "hash", operands: "PATH…", min: 1, max: -1, synopsis: "print SHA-256 sums, as sha256sum does", run: hash,
			failed: statusFailed},
		{name: "mkdir", operands: "PATH…", min: 1, max: -1, synopsis: "make directories", run: mkdir,
			flags: mkdirFlags, limit: answerLimit, failed: statusFailed},
		{name: "mv", operands: "FROM TO", min: 2, max: 2, synopsis: "rename a file or a directory, or move it into one", run: mv,
			flags: mvFlags, limit: answerLimit, failed: statusFailed},
		{name: "rm", operands: "PATH…", min: 1, max: -1, synopsis: "delete files, links and empty directories", run: remove,
			flags: rmFlags, failed: statusFailed},
		{name: "watch", operands: "PATH", min: 1, max: 1, synopsis: "tell what happens to a file or in a directory", run: watch,
			flags: watchFlags, failed: statusFailed, endless: true, details: watchHelp},

		{name: "logs", synopsis: "print what the kernel and init have logged", run: logs,
			flags: logsFlags, failed: statusFailed, endless: true, details: logsHelp},
		{name: "stats", synopsis: "tell of CPU, memory, disks and network", run: stats,
			flags: statsFlags, failed: statusFailed, endless: true, details: statsHelp},

		{name: "forward", operands: "[[ADDR:]PORT:][HOST:]PORT…", min: 1, max: -1, synopsis: "listen here, connect from the guest", run: forward,
			flags: forwardFlags, times: true, failed: statusFailed, endless: true, details: forwardHelp},
		{name: "proxy", operands: "[HOST:]PORT", min: 1, max: 1, synopsis: "connect stdin and stdout to a port of the guest", run: proxy,
			flags: proxyFlags, times: true, failed: statusFailed, endless: true, details: proxyHelp},

		{name: "raw", operands: "[REQUEST]", max: 1, synopsis: "send a line of the protocol, print the reply", run: raw,
			failed: statusFailed, details: rawHelp},
		{name: "completion", operands: "bash|zsh|fish", min: 1, max: 1, synopsis: "print what completes this in a shell", run: completion,
			local: true, failed: statusFailed, details: completionHelp, complete: "bash zsh fish"},
	}
}

// find returns the command that words begin with, and the words behind its name.
func find(words []string) (*command, []string, error) {
	var known []string
	for _, c := range commands() {
		first, second, two := strings.Cut(c.name, " ")
		switch {
		case first != words[0]:
		case !two:
			return &c, words[1:], nil
		case len(words) > 1 && second == words[1]:
			return &c, words[2:], nil
		default:
			known = append(known, c.name)
		}
	}
	if len(known) > 0 {
		return nil, nil, fmt.Errorf("%s: which? %s", words[0], strings.Join(known, ", "))
	}
	return nil, nil, fmt.Errorf("%s: no such command", words[0])
}

func ping(ctx context.Context, c *call) (int, error) {
	start := time.Now()
	if err := c.client.Ping(ctx); err != nil {
		return 0, err
	}
	return 0, c.print("ready (%v)\n", time.Since(start).Round(10*time.Microsecond))
}

func wait(ctx context.Context, c *call) (int, error) {
	start := time.Now()
	if err := c.client.Wait(ctx); err != nil {
		return 0, err
	}
	return 0, c.print("ready after %v\n", time.Since(start).Round(time.Millisecond))
}

func info(ctx context.Context, c *call) (int, error) {
	i, err := c.client.Info(ctx)
	if err != nil {
		return 0, err
	}
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-11s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	row("agent", "%s, process %d", i.Version, i.PID)
	row("protocol", "%d: %s", i.Protocol, strings.Join(i.Operations, " "))
	row("guest", "%s, Linux %s %s", i.Hostname, i.Kernel, i.Arch)
	row("up", "%v", time.Duration(i.UptimeMS)*time.Millisecond)
	row("kills by", "%s", i.KillScope)
	if i.Boot != nil {
		row("boot", "ready in %.1f ms", i.Boot.ReadyMS)
		for _, s := range i.Boot.Steps {
			failure := ""
			if s.Error != "" {
				failure = "  failed: " + s.Error
			}
			row("", "%7.1f ms  %s%s", s.MS, s.Name, failure)
		}
	}
	return 0, c.print("%s", b.String())
}

func stat(ctx context.Context, c *call) (int, error) {
	st, err := c.client.Stat(ctx, c.args[0])
	if err != nil {
		return 0, err
	}
	bits := st.Mode
	octal := uint32(bits.Perm())
	for i, special := range []bool{bits&fs.ModeSticky != 0, bits&fs.ModeSetgid != 0, bits&fs.ModeSetuid != 0} {
		if special {
			octal |= 0o1000 << i
		}
	}
	return 0, c.print("path      %s\nsize      %d\nmode      %04o (%s)\nmodified  %s\n",
		printable(st.Path), st.Size, octal, st.Mode, st.ModTime.Format("2006-01-02 15:04:05 UTC"))
}

const rawHelp = `REQUEST is one line of JSON; without it, it is the first line of stdin that is
not blank. The reply is printed as it comes, --json or not. See PROTOCOL.md.
The exit status is 0 if the reply reports success.
`

func raw(ctx context.Context, c *call) (int, error) {
	request := c.stdin
	if len(c.args) > 0 {
		request = strings.NewReader(c.args[0])
	}
	cl := c.client
	if !c.json {
		cl = cl.Tee(c.stdout)
	}
	err := cl.Raw(ctx, request)
	var refused *client.Error
	switch {
	case errors.As(err, &refused):
		return statusFailed, nil // the reply on stdout says why
	case errors.Is(err, io.EOF):
		return 0, usagef("there is no request")
	}
	return 0, err
}
