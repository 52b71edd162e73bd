//go:build linux

package initd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/environ"
	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/machine"
	"github.com/hyperfleet/init/applets/internal/reaper"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A supervisor is the state of PID 1. One goroutine, which boots, supervises and
// shuts down, owns it; the others only send it events.
type supervisor struct {
	log        *logging.Log
	kept       *logging.Journal // of log
	agentKept  *logging.Journal // of what agents print
	options    options
	argv0      string
	whole      bool   // the machine is this PID 1's, not only a container
	limits     limits // of the shutdown
	reaper     *reaper.Reaper
	bootReport wire.Boot

	listeners []listener
	agent     child
	control   *handoff.Control // to the agent
	served    bool             // it has been ready
	backoff   backoff
	workload  child

	agentGroup, commandGroup, limitedGroup, leftGroup, workloadGroup cgroup.Group

	ended     chan exit     // children that were reaped
	messages  chan message  // from agents
	late      chan listener // sockets that could be opened only now
	childless chan struct{} // no process is left, or was at some time
}

// A child is a process that PID 1 started for itself.
type child struct {
	name    string
	pid     int // 0 while there is none
	started time.Time
}

// An exit is a child's end.
type exit struct {
	pid    int
	status syscall.WaitStatus
}

// A message is what the agent with that control socket said.
type message struct {
	from *handoff.Control
	what handoff.Message
	err  error
}

func newSupervisor(log *logging.Log, o options, argv0 string) *supervisor {
	return &supervisor{
		log:       log,
		options:   o,
		argv0:     argv0,
		reaper:    reaper.New(),
		agentKept: logging.NewJournal(logging.JournalLimit),
		agent:     child{name: "agent"},
		workload:  child{name: "workload"},
		ended:     make(chan exit, 16),
		messages:  make(chan message, 16),
		late:      make(chan listener),
		childless: make(chan struct{}, 1), // so that none is missed
	}
}

// reap reaps for as long as the machine runs.
func (s *supervisor) reap() {
	for ; ; reaper.Await() {
		if _, none := s.reaper.Reap(); none {
			select {
			case s.childless <- struct{}{}:
			default:
			}
		}
	}
}

// start starts a process with those descriptors of PID 1 as its own from 0 on.
func (s *supervisor) start(c *child, path string, argv, env []string, group cgroup.Group, files ...uintptr) error {
	attr := &syscall.ProcAttr{Dir: "/", Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if group.Valid() {
		if dir, err := group.Open(); err == nil {
			defer unix.Close(dir)
			attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, dir
		}
	}
	// A workload on a terminal gets it as its controlling one: without, Ctrl-C
	// reaches nobody. In a container the terminal is somebody else's already.
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); c == &s.workload && err == nil && s.whole {
		attr.Sys.Setctty = true
	}
	c.started = time.Now()
	ended := func(pid int, status syscall.WaitStatus) { s.ended <- exit{pid, status} }
	var err error
	c.pid, err = s.reaper.Start(path, argv, attr, ended)
	if err != nil && attr.Sys.UseCgroupFD {
		// Linux before 5.7, and some sandboxes, can't start it in a group.
		attr.Sys.UseCgroupFD = false
		if c.pid, err = s.reaper.Start(path, argv, attr, ended); err == nil {
			if err := group.Add(c.pid); err != nil {
				s.log.Warn("a process is outside its cgroup", "name", c.name, "err", err)
			}
		}
	}
	return err
}

// supervise keeps the machine running until something ends it.
func (s *supervisor) supervise(ends <-chan os.Signal) ending {
	stop := make(chan struct{})
	defer close(stop)
	go s.openLate(s.missing(), stop)
	var restart <-chan time.Time
	if s.agent.pid == 0 { // it could not be started at boot
		restart = time.After(s.backoff.next(0, false))
	}
	for {
		select {
		case n := <-ends:
			if n == unix.SIGINT {
				return ending{why: "SIGINT", action: machine.Restart}
			}
			return ending{why: unix.SignalName(n.(unix.Signal)), action: machine.PowerOff}
		case e := <-s.ended:
			switch e.pid {
			case s.agent.pid:
				restart = time.After(s.agentEnded(e.status))
			case s.workload.pid:
				if end, ok := s.workloadEnded(e.status); ok {
					return end
				}
			}
		case <-restart:
			restart = nil
			if err := s.startAgent(); err != nil {
				pause := s.backoff.next(0, false)
				s.log.Error("the agent can't be started", "err", err, "retry_in", pause)
				restart = time.After(pause)
			}
			s.letServe()
		case m := <-s.messages:
			if m.from == s.control && m.what == handoff.Ready {
				s.served = true
				s.ready()
			}
		case l := <-s.late:
			s.log.Info("listening", "address", l.address)
			s.hand(l)
		}
	}
}

// startAgent starts the agent with all that listens.
func (s *supervisor) startAgent() error {
	s.renewListeners()
	control, theirs, err := handoff.Pair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	said, theirOutput, err := os.Pipe()
	if err != nil {
		_ = control.Close()
		return err
	}
	defer theirOutput.Close()
	files := []uintptr{0, theirOutput.Fd(), theirOutput.Fd()}
	for _, l := range s.listeners {
		files = append(files, l.file.Fd())
	}
	env := append(environ.Default(rootHome), handoff.Environment(len(s.listeners))...)
	argv := append([]string{"hf-agent"}, s.options.agent...)
	if err := s.start(&s.agent, s.binary(), argv, env, s.agentGroup, append(files, theirs.Fd())...); err != nil {
		_, _ = control.Close(), said.Close()
		return err
	}
	go s.relay(said)
	s.control, s.served = control, false
	s.protect(s.agent.pid)
	go s.receive(control)
	return nil
}

