//go:build linux

package agent

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/internal/version"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// stopGrace is how long commands may take to end after TERM when the agent is
// stopped, in an ordinary guest: where PID 1 is this program, it does that.
const stopGrace = 2 * time.Second

// config is the command line.
type config struct {
	debug   bool
	version bool
	listen  []transport.Address
	policy  transport.Policy
	limits  Limits
}

// defaultLimits are those of the command line. Where there is little memory requests
// get an eighth of it, but enough for any command line that the kernel takes by
// default; where there is more, two of the longest lines fit.
func defaultLimits() Limits {
	const least, most, each = 8 << 20, 2 * wire.LineCost * wire.MaxLine, 128 << 10
	return Limits{
		Line:       wire.MaxLine,
		Content:    1 << 30,
		Memory:     int(min(max(memory()/8, least), most)),
		Conns:      int(min(memory()/each, 1000, fileLimit())),
		Sessions:   int(min(memory()/each, 1000, fileLimit())),
		Idle:       5 * time.Minute,
		Stall:      30 * time.Second,
		Lag:        10 * time.Second,
		Busy:       10 * time.Second,
		Linger:     10 * time.Second,
		DrainGrace: 200 * time.Millisecond,
	}
}

// resident is the memory that the agent is to get by with, in bytes: its own, that
// of its connections, and that of their requests.
func (l Limits) resident() int64 {
	const each = 32 << 10
	return ownMemory + each*int64(l.Conns) + int64(l.Memory)
}

// ownMemory is what the agent takes without any connection, at the most.
const ownMemory = 12 << 20

// leastMemory allows lines twice as long as those that cost nothing.
const leastMemory = 64 << 10

// parse reads the command line. Its errors are one line.
func parse(args []string, stdout io.Writer) (config, error) {
	c := config{policy: transport.HostAndRoot, limits: defaultLimits()}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.BoolVar(&c.debug, "d", false, "")
	fs.BoolVar(&c.debug, "debug", false, "log more")
	fs.BoolVar(&c.version, "version", false, "print the version")
	fs.Func("listen", "listen on `ADDRESS`, vsock:PORT or unix:/PATH; may be repeated (default vsock:52 and unix:/run/hyperfleet.sock, or what LISTEN_FDS hands over)", func(s string) error {
		a, err := transport.ParseAddress(s)
		c.listen = append(c.listen, a)
		return err
	})
	fs.Func("peers", "admit `WHO`: host, host+root (the default: root in the guest too) or any", func(s string) (err error) {
		c.policy, err = transport.ParsePolicy(s)
		return err
	})
	fs.IntVar(&c.limits.Line, "max-line", c.limits.Line, "`bytes` of a request, content not counted")
	fs.Int64Var(&c.limits.Content, "max-content", c.limits.Content, "`bytes` of a file, of input and of output")
	fs.IntVar(&c.limits.Memory, "max-memory", c.limits.Memory, "`bytes` that requests hold, beyond what each connection has")
	fs.IntVar(&c.limits.Conns, "max-connections", c.limits.Conns, "connections at once; beyond, the longest idle or the slowest one is closed")
	fs.IntVar(&c.limits.Sessions, "max-sessions", c.limits.Sessions, "sessions at once; beyond, the one that ended longest ago is removed")
	fs.DurationVar(&c.limits.Idle, "idle-timeout", c.limits.Idle, "that a connection may wait before a request")
	fs.DurationVar(&c.limits.Stall, "stall-timeout", c.limits.Stall, "that a request or a reply may make no progress")
	fs.DurationVar(&c.limits.Lag, "max-lag", c.limits.Lag, "that a client may be behind 1 KiB/s before its connection can be closed for another")
	fs.DurationVar(&c.limits.Busy, "busy-timeout", c.limits.Busy, "that a large request may wait for memory")
	fs.DurationVar(&c.limits.Linger, "linger", c.limits.Linger, "that the end of a large reply may take to be read")
	err := fs.Parse(args[1:])
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(stdout, "usage: %s [flags]: serve file operations and commands to the host over vsock\n", args[0])
		fs.SetOutput(stdout)
		fs.PrintDefaults()
		return c, err
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err == nil {
		err = c.limits.check()
	}
	return c, err
}

// check tells of a limit that makes no sense.
func (l Limits) check() error {
	for _, limit := range []struct {
		flag         string
		value, least int64
	}{
		{"max-line", int64(l.Line), 1}, {"max-content", l.Content, 1}, {"max-memory", int64(l.Memory), leastMemory},
		{"max-connections", int64(l.Conns), 1}, {"max-sessions", int64(l.Sessions), 1},
		{"idle-timeout", int64(l.Idle), 1}, {"stall-timeout", int64(l.Stall), 1}, {"max-lag", int64(l.Lag), 1},
		{"busy-timeout", int64(l.Busy), 0}, {"linger", int64(l.Linger), 0}, // not to wait is fine
	} {
		switch {
		case limit.value >= limit.least:
		case limit.least == 1:
			return fmt.Errorf("--%s must be greater than 0", limit.flag)
		default:
			return fmt.Errorf("--%s must be at least %d", limit.flag, limit.least)
		}
	}
	return nil
}

