//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// sessionChecks are about commands that outlive their clients.
func sessionChecks() []check {
	return []check{
		{"session, a client that is lost comes back and misses nothing", func() (string, error) { return withClient(comesBack) }},
		{"session, a gap where the ring was overwritten", func() (string, error) { return withClient(gap) }},
		{"session, input, list, signal, wait, remove, ps", func() (string, error) { return withClient(wholeSession) }},
		{"session, remove ends all that it started", func() (string, error) { return withClient(removeTree) }},
		{"session, exec -d, sessions, attach, session wait and rm through hf-vsock-client", sessionByHand},
		{"session, an agent that is killed takes its sessions along, and answers again", func() (string, error) { return withClient(sessionsEnd) }},
	}
}

// ticks is what ticker N writes.
func ticks(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "tick %06d\n", i)
	}
	return b.String()
}

// ticker is the command "ticker N": a line every millisecond.
func ticker(args []string, _ io.Reader, stdout, _ io.Writer) int {
	for line := range strings.Lines(ticks(number(args[0]))) {
		fmt.Fprint(stdout, line)
		time.Sleep(time.Millisecond)
	}
	return 7
}

// comesBack attaches to a session, drops the connection midway, and goes on where
// it was, three times.
func comesBack(ctx context.Context, c *api.Client) (string, error) {
	const lines = 1000
	started, err := c.Detach(ctx, api.Command{Cmd: []string{self, "ticker", fmt.Sprint(lines)}})
	if err != nil {
		return "", err
	}
	var all bytes.Buffer
	offset, drops := int64(0), 0
	for {
		once, cancel := context.WithCancel(ctx)
		out := &dropping{w: &all, after: 2000, drop: cancel}
		if drops == 3 {
			out.after = 1 << 30
		}
		p, err := c.Attach(once, api.Attachment{Session: started.Session, Offset: offset, Stdout: out})
		if err != nil {
			cancel()
			return "", err
		}
		exit, err := p.Wait()
		offset = p.Offset()
		cancel()
		if err == nil {
			if exit.ExitCode != 7 || all.String() != ticks(lines) || offset != int64(all.Len()) {
				return "", fmt.Errorf("%+v, %d bytes of %d, offset %d", *exit, all.Len(), len(ticks(lines)), offset)
			}
			break
		}
		if drops++; drops > 3 {
			return "", err
		}
	}
	return fmt.Sprintf("%d connections", drops+1), c.RemoveSession(ctx, started.Session)
}

// dropping drops the connection after so many bytes.
type dropping struct {
	w     io.Writer
	after int
	drop  func()
}

func (d *dropping) Write(p []byte) (int, error) {
	if d.after -= len(p); d.after < 0 {
		d.drop()
	}
	return d.w.Write(p)
}

// gap overwrites most of a small ring.
func gap(ctx context.Context, c *api.Client) (string, error) {
	const size, ring = 1 << 20, 64 << 10
	started, err := c.Detach(ctx, api.Command{Cmd: []string{self, "bytes", fmt.Sprint(size)}, Ring: ring})
	if err != nil {
		return "", err
	}
	if _, err := c.WaitSession(ctx, started.Session); err != nil {
		return "", err
	}
	var out bytes.Buffer
	var from, to int64
	p, err := c.Attach(ctx, api.Attachment{Session: started.Session, Stdout: &out, Gap: func(f, t int64) { from, to = f, t }})
	if err != nil {
		return "", err
	}
	if _, err := p.Wait(); err != nil {
		return "", err
	}
	if from != 0 || to < size-ring || to >= size || !bytes.Equal(out.Bytes(), allBytes(size)[to:]) {
		return "", fmt.Errorf("a gap from %d to %d, then %d bytes", from, to, out.Len())
	}
	return fmt.Sprintf("%d bytes were kept", out.Len()), c.RemoveSession(ctx, started.Session)
}

