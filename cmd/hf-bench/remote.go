//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// What a suite does in the guest, which is where it runs itself, or where it is the
// host of.

// address is where a floor listens in the guest, and where it is dialled from here:
// beside the agent.
func (s *suite) address(kind string, port int) (listen, dial string) {
	if rest, ok := strings.CutPrefix(s.agent, "vsock:"); ok {
		cid, _, _ := strings.Cut(rest, ":")
		return fmt.Sprintf("vsock:%d", port), fmt.Sprintf("vsock:%s:%d", cid, port)
	}
	const dir = "/run"
	name := "/floor-" + kind
	return "unix:" + dir + name, filepath.Dir(s.agent) + name
}

// startFloor starts a server, as a process of its own like the agent.
func (s *suite) startFloor(kind string, port int) error {
	listen, address := s.address(kind, port)
	s.floor[kind] = address
	argv := []string{guestFloor, kind, listen, guestExit}
	if s.remote {
		if _, err := s.client.Detach(context.Background(), client.Command{Cmd: argv}); err != nil {
			return err
		}
	} else {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		s.ended = append(s.ended, func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
	for deadline := time.Now().Add(upTime); ; time.Sleep(5 * time.Millisecond) {
		c, err := s.dial(address)
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("floor %s: %w", kind, err)
		}
	}
}

// place makes a file in the guest.
func (s *suite) place(path string, content []byte) error {
	if !s.remote {
		return os.WriteFile(path, content, 0o755)
	}
	_, err := s.client.WriteFile(context.Background(), path, bytes.NewReader(content), client.WithMode(0o755))
	return err
}

func (s *suite) remove(path string) {
	if !s.remote {
		_ = os.Remove(path)
		return
	}
	_ = s.client.Remove(context.Background(), path)
}

// xargs has busybox run the command so often.
func (s *suite) xargs(n, parallel int) error {
	argv := []string{guestBusybox, "xargs", "-n", "1", "-P", fmt.Sprint(parallel), guestExit}
	lines := strings.NewReader(strings.Repeat("x\n", n))
	if s.remote {
		r, err := s.client.Exec(context.Background(), client.ExecRequest{Cmd: argv, Stdin: lines, Timeout: time.Minute})
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("xargs: exit status %d", r.ExitCode)
		}
		return err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = lines
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("xargs: %w: %s", err, out)
	}
	return nil
}

// sendfile has the kernel send a whole file.
func (c *conn) sendfile(f *os.File, left int) error {
	for left > 0 {
		n, err := unix.Sendfile(c.fd, int(f.Fd()), nil, left)
		if err != nil {
			return os.NewSyscallError("sendfile", err)
		}
		left -= n
	}
	return nil
}