// Run is hf-agent. It serves until SIGTERM or SIGINT; where PID 1 is this program, until
// that says so.
func Run(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	c, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\n", args[0], err)
		return 2
	case c.version:
		fmt.Fprintf(stdout, "%s %s\n", args[0], version.String())
		return 0
	}
	log := logging.New(stderr, "agent", c.debug)
	defer log.Flush(time.Second)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	disinherit()
	// What is in use is about 1 MB, and what is not may be as much as 4 MB before
	// Go looks: too much for what has to keep small. To look four times as often
	// costs little where so little is in use.
	debug.SetGCPercent(25)
	// What ps shows: the program was started by the path of the binary.
	_ = os.WriteFile("/proc/self/comm", []byte("hf-agent"), 0)

	listeners, control, err := listen(c.listen)
	if err != nil {
		log.Error("can't listen", "err", err)
		return 1
	}
	// Garbage may not double what requests hold. The runtime does not count the
	// program's own pages, and overshoots by what comes while it collects.
	debug.SetMemoryLimit(c.limits.resident() - ownMemory)
	group, alone := commandGroup(log)
	a := New(log, c.limits, c.policy, group)
	if alone {
		old, _ := group.Children() // before there are any of its own
		limited, _ := a.commands.limited.Children()
		go a.commands.sweep(append(old, limited...))
	}
	log.Debug("serving", "listeners", len(listeners), "cgroup", a.commands.group)
	if control == nil {
		for _, l := range listeners {
			go a.Serve(l)
		}
	}
	// Under PID 1 a signal is somebody else's. Nobody would serve until all that
	// has begun is done, and the next agent started.
	if control == nil || !a.follow(control, listeners) {
		<-stop
	}
	log.Debug("stopping")
	a.Stop()
	if control != nil {
		_ = control.Send(handoff.Stopping, nil)
	}
	limit, cancel := context.WithTimeout(context.Background(), 2*stopGrace)
	defer cancel()
	if control == nil {
		go a.commands.terminate(stopGrace)
	}
	a.Wait(limit)
	return 0
}

// listen returns the listeners that were handed over, or opens those of the
// command line.
func listen(addresses []transport.Address) ([]net.Listener, *handoff.Control, error) {
	files, control, err := handoff.Inherited()
	if err != nil {
		return nil, nil, err
	}
	if len(files) == 0 && control == nil {
		if len(addresses) == 0 {
			addresses = transport.DefaultAddresses()
		}
		for _, address := range addresses {
			f, err := transport.Listen(address)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, f)
		}
	}
	var listeners []net.Listener
	for _, f := range files {
		l, err := transport.FileListener(f)
		if err != nil {
			return nil, nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, control, nil
}

// follow serves, as soon as PID 1 says that the machine is up, and tells PID 1 so;
// also the sockets that it opens later. It returns when the agent is to stop, or,
// with false, when PID 1 will say no more.
func (a *Agent) follow(control *handoff.Control, listeners []net.Listener) (stop bool) {
	booted := false
	for {
		m, f, err := control.Receive()
		if err != nil {
			a.log.Debug("PID 1 will say no more", "err", err)
			return false
		}
		if m == handoff.Stop {
			return true
		}
		if f != nil {
			l, err := transport.FileListener(f)
			if err != nil {
				a.log.Warn("a listener can't be used", "err", err)
				continue
			}
			listeners = append(listeners, l)
		}
		booted = booted || m == handoff.Booted
		if !booted {
			continue
		}
		for _, l := range listeners {
			go a.Serve(l)
		}
		listeners = nil
		if m != handoff.Booted {
			continue
		}
		if err := control.Send(handoff.Ready, nil); err != nil {
			a.log.Warn("can't tell PID 1", "err", err)
		}
	}
}

// commandGroup makes the cgroup that commands run in: beside the agent's own
// where PID 1 is this program, inside it where systemd delegated that. In the
// first case, no other agent uses it.
func commandGroup(log *logging.Log) (group cgroup.Group, alone bool) {
	own, err := cgroup.Own()
	if err != nil {
		log.Warn("no cgroups: what leaves its command's process group outlives it", "err", err)
		return cgroup.Group{}, false
	}
	parent := own
	if own.IsAgent() {
		parent = own.Parent()
	}
	g, err := parent.Child(cgroup.Commands)
	if err == nil && !own.IsAgent() { // PID 1 has just made that one
		// One that is there need not be one that this process may use.
		var probe cgroup.Group
		if probe, err = g.Child("probe"); err == nil {
			err = probe.Remove()
		}
	}
	if err != nil {
		log.Warn("no cgroups: what leaves its command's process group outlives it", "err", err)
		return cgroup.Group{}, false
	}
	return g, own.IsAgent()
}
