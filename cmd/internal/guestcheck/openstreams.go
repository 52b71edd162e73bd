//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

// openChecks leave a stream of each kind open for the shutdown to end.
func openChecks() []check {
	return []check{
		{"streams of all kinds are open", onlookers},
		{"and the agent beside them", func() (string, error) { return "", ping() }},
	}
}

// stubbornChecks leave commands that do not heed TERM: streamed, on a terminal, and
// as a session. Nor do their clients, as a host's would not.
func stubbornChecks() []check {
	return []check{{"commands run that do not heed TERM", func() (string, error) {
		signal.Ignore(syscall.SIGTERM)
		target, err := api.DefaultTarget()
		if err != nil {
			return "", err
		}
		c, ctx, cmd := api.New(target), context.Background(), []string{self, "deaf"}
		streamed, err := c.Start(ctx, api.Command{Cmd: cmd})
		if err != nil {
			return "", err
		}
		typed, err := c.Start(ctx, api.Command{Cmd: cmd, Terminal: &wire.Resize{Rows: 24, Cols: 80}})
		if err != nil {
			return "", err
		}
		session, err := c.StartSession(ctx, api.Command{Cmd: cmd})
		if err != nil {
			return "", err
		}
		return "", eventually(patience, func() error { return errors.Join(deaf(streamed), deaf(typed), deaf(session)) })
	}}}
}

// deaf tells whether a process ignores TERM already; see proc_pid_status(5).
func deaf(p *api.Process) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(b), "SigIgn:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return fmt.Errorf("%s", b)
	}
	ignored, err := strconv.ParseUint(fields[0], 16, 64)
	if err == nil && ignored&(1<<(syscall.SIGTERM-1)) == 0 {
		err = fmt.Errorf("process %d heeds TERM", p.PID)
	}
	return err
}

// openMark begins the lines that tell how an open stream ended.
const openMark = "@open@"

// watchedDir is what the onlooker watches.
const watchedDir = "/srv/watched"

const onlooking = "/run/onlooking"

// onlookers starts a process that has a stream of each kind open.
func onlookers() (string, error) {
	if err := os.MkdirAll(watchedDir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command(self, "onlook")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	return "", eventually(patience, func() error { _, err := os.Stat(onlooking); return err })
}

// An onlooker has a stream that is open, and returns what ended it.
type onlooker struct {
	what string
	look func(ctx context.Context, c *api.Client, open func()) error
}

// onlook is the command that outlives TERM to tell how its streams end. It ends
// with the last of them.
func onlook(_ []string, _ io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP)
	target, err := api.DefaultTarget()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	c, ctx := api.New(target), context.Background()
	var opened, ended sync.WaitGroup
	for _, o := range slices.Concat(commandOnlookers(), otherOnlookers()) {
		opened.Add(1)
		ended.Go(func() {
			err := o.look(ctx, c, sync.OnceFunc(opened.Done))
			fmt.Fprintf(stdout, "%s %s: %v\n", openMark, o.what, err)
		})
	}
	opened.Wait()
	if err := os.WriteFile(onlooking, nil, 0o600); err != nil {
		fmt.Fprintln(stderr, err)
	}
	ended.Wait()
	return 0
}

func commandOnlookers() []onlooker {
	nap := []string{self, "nap", "600000"}
	wait := func(p *api.Process, err error, open func()) error {
		if err != nil {
			return err
		}
		open()
		exit, err := p.Wait()
		if err == nil {
			err = fmt.Errorf("signal %d", exit.Signal)
		}
		return err
	}
	return []onlooker{
		{"exec", func(ctx context.Context, c *api.Client, open func()) error {
			p, err := c.Start(ctx, api.Command{Cmd: nap})
			return wait(p, err, open)
		}},
		{"exec with a terminal", func(ctx context.Context, c *api.Client, open func()) error {
			p, err := c.Start(ctx, api.Command{Cmd: nap, Terminal: &wire.Resize{Rows: 24, Cols: 80}})
			return wait(p, err, open)
		}},
		{"session_attach", func(ctx context.Context, c *api.Client, open func()) error {
			s, err := c.Detach(ctx, api.Command{Cmd: nap})
			if err != nil {
				return err
			}
			p, err := c.Attach(ctx, api.Attachment{Session: s.Session})
			return wait(p, err, open)
		}},
	}
}

func otherOnlookers() []onlooker {
	return []onlooker{
		{"forward", func(ctx context.Context, c *api.Client, open func()) error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			conn, err := c.Dial(ctx, "tcp", l.Addr().String())
			if err != nil {
				return err
			}
			open()
			_, err = conn.Read([]byte{0})
			return err
		}},
		{"listen", func(ctx context.Context, c *api.Client, open func()) error {
			l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			open()
			_, err = l.Accept()
			return err
		}},
		{"file_watch", func(ctx context.Context, c *api.Client, open func()) error {
			for _, err := range c.Watch(ctx, watchedDir, api.WatchOptions{Begin: open}) {
				return err
			}
			return errors.New("it ended")
		}},
		{"logs", func(ctx context.Context, c *api.Client, open func()) error {
			for _, err := range c.Logs(ctx, api.LogOptions{Follow: true}) {
				if err != nil {
					return err
				}
				open()
			}
			return errors.New("it ended")
		}},
		{"stats", func(ctx context.Context, c *api.Client, open func()) error {
			for _, err := range c.StatsEvery(ctx, 100*time.Millisecond) {
				if err != nil {
					return err
				}
				open()
			}
			return errors.New("it ended")
		}},
	}
}
