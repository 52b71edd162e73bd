//go:build linux

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hyperfleet/init/applets/internal/environ"
	"github.com/hyperfleet/init/applets/internal/identity"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A plan is a command that is ready to be started: all that can be wrong with it
// has been looked for, and all that can make it wait has been waited for, before
// the fork, during which no other command can start.
type plan struct {
	path  string // of the program
	argv  []string
	env   []string
	cwd   string
	cred  *syscall.Credential
	umask *uint32
	wire.Limits
	measured bool // what it uses is to be told
	stdin    *os.File
	tty      *os.File // the terminal of a command that has one; all of 0, 1 and 2
}

func (p *plan) close() {
	for _, f := range []*os.File{p.stdin, p.tty} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// own gives the command's user what the command reads and writes: whoever opens
// /dev/stdin or /dev/stdout opens it anew, and the kernel asks whose it is. What has
// a name is not the command's: /dev/null.
func (p *plan) own(files []uintptr) {
	if p.cred == nil {
		return
	}
	for _, fd := range files {
		var st unix.Stat_t
		if unix.Fstat(int(fd), &st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFIFO || st.Nlink == 0) {
			_ = unix.Fchown(int(fd), int(p.cred.Uid), -1) // it can still be used as it is
		}
	}
}

// A commandError is a command that can't be run. To its client it looks as it
// would in a shell: a message on stderr and 126 or 127.
type commandError struct {
	name     string
	err      error
	exitCode int
}

func (e *commandError) Error() string { return e.name + ": " + e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// resolve finds all that a command needs.
func resolve(e wire.Exec) (*plan, error) {
	who, err := identity.Lookup(e.User)
	if err != nil {
		return nil, fmt.Errorf("user: %w", err)
	}
	cwd := e.Cwd
	if cwd == "" {
		cwd = "/"
	}
	p := &plan{argv: e.Cmd, env: environment(who, e.Env), cwd: cwd, cred: who.Credential(), umask: e.Umask, Limits: e.Limits}
	if e.Groups != nil {
		if p.cred, err = who.CredentialWith(e.Groups); err != nil {
			return nil, fmt.Errorf("groups: %w", err)
		}
	}
	if cwd != "/" {
		fd, err := retry(func() (int, error) {
			return unix.Open(cwd, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		})
		if err != nil {
			return nil, fmt.Errorf("cwd: %s: %w", cwd, err)
		}
		_ = unix.Close(fd)
	}
	p.path, err = findProgram(e.Cmd[0], cwd, p.env)
	return p, err
}

// environment is that of a fresh login of who, and what the request adds.
func environment(who identity.Identity, add []string) []string {
	env := environ.Default(who.Home)
	if who.Name != "" {
		env = append(env, "USER="+who.Name, "LOGNAME="+who.Name)
	}
	return environ.Override(env, add)
}

// findProgram looks a command up as execvp(3) does: in PATH if it has no slash,
// else from the working directory. What is relative stays so, for the kernel to follow
// from there.
func findProgram(name, cwd string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, runnable(name, seenFrom(cwd, name))
	}
	var path string
	for _, word := range env {
		if value, ok := strings.CutPrefix(word, "PATH="); ok {
			path = value
		}
	}
	result := error(&commandError{name, errors.New("command not found"), 127})
	for _, dir := range filepath.SplitList(path) {
		candidate := cmp.Or(dir, ".") + "/" + name
		err := runnable(name, seenFrom(cwd, candidate))
		if err == nil {
			return candidate, nil
		}
		var c *commandError
		if errors.As(err, &c) && c.exitCode == 126 && !errors.Is(err, unix.EISDIR) {
			result = err // keep looking, but say this if there is no other
		}
	}
	return "", result
}

// seenFrom returns what a path means in a directory. It is not cleaned: ".." of a link to
// a directory is in another place.
func seenFrom(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return dir + "/" + path
}

// runnable tells whether path is a file that can be executed. It reads the start
// of it, so that a filesystem that hangs holds this request up and not the fork.
func runnable(name, path string) error {
	fail := func(code int, err error) error { return &commandError{name, err, code} }
	var st unix.Stat_t
	_, err := retry(func() (int, error) { return 0, unix.Stat(path, &st) })
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return fail(127, err)
	case err != nil:
		return fail(126, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fail(126, unix.EISDIR)
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
		return fail(126, unix.EACCES)
	}
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil // it may be executable and not readable
	}
	defer unix.Close(fd)
	var head [1]byte
	_, _ = retry(func() (int, error) { return unix.Read(fd, head[:]) })
	return nil
}

// startError turns an error of execve(2) into what a shell would make of it, or
// returns it: for want of memory or processes the request fails.
func startError(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOEXEC):
		return &commandError{name, errors.New("exec format error: a script needs a #! line, a program this machine's architecture"), 126}
	case errors.Is(err, unix.ENOENT):
		return &commandError{name, errors.New("its interpreter (the #! line's, or the dynamic loader) was not found"), 127}
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ETXTBSY),
		errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELIBBAD), errors.Is(err, unix.EISDIR):
		return &commandError{name, err, 126}
	}
	return err
}
