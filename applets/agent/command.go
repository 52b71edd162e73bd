//go:build linux

package agent

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/sigaction"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// commands are what runs. Each command has a session and, where there is cgroup
// v2, a cgroup of its own, so that it can be ended with all it started.
type commands struct {
	log     *logging.Log
	group   cgroup.Group // theirs are made inside; may be none
	limited cgroup.Group // or inside this one, if they have limits: see limit
	join    bool         // they have to be moved into theirs: see cgroup.CanStartIn
	oom     oomCounter
	score   *os.File // the agent's own for the OOM killer
	most    string   // processes of one command, for its pids.max; none is ""

	// making is held to make or remove groups. The kernel has a lock for that too,
	// but who waits for that one holds a thread.
	making    sync.Mutex
	inhabited []cgroup.Group // by what commands with limits left running
	prefix    string         // of the groups' names
	next      uint64         // one's number

	mu      sync.Mutex
	running map[*command]struct{}
	refused bool

	briefs atomic.Int32 // that are under way
}

// A command is a started process.
type command struct {
	pid      int
	pidfd    int // until it has ended; -1 on kernels that have none
	started  time.Time
	group    cgroup.Group
	limited  bool        // its group is one of those with limits
	measured bool        // its client wants to know what it used
	oomKills int         // that the commands' cgroups had seen when it started
	oom      bool        // the kernel killed it for want of memory
	killed   atomic.Bool // by this program
	outputs  []*output   // stdout and stderr, or a terminal
	status   syscall.WaitStatus
	usage    syscall.Rusage
	spent    spent
	lost     error         // why there is no status
	ended    time.Duration // after started
	done     chan struct{} // closed when the process itself has ended
}

func newCommands(log *logging.Log, group cgroup.Group) commands {
	return commands{
		log: log, group: group, join: !cgroup.CanStartIn(), running: map[*command]struct{}{},
		prefix: strconv.Itoa(os.Getpid()) + "-", score: openOOMScore(),
		oom: openOOMCounter(group), most: mostProcesses(group), limited: group.Sibling(cgroup.Limited),
	}
}

// mostProcesses returns how many processes one command may have where PID 1 has
// bounded those of all: half of them, so that one that forks without end leaves
// room for the command that is to look after it.
func mostProcesses(commands cgroup.Group) string {
	b, err := os.ReadFile(commands.String() + "/pids.max")
	all, notNumber := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || notNumber != nil || commands.Enable("pids") != nil {
		return ""
	}
	return strconv.Itoa(all / 2)
}

// start forks and executes p. Its output waits until the outputs are started, and
// its end until it is followed.
func (cs *commands) start(p *plan, outputs ...*output) (*command, error) {
	group, err := cs.newGroup(p)
	if err != nil {
		return nil, err
	}
	c := &command{group: group, pidfd: -1, limited: p.limited(), measured: p.measured, outputs: outputs, done: make(chan struct{}), oomKills: cs.oom.read()}
	shim, err := cs.launch(c, p)
	if err != nil {
		if group.Valid() {
			_ = group.Remove()
		}
		return nil, err
	}
	cs.resetOOMScore(c)
	c.lost = errUnknown // until it has been collected
	if err := shim.await(); err != nil {
		cs.follow(c)
		<-c.done
		cs.finish(c, 0)
		cs.release(c)
		return nil, err
	}
	return c, nil
}

// follow has the end of a command waited for, unless that was there already.
func (cs *commands) follow(c *command) {
	if c.over() {
		return
	}
	cs.resetOOMScores(c.group)
	go func() {
		defer cs.ended(c)
		defer survive(cs.log, "waiting for a command")
		c.wait()
	}()
}

// ended tells that a command has ended, and been collected.
func (cs *commands) ended(c *command) {
	defer close(c.done)
	defer survive(cs.log, "looking back at a command")
	if c.pidfd >= 0 {
		_ = unix.Close(c.pidfd)
	}
	c.oom = cs.oomKilled(c)
	c.spent = c.measure()
}

// over tells whether the command has ended.
func (c *command) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

var errUnknown = errors.New("its status is unknown")

