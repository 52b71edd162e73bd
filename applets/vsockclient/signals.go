package vsockclient

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// A signalError is a signal that told the client to stop.
type signalError syscall.Signal

func (s signalError) Error() string { return syscall.Signal(s).String() }

// signals are those that end the client, unless they are passed on.
type signals struct {
	ch   chan os.Signal
	pass atomic.Pointer[func(syscall.Signal)]
}

// interruptible returns a context that ends at a signal, whose connection then
// closes, which in turn ends the command in the guest. A second signal is not
// caught.
func interruptible(parent context.Context) (context.Context, *signals, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &signals{ch: make(chan os.Signal, 2)}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) { // nohup, or a shell's background job
			signal.Notify(s.ch, sig)
		}
	}
	go func() {
		for {
			select {
			case sig := <-s.ch:
				number := sig.(syscall.Signal)
				if pass := s.pass.Swap(nil); pass != nil && number != syscall.SIGHUP {
					(*pass)(number)
					continue
				}
				signal.Stop(s.ch)
				cancel(signalError(number))
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, s, func() {
		signal.Stop(s.ch)
		cancel(nil)
	}
}

// passOn hands the first signal that comes to pass instead of ending the client,
// until the function that it returns is called. SIGHUP always ends the client:
// whoever could send another is gone.
func (s *signals) passOn(pass func(syscall.Signal)) (stop func()) {
	s.pass.Store(&pass)
	return func() { s.pass.Store(nil) }
}
