//go:build linux

package agent

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hyperfleet/init/applets/internal/transport"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

const (
	// maxVisits is how many connections to a listener may wait to be accepted.
	// More wait in the kernel's backlog.
	maxVisits = 128

	// claimTimeout is how long each may.
	claimTimeout = 10 * time.Second
)

// ports are the listeners of clients.
type ports struct {
	mu   sync.Mutex
	byID map[string]*port
	last uint64
}

// A port listens in the guest for a client.
type port struct {
	listener net.Listener
	timeout  time.Duration
	room     chan struct{} // holds a value for each visit

	mu     sync.Mutex
	visits map[string]*visit
	last   uint64
	closed bool
	result wire.Listened
}

// A visit is a connection that waits to be accepted.
type visit struct {
	conn  net.Conn
	timer *time.Timer
}

// listen listens at an address of the guest, and tells the client of every
// connection that comes, for as long as it stays.
func (a *Agent) listen(r *request) error {
	f, err := r.fields.Forward()
	if err != nil {
		return err
	}
	l, err := transport.ListenOn(f.Network, f.Address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	p := &port{listener: l, timeout: claimTimeout, room: make(chan struct{}, maxVisits), visits: map[string]*visit{}}
	id := a.ports.add(p)
	defer a.ports.remove(id)
	defer p.close()
	s, err := r.begin(wire.Listening{Address: l.Addr().String(), Listener: id})
	if err != nil {
		return err
	}
	return a.announce(s, p)
}

// announce tells of visits until the client wants no more.
func (a *Agent) announce(s *stream, p *port) error {
	said, stop := s.until()
	defer stop()
	var failed error
	done := make(chan struct{})
	go func() { defer close(done); failed = p.accept(s) }()
	defer func() {
		p.close()
		_ = s.conn.SetWriteDeadline(time.Now().Add(a.limits.Stall)) // the client need not read
		<-done
	}()
	select {
	case err := <-said:
		if err != nil {
			return err
		}
		p.close()
		<-done // nothing comes behind the result
		return s.end(p.outcome())
	case <-done:
		return failed
	case <-a.stopping:
		return errShuttingDown
	}
}

// accept takes connections until p is closed.
func (p *port) accept(s *stream) error {
	for {
		p.room <- struct{}{}
		c, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // EMFILE and the like pass
			<-p.room
			time.Sleep(acceptPause)
			continue
		}
		id, ok := p.add(c)
		if !ok {
			_ = c.Close()
			return nil
		}
		if err := s.Encode(wire.KindEvent, wire.Visit{Connection: id, Peer: address(c.RemoteAddr())}); err != nil {
			return replying(err)
		}
	}
}

// acceptPause is before trying again when the kernel has no connection to give.
const acceptPause = 50 * time.Millisecond

// address is for people; a Unix socket's client often has none.
func address(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

func (p *port) add(c net.Conn) (id string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return "", false
	}
	p.last++
	id = strconv.FormatUint(p.last, 10)
	v := &visit{conn: c}
	v.timer = time.AfterFunc(p.timeout, func() {
		if late := p.take(id, false); late != nil {
			_ = late.Close()
		}
	})
	p.visits[id] = v
	return id, true
}

// take removes a visit, to serve it or not, and returns its connection; nil if it
// is not there any more.
func (p *port) take(id string, serve bool) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.visits[id]
	if v == nil {
		return nil
	}
	v.timer.Stop()
	delete(p.visits, id)
	<-p.room
	if serve {
		p.result.Accepted++
	} else {
		p.result.Lost++
	}
	return v.conn
}

// close ends the listening, and the visits that wait.
func (p *port) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	var left []string
	for id := range p.visits {
		left = append(left, id)
	}
	p.mu.Unlock()
	for _, id := range left {
		if c := p.take(id, false); c != nil {
			_ = c.Close()
		}
	}
}

func (p *port) outcome() wire.Listened {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result
}

func (ps *ports) add(p *port) string {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.last++
	id := strconv.FormatUint(ps.last, 10)
	ps.byID[id] = p
	return id
}

func (ps *ports) remove(id string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.byID, id)
}

func (ps *ports) find(id string) *port {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.byID[id]
}

// accept passes on the bytes of a connection that listen told about.
func (a *Agent) accept(r *request) error {
	f, err := r.fields.Accept()
	if err != nil {
		return err
	}
	p := a.ports.find(f.Listener)
	if p == nil {
		return refuse(unix.ESRCH, "accept: there is no listener %.100q", f.Listener)
	}
	c := p.take(f.Connection, true)
	if c == nil {
		return refuse(unix.ESRCH, "accept: there is no connection %.100q, or not any more", f.Connection)
	}
	defer c.Close()
	s, err := r.begin(wire.Accepted{Peer: address(c.RemoteAddr())})
	if err != nil {
		return err
	}
	return a.pipe(s, c)
}
