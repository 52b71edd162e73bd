//go:build linux

package initd

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/kmodule"
	"github.com/hyperfleet/init/applets/internal/mounts"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// hostname is what the machine is called.
const hostname = "hyperfleet"

// A step is one thing that boot does. One that fails is reported and survived: a
// machine that is up in part can be asked what is wrong with it.
type step struct {
	name string
	do   func(*supervisor) error
}

// steps are the boot, in order.
func steps() []step {
	// Sockets come first: who connects now waits in the backlog instead of being
	// refused. One that fails, as vsock does without its module, is tried again below.
	steps := []step{{"listen on vsock", func(s *supervisor) error { _ = s.openListeners(isVsock); return nil }}}
	for _, m := range mounts.Table() {
		steps = append(steps, step{m.String(), func(s *supervisor) error { return s.makeMount(m) }})
		if m.Target == runDir {
			steps = append(steps, step{"listen in " + runDir, func(s *supervisor) error { _ = s.openListeners(isInRun); return nil }})
		}
	}
	return append(steps,
		step{"make device nodes", makeNodes},
		step{"make links in /dev", makeLinks},
		step{"console", (*supervisor).openConsole},
		step{"make cgroups", (*supervisor).makeGroups},
		// The rest is done while the agent starts. It serves when it is told to.
		step{"start agent", (*supervisor).startAgent},
		step{"keep the log in " + filepath.Dir(handoff.InitLog), (*supervisor).keepLog},
		step{"limit processes", (*supervisor).limitGroups},
		step{"workload from /proc/cmdline", (*supervisor).readWorkload},
		step{"protect links and FIFOs in shared directories", (*supervisor).protectShared},
		step{"hostname " + hostname, func(*supervisor) error { return unix.Sethostname([]byte(hostname)) }},
		step{"ip link set lo up", loopbackUp},
		step{"load modules for vsock", (*supervisor).loadModules},
		step{"listen", func(s *supervisor) error { return s.openListeners(nil) }},
		step{"start workload", (*supervisor).startWorkload},
	)
}

// boot takes the steps and notes how long each took.
func (s *supervisor) boot() {
	for _, step := range steps() {
		start := time.Now()
		err := step.do(s)
		took := time.Since(start)
		row := wire.BootStep{Name: step.name, MS: milliseconds(took)}
		if err != nil {
			row.Error = err.Error()
			s.log.Warn("boot: "+step.name, "err", err)
		} else {
			s.log.Debug("boot: "+step.name, "ms", row.MS)
		}
		s.bootReport.Steps = append(s.bootReport.Steps, row)
	}
	s.report() // for who asks as soon as the agent answers
	s.letServe()
}

// ready ends the boot: the agent accepts connections.
func (s *supervisor) ready() {
	if s.bootReport.ReadyMS != 0 {
		s.log.Info("the agent is back", "pid", s.agent.pid)
		return
	}
	s.bootReport.ReadyMS = milliseconds(time.Since(started))
	s.report()
	s.log.Info("ready in "+formatMS(s.bootReport.ReadyMS), "listening", s.listening())
}

// report leaves the report for the agent.
func (s *supervisor) report() {
	if err := writeReport(s.bootReport); err != nil {
		s.log.Warn("info will not tell about the boot", "err", err)
	}
}

func writeReport(report wire.Boot) error {
	b, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if err := makeRunDir(); err != nil {
		return err
	}
	temp := handoff.BootFile + ".new"
	if err := os.WriteFile(temp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, handoff.BootFile)
}

