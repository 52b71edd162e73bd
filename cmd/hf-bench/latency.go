//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

var (
	pingOnce = []byte(`{"operation":"ping"}` + "\n")
	pingKept = []byte(`{"operation":"ping","keep_alive":true}` + "\n")
	execOnce = []byte(`{"operation":"exec","cmd":["` + guestExit + `"]}` + "\n")
	execKept = []byte(`{"operation":"exec","cmd":["` + guestExit + `"],"keep_alive":true}` + "\n")
)

// latency is of a ping beside an echo.
func (s *suite) latency() error {
	agent, err := s.dial(s.agent)
	if err != nil {
		return err
	}
	defer agent.Close()
	echo, err := s.dial(s.floor["echo"])
	if err != nil {
		return err
	}
	defer echo.Close()
	request := func(request []byte, f func(*conn, []byte) error, c *conn) action {
		return timed(func() error { return f(c, request) })
	}
	echoed := func(c *conn, request []byte) error {
		if _, err := c.Write(request); err != nil {
			return err
		}
		_, err := c.line()
		return err
	}
	if err := s.contest(contest{
		group: "ping", name: "on a kept connection", rounds: 10_000, limit: 5 * time.Second, reach: atMost(1.2),
		figure: request(pingKept, (*conn).call, agent), floors: []named{{"echo", request(pingKept, echoed, echo)}},
	}); err != nil {
		return err
	}
	_ = echo.Close() // the server serves one at a time
	each := func(address string, f func(*conn, []byte) error) action {
		return timed(func() error { return s.once(address, func(c *conn) error { return f(c, pingOnce) }) })
	}
	return s.contest(contest{
		group: "ping", name: "on a new connection", rounds: 5000, limit: 5 * time.Second, reach: atMost(1.2),
		figure: each(s.agent, (*conn).call), floors: []named{{"echo", each(s.floor["echo"], echoed)}},
	})
}

// execs is of the smallest command, beside posix_spawn and beside what a Go program
// does to run it and to have its output.
func (s *suite) execs() error {
	agent, err := s.dial(s.agent)
	if err != nil {
		return err
	}
	defer agent.Close()
	spawner, err := s.dial(s.floor["spawn"])
	if err != nil {
		return err
	}
	defer spawner.Close()
	floors := []named{
		{"os/exec, two pipes", timed(osExec)},
		{"posix_spawn", func() (time.Duration, error) { return spawn(spawner) }},
	}
	reach := atMost(1.15)
	if s.remote { // os/exec would be this machine's, and the agent's way is long
		floors, reach = floors[1:], nil
	}
	for _, c := range []contest{
		{name: "on a new connection", figure: timed(func() error {
			return s.once(s.agent, func(c *conn) error { return c.call(execOnce) })
		})},
		{name: "on a kept connection", figure: timed(func() error { return agent.call(execKept) })},
	} {
		c.group, c.rounds, c.limit, c.floors, c.reach = "exec", 3000, 8*time.Second, floors, reach
		if err := s.contest(c); err != nil {
			return err
		}
	}
	return nil
}

// osExec runs the command as a Go program would.
func osExec() error {
	var out, errs strings.Builder
	c := exec.Command(guestExit)
	c.Stdout, c.Stderr = &out, &errs
	return c.Run()
}

// spawn has the floor run it, which says itself how long it took.
func spawn(c *conn) (time.Duration, error) {
	if _, err := c.Write([]byte{1}); err != nil {
		return 0, err
	}
	var took [8]byte
	if _, err := io.ReadFull(c, took[:]); err != nil {
		return 0, fmt.Errorf("spawn: %w", err)
	}
	return time.Duration(binary.NativeEndian.Uint64(took[:])), nil
}
