//go:build linux

package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A commandSession is a command that runs without its client: its output waits in a
// ring, and clients come and go.
type commandSession struct {
	id       string
	number   uint64
	cmd      []string // as much of it as session_list tells
	started  time.Time
	over     time.Time // when it ended, with exit
	process  *streamed
	ring     *ring
	attached atomic.Int64
	ended    chan struct{} // closed when exit and err are there
	exit     wire.ExecExit
	err      error
}

// sessions are all of them, those that have ended too until they are removed.
type sessions struct {
	limit    int
	mu       sync.Mutex
	byID     map[string]*commandSession
	reserved int // for commands that are about to start
	last     uint64
}

// reserve keeps a place for a session, before its command does anything. Of too many
// sessions, the one that ended first makes room.
func (ss *sessions) reserve() error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if len(ss.byID)+ss.reserved >= ss.limit && !ss.evict() {
		return refuse(unix.EAGAIN, "busy: there are %d sessions already", ss.limit)
	}
	ss.reserved++
	return nil
}

// release gives a place back.
func (ss *sessions) release() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.reserved--
}

// add makes p a session, in a place that was reserved.
func (ss *sessions) add(p *streamed, cmd []string, r *ring) *commandSession {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.reserved--
	ss.last++
	s := &commandSession{
		id: strconv.FormatUint(ss.last, 10), number: ss.last, cmd: outline(cmd), started: time.Now(),
		process: p, ring: r, ended: make(chan struct{}),
	}
	ss.byID[s.id] = s
	return s
}

// maxOutline is how much of a session's command line is kept, in bytes.
const maxOutline = 1 << 10

// outline returns the beginning of a command line, which may be as long as the
// kernel takes, and would be held as long as the session.
func outline(cmd []string) (words []string) {
	room := maxOutline
	for _, word := range cmd {
		if len(word) >= room {
			return append(words, strings.ToValidUTF8(word[:room], "")+"…")
		}
		words = append(words, strings.Clone(word))
		room -= len(word) + 1 // never below 0
	}
	return words
}

// evict removes the session that ended first, with the lock held.
func (ss *sessions) evict() bool {
	var oldest *commandSession
	for _, s := range ss.byID {
		select {
		case <-s.ended:
			if oldest == nil || s.over.Before(oldest.over) {
				oldest = s
			}
		default:
		}
	}
	if oldest == nil {
		return false
	}
	delete(ss.byID, oldest.id)
	oldest.ring.close()
	return true
}

// find returns a session by its name.
func (ss *sessions) find(id string) (*commandSession, error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if s := ss.byID[id]; s != nil {
		return s, nil
	}
	return nil, refuse(unix.ESRCH, "there is no session %.100q", id)
}

func (ss *sessions) remove(s *commandSession) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.byID, s.id)
}

// all returns the sessions, the oldest first.
func (ss *sessions) all() []*commandSession {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	var all []*commandSession
	for _, s := range ss.byID {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *commandSession) int { return cmp.Compare(a.number, b.number) })
	return all
}

// detach starts a command as a session.
func (a *Agent) detach(r *request, e *wire.Exec) (*commandSession, error) {
	if err := a.sessions.reserve(); err != nil {
		return nil, err
	}
	ring, err := newRing(e.Ring, a.openSpool)
	if err != nil {
		a.sessions.release()
		return nil, fmt.Errorf("exec: %w", err)
	}
	p, err := a.startStreamed(r, e)
	if err != nil {
		a.sessions.release()
		ring.close()
		return nil, fmt.Errorf("exec: %w", err)
	}
	s := a.sessions.add(p, e.Cmd, ring)
	for i, o := range p.outputs {
		kind := wire.KindStdout + wire.Kind(i)
		o.sink = func(b []byte) { ring.write(kind, b) }
		o.start(a.log)
	}
	go a.runSession(s, e.Timeout, e.Grace)
	return s, nil
}

// runSession waits for the end of a session's command.
func (a *Agent) runSession(s *commandSession, timeout, grace time.Duration) {
	timedOut, err := s.process.await(context.Background(), timeout, grace)
	a.commands.finish(s.process.command, a.limits.DrainGrace)
	a.commands.release(s.process.command)
	_ = s.process.stdin.Close()
	s.exit, s.err, s.over = s.process.exit(timedOut), err, time.Now()
	s.ring.end()
	close(s.ended)
}

// attach passes the output of a session on from an offset, and what its client
// says to the command. A client that goes away leaves it running.
func (s *commandSession) attach(st *stream, offset int64) error {
	s.attached.Add(1)
	defer s.attached.Add(-1)
	broken, breakOff := context.WithCancelCause(context.Background())
	defer breakOff(nil)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		if err := s.process.listen(st); err != nil {
			breakOff(err)
		}
	}()
	err := s.replay(broken, st, offset)
	st.stopReading()
	<-listening
	if err != nil {
		return err
	}
	<-s.ended
	if s.err != nil {
		return fmt.Errorf("exec: %w", s.err)
	}
	return st.end(s.exit)
}

// replay sends output from an offset on, up to the end of it.
func (s *commandSession) replay(broken context.Context, st *stream, offset int64) error {
	buf, release := st.conn.memory.buffer()
	defer release()
	frame := wire.Frame(buf)
	for {
		kind, at, n, more, err := s.ring.read(offset, frame.Payload())
		switch {
		case err != nil:
			return err
		case at > offset:
			var gap wire.Gap
			gap.Gap.From, gap.Gap.To = offset, at
			err = st.Encode(wire.KindEvent, gap)
			n = 0 // which the ring may have overwritten by then
		case n > 0:
			err = st.WriteFrame(kind, frame, n)
		case more == nil:
			return nil
		default:
			select {
			case <-more:
			case <-broken.Done():
				return context.Cause(broken)
			}
		}
		if err != nil {
			return errGone
		}
		offset = at + int64(n)
	}
}