// launch starts the process in its group, with its pipes. shim is nil for a command
// that is executed at once.
func (cs *commands) launch(c *command, p *plan) (shim *shim, err error) {
	attr := &syscall.ProcAttr{Dir: p.cwd, Env: p.env}
	attr.Sys = &syscall.SysProcAttr{Setsid: true, Credential: p.cred, PidFD: &c.pidfd}
	switch {
	case c.group.Valid() && !cs.join:
		dir, err := c.group.Open()
		if err != nil {
			return nil, err
		}
		defer unix.Close(dir)
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, dir
	case !c.group.Valid():
		// Without cgroups, at least no command outlives the agent.
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	if p.tty != nil {
		tty := p.tty.Fd()
		attr.Files = []uintptr{tty, tty, tty}
		attr.Sys.Setctty = true
	} else {
		attr.Files = []uintptr{p.stdin.Fd()}
		for _, o := range c.outputs {
			w, err := o.pipe()
			if err != nil {
				return nil, err
			}
			defer unix.Close(w)
			attr.Files = append(attr.Files, uintptr(w))
		}
		p.own(attr.Files)
	}
	start := func() (int, error) {
		pid, err := syscall.ForkExec(p.path, p.argv, attr)
		return pid, startError(p.argv[0], err)
	}
	if p.needsShim(cs.join) {
		if shim, err = newShim(p, c.group, cs.join, attr); err != nil {
			return nil, err
		}
		defer shim.theirs.Close()
		start = shim.fork
	}
	if err = cs.fork(c, cs.join && shim == nil, start); err != nil && shim != nil { // which sets c.pidfd
		_ = shim.ours.Close()
	}
	return shim, err
}

// fork starts the process. The lock is held from the question whether it may to
// its place in the list, so that after refuse all that runs is known.
func (cs *commands) fork(c *command, join bool, start func() (pid int, err error)) (err error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.refused {
		return errShuttingDown
	}
	c.started = time.Now()
	if c.pid, err = sigaction.Fork(start); err != nil {
		return err
	}
	cs.running[c] = struct{}{}
	if c.group.Valid() && join {
		// What it has forked by now stays outside: info says so.
		if err := c.group.Add(c.pid); err != nil {
			cs.log.Warn("a command is outside its cgroup", "pid", c.pid, "err", err)
		}
	}
	return nil
}

// refuse lets no further command start.
func (cs *commands) refuse() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.refused = true
}

// newGroup makes a cgroup for one command. There is none where somebody has
// unmounted or hidden the hierarchy since: that must not end all service.
func (cs *commands) newGroup(p *plan) (cgroup.Group, error) {
	if !cs.group.Valid() || p.limited() && !cs.group.Exists() {
		return cgroup.Group{}, p.unlimited("cgroup v2")
	}
	cs.making.Lock()
	defer cs.making.Unlock()
	cs.next++
	// The groups of an agent that crashed may still be there.
	name := cs.prefix + strconv.FormatUint(cs.next, 10)
	if p.limited() {
		return cs.limitedGroup(name, p)
	}
	g, err := cs.group.Child(name)
	if err != nil && !cs.group.Exists() {
		return cgroup.Group{}, nil
	}
	if err == nil && cs.most != "" {
		_ = g.Write("pids.max", cs.most)
	}
	return g, err
}

// sweep removes the groups of an agent that was here before, and whose commands
// PID 1 has killed.
func (cs *commands) sweep(old []cgroup.Group) {
	for _, g := range old {
		cs.removeGroup(g)
	}
}

// killScope says what is ended with a command; see wire.Info.
func (cs *commands) killScope() string {
	if cs.group.Exists() && !cs.join {
		return "cgroup"
	}
	return "process_group"
}

// wait waits for the process without holding a thread, if there is a pidfd.
func (c *command) wait() {
	if c.pidfd >= 0 {
		_ = unix.SetNonblock(c.pidfd, true) // makes os.NewFile poll it
		f := os.NewFile(uintptr(c.pidfd), "pidfd")
		c.pidfd = -1
		defer f.Close()
		if raw, err := f.SyscallConn(); err == nil {
			ended := false
			_ = raw.Read(func(uintptr) bool {
				ended = c.collect(syscall.WNOHANG)
				return ended
			})
			if ended {
				return
			}
		}
	}
	c.collect(0)
}

// collect waits for the process with wait4(2) and tells whether it has ended.
func (c *command) collect(options int) bool {
	pid, err := retry(func() (int, error) { return syscall.Wait4(c.pid, &c.status, options, &c.usage) })
	if pid != c.pid && err == nil {
		return false
	}
	c.lost = os.NewSyscallError("wait4", err)
	c.ended = time.Since(c.started)
	return true
}

// kill kills the command and all it started, as far as it can be found: with
// cgroups everywhere, and in its process group. Both, because a command that is
// root may have moved itself to another cgroup, as a login under systemd does.
func (c *command) kill() {
	c.killed.Store(true)
	if c.group.Valid() {
		_ = c.group.Kill()
	}
	_ = unix.Kill(-c.pid, unix.SIGKILL)
}

// dyingLimit is how long a process that was killed may take to die. One that the
// kernel holds in an uninterruptible sleep (on a hung filesystem, say) may never. A
// machine with no CPU to spare takes seconds for any other.
const dyingLimit = 10 * time.Second

var errUndying = refuse(unix.EBUSY, "it was killed but does not end: the kernel holds it")

