//go:build linux

package agent

import (
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A budget bounds what requests hold in memory beyond the little that each
// connection has for itself. What can do without (a buffer that makes a transfer
// faster) asks with Take; what can't (a long line) waits with Await.
//
// One share at a time may hold more than is left: so of many requests that have
// half of what they need one can go on, and when it is done the next. As none needs
// more than largest, no more than size and largest are ever held.
type budget struct {
	size     int
	patience time.Duration // of Await

	mu      sync.Mutex
	used    int
	over    *share   // who may hold more than is left, while used is above size
	waiting []*waits // longest first; only while there is an over
	wanted  bool     // somebody has had to wait since used went above size
	high    bool     // much has been used since the memory last went back to the kernel
	resting *time.Timer
}

// A share is what one connection holds of the budget. The zero and nil have none
// to ask and are never refused.
type share struct {
	*budget
	held int
}

var _ wire.Memory = (*share)(nil)

type waits struct {
	s       *share
	n       int
	granted chan struct{}
}

// restAfter is when memory goes back to the kernel after much of it was in use: what
// that costs, more than a request does, is to be paid once a second at most.
const restAfter = time.Second

func newBudget(size int, patience time.Duration) *budget {
	b := &budget{size: size, patience: patience}
	b.resting = time.AfterFunc(restAfter, debug.FreeOSMemory)
	b.resting.Stop()
	return b
}

// Take takes n bytes if they can be had at once. Half of the budget is kept for
// those that wait.
func (s *share) Take(n int) bool { return s.takeOf(2, n) }

// TakeSpare is Take for what is only a little better with much memory: it leaves as
// much to others again.
func (s *share) TakeSpare(n int) bool { return s.takeOf(4, n) }

// takeOf takes n bytes if no more than a part of the budget is in use then.
func (s *share) takeOf(part, n int) bool {
	if s == nil || s.budget == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.size/part {
		return false
	}
	s.add(s, n)
	return true
}

var errBusy = refuse(unix.EAGAIN, "busy: other requests have taken the memory there is (see --max-memory); try again later")

// Await takes n bytes, and waits for them if need be.
func (s *share) Await(n int) error {
	if s == nil || s.budget == nil {
		return nil
	}
	s.mu.Lock()
	if s.grant(s, n) {
		s.mu.Unlock()
		return nil
	}
	w := &waits{s, n, make(chan struct{})}
	s.waiting, s.wanted = append(s.waiting, w), true
	s.mu.Unlock()
	timer := time.NewTimer(s.patience)
	defer timer.Stop()
	select {
	case <-w.granted:
		return nil
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return errBusy
	}
	return nil // granted meanwhile
}

// grant gives s n bytes if it may have them.
func (b *budget) grant(s *share, n int) bool {
	if b.used+n > b.size && b.over != nil && b.over != s {
		return false
	}
	b.add(s, n)
	if b.used > b.size {
		b.over = s
	}
	return true
}

func (b *budget) add(s *share, n int) {
	s.held += n
	b.used += n
	b.high = b.high || b.used > b.size/8
}

// Give gives n bytes back.
func (s *share) Give(n int) {
	if s == nil || s.budget == nil || n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
	s.used -= n
	if s.used <= s.size {
		s.over, s.wanted = nil, false
	}
	for len(s.waiting) > 0 && s.grant(s.waiting[0].s, s.waiting[0].n) {
		close(s.waiting[0].granted)
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
	if s.used == 0 && s.high {
		s.high = false
		s.resting.Reset(restAfter)
	}
}

// inTheWay tells whether s holds what others want, and can't have.
func (s *share) inTheWay() bool {
	if s == nil || s.budget == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted && s.held > 0
}

// inUse tells how much is held.
func (b *budget) inUse() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
