//go:build linux

package initd

import (
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyperfleet/init/applets/internal/handoff"
	"github.com/hyperfleet/init/applets/internal/transport"
)

// A listener is a listening socket, and where it listens.
type listener struct {
	address transport.Address
	file    *os.File
	name    os.FileInfo // what a Unix socket's path names
}

func openListener(a transport.Address) (listener, error) {
	f, err := transport.Listen(a)
	if err != nil {
		return listener{}, err
	}
	l := listener{address: a, file: f}
	if a.Path != "" {
		l.name, _ = os.Lstat(a.Path)
	}
	return l, nil
}

// reachable tells whether who connects to the address gets to this listener.
func (l listener) reachable() bool {
	if l.name == nil {
		return true
	}
	name, err := os.Lstat(l.address.Path)
	return err == nil && os.SameFile(name, l.name)
}

// openListeners opens those of the listening sockets that are wanted, with nil all,
// and not open.
func (s *supervisor) openListeners(wanted func(transport.Address) bool) error {
	var errs []error
	for _, a := range s.missing() {
		if wanted != nil && !wanted(a) {
			continue
		}
		l, err := openListener(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.hand(l)
	}
	return errors.Join(errs...)
}

func isVsock(a transport.Address) bool { return a.Path == "" }
func isInRun(a transport.Address) bool { return strings.HasPrefix(a.Path, runDir+"/") }

// runDir is mounted first of the directories that a socket may be in.
const runDir = "/run"

// missing returns the addresses that nothing listens on yet.
func (s *supervisor) missing() []transport.Address {
	return slices.DeleteFunc(slices.Clone(s.options.listen), func(a transport.Address) bool {
		return slices.ContainsFunc(s.listeners, func(l listener) bool { return l.address == a })
	})
}

func (s *supervisor) listening() string {
	var names []string
	for _, l := range s.listeners {
		names = append(names, l.address.String())
	}
	return strings.Join(names, ",")
}

// openLate goes on trying, until stop is closed, for the sockets that could not be
// opened: the module of vsock may come later.
func (s *supervisor) openLate(missing []transport.Address, stop <-chan struct{}) {
	for pause := latePause; len(missing) > 0; pause = min(pause+pause/8, longestLatePause) {
		select {
		case <-time.After(pause):
		case <-stop:
			return
		}
		missing = slices.DeleteFunc(missing, func(a transport.Address) bool {
			l, err := openListener(a)
			if err != nil {
				return false
			}
			select {
			case s.late <- l:
			case <-stop:
				_ = l.file.Close()
			}
			return true
		})
	}
}

// Each try may make the kernel start modprobe, so they become rarer: after 10 s
// they are a second apart.
const (
	latePause        = 250 * time.Millisecond
	longestLatePause = 5 * time.Second
)

// hand gives a listener to the agent, and to those that come after it.
func (s *supervisor) hand(l listener) {
	s.listeners = append(s.listeners, l)
	if s.control == nil {
		return // the next agent gets it when it starts
	}
	if err := s.control.Send(handoff.Listener, l.file); err != nil {
		s.log.Warn("the agent did not take a listener", "address", l.address, "err", err)
	}
}

// renewListeners opens those anew whose name somebody has removed, or taken.
func (s *supervisor) renewListeners() {
	for i, l := range s.listeners {
		if l.reachable() {
			continue
		}
		again, err := openListener(l.address)
		if err != nil {
			s.log.Warn("nobody can connect", "address", l.address, "err", err)
			continue
		}
		_ = l.file.Close()
		s.listeners[i] = again
	}
}
