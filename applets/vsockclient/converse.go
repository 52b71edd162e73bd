package vsockclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
)

var (
	errDetached = errors.New("detached") // by the keys for it
	errHungUp   = errors.New("the terminal hung up")
)

// converse makes this the client of a command in the guest, which start starts,
// until it ends: input, if it is to have some, terminal and signals.
func (c *call) converse(parent context.Context, input bool, start func(context.Context, io.Reader) (*client.Process, error)) (*wire.ExecExit, error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	keys := &keyboard{src: c.stdin, ready: make(chan struct{}), leave: cancel}
	var stdin io.Reader
	if input {
		stdin = keys
	}
	p, err := start(ctx, stdin)
	if err != nil {
		return nil, err
	}
	if p.TTY && !c.json {
		terminal, err := c.connect(ctx, p, input)
		if err != nil {
			cancel(err)
			_, _ = p.Wait()
			return nil, err
		}
		defer terminal.restore()
		keys.terminal = terminal
		if p.Session != "" {
			keys.sequence = c.keys
		}
	}
	// A terminal has keys for that, and what is sent to the client means the client.
	if (p.Session == "" || c.keep) && !(p.TTY && input) {
		defer c.signals.passOn(func(s syscall.Signal) { _ = p.Signal(int(s)) })()
	}
	close(keys.ready)
	status, err := p.Wait()
	if errors.Is(err, syscall.EPIPE) { // of stdout: nothing else is written to here
		err = signalError(syscall.SIGPIPE)
	}
	if p.Session != "" {
		return status, c.leave(parent, p, err)
	}
	return status, err
}

// leave ends what a client has with a session.
func (c *call) leave(ctx context.Context, p *client.Process, err error) error {
	if err == nil {
		if c.keep { // nobody else has heard of it
			_ = c.quiet.RemoveSession(ctx, p.Session)
		}
		return nil
	}
	goesOn, back := "session "+p.Session+" goes on", fmt.Sprintf(": attach --offset %d %s", p.Offset(), p.Session)
	if errors.Is(err, errDetached) {
		fmt.Fprintln(c.stderr) // the command's line may not be at its end
		return &detachedError{goesOn + back}
	}
	if ctx.Err() != nil { // by a signal, which is all that will be told else
		c.complain(errors.New(goesOn + back))
		return err
	}
	ask, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	all, askErr := c.quiet.Sessions(ask)
	same := func(s wire.SessionInfo) bool { return s.Session == p.Session && s.PID == p.PID }
	switch {
	case askErr != nil:
		return fmt.Errorf("%w (%s, unless its agent has ended%s)", err, goesOn, back)
	case !slices.ContainsFunc(all, same):
		return fmt.Errorf("%w (session %s has ended with its agent)", err, p.Session)
	}
	return fmt.Errorf("%w (%s%s)", err, goesOn, back)
}

// askLimit is for asking an agent, whose connection broke, what became of a session.
const askLimit = 3 * time.Second

// A detachedError says that the client left, as it was told to, and how to come
// back.
type detachedError struct{ message string }

func (d *detachedError) Error() string { return d.message }

// connect makes the client's terminal that of a command.
func (c *call) connect(ctx context.Context, p *client.Process, input bool) (*terminal, error) {
	t := &terminal{shown: terminalOf(c.stdout)}
	if input {
		t.typed = terminalOf(c.stdin)
	}
	if err := t.raw(); err != nil {
		return nil, err
	}
	// Output that can't be written must not leave the terminal raw for longer.
	context.AfterFunc(ctx, t.restore)
	t.follow(ctx, func(size wire.Resize) { _ = p.Resize(size.Rows, size.Cols) })
	return t, nil
}

// A keyboard is the client's input on its way to a command.
type keyboard struct {
	src   io.Reader
	ready chan struct{} // closed when the fields below are set
	// terminal is restored should reading fail badly; nil if there is none.
	terminal *terminal
	sequence []byte // that detaches
	leave    context.CancelCauseFunc

	matched  int // bytes of sequence that have come, and are held back
	detached bool
}

func (k *keyboard) Read(p []byte) (int, error) {
	<-k.ready
	defer k.terminal.rescue()
	for !k.detached {
		n, err := k.src.Read(p[:len(p)-len(k.sequence)])
		if k.terminal == nil || k.terminal.typed == nil {
			return n, err
		}
		if n = copy(p, k.filter(p[:n])); n > 0 {
			return n, nil
		}
		if err == io.EOF {
			err = errHungUp
		}
		if err != nil {
			k.leave(err)
			break
		}
	}
	if k.detached {
		k.leave(errDetached)
	}
	select {} // an end would be passed on, and for a session this is none
}

// filter looks for the keys that detach, and returns what is input.
func (k *keyboard) filter(b []byte) []byte {
	if len(k.sequence) == 0 {
		return b
	}
	var out []byte
	for _, c := range b {
		if c != k.sequence[k.matched] {
			out = append(out, k.sequence[:k.matched]...)
			k.matched = 0
		}
		if c != k.sequence[k.matched] {
			out = append(out, c)
			continue
		}
		if k.matched++; k.matched == len(k.sequence) {
			k.detached, k.matched = true, 0
			return out
		}
	}
	return out
}
