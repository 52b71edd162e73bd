//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// familyChecks hold PID 1 to what tini's and dumb-init's suites hold theirs to:
// whatever shape a family of processes dies in, nothing of it is left.
func familyChecks() []check {
	return []check{
		{"a family orphaned in stages is reaped", stages},
		{"children that die while they change parents are reaped", func() (string, error) { return pairs(1000) }},
	}
}

// orphanChecks are the same in numbers that take a machine in software a while.
func orphanChecks() []check {
	return []check{
		{"10,000 orphans are reaped", func() (string, error) { return pairs(10_000) }},
	}
}

// settled waits until there are no zombies and no more processes than before.
func settled(before int) error {
	return eventually(60*time.Second, func() error {
		_, err := noZombies()
		if now := len(processes()); err == nil && now > before {
			err = fmt.Errorf("%d processes more than before", now-before)
		}
		return err
	})
}

// stages makes a family of four generations in which parents end before their
// children and those before theirs: at each stage PID 1 gets new children, some
// alive, with children of their own, and some dead. This process is a child of
// PID 1 itself, and has children of its own all the while: those are not PID 1's
// to reap.
func stages() (string, error) {
	before := len(processes())
	own := exec.Command(self, "exit", "42")
	if err := own.Start(); err != nil {
		return "", err
	}
	if out, err := exec.Command(self, "family", "3", "3").CombinedOutput(); err != nil {
		return "", fmt.Errorf("family: %w: %s", err, out)
	}
	begin := time.Now()
	time.Sleep(500 * time.Millisecond)
	var exit *exec.ExitError
	if err := own.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 42 {
		return "", fmt.Errorf("this process's own child: %v, want status 42", err)
	}
	return fmt.Sprintf("gone %d ms after the first of them", time.Since(begin).Milliseconds()), settled(before)
}

// family is the command "family GENERATIONS CHILDREN": it starts its children and
// ends before they do: the elder, the sooner.
func family(args []string, _ io.Reader, _, stderr io.Writer) int {
	generations, children := number(args[0]), number(args[1])
	if generations == 0 {
		return 0
	}
	for i := range children {
		cmd := exec.Command(self, "family", strconv.Itoa(generations-1), args[1])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: i == 0} // one of them leads a session
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
	}
	time.Sleep(time.Duration(100*(4-generations)) * time.Millisecond)
	return 0
}

// pairs makes so many orphans, in pairs of parent and child that end at the same
// moment.
func pairs(orphans int) (string, error) {
	const batch = 500 // more at once are more processes than a small machine may have
	before := len(processes())
	for range orphans / batch {
		if out, err := exec.Command(self, "pairs", strconv.Itoa(batch/2)).CombinedOutput(); err != nil {
			return "", fmt.Errorf("pairs: %w: %s", err, out)
		}
	}
	begin := time.Now()
	err := settled(before)
	return fmt.Sprintf("none left %d ms after the last", time.Since(begin).Milliseconds()), err
}

// forkPairs is the command "pairs N". Its children each fork one of their own and
// end at once, as that does: PID 1 gets it alive, dying or dead. This process ends
// without having waited for any.
func forkPairs(args []string, _ io.Reader, _, stderr io.Writer) int {
	for range number(args[0]) {
		if _, err := forkPair(); err != 0 {
			fmt.Fprintln(stderr, "fork:", err)
			return 1
		}
	}
	return 0
}

// forkPair forks without exec, which starting 10,000 programs in a machine in
// software would take minutes for. In the child only system calls may follow: the
// Go runtime does not exist there.
func forkPair() (child int, _ syscall.Errno) {
	pid, _, err := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if err != 0 || pid != 0 {
		return int(pid), err
	}
	syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// trickle leaves orphans to PID 1 one by one, so that it has to wake for each.
func trickle(orphans int) (string, error) {
	before := len(processes())
	for range orphans {
		child, errno := forkPair()
		if errno != 0 {
			return "", os.NewSyscallError("fork", errno)
		}
		if _, err := syscall.Wait4(child, nil, 0, nil); err != nil {
			return "", os.NewSyscallError("wait4", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return "", settled(before)
}

func familyCommands() map[string]command {
	return map[string]command{"family": family, "pairs": forkPairs}
}
