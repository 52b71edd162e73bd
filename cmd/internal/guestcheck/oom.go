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
)

const tree = "/sys/fs/cgroup/hyperfleet"

// oomChecks drive the machine out of memory and out of processes.
func oomChecks() []check {
	var first int
	return []check{
		{"the checks outlive it", func() (string, error) {
			return "", os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0)
		}},
		{"the agent", func() (note string, err error) { first, err = agent(); return strconv.Itoa(first), err }},
		{"processes are limited", processLimits},
		{"a command that eats all memory", eatAll},
		{"one that is killed by somebody", killed},
		{"exec works after that", func() (string, error) { return "", want(0, "out", "", "exec", "--", self, "say", "out") }},
		{"a fork bomb", explode},
		{"exec works after that too", func() (string, error) { return "", want(0, "out", "", "exec", "--", self, "say", "out") }},
		{"nothing is left of it", debris},
		{"it is the same agent", func() (string, error) {
			now, err := agent()
			if err == nil && now != first {
				err = fmt.Errorf("it is %d, was %d", now, first)
			}
			return "", err
		}},
	}
}

// processLimits holds the limits against what the kernel could have at most.
func processLimits() (string, error) {
	limits := map[string]int{}
	for _, group := range []string{".", "commands", "left", "workload"} {
		n, err := fileNumber(filepath.Join(tree, group, "pids.max"))
		if err != nil {
			return "", err
		}
		limits[group] = n
	}
	most, err := fileNumber("/proc/sys/kernel/threads-max")
	if err == nil && (limits["."] > most-64 || limits["commands"] > limits["."]-64 ||
		limits["commands"] != limits["workload"] || limits["commands"] != limits["left"] || limits["commands"] < most/2) {
		err = fmt.Errorf("%v of %d", limits, most)
	}
	return fmt.Sprintf("%v of %d", limits, most), err
}

func fileNumber(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// start runs a command by way of the agent and does not wait for it.
func start(args ...string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		d, err := fields(append([]string{"exec"}, args...)...)
		done <- outcome{d, err}
	}()
	return done
}

type outcome struct {
	data map[string]any
	err  error
}

// eatAll has a command die of want of memory while others are served.
func eatAll() (string, error) {
	done := start("--timeout", "25s", "--", self, "eat")
	for pings := 0; ; pings++ {
		select {
		case o := <-done:
			if o.err == nil && (o.data["oom_killed"] != true || o.data["signal"] != 9.0 || o.data["exit_code"] != 137.0 || o.data["timed_out"] != false) {
				o.err = fmt.Errorf("%v", o.data)
			}
			if o.err == nil && pings == 0 {
				o.err = errors.New("no ping was answered meanwhile")
			}
			return fmt.Sprintf("after %v ms; %d pings were answered meanwhile", o.data["duration_ms"], pings), o.err
		default:
			if err := ping(); err != nil {
				return "", err
			}
		}
	}
}

// killed has a command killed while the machine has memory again.
func killed() (string, error) {
	d, err := fields("exec", "--", self, "die")
	if err == nil && (d["oom_killed"] != false || d["signal"] != 9.0) {
		err = fmt.Errorf("%v", d)
	}
	return "", err
}

// explode has a command fork until it may not, and others served meanwhile. It is
// a client that is gone that ends it.
func explode() (string, error) {
	begin := time.Now()
	client := exec.Command("hf-vsock-client", "exec", "--timeout", "5m", "--", self, "bomb")
	if err := client.Start(); err != nil {
		return "", err
	}
	defer func() { client.Process.Kill(); client.Wait() }()
	full := ""
	for full == "" {
		if time.Since(begin) > time.Minute {
			return "", errors.New("it never had as many processes as it may")
		}
		time.Sleep(20 * time.Millisecond)
		events, _ := filepath.Glob(tree + "/commands/*/pids.events")
		for _, path := range events {
			if b, _ := os.ReadFile(path); len(b) > 0 && string(b) != "max 0\n" {
				full = filepath.Dir(path)
			}
		}
	}
	note := fmt.Sprintf("full after %d ms", time.Since(begin).Milliseconds())
	err := errors.Join(ping(), want(0, "in", "", "exec", "--", self, "say", "in"))
	note += fmt.Sprintf("; a ping and an exec by %d ms", time.Since(begin).Milliseconds())
	most, _ := fileNumber(full + "/pids.max")
	now, _ := fileNumber(full + "/pids.current")
	if err == nil && now < most*9/10 {
		err = fmt.Errorf("it has only %d processes of %d", now, most)
	}
	return note + fmt.Sprintf("; it had %d processes", now), err
}

// debris waits until no process and no group of a command is left.
func debris() (string, error) {
	var groups []string
	for range 500 {
		groups, _ = filepath.Glob(tree + "/commands/*/cgroup.procs")
		_, zombies := noZombies()
		if n, err := fileNumber(tree + "/commands/pids.current"); len(groups) == 0 && n == 0 && err == nil && zombies == nil {
			return "", nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	_, err := noZombies()
	return "", fmt.Errorf("%d groups are left: %w", len(groups), err)
}

// eat takes memory until it is killed.
func eat([]string, io.Reader, io.Writer, io.Writer) int {
	for {
		const flags = syscall.MAP_PRIVATE | syscall.MAP_ANON | syscall.MAP_POPULATE
		if _, err := syscall.Mmap(-1, 0, 1<<20, syscall.PROT_READ|syscall.PROT_WRITE, flags); err != nil {
			return 1
		}
	}
}

// bomb forks, as do its children. After fork(2) a Go program can make no more than
// raw system calls.
//
//go:norace
func bomb([]string, io.Reader, io.Writer, io.Writer) int {
	pause := syscall.Timespec{Sec: 1}
	for {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0); errno != 0 {
			syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		}
	}
}
