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
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// limitChecks are the limits of commands that only a kernel with the controllers of
// cgroup v2 keeps, and root without a container around it.
func limitChecks() []check {
	memory := api.ExecOptions{MemoryMax: 48 << 20}
	mask := fs.FileMode(0o27)
	shimmed := api.ExecOptions{MemoryMax: 48 << 20, Umask: &mask}
	return []check{
		{"a command has the limits it was given", given},
		{"one without has no controllers of its own", notGiven},
		{"one that eats more memory than it may", func() (string, error) { return overeats(memory, "eat") }},
		{"so does a child of one", func() (string, error) { return overeats(memory, "parent", "eat") }},
		{"so does one with a umask", func() (string, error) { return overeats(shimmed, "parent", "eat") }},
		{"so does a session", sessionOvereats},
		{"one with a limit is killed by somebody", func() (string, error) {
			e, _, err := streamHere(memory, self, "die")
			if err == nil && (e.OOMKilled || e.Signal != 9) {
				err = fmt.Errorf("%+v", e)
			}
			return "", err
		}},
		{"one that may have 1 process", bySelf},
		{"a fork bomb that may have 40", multiply},
		{"one that may have a fifth of a CPU is held back", throttled},
		{"hard limits are raised for a user who may not", raised},
		{"what a command left stays within its limits", leaves},
		{"they end with the agent", limitsEnd},
		{"exec works after that", func() (string, error) { return "", want(0, "out", "", "exec", "--", self, "say", "out") }},
	}
}

// streamHere runs a command and returns how it ended and what it said.
func streamHere(o api.ExecOptions, cmd ...string) (*wire.ExecExit, string, error) {
	t, err := api.DefaultTarget()
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	p, err := api.New(t).Start(ctx, api.Command{Cmd: cmd, Options: o, Stdout: &out, Stderr: &out})
	if err != nil {
		return nil, "", err
	}
	e, err := p.Wait()
	return e, out.String(), err
}

// given has a command look at its cgroup, in both forms.
func given() (string, error) {
	o := api.ExecOptions{MemoryMax: 48 << 20, PidsMax: 60, CPUMax: 1500}
	const expected = "/hyperfleet/limited/ memory.max=50331648 memory.swap.max=0 memory.oom.group=1 pids.max=60 cpu.max=150000 100000"
	_, out, err := execHere(api.ExecRequest{Cmd: []string{self, "tell-limits"}, Options: o})
	if err != nil {
		return "", err
	}
	e, streamed, err := streamHere(o, self, "tell-limits")
	switch {
	case err != nil:
		return "", err
	case strings.Replace(expected, " memory.swap.max=0", "", 1) != string(out) && string(out) != expected:
		return "", fmt.Errorf("%q, want %q", out, expected)
	case streamed != string(out):
		return "", fmt.Errorf("streamed: %q, want %q", streamed, out)
	case e.MemoryPeak <= 0 || e.MemoryPeak > 48<<20 || e.CPUMS < 0:
		return "", fmt.Errorf("%+v", e)
	}
	return fmt.Sprintf("its peak was %d kB", e.MemoryPeak>>10), nil
}

func notGiven() (string, error) {
	_, out, err := execHere(api.ExecRequest{Cmd: []string{self, "tell-limits"}})
	if got := string(out); err == nil && (!strings.HasPrefix(got, "/hyperfleet/commands/ pids.max=") || strings.Count(got, "=") != 1) {
		err = fmt.Errorf("%q", got)
	}
	return string(out), err
}

