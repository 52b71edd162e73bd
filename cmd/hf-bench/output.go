//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// outputs is of what a command writes to its pipe, beside that pipe itself.
func (s *suite) outputs() error {
	if s.remote { // the pipe is the guest's
		return nil
	}
	size := int64(64 << 20)
	if s.scale > 1 {
		size = 4 << 20
	}
	for _, piece := range []int64{4 << 10, 64 << 10, 1 << 20} {
		dd := []string{guestBusybox, "dd", "if=/dev/zero", fmt.Sprintf("bs=%d", piece), fmt.Sprintf("count=%d", size/piece)}
		if err := s.contest(contest{
			group: "output", name: "written " + sizeName(piece) + " at a time", bytes: size, rounds: 60, limit: 8 * time.Second, reach: atLeast(0.7),
			figure: timed(func() error { return s.streamed(dd, size) }),
			floors: []named{{"the pipe", timed(func() error { return s.piped(dd, size) })}},
		}); err != nil {
			return err
		}
	}
	return nil
}

// streamed has the agent run a command and reads its output as frames, and nothing of
// what they are but how the last one ends.
func (s *suite) streamed(cmd []string, size int64) error {
	request, err := json.Marshal(map[string]any{"operation": "exec", "stream": true, "cmd": cmd})
	if err != nil {
		return err
	}
	return s.once(s.agent, func(c *conn) error {
		if _, err := c.Write(append(request, '\n')); err != nil {
			return err
		}
		n, end, err := c.all()
		if err == nil && (n < size || !bytes.Contains(end, []byte(`{"exit_code":0,`))) {
			err = fmt.Errorf("%d bytes of %d, and at the end %q", n, size, end)
		}
		return err
	})
}

// piped runs it with a pipe.
func (s *suite) piped(cmd []string, size int64) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	c, w := &conn{p[0], s.buf}, os.NewFile(uintptr(p[1]), "pipe")
	defer c.Close()
	command := exec.Command(cmd[0], cmd[1:]...)
	command.Stdout = w
	err := command.Start()
	_ = w.Close()
	if err != nil {
		return err
	}
	n, _, err := c.all()
	if err = errors.Join(err, command.Wait()); err == nil && n != size {
		err = fmt.Errorf("%d bytes of %d", n, size)
	}
	return err
}

// all reads to the end, and returns how much there was and what was last.
func (c *conn) all() (n int64, end []byte, err error) {
	const enough = 400
	for {
		m, err := c.Read(c.buf)
		n += int64(m)
		if end = append(end, c.buf[max(0, m-enough):m]...); len(end) > enough {
			end = end[len(end)-enough:]
		}
		if err == io.EOF {
			return n, end, nil
		} else if err != nil {
			return n, end, err
		}
	}
}
