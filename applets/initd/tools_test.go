//go:build linux

package initd_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

// tool is hfx: what the tests need to run in a guest.
func tool(args []string) int {
	tools := map[string]func(args []string) error{
		"addr":    dialLoopback,
		"deaf":    deaf,
		"escape":  func(args []string) error { return errors.Join(daemon(args), sleep(args)) },
		"exit":    func(args []string) error { os.Exit(number(args[0])); return nil },
		"daemon":  daemon,
		"forks":   forks,
		"late":    late,
		"stat":    func(args []string) error { armed(); _, err := os.Stat(args[0]); return err },
		"mounts":  stackMounts,
		"orphans": orphans,
		"readlink": func(args []string) error {
			to, err := os.Readlink(args[0])
			fmt.Println(to)
			return err
		},
		"show":    show,
		"signal":  func(args []string) error { return sendAll(args[0], number(args[1]), number(args[2])) },
		"proc":    withoutProc,
		"sleep":   sleep,
		"storm":   storm,
		"soak":    soak,
		"stopped": func([]string) error { armed(); return unix.Kill(os.Getpid(), unix.SIGSTOP) },
		"as":      asUser,
		"dieby":   func(args []string) error { return dieBy(unix.Signal(number(args[0]))) },
		"one":     func(args []string) error { return unix.Kill(1, unix.Signal(number(args[0]))) },
	}
	if len(args) == 0 || tools[args[0]] == nil {
		fmt.Fprintf(os.Stderr, "hfx: %q\n", args)
		return 2
	}
	if err := tools[args[0]](args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hfx:", err)
		return 1
	}
	return 0
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// shown is what show prints of its process.
type shown struct {
	Argv, Env []string
	Cwd       string
	FDs       []string
	Handled   string // SigCgt of the shell that ran it, and so on
	Status    string
}

func show(args []string) error {
	s := shown{Argv: append([]string{"hfx", "show"}, args...), Env: os.Environ()}
	s.Cwd, _ = os.Getwd()
	for fd := range 64 {
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err == nil && !strings.HasPrefix(link, "anon_inode:") {
			s.FDs = append(s.FDs, strconv.Itoa(fd))
		}
	}
	b, _ := os.ReadFile("/proc/self/status")
	s.Status = string(b)
	out, err := json.Marshal(s)
	fmt.Printf("SHOWN %s\n", out)
	return err
}

// armedName is the name of a process that has done what it is to do before it
// waits.
const armedName = "armed"

func armed() { _ = os.WriteFile("/proc/self/comm", []byte(armedName), 0) }

func sleep([]string) error {
	armed()
	time.Sleep(time.Hour)
	return nil
}

// deaf ignores SIGTERM.
func deaf([]string) error {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	armed()
	time.Sleep(time.Hour)
	return nil
}

// late takes its time to end after SIGTERM.
func late(args []string) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM)
	armed()
	<-c
	time.Sleep(time.Duration(number(args[0])) * time.Millisecond)
	fmt.Fprintln(os.Stdout, "ended in order")
	return nil
}

func dieBy(n unix.Signal) error {
	signal.Reset(os.Signal(n))
	_ = unix.Kill(os.Getpid(), n)
	time.Sleep(time.Hour)
	return nil
}

// daemon leaves a process behind that has nothing of this one.
func daemon(args []string) error {
	cmd := exec.Command("/proc/self/exe", append([]string{"sleep", "daemon"}, args...)...)
	cmd.Args[0] = "hfx"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

// dialLoopback connects to itself over lo.
func dialLoopback([]string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

// sendAll sends PID 1 every signal of a range but those that it obeys.
func sendAll(how string, first, last int) error {
	for n := first; n <= last; n++ {
		switch unix.Signal(n) {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGTERM, unix.SIGINT:
			continue
		}
		var err error
		if how == "queue" {
			err = queue(1, n)
		} else {
			err = unix.Kill(1, unix.Signal(n))
		}
		if err != nil {
			return fmt.Errorf("signal %d: %w", n, err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// queue is sigqueue(3).
func queue(pid, n int) error {
	info := siginfo(n, -1) // SI_QUEUE
	if _, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(n), uintptr(unsafe.Pointer(&info))); errno != 0 {
		return errno
	}
	return nil
}

// asUser runs a command as somebody else.
func asUser(args []string) error {
	id := uint32(number(args[0]))
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	return cmd.Run()
}

// stackMounts mounts on mounts, and binds.
func stackMounts([]string) error {
	steps := []func() error{
		func() error { return os.MkdirAll("/mnt/a", 0o755) },
		func() error { return unix.Mount("a", "/mnt/a", "tmpfs", 0, "") },
		func() error { return os.Mkdir("/mnt/a/b c", 0o755) },
		func() error { return unix.Mount("", "/mnt/a/b c", "tmpfs", 0, "") },
		func() error { return os.Mkdir("/mnt/a/b c/d", 0o755) },
		func() error { return unix.Mount("/bin", "/mnt/a/b c/d", "", unix.MS_BIND, "") },
		func() error { return unix.Mount("over", "/mnt/a", "tmpfs", 0, "") }, // hides all of them
		func() error { return unix.Mount("over", "/tmp", "tmpfs", 0, "") },
		func() error { return unix.Mount("over", "/dev", "tmpfs", 0, "") },
		func() error { return unix.Mount("over", "/dev", "tmpfs", 0, "") },
		// What was mounted first goes into what was mounted later.
		func() error { return errors.Join(os.Mkdir("/mnt2", 0o755), unix.Mount("x", "/mnt2", "tmpfs", 0, "")) },
		func() error { return errors.Join(os.Mkdir("/mnt3", 0o755), unix.Mount("y", "/mnt3", "tmpfs", 0, "")) },
		func() error {
			return errors.Join(os.Mkdir("/mnt3/in", 0o755), unix.Mount("/mnt2", "/mnt3/in", "", unix.MS_MOVE, ""))
		},
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// withoutProc mounts something, and makes what tells about it disappear.
func withoutProc(args []string) error {
	if args[0] == "hung" { // see stage.FUSE
		return unix.Mount("/mnt", "/proc", "", unix.MS_BIND, "")
	}
	if err := unix.Mount("x", "/mnt", "tmpfs", 0, ""); err != nil {
		return err
	}
	if args[0] == "gone" {
		return unix.Unmount("/proc", unix.MNT_DETACH)
	}
	return errors.Join(unix.Mount("x", "/proc", "tmpfs", 0, ""), unix.Mount("y", "/proc", "tmpfs", 0, ""))
}

// orphans leaves as many behind as it is told.
func orphans(args []string) error { return nsguest.Orphans(number(args[0]), 1) }

// forks is a process that ignores SIGTERM and goes on in an ever new child.
//
//go:norace
func forks([]string) error {
	signal.Ignore(unix.SIGTERM)
	pause := syscall.Timespec{Nsec: 1e5}
	for {
		switch nsguest.Fork() {
		case 0:
		case ^uintptr(0):
		default:
			nsguest.Leave(0)
		}
		syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
}
