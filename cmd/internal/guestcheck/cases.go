//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	api "github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// commandChecks are the cases of QEMU's guest agent for its guest-exec, as far as
// opChecks has not got them: there, too, output comes apart and a command that is
// not there is told.
func commandChecks() []check {
	killed := func(s syscall.Signal) func() (string, error) {
		return func() (string, error) {
			r, _, err := execHere(api.ExecRequest{Cmd: []string{self, "kill-self", fmt.Sprint(int(s))}})
			if err == nil && (r.Signal != int(s) || r.ExitCode != 128+int(s) || r.TimedOut) {
				err = fmt.Errorf("%+v", r)
			}
			return "", err
		}
	}
	return []check{
		{"a command ended by TERM", killed(syscall.SIGTERM)},
		{"a command ended by KILL", killed(syscall.SIGKILL)},
		{"a command ended by HUP", killed(syscall.SIGHUP)},
		{"4 MiB of input, and as much output", func() (string, error) {
			in := allBytes(4 << 20)
			r, out, err := execHere(api.ExecRequest{Cmd: []string{self, "cat"}, Stdin: bytes.NewReader(in)})
			if err == nil && (r.ExitCode != 0 || !bytes.Equal(out, in)) {
				err = fmt.Errorf("%+v, %d bytes came back", r, len(out))
			}
			return "", err
		}},
		{"input that nobody reads", func() (string, error) {
			r, _, err := execHere(api.ExecRequest{Cmd: []string{self, "exit", "3"}, Stdin: bytes.NewReader(allBytes(4 << 20))})
			if err == nil && r.ExitCode != 3 {
				err = fmt.Errorf("%+v", r)
			}
			return "", err
		}},
		{"a directory is no command", func() (string, error) {
			r, _, err := execHere(api.ExecRequest{Cmd: []string{"/usr"}})
			if err == nil && r.ExitCode != 126 {
				err = fmt.Errorf("%+v", r)
			}
			return "", err
		}},
	}
}

// execHere runs a command through the agent and returns its output too.
func execHere(e api.ExecRequest) (*api.ExecResult, []byte, error) {
	t, err := api.DefaultTarget()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	e.Stdout = &out
	r, err := api.New(t).Exec(ctx, e)
	return r, out.Bytes(), err
}

// killSelf is the command "kill-self SIGNAL".
func killSelf(args []string, _ io.Reader, _, _ io.Writer) int {
	_ = syscall.Kill(os.Getpid(), syscall.Signal(number(args[0])))
	time.Sleep(time.Minute)
	return 0
}

// clockChecks step the machine's clock, as a host's time server or a snapshot
// does, while a command runs under a time limit.
func clockChecks() []check {
	const year = 365 * 24 * time.Hour
	return []check{
		{"a clock a year ahead ends no command", func() (string, error) {
			return stepped(year, api.ExecRequest{Cmd: []string{self, "nap", "1500"}, Timeout: time.Minute}, false)
		}},
		{"a clock a year back keeps no command", func() (string, error) {
			return stepped(-year, api.ExecRequest{Cmd: []string{self, "nap", "300000"}, Timeout: 1500 * time.Millisecond}, true)
		}},
		{"and the guest is served", func() (string, error) { return "", ping() }},
	}
}

// stepped steps the clock while a command runs, and back.
func stepped(by time.Duration, e api.ExecRequest, timesOut bool) (string, error) {
	time.AfterFunc(500*time.Millisecond, func() { stepClock(by) })
	r, _, err := execHere(e)
	if back := stepClock(-by); back != nil {
		return "", back
	}
	if err != nil {
		return "", err
	}
	// Less than its length or its limit is a fault at any speed of the machine.
	if r.TimedOut != timesOut || r.Duration < 1500*time.Millisecond || r.Duration > 30*time.Second {
		return "", fmt.Errorf("%+v", r)
	}
	return fmt.Sprintf("%v, timed out: %t", r.Duration, r.TimedOut), nil
}

func stepClock(by time.Duration) error {
	tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	return os.NewSyscallError("settimeofday", unix.Settimeofday(&tv))
}

// oldChecks are for a kernel of the 5.10 era: the agent must find its own way to
// what newer ones do for it.
func oldChecks() []check {
	return []check{
		{"this kernel has no cgroup.kill", func() (string, error) {
			if _, err := os.Stat("/sys/fs/cgroup/hyperfleet/commands/cgroup.kill"); !errors.Is(err, fs.ErrNotExist) {
				return "", fmt.Errorf("it has (%v): this tests nothing", err)
			}
			d, err := fields("info")
			if err == nil && d["kill_scope"] != "cgroup" {
				err = fmt.Errorf("kill_scope %v", d["kill_scope"])
			}
			return fmt.Sprint(d["kernel"]), err
		}},
		{"a timeout ends the whole tree", wholeTree},
	}
}

// wholeTree has a command leave its session, ignore TERM, stop one of its own and
// go on forking; at its time limit all of that must end.
func wholeTree() (string, error) {
	before := len(processes())
	r, _, err := execHere(api.ExecRequest{Cmd: []string{self, "escape"}, Timeout: 3 * time.Second})
	if err != nil {
		return "", err
	}
	if !r.TimedOut {
		return "", fmt.Errorf("%+v: it did not run to its time limit", r)
	}
	b, err := os.ReadFile(escaped)
	if err != nil {
		return "", fmt.Errorf("nothing escaped, this tests nothing: %w", err)
	}
	return fmt.Sprintf("escaped: %s, ended after %v", b, r.Duration), settled(before)
}

const escaped = "/tmp/escaped"

// escape is a command: a family that is hard to end.
func escape(_ []string, _ io.Reader, _, stderr io.Writer) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	var pids []int
	for _, args := range [][]string{{"nap", "600000"}, {"nap", "600000"}, {"rabbits", "4"}} {
		cmd := exec.Command(self, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		pids = append(pids, cmd.Process.Pid)
	}
	_ = syscall.Kill(pids[0], syscall.SIGSTOP)
	if err := os.WriteFile(escaped, fmt.Appendf(nil, "%d processes and their children", len(pids)), 0o644); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	time.Sleep(time.Hour)
	return 0
}

// rabbits is the command "rabbits N": N processes, of which each lives a moment
// and leaves a child in its place, so that a list of them is out of date at once.
// They ignore TERM.
func rabbits(args []string, _ io.Reader, _, stderr io.Writer) int {
	signal.Ignore(syscall.SIGTERM)
	for range number(args[0]) {
		if err := rabbit(); err != 0 {
			fmt.Fprintln(stderr, "fork:", err)
			return 1
		}
	}
	time.Sleep(time.Hour)
	return 0
}

// rabbit forks as forkPair does, and in the child goes on for ever.
func rabbit() syscall.Errno {
	moment := unix.Timespec{Nsec: 2_000_000}
	pid, _, err := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if err != 0 || pid != 0 {
		return err
	}
	for {
		syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&moment)), 0, 0)
		if pid, _, err = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0); err == 0 && pid != 0 {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}