// overeats has a command die at its limit, whole, while the machine has memory left.
func overeats(o api.ExecOptions, cmd ...string) (string, error) {
	cmd = append([]string{self}, cmd...)
	r, _, err := execHere(api.ExecRequest{Cmd: cmd, Options: o})
	if err == nil && (!r.OOMKilled || r.Signal != 9 || r.ExitCode != 137 || r.TimedOut) {
		err = fmt.Errorf("%+v", r)
	}
	if err != nil {
		return "", err
	}
	e, _, err := streamHere(o, cmd...)
	if err == nil && (!e.OOMKilled || e.Signal != 9 || e.ExitCode != 137 || e.TimedOut || e.MemoryPeak < o.MemoryMax/2 || e.MemoryPeak > o.MemoryMax*11/10) {
		err = fmt.Errorf("streamed: %+v", e)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("its peak was %d kB", e.MemoryPeak>>10), nothingEats()
}

// nothingEats waits until no group of such a command is left.
func nothingEats() error {
	return eventually(30*time.Second, func() error {
		groups, _ := filepath.Glob(tree + "/limited/*/cgroup.procs")
		if len(groups) > 0 {
			return fmt.Errorf("%q are left", groups)
		}
		return nil
	})
}

func sessionOvereats() (string, error) {
	t, err := api.DefaultTarget()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := api.New(t)
	started, err := c.Detach(ctx, api.Command{Cmd: []string{self, "eat"}, Options: api.ExecOptions{MemoryMax: 48 << 20}})
	if err != nil {
		return "", err
	}
	e, err := c.WaitSession(ctx, started.Session)
	if err == nil && (!e.OOMKilled || e.Signal != 9) {
		err = fmt.Errorf("%+v", e)
	}
	return "", err
}

// bySelf is allowed one process, which hf-exec is not: it is the command that is told
// of.
func bySelf() (string, error) {
	const text = "/tmp/text"
	if err := os.WriteFile(text, []byte("no program"), 0o755); err != nil {
		return "", err
	}
	mask := fs.FileMode(0o27)
	e, out, err := streamHere(api.ExecOptions{PidsMax: 1, Umask: &mask}, text)
	if err == nil && (e.ExitCode != 126 || !strings.Contains(out, "exec format error")) {
		err = fmt.Errorf("%+v %q", e, out)
	}
	return "", err
}

// multiply has a command fork without end, and not get far.
func multiply() (string, error) {
	t, err := api.DefaultTarget()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := api.New(t)
	started, err := c.Detach(ctx, api.Command{Cmd: []string{self, "bomb"}, Options: api.ExecOptions{PidsMax: 40}})
	if err != nil {
		return "", err
	}
	note := ""
	err = eventually(30*time.Second, func() error {
		files, _ := filepath.Glob(tree + "/limited/*/pids.events")
		if len(files) != 1 {
			return fmt.Errorf("%q", files)
		}
		b, _ := os.ReadFile(files[0])
		n, err := fileNumber(filepath.Dir(files[0]) + "/pids.current")
		note = fmt.Sprintf("%d processes and threads", n)
		if err == nil && (string(b) == "max 0\n" || n > 40 || n < 36) {
			err = fmt.Errorf("%d, %q", n, b)
		}
		return err
	})
	return note, errors.Join(err, c.RemoveSession(ctx, started.Session), nothingEats())
}

// throttled has a command use a second of a CPU of which it may have a fifth.
func throttled() (string, error) {
	e, out, err := streamHere(api.ExecOptions{CPUMax: 200}, self, "burn")
	n, _ := strconv.Atoi(out)
	if err == nil && (n == 0 || e.DurationMS < 2*e.CPUMS) {
		err = fmt.Errorf("%q %+v", out, e)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d ms of CPU in %d ms, held back %d times", e.CPUMS, e.DurationMS, n), nil
}

func raised() (string, error) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		return "", err
	}
	hard := int64(own.Max) + 10
	t, err := api.DefaultTarget()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	_, err = api.New(t).Exec(ctx, api.ExecRequest{Cmd: []string{self, "nofile"}, User: "54321", Stdout: &out,
		Options: api.ExecOptions{Rlimits: map[string]api.Rlimit{"nofile": {Soft: hard - 1, Hard: hard}}}})
	if want := fmt.Sprint(54321, hard); err == nil && out.String() != want {
		err = fmt.Errorf("%q, want %q", out.String(), want)
	}
	return out.String(), err
}