// await waits for the end of the command, and brings it about when its client is
// gone or its time, if it has one, is up: then its process group is asked first, if
// there is a grace for that. The error is one of a process that has no status.
func (c *command) await(gone context.Context, limit, grace time.Duration) (timedOut bool, err error) {
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit - time.Since(c.started))
		defer timer.Stop()
		timeout = timer.C
	}
	asked := false
	select {
	case <-c.done:
		return false, c.lost
	case <-timeout:
		timedOut = true
		asked = grace > 0 && c.ask(gone, grace)
	case <-gone.Done():
	}
	c.kill()
	dying := time.NewTimer(dyingLimit)
	defer dying.Stop()
	select {
	case <-c.done:
		// One that ended by itself just before it could be killed did not time out.
		return timedOut && (asked || c.gotKilled()), c.lost
	case <-dying.C:
		return timedOut, errUndying
	}
}

// ask asks the command to end, and waits until it has, its grace is over, or its
// client gone. It is false if the command had ended already.
func (c *command) ask(gone context.Context, grace time.Duration) bool {
	if c.over() {
		return false
	}
	c.terminate()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
	case <-gone.Done():
	}
	return true
}

// terminate asks the command's process group to end; what is stopped must go on to
// hear of it.
func (c *command) terminate() {
	_ = unix.Kill(-c.pid, unix.SIGTERM)
	_ = unix.Kill(-c.pid, unix.SIGCONT)
}

// gotKilled tells whether the process was ended by SIGKILL, by whomever.
func (c *command) gotKilled() bool {
	return c.status.Signaled() && c.status.Signal() == unix.SIGKILL
}

// finish ends the collection of output. What the command left running goes on
// running, but not with its client's pipes.
func (cs *commands) finish(c *command, grace time.Duration) {
	deadline := time.Now().Add(grace)
	for _, o := range c.outputs {
		o.finish(deadline)
	}
	if c.over() {
		cs.forget(c)
	}
}

// release gives back what the command held, which a client need not wait for.
func (cs *commands) release(c *command) {
	// Most have left nothing behind: to remove the group takes less than to wake
	// another thread for it.
	if c.over() && (!c.group.Valid() || cs.tryRemove(c.group) == nil) {
		return
	}
	go func() {
		defer survive(cs.log, "cleaning up behind a command")
		<-c.done // now, unless the command can't die
		cs.forget(c)
		if c.group.Valid() {
			cs.resetOOMScores(c.group) // of what it left
			cs.removeGroup(c.group)
		}
	}()
}

// forget takes a command from those that are to be ended: its number may soon be
// another's.
func (cs *commands) forget(c *command) {
	cs.mu.Lock()
	delete(cs.running, c)
	cs.mu.Unlock()
}

// How long the processes of a command may take to die or to be moved, and after
// what time they are frozen for it.
const (
	removeLimit = 250 * time.Millisecond
	freezeAfter = 20 * time.Millisecond
)

// removeGroup removes the group of a command that has ended, and those that it
// made inside. Processes that it left behind, on purpose or killed and not yet
// gone, move to a common group.
func (cs *commands) removeGroup(g cgroup.Group) {
	err := cs.tryRemove(g)
	for pause := time.Duration(0); errors.Is(err, unix.EBUSY) && pause < removeLimit; pause += time.Millisecond {
		time.Sleep(min(pause, time.Millisecond)) // one that is dying can't be moved
		if g.Parent() == cs.limited {
			err = cs.tryRemove(g) // who was left would be without the limits elsewhere
			continue
		}
		var left cgroup.Group
		if left, err = cs.group.Parent().Child(cgroup.Left); err != nil {
			break
		}
		g.MoveTo(left, pause > freezeAfter)
		err = cs.tryRemove(g)
	}
	switch {
	case errors.Is(err, unix.EBUSY) && g.Parent() == cs.limited:
		cs.making.Lock()
		defer cs.making.Unlock()
		cs.inhabited = append(cs.inhabited, g)
	case err != nil:
		cs.log.Warn("a command's cgroup stays", "cgroup", g, "err", err)
	}
}

func (cs *commands) tryRemove(g cgroup.Group) error {
	cs.making.Lock()
	defer cs.making.Unlock()
	return g.Remove()
}

// terminate asks all commands to end and, after grace, kills what is left.
func (cs *commands) terminate(grace time.Duration) {
	each := func(f func(*command)) {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		for c := range cs.running {
			f(c)
		}
	}
	each((*command).terminate)
	time.Sleep(grace)
	each((*command).kill)
}

// result tells how the process ended.
func (c *command) result() wire.ExecResult {
	r := wire.ExecResult{ExitCode: c.status.ExitStatus(), DurationMS: c.ended.Milliseconds()}
	if c.status.Signaled() {
		r.Signal = int(c.status.Signal())
		r.ExitCode = 128 + r.Signal
	}
	return r
}
