//go:build linux

// Package agent is hf-agent: it serves the protocol of package wire to the host,
// and runs its commands. One goroutine serves one connection; an operation is a
// function from a request to a reply, listed in dispatch.go.
package agent

import (
	"context"
	"errors"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/internal/logging"
	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// Limits bound what clients can use. Each is a flag of hf-agent.
type Limits struct {
	Line       int           // bytes of a request, content not counted
	Content    int64         // bytes of a file_read's or file_write's file, of stdin, of output
	Memory     int           // bytes that requests hold, beyond what each connection has
	Conns      int           // connections at once
	Sessions   int           // of commands that outlive their clients, ended ones too
	Idle       time.Duration // that a connection may wait before its request
	Stall      time.Duration // that a request or a reply may make no progress
	Lag        time.Duration // that a client may be behind the slowest rate when there is no room for others
	Busy       time.Duration // that a request may wait for memory
	Linger     time.Duration // that the end of a large reply may take to be read
	DrainGrace time.Duration // that output may go on after its command has ended
}

// Agent serves the protocol.
type Agent struct {
	log      *logging.Log
	limits   Limits
	policy   transport.Policy
	spoolDir string
	commands commands
	sessions sessions
	memory   *budget
	ports    ports
	sources  []logSource
	ops      map[string]operation
	commits  sync.Mutex // see upload.commit

	stopping chan struct{} // closed by Stop
	stopOnce sync.Once

	mu      sync.Mutex
	conns   map[*conn]struct{}
	streams int        // how many of them are in streams, or about to be
	room    *sync.Cond // signalled when conns shrinks or one of them becomes idle
	wg      sync.WaitGroup
}

// New returns an agent that admits peers by policy. Commands run in groups
// inside group, if that is one.
func New(log *logging.Log, limits Limits, p transport.Policy, group cgroup.Group) *Agent {
	// One line, as long as any may be, is to fit beside as much of others.
	limits.Line = min(limits.Line, limits.Memory/2/wire.LineCost)
	a := &Agent{
		log:      log,
		limits:   limits,
		policy:   p,
		ops:      operations(),
		sources:  logSources(),
		spoolDir: spoolDirectory(),
		stopping: make(chan struct{}),
		conns:    map[*conn]struct{}{},
		memory:   newBudget(limits.Memory-wire.LineCost*limits.Line, limits.Busy),
	}
	a.commands = newCommands(log, group)
	a.sessions = sessions{limit: limits.Sessions, byID: map[string]*commandSession{}}
	a.ports = ports{byID: map[string]*port{}}
	a.room = sync.NewCond(&a.mu)
	return a
}

// Serve accepts connections from l until Stop.
func (a *Agent) Serve(l net.Listener) {
	go func() {
		<-a.stopping
		_ = l.Close()
	}()
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			a.admit(c)
		case a.isStopping() || errors.Is(err, net.ErrClosed):
			return
		default:
			// EMFILE, ENOMEM and the like pass; to try again at once would
			// only burn the CPU that could free what is short.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			a.log.Warn("accept failed", "err", err, "retry_in", pause)
			time.Sleep(pause)
		}
	}
}

// admit serves c if its peer may talk to the agent, and closes it before a byte
// is read if not.
func (a *Agent) admit(nc net.Conn) {
	defer survive(a.log, "admitting a connection")
	peer, err := transport.PeerOf(nc)
	if err == nil && !a.policy.Admits(peer) {
		err = errors.New("not admitted")
	}
	if err != nil {
		a.log.Debug("refused a connection", "peer", peer, "err", err)
		_ = nc.Close()
		return
	}
	a.begin(nc)
}

// begin serves a connection as soon as there is room.
func (a *Agent) begin(nc net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.awaitRoom()
	if a.isStopping() {
		_ = nc.Close()
		return
	}
	c := newConn(nc, a.limits, &share{budget: a.memory})
	a.conns[c] = struct{}{}
	a.wg.Go(func() {
		defer func() {
			_ = nc.Close()
			a.endStream(c) // of what panicked
			a.mu.Lock()
			delete(a.conns, c)
			a.mu.Unlock()
			a.room.Broadcast()
		}()
		defer survive(a.log, "serving a connection")
		a.serve(c)
	})
}