// wholeSession speaks to a command that the one who started it left.
func wholeSession(ctx context.Context, c *api.Client) (string, error) {
	first, cancel := context.WithCancel(ctx)
	p, err := c.StartSession(first, api.Command{Cmd: []string{self, "cat"}, Stdin: &forever{first}})
	if err != nil {
		cancel()
		return "", err
	}
	cancel()
	p.Wait()
	all, err := c.Sessions(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(s wire.SessionInfo) bool { return s.Session == p.Session })
	if i < 0 || all[i].Exit != nil || all[i].PID != p.PID {
		return "", fmt.Errorf("%s is not in %+v, or has ended", p.Session, all)
	}
	if err := listed(ctx, c, p.PID); err != nil {
		return "", err
	}
	var out bytes.Buffer
	p, err = c.Attach(ctx, api.Attachment{Session: p.Session, Stdin: strings.NewReader("said later"), Stdout: &out})
	if err != nil {
		return "", err
	}
	if exit, err := p.Wait(); err != nil || exit.ExitCode != 0 || out.String() != "said later" {
		return "", fmt.Errorf("%+v, %q, %w", exit, out.String(), err)
	}
	if err := c.RemoveSession(ctx, p.Session); err != nil {
		return "", err
	}
	if err := c.RemoveSession(ctx, p.Session); !errors.Is(err, syscall.ESRCH) {
		return "", fmt.Errorf("removed again: %w", err)
	}
	return "", signalled(ctx, c)
}

// forever is an input that never comes, until its context ends.
type forever struct{ ctx context.Context }

func (f *forever) Read([]byte) (int, error) { <-f.ctx.Done(); return 0, f.ctx.Err() }

func listed(ctx context.Context, c *api.Client, pid int) error {
	ps, err := c.Processes(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(ps, func(p wire.Process) bool { return p.PID == pid })
	if i < 0 || !slices.Equal(ps[i].Cmd, []string{self, "cat"}) || ps[0].PID != 1 {
		return fmt.Errorf("ps: process %d is not among %d, or another: %+v", pid, len(ps), ps)
	}
	return nil
}

func signalled(ctx context.Context, c *api.Client) error {
	s, err := c.Detach(ctx, api.Command{Cmd: []string{self, "nap", "600000"}})
	if err != nil {
		return err
	}
	// Of what ends a program in Go before its runtime has begun, this does so later too.
	if err := c.SignalSession(ctx, s.Session, int(syscall.SIGTERM)); err != nil {
		return err
	}
	exit, err := c.WaitSession(ctx, s.Session)
	if err == nil && exit.Signal != int(syscall.SIGTERM) {
		err = fmt.Errorf("%+v", *exit)
	}
	return errors.Join(err, c.RemoveSession(ctx, s.Session))
}

func removeTree(ctx context.Context, c *api.Client) (string, error) {
	before := len(processes())
	os.Remove(escaped)
	s, err := c.Detach(ctx, api.Command{Cmd: []string{self, "escape"}})
	if err != nil {
		return "", err
	}
	if err := eventually(20*time.Second, func() error { _, err := os.Stat(escaped); return err }); err != nil {
		return "", err
	}
	if err := c.RemoveSession(ctx, s.Session); err != nil {
		return "", err
	}
	return "", settled(before)
}

func sessionByHand() (string, error) {
	a, err := client("", "exec", "-d", "--", self, "noise", "5000", "9")
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(a.out)
	if err := want(9, "", "", "session", "wait", name); err != nil {
		return "", err
	}
	if a, err := client("", "sessions"); err != nil || !strings.Contains(a.out, "exit 9") {
		return "", fmt.Errorf("sessions: %q, %w", a.out, err)
	}
	if a, err = client("", "attach", name); err != nil || a.status != 9 || a.out != string(noise(2, 5000)) || a.errout != string(noise(3, 5000)) {
		return "", fmt.Errorf("attach: status %d, %d and %d bytes, %w", a.status, len(a.out), len(a.errout), err)
	}
	return "", want(0, "", "", "session", "rm", name)
}

// sessionsEnd kills the agent beside sessions, of which one does not heed TERM.
func sessionsEnd(ctx context.Context, c *api.Client) (string, error) {
	before := len(processes())
	for _, cmd := range [][]string{{self, "deaf"}, {self, "pair"}} {
		if _, err := c.Detach(ctx, api.Command{Cmd: cmd}); err != nil {
			return "", err
		}
	}
	if now := len(processes()); now < before+2 {
		return "", fmt.Errorf("%d processes, %d were before: this tests nothing", now, before)
	}
	note, err := killAgent()
	if err != nil {
		return "", err
	}
	all, err := c.Sessions(ctx)
	if err == nil && len(all) > 0 {
		err = fmt.Errorf("there are sessions of a dead agent: %+v", all)
	}
	return note, errors.Join(err, settled(before))
}

// dialAgent connects to the agent's port on vsock's loopback, from a port that is
// root's.
func dialAgent() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "vsock")
	err = unix.EADDRINUSE
	for port := uint32(600); port < 1024 && err == unix.EADDRINUSE; port++ {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: 52})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	return f, nil
}