// leaves has a command leave a process behind, whose group goes when it has.
func leaves() (string, error) {
	if _, _, err := execHere(api.ExecRequest{Cmd: []string{self, "leave"}, Options: api.ExecOptions{PidsMax: 50}}); err != nil {
		return "", err
	}
	time.Sleep(time.Second) // more than the agent tries to remove its group
	groups, _ := filepath.Glob(tree + "/limited/*/pids.max")
	if len(groups) != 1 {
		return "", fmt.Errorf("%q have limits", groups)
	}
	if n, err := fileNumber(groups[0]); n != 50 || err != nil {
		return "", fmt.Errorf("%d processes, %w", n, err)
	}
	pids, err := os.ReadFile(filepath.Dir(groups[0]) + "/cgroup.procs")
	pid, notNumber := strconv.Atoi(strings.TrimSpace(string(pids)))
	if err := errors.Join(err, notNumber); err != nil {
		return "", err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return "", err
	}
	return "", eventually(30*time.Second, func() error {
		if _, _, err := execHere(api.ExecRequest{Cmd: []string{self, "exit", "0"}, Options: api.ExecOptions{PidsMax: 50}}); err != nil {
			return err
		}
		return nothingEats()
	})
}

// limitsEnd kills the agent: PID 1 ends what it ran.
func limitsEnd() (string, error) {
	client := exec.Command("hf-vsock-client", "raw", fmt.Sprintf(`{"operation":"exec","cmd":[%q,"nap","600000"],"timeout":0,"pids_max":50}`, self))
	if err := client.Start(); err != nil {
		return "", err
	}
	defer func() { client.Process.Kill(); client.Wait() }()
	procs := func() string {
		files, _ := filepath.Glob(tree + "/limited/*/cgroup.procs")
		all := ""
		for _, f := range files {
			b, _ := os.ReadFile(f)
			all += string(b)
		}
		return all
	}
	if err := eventually(30*time.Second, func() error {
		if procs() == "" {
			return errors.New("it does not run")
		}
		return nil
	}); err != nil {
		return "", err
	}
	pid := strings.TrimSpace(procs())
	first, err := agent()
	if err != nil {
		return "", err
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		return "", err
	}
	err = eventually(30*time.Second, func() error {
		now, err := agent()
		if _, gone := os.Stat("/proc/" + pid); err == nil && (now == first || gone == nil) {
			err = fmt.Errorf("agent %d, %s is left", now, pid)
		}
		return err
	})
	return "", errors.Join(err, nothingEats(), ping())
}

// limitCommands are what these checks have run.
func limitCommands() map[string]command {
	return map[string]command{
		"tell-limits": tellLimits,
		"burn":        burn,
		"nofile": func(_ []string, _ io.Reader, out, _ io.Writer) int {
			var l unix.Rlimit
			_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
			fmt.Fprint(out, os.Getuid(), l.Max)
			return 0
		},
		"parent": func(a []string, _ io.Reader, _, _ io.Writer) int {
			_ = exec.Command(self, a...).Run()
			return 0
		},
		"leave": func([]string, io.Reader, io.Writer, io.Writer) int {
			c := exec.Command(self, "nap", "600000")
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if c.Start() != nil {
				return 1
			}
			return 0
		},
	}
}

// ownGroup is the cgroup of this process, as a directory and without its last name.
func ownGroup() (dir, above string) {
	b, _ := os.ReadFile("/proc/self/cgroup")
	path := strings.TrimSpace(strings.TrimPrefix(string(b), "0::"))
	return "/sys/fs/cgroup" + path, filepath.Dir(path) + "/"
}

func tellLimits(_ []string, _ io.Reader, out, _ io.Writer) int {
	dir, above := ownGroup()
	fmt.Fprint(out, above)
	for _, file := range []string{"memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"} {
		if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			fmt.Fprintf(out, " %s=%s", file, bytes.TrimSpace(b))
		}
	}
	return 0
}

// burn uses a CPU until it has had half a second of it, and says how often it was
// held back.
func burn(_ []string, _ io.Reader, out, _ io.Writer) int {
	var u unix.Rusage
	for u.Utime.Nano()+u.Stime.Nano() < int64(500*time.Millisecond) {
		for range 1000 {
			_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
		}
	}
	dir, _ := ownGroup()
	b, _ := os.ReadFile(dir + "/cpu.stat")
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "nr_throttled "); ok {
			fmt.Fprint(out, strings.TrimSpace(n))
		}
	}
	return 0
}
