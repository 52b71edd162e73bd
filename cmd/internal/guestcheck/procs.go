//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A proc is a process as /proc/PID/stat has it.
type proc struct {
	pid, ppid int
	name      string
	state     byte
}

// processes are all but the kernel's own, which come and go as it needs them.
func processes() []proc {
	const kthreadd = 2
	var all []proc
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		// The name is in parentheses and may hold some itself.
		s := string(b)
		open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
		f := strings.Fields(s[end+1:])
		p := proc{name: s[open+1 : end], state: f[0][0]}
		p.pid, _ = strconv.Atoi(strings.TrimSpace(s[:open]))
		p.ppid, _ = strconv.Atoi(f[1])
		if p.pid != kthreadd && p.ppid != kthreadd {
			all = append(all, p)
		}
	}
	return all
}

func noZombies() (string, error) {
	var zombies []string
	for _, p := range processes() {
		if p.state == 'Z' {
			zombies = append(zombies, fmt.Sprintf("%d (%s) of %d", p.pid, p.name, p.ppid))
		}
	}
	if len(zombies) > 0 {
		return "", fmt.Errorf("%d zombies: %s", len(zombies), strings.Join(zombies[:min(5, len(zombies))], ", "))
	}
	return "", nil
}

// agent finds the agent: the child of PID 1 that was started under its name.
func agent() (int, error) {
	for _, p := range processes() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		name, _, _ := strings.Cut(string(b), "\x00")
		if p.ppid == 1 && p.state != 'Z' && filepath.Base(name) == "hf-agent" {
			return p.pid, nil
		}
	}
	return 0, errors.New("no hf-agent among the children of PID 1")
}

// initChecks are rough with PID 1 and its agent.
func initChecks() []check {
	return []check{
		{"orphans are reaped", orphans},
		{"a killed agent comes back", killAgent},
		{"signals do not end init", signals},
		{"signals that come during others do not end init", signalsAmidOthers},
		{"it still serves", func() (string, error) { return "", ping() }},
		{"no zombies at the end", noZombies},
	}
}

const orphanCount = 300

// orphans makes processes whose parent ends before they do.
func orphans() (string, error) {
	before := len(processes())
	if out, err := exec.Command(self, "litter", strconv.Itoa(orphanCount)).CombinedOutput(); err != nil {
		return "", fmt.Errorf("litter: %w: %s", err, out)
	}
	// The last orphan ends 500 ms after its parent; what is never reaped stays.
	begin := time.Now()
	for {
		_, err := noZombies()
		now := len(processes())
		if err == nil && now > before {
			err = fmt.Errorf("%d processes more than before", now-before)
		}
		if err == nil {
			return fmt.Sprintf("%d orphans gone in %d ms", orphanCount, time.Since(begin).Milliseconds()), nil
		}
		if time.Since(begin) > 30*time.Second {
			return "", err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// litter starts many short-lived children and ends without waiting for any:
// some are zombies by then, which init inherits as they are, the rest end as its.
func litter(args []string, _ io.Reader, _, stderr io.Writer) int {
	for i := range number(args[0]) {
		cmd := exec.Command(self, "nap", strconv.Itoa(i%2*500))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
	}
	return 0
}

// killAgent measures how long nobody answers after the agent is killed.
func killAgent() (string, error) {
	old, err := agent()
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return "", err
	}
	if err := ping(); err != nil { // it waits in the backlog, it is not refused
		return "", fmt.Errorf("right after the agent was killed: %w", err)
	}
	took := time.Since(begin).Milliseconds()
	now, err := agent()
	if err == nil && now == old {
		err = errors.New("it is the same process")
	}
	return fmt.Sprintf("answered %d ms after the kill", took), err
}

// signals sends PID 1 every signal but those that ask it to shut down and those
// that the kernel keeps from it.
func signals() (string, error) {
	sent := 0
	for s := syscall.Signal(1); s <= 64; s++ {
		switch s {
		case syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL, syscall.SIGSTOP:
			continue
		}
		if err := syscall.Kill(1, s); err != nil {
			return "", fmt.Errorf("signal %d: %w", s, err)
		}
		if err := queue(1, s); err != nil {
			return "", fmt.Errorf("signal %d by sigqueue: %w", s, err)
		}
		sent++
	}
	time.Sleep(100 * time.Millisecond)
	for _, p := range processes() {
		if p.pid == 1 && (p.state == 'T' || p.state == 'Z') {
			return "", fmt.Errorf("PID 1 is in state %c", p.state)
		}
	}
	return fmt.Sprintf("%d signals, each by kill and by sigqueue", sent), nil
}

// signalsAmidOthers sends those that PID 1 leaves to the kernel while it has others to
// deal with. Linux 6.1 counts a signal with its default action as deadly, PID 1 or
// not, if the first thread has it blocked at the moment and another has not.
func signalsAmidOthers() (string, error) {
	const rounds = 1000
	caught := []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGWINCH}
	left := []syscall.Signal{syscall.SIGSTKFLT, 32, 33, 34}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_ = syscall.Kill(1, caught[i%len(caught)])
			}
		}
	}()
	for i := range rounds {
		_ = syscall.Kill(1, caught[i%len(caught)])
		if err := syscall.Kill(1, left[i%len(left)]); err != nil && err != syscall.EAGAIN {
			return "", err
		}
		if i%10 == 0 {
			time.Sleep(100 * time.Microsecond) // for it to begin with them
		}
	}
	close(stop)
	<-done
	return fmt.Sprint(rounds), ping()
}

// queue sends a signal as sigqueue(3) does: to the Go runtime that one looks like a
// fault of its own.
func queue(pid int, s syscall.Signal) error {
	info := [32]int32{int32(s), 0, -1} // a siginfo_t; SI_QUEUE
	_, _, errno := syscall.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(s), uintptr(unsafe.Pointer(&info)))
	if errno != 0 {
		return errno
	}
	return nil
}

// act ends the checks: it has the machine shut down in one of the ways.
func act(w io.Writer, args []string) error {
	command := func(name string) error {
		out, err := exec.Command(name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	switch args[0] {
	case "poweroff":
		return command("hf-poweroff")
	case "reboot":
		return command("hf-reboot")
	case "term":
		return syscall.Kill(1, syscall.SIGTERM)
	case "exit":
		os.Exit(number(args[1]))
	case "wait":
		fmt.Fprintf(w, "%s waiting\n", mark)
		return nil
	}
	return fmt.Errorf("no action %q", args[0])
}