// makeRunDir makes the directory of what PID 1 leaves for the agent.
func makeRunDir() error {
	if err := os.Mkdir(filepath.Dir(handoff.BootFile), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// keepLog begins to write down what was logged up to now, and what will be.
func (s *supervisor) keepLog() error {
	if err := makeRunDir(); err != nil {
		return err
	}
	return errors.Join(s.kept.Open(handoff.InitLog), s.agentKept.Open(handoff.AgentLog))
}

// makeMount makes one mount. /dev is special: the kernel may have no devtmpfs,
// and the one it has is the machine's, not a container's; then /dev is a tmpfs
// that makeNodes fills.
func (s *supervisor) makeMount(m mounts.Mount) error {
	if m.FSType != "devtmpfs" {
		return m.Make()
	}
	if s.whole && m.Make() == nil {
		return nil
	}
	m.Source, m.FSType = "tmpfs", "tmpfs"
	return m.Make()
}

// makeNodes makes the device nodes that a program may count on, where they are
// missing.
func makeNodes(*supervisor) error {
	old := unix.Umask(0)
	defer unix.Umask(old)
	var errs []error
	for _, n := range mounts.Nodes() {
		err := unix.Mknod(n.Path, unix.S_IFCHR|n.Perm, int(unix.Mkdev(n.Major, n.Minor)))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, &os.PathError{Op: "mknod", Path: n.Path, Err: err})
		}
	}
	return errors.Join(errs...)
}

// makeLinks makes the links of /dev that are not devices.
func makeLinks(*supervisor) error {
	var errs []error
	for _, l := range []struct{ path, to string }{
		{"/dev/fd", "/proc/self/fd"},
		{"/dev/stdin", "/proc/self/fd/0"},
		{"/dev/stdout", "/proc/self/fd/1"},
		{"/dev/stderr", "/proc/self/fd/2"},
	} {
		if err := os.Symlink(l.to, l.path); err != nil && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// openConsole puts the console on the standard descriptors that lead nowhere: an
// initramfs without /dev/console starts init without them. The node is the
// machine's console, which is no container's business. Where there is none,
// /dev/null is at least something that can be read and written.
func (s *supervisor) openConsole() (err error) {
	devices := []string{"/dev/console", "/dev/null"}
	if !s.whole {
		devices = devices[1:]
	}
	for fd := range 3 {
		if leadsSomewhere(fd) {
			continue
		}
		for _, device := range devices {
			failed := reopen(fd, device)
			if failed == nil {
				break
			}
			err = cmp.Or(err, failed) // one is enough to tell
		}
	}
	return err
}

// leadsSomewhere tells whether a descriptor is more than a stopgap: /dev/null from
// the Go runtime, or what package entry puts there.
func leadsSomewhere(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	var st unix.Stat_t
	return err == nil && flags&unix.O_PATH == 0 && unix.Fstat(fd, &st) == nil &&
		!(st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3))
}

// reopen makes a descriptor one of that device.
func reopen(fd int, device string) error {
	opened, err := unix.Open(device, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: device, Err: err}
	}
	defer unix.Close(opened)
	return os.NewSyscallError("dup3", unix.Dup3(opened, fd, 0))
}

// readWorkload finds the workload where the kernel has left it.
func (s *supervisor) readWorkload() error {
	if len(s.options.workload) > 0 || !s.whole {
		return nil
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if s.options.workload = workloadOf(string(cmdline)); len(s.options.workload) > 0 && !s.options.onExitSet {
		s.options.onExit = onExitPowerOff
	}
	return nil
}

// protectShared has the kernel refuse, in directories that all can write to, what
// one user could lead another astray with; see proc_sys_fs(5). Its own default is
// not to, and distributions' is to.
func (s *supervisor) protectShared() error {
	if !s.whole { // they are the machine's
		return nil
	}
	var errs []error
	for _, name := range []string{"protected_symlinks", "protected_hardlinks", "protected_fifos", "protected_regular"} {
		err := os.WriteFile("/proc/sys/fs/"+name, []byte("1"), 0)
		if !errors.Is(err, fs.ErrNotExist) { // the last two came with Linux 4.19
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// loopbackUp brings lo up; the kernel gives it its addresses. See netdevice(7).
func loopbackUp(*supervisor) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return os.NewSyscallError("SIOCGIFFLAGS lo", err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return os.NewSyscallError("SIOCSIFFLAGS lo", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
}

// loadModules loads what vsock needs, where it is not in the kernel: modules are
// the whole machine's, so only its own PID 1 does.
func (s *supervisor) loadModules() error {
	if !s.whole || !slices.ContainsFunc(s.options.listen, isVsock) {
		return nil
	}
	return limited(moduleLimit, func() error { return kmodule.LoadVsock(s.log) })
}

// moduleLimit is how long boot waits for drivers to find their devices.
const moduleLimit = 10 * time.Second