// survive, deferred, makes of a panic a line in the log: whatever a client has found,
// the others are served.
func survive(log *logging.Log, what string) {
	if p := recover(); p != nil {
		log.Error(what+" panicked", "panic", p, "stack", string(debug.Stack()))
	}
}

// settled is how long a connection must have idled before it can be closed to
// make room: the request of one that was just accepted is on its way.
const settled = time.Second

// awaitRoom waits, with the lock held, until another connection may be served.
func (a *Agent) awaitRoom() {
	for len(a.conns) >= a.limits.Conns && !a.isStopping() {
		c, state, why, pause := a.dispensable()
		if c != nil {
			a.evict(c, state, why)
			continue
		}
		timer := time.AfterFunc(pause, func() {
			a.mu.Lock() // not before the wait has begun
			defer a.mu.Unlock()
			a.room.Broadcast()
		})
		a.room.Wait()
		timer.Stop()
	}
}

// dispensable chooses the connection that makes room at the limit: the one that has
// idled longest; where none has for long, the one whose client is the furthest behind
// in sending its request or reading its reply. If there is neither, pause is when,
// unless something happens, to look again.
func (a *Agent) dispensable() (c *conn, state int64, why string, pause time.Duration) {
	var oldest, last *conn
	var longest, most time.Duration
	var since, doing int64
	for c := range a.conns {
		if d, s, idle := c.idled(); idle && (oldest == nil || d > longest) {
			oldest, longest, since = c, d, s
		}
		if d, s := c.lags(); d > most {
			last, most, doing = c, d, s
		}
	}
	pause = a.limits.Lag - most
	switch {
	case oldest != nil && longest >= settled:
		return oldest, since, "closing the connection that has idled longest", 0
	case last != nil && most >= a.limits.Lag:
		return last, doing, "closing the connection whose client is slowest", 0
	case oldest != nil:
		pause = min(pause, settled-longest)
	}
	return nil, 0, "", pause
}

// evict closes a connection, if it is still in that state, to make room.
func (a *Agent) evict(c *conn, state int64, why string) {
	if c.expire(state) {
		a.log.Debug(why, "limit", a.limits.Conns)
		_ = c.Close()
		delete(a.conns, c) // its goroutine ends by itself
	}
}

// again tells whether c may wait for another request. It may not once Stop has
// begun, which closes those that wait.
func (a *Agent) again(c *conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isStopping() {
		return false
	}
	c.wait()
	a.room.Broadcast()
	return true
}

// streams is how many connections may be in streams. Those never make room, as they may be
// silent for ever, so some are kept for requests that are answered and gone.
func (l Limits) streams() int { return l.Conns - max(l.Conns/16, min(4, l.Conns/2)) }

// beginStream takes one of the places for streams, before the operation does anything.
func (a *Agent) beginStream(c *conn) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if most := a.limits.streams(); a.streams >= most {
		return refuse(unix.EAGAIN, "busy: there are %d streams, as many as may be (see --max-connections); try again later", most)
	}
	a.streams++
	c.streaming = true
	return nil
}

// endStream gives the place of c back, if it has one.
func (a *Agent) endStream(c *conn) {
	if !c.streaming { // which only its own goroutine says
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams--
	c.streaming = false
}

func (a *Agent) isStopping() bool {
	select {
	case <-a.stopping:
		return true
	default:
		return false
	}
}

// Stop stops accepting, refuses new requests with "shutting down" and closes
// idle connections. Replies in flight go on; Wait waits for them.
func (a *Agent) Stop() {
	a.stopOnce.Do(func() {
		close(a.stopping)
		a.commands.refuse()
		a.mu.Lock()
		defer a.mu.Unlock()
		for c := range a.conns {
			if _, since, idle := c.idled(); idle && c.expire(since) {
				_ = c.Close()
			}
		}
		a.room.Broadcast()
	})
}

// Wait waits, until ctx ends, for the connections that are left after Stop.
func (a *Agent) Wait(ctx context.Context) {
	done := make(chan struct{})
	go func() { a.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// memory returns the machine's memory in bytes.
func memory() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 64 << 20
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// fileLimit returns how many connections fit this process's limit on open files,
// each with what an exec needs.
func fileLimit() uint64 {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 128
	}
	return min(r.Cur/8, 1<<16)
}
