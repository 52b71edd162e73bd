//go:build linux

package agent

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// ShimName is the applet that starts a command where fork(2) and what Go does
// between that and execve(2) do not suffice: a umask and rlimits are a process's
// own, and can't be given to another before it runs.
const ShimName = "hf-exec"

// reportFD is where the shim tells why it could not execute the command. That it
// could closes it.
const reportFD = 3

// A shimStep is what the shim does to itself. It is one word of its command line.
type shimStep struct {
	what  string
	value string
	field string // of the request that asked for it, or "" for what every command needs
}

func (s shimStep) String() string { return s.what + "=" + s.value }

// A shim is a process that is about to become a command.
type shim struct {
	name   string
	steps  []shimStep
	argv   []string
	attr   *syscall.ProcAttr
	theirs *os.File
	ours   *os.File
}

// needsShim tells whether the command can't be executed at once. Where a process
// can't be started in a cgroup, it has to be there before it is a command that has
// limits.
func (p *plan) needsShim(join bool) bool {
	return p.umask != nil || len(p.Rlimits) > 0 || join && p.limited()
}

// envMark is in front of each word of the command's environment, lest the Go runtime
// heed it. It is not among the arguments, since those are everybody's to read.
const envMark = "_"

// newShim makes of a command what becomes it. It is not to collect garbage, for which
// it would want threads.
func newShim(p *plan, g cgroup.Group, join bool, attr *syscall.ProcAttr) (*shim, error) {
	s := &shim{name: p.argv[0], attr: attr}
	add := func(field, what, format string, args ...any) {
		s.steps = append(s.steps, shimStep{what, fmt.Sprintf(format, args...), field})
	}
	if join && g.Valid() {
		add("cgroup", "write", "%s/cgroup.procs:0", g)
	}
	if p.PidsMax > 0 {
		// Not earlier: this program has more threads than the command may have.
		add("pids_max", "write", "%s/pids.max:%d", g, p.PidsMax)
	}
	for _, l := range p.Rlimits { // while it may raise them
		add("rlimits: "+wire.RlimitNames()[l.Resource], "rlimit", "%d:%d:%d", l.Resource, l.Soft, l.Hard)
	}
	if c := p.cred; c != nil {
		add("", "groups", "%s", strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Groups), " ", ","), "[]"))
		add("", "gid", "%d", c.Gid)
		add("", "uid", "%d", c.Uid)
	}
	if attr.Sys.Pdeathsig != 0 { // which a change of user takes back
		add("", "pdeathsig", "%d", int(attr.Sys.Pdeathsig))
	}
	if p.umask != nil {
		add("umask", "umask", "%d", *p.umask)
	}
	add("", "chdir", "%s", p.cwd)

	s.argv = append(s.argv, ShimName)
	for _, step := range s.steps {
		s.argv = append(s.argv, step.String())
	}
	s.argv = append(append(s.argv, "exec="+p.path), p.argv...)
	attr.Env, attr.Dir, attr.Sys.Credential = []string{"GOGC=off"}, "", nil
	for _, word := range p.env {
		attr.Env = append(attr.Env, envMark+word)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.ours, s.theirs = r, w
	return s, nil
}

func (s *shim) fork() (pid int, err error) {
	s.attr.Files = append(s.attr.Files, s.theirs.Fd())
	pid, err = syscall.ForkExec("/proc/self/exe", s.argv, s.attr)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", ShimName, err)
	}
	return pid, nil
}

// await waits until the shim is the command, or has ended. The error is the same
// as if there had been none.
func (s *shim) await() error {
	if s == nil {
		return nil
	}
	defer s.ours.Close()
	var report [2]byte
	if _, err := io.ReadFull(s.ours, report[:]); err != nil {
		return nil // it was closed
	}
	n, errno := int(report[0]), unix.Errno(report[1])
	if n >= len(s.steps) || s.steps[n].field == "" {
		return startError(s.name, errno)
	}
	return fmt.Errorf("%s: %w", s.steps[n].field, errno)
}