// letServe tells the agent, if there is one, that the machine is up.
func (s *supervisor) letServe() {
	if s.control == nil {
		return
	}
	if err := s.control.Send(handoff.Booted, nil); err != nil {
		s.log.Warn("control socket", "err", err)
	}
}

// binary returns the path of this program.
func (s *supervisor) binary() string {
	if path, err := os.Readlink("/proc/self/exe"); err == nil && !strings.HasSuffix(path, " (deleted)") {
		return path
	}
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	if filepath.IsAbs(s.argv0) {
		return s.argv0
	}
	return "/init"
}

// protect makes the kernel choose the agent last when memory is short. Its
// commands take that back for themselves.
func (s *supervisor) protect(pid int) {
	file := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	if err := os.WriteFile(file, []byte("-1000"), 0); err != nil {
		s.log.Debug("the agent is not protected from the OOM killer", "err", err)
	}
}

// receive passes on what the agent says, until it is gone.
func (s *supervisor) receive(control *handoff.Control) {
	for {
		what, _, err := control.Receive()
		s.messages <- message{control, what, err}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.log.Debug("control socket", "err", err)
			}
			return
		}
	}
}

// relay passes on what an agent prints. Go's report of a fault is written before
// the process can end: on a console that nobody reads it would never, and the
// agent would neither serve nor be replaced. PID 1 does not wait for the console.
func (s *supervisor) relay(said *os.File) {
	defer said.Close()
	kept := s.agentKept.Lines()
	defer kept.Close()
	// Small pieces, since many of them may wait for the console.
	_, _ = io.CopyBuffer(io.MultiWriter(s.log, kept), struct{ io.Reader }{said}, make([]byte, 4<<10))
}

// agentEnded cleans up after an agent and returns when to start the next one.
func (s *supervisor) agentEnded(status syscall.WaitStatus) time.Duration {
	pause := s.backoff.next(time.Since(s.agent.started), s.served)
	s.log.Error("the agent ended", "status", reaper.Describe(status), "pid", s.agent.pid, "retry_in", pause)
	s.agent.pid = 0
	_ = s.control.Close()
	s.control = nil
	// Nobody waits for its commands any more.
	for _, g := range []cgroup.Group{s.commandGroup, s.limitedGroup} {
		if !g.Valid() {
			continue
		}
		if err := g.Kill(); err != nil {
			s.log.Warn("commands of the agent may be left", "err", err)
		}
	}
	return pause
}

// startWorkload starts the main workload, if there is one.
func (s *supervisor) startWorkload() error {
	argv := s.options.workload
	if len(argv) == 0 {
		return nil
	}
	path, err := lookPath(argv[0])
	if err == nil {
		err = s.start(&s.workload, path, argv, workloadEnv(os.Environ()), s.workloadGroup, 0, 1, 2)
	}
	if err != nil {
		// As if it had run and failed, with what a shell says then: what follows
		// its end follows.
		code := syscall.WaitStatus(126)
		if errors.Is(err, fs.ErrNotExist) {
			code = 127
		}
		s.workload.pid = -1
		s.ended <- exit{-1, code << 8}
		return err
	}
	s.log.Info("workload", "pid", s.workload.pid, "argv", fmt.Sprintf("%q", argv))
	return nil
}

// workloadEnded decides what follows the end of the workload.
func (s *supervisor) workloadEnded(status syscall.WaitStatus) (ending, bool) {
	s.log.Info("the workload ended", "status", reaper.Describe(status), "code", reaper.ExitCode(status), "then", s.options.onExit)
	s.workload.pid = 0
	end := ending{why: "the workload ended"}
	switch s.options.onExit {
	case onExitPowerOff:
		end.action = machine.PowerOff
	case onExitReboot:
		end.action = machine.Restart
	case onExitExit:
		if s.whole { // where the end of PID 1 is a panic of the kernel
			end.action = machine.PowerOff
			break
		}
		code := reaper.ExitCode(status)
		end.exit = &code
	default:
		return end, false
	}
	return end, true
}

// lookPath finds the workload's program as execvp(3) does: what can't be executed
// is passed over.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range strings.Split(environ.Path, ":") {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in %s: %w", name, environ.Path, fs.ErrNotExist)
}

// rootHome is the home directory of what PID 1 starts.
const rootHome = "/root"

// workloadEnv is the environment of the workload: the default, and what the
// kernel passed on from its command line. HOME=/ is the kernel's own.
func workloadEnv(kernel []string) []string {
	words := slices.DeleteFunc(slices.Clone(kernel), func(word string) bool { return word == "HOME=/" })
	return environ.Override(environ.Default(rootHome), words)
}

// backoff spaces out the restarts of something that keeps ending: the first comes
// at once.
type backoff struct{ pause time.Duration }

const (
	firstPause   = 10 * time.Millisecond
	servedPause  = 50 * time.Millisecond // with a start, less than 100 ms
	longestPause = 2 * time.Second
	healthy      = 10 * time.Second // a run this long forgets what was before
)

// next returns the pause after a run that took that long. One that got as far as
// to serve is missed: the next is there in 100 ms however often it happens. One
// that never does would only burn CPU, and fill the console, at that rate.
func (b *backoff) next(ran time.Duration, served bool) time.Duration {
	switch {
	case ran >= healthy:
		b.pause = 0
	case served:
		b.pause = min(b.pause, servedPause)
	}
	pause := b.pause
	b.pause = min(max(2*b.pause, firstPause), longestPause)
	return pause
}
