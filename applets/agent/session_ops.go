//go:build linux

package agent

import (
	"fmt"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// sessionList tells about all sessions, the oldest first.
func (a *Agent) sessionList(r *request) error {
	reply := wire.NewReply(r.conn)
	reply.List("sessions", func(yield func(any) bool) {
		for _, s := range a.sessions.all() {
			if !yield(s.info()) {
				return
			}
		}
	})
	return replying(reply.End())
}

func (s *commandSession) info() wire.SessionInfo {
	i := wire.SessionInfo{
		Session:  s.id,
		PID:      s.process.pid,
		Cmd:      s.cmd,
		TTY:      s.process.terminal,
		Started:  s.started.UTC().Format("2006-01-02T15:04:05.000Z"),
		Attached: int(s.attached.Load()),
	}
	i.From, i.To = s.ring.extent()
	select {
	case <-s.ended:
		i.Exit = &s.exit
	default:
	}
	return i
}

// sessionAttach makes the connection one of a session's clients.
func (a *Agent) sessionAttach(r *request) error {
	f, err := r.fields.Attach()
	if err != nil {
		return err
	}
	s, err := a.sessions.find(f.Session)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Operation, err)
	}
	from, to := s.ring.extent()
	offset := f.Offset
	if f.Tail >= 0 {
		offset = max(to-f.Tail, from)
	}
	if offset > to {
		return &wire.FieldError{Field: "offset", Reason: "is beyond the output"}
	}
	st, err := r.begin(wire.Attached{PID: s.process.pid, Session: s.id, TTY: s.process.terminal, Offset: offset})
	if err != nil {
		return err
	}
	return s.attach(st, offset)
}

// sessionSignal sends a signal to the command of a session.
func (a *Agent) sessionSignal(r *request) error {
	id, n, err := r.fields.SessionSignal()
	if err != nil {
		return err
	}
	s, err := a.sessions.find(id)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Operation, err)
	}
	if !s.process.send(unix.Signal(n)) {
		return refuse(unix.ESRCH, "%s: the command of session %s has ended", r.Operation, id)
	}
	return replying(wire.WriteData(r.conn, struct{}{}))
}

// sessionWait answers when the command of a session has ended.
func (a *Agent) sessionWait(r *request) error {
	id, limit, err := r.fields.SessionWait()
	if err != nil {
		return err
	}
	s, err := a.sessions.find(id)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Operation, err)
	}
	gone, stop := withGone(r)
	defer stop()
	var timeout <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-s.ended:
	case <-gone.Done():
		return errGone
	case <-timeout:
		return refuse(unix.ETIMEDOUT, "session_wait: session %s still runs", id)
	}
	if s.err != nil {
		return fmt.Errorf("%s: %w", r.Operation, s.err)
	}
	return replying(wire.WriteData(r.conn, s.exit))
}

// sessionRemove forgets a session. If its command still runs it is killed.
func (a *Agent) sessionRemove(r *request) error {
	id, err := r.fields.Session()
	if err != nil {
		return err
	}
	s, err := a.sessions.find(id)
	if err != nil {
		return fmt.Errorf("%s: %w", r.Operation, err)
	}
	s.process.send(unix.SIGKILL)
	select {
	case <-s.ended:
	case <-time.After(2 * dyingLimit):
		return fmt.Errorf("%s: %w", r.Operation, errUndying)
	}
	a.sessions.remove(s)
	s.ring.close()
	return replying(wire.WriteData(r.conn, struct{}{}))
}
