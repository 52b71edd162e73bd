package vsockclient

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/hyperfleet/init/applets/client"
)

const shellHelp = `The shell is the one that the guest's /etc/passwd names, or else /bin/sh. Where
stdin is a terminal the shell has one too, as with exec -it; where it is not, it
reads its commands from there.

Exit status: as exec's.
`

func shell(ctx context.Context, c *call) (int, error) {
	if c.json {
		return 0, usagef("there is no --json of it: it talks to people (exec --json runs a command)")
	}
	user, _, _ := strings.Cut(cmp.Or(c.user, "root"), ":")
	a, err := c.account(ctx, user)
	if err != nil {
		return 0, ofExec(err)
	}
	if c.args = []string{a.shell}; c.knowsLogin(ctx, a.shell) {
		c.args = append(c.args, "-l")
	}
	if st, err := c.quiet.Stat(ctx, a.home); err == nil && st.IsDir {
		c.dir = a.home
	}
	c.env = append([]string{"USER=" + a.name, "LOGNAME=" + a.name, "SHELL=" + a.shell}, c.env...)
	c.input, c.tty = true, terminalOf(c.stdin) != nil
	// --timeout ends the client, and so the shell.
	c.timeout = 0
	return execute(ctx, c)
}

// passwdLimit is how much of /etc/passwd is looked at.
const passwdLimit = 1 << 20

// An account is a line of /etc/passwd.
type account struct{ name, home, shell string }

// account looks a user up, by name or number, in the guest's /etc/passwd.
func (c *call) account(ctx context.Context, user string) (account, error) {
	a := account{name: user, home: "/", shell: "/bin/sh"}
	var passwd bytes.Buffer
	_, err := c.quiet.ReadFile(ctx, "/etc/passwd", &limited{w: &passwd, n: passwdLimit})
	var refused *client.Error
	if err != nil && !errors.As(err, &refused) {
		return a, err
	}
	for line := range strings.Lines(passwd.String()) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 7 || f[0] != user && f[2] != user {
			continue
		}
		a.name = f[0]
		if path.IsAbs(f[5]) {
			a.home = f[5]
		}
		if _, err := c.quiet.Stat(ctx, f[6]); err == nil {
			a.shell = f[6]
		}
		break
	}
	return a, nil
}

// knowsLogin tells whether a shell is one that -l makes a login shell. /bin/sh is
// the one that it leads to.
func (c *call) knowsLogin(ctx context.Context, shell string) bool {
	name := path.Base(shell)
	if target, err := c.quiet.Readlink(ctx, shell); err == nil {
		name = path.Base(target)
	}
	return slices.Contains([]string{"ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "zsh"}, name)
}

// limited writes the first n bytes and drops the rest.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.n, len(p))
	l.n -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
