package vsockclient

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A terminal is the one that the client runs on. A nil one is none.
type terminal struct {
	typed *os.File // where keys come from, or nil
	shown *os.File // where output goes, or nil

	mu    sync.Mutex
	saved *unix.Termios // how typed was; nil once it is again
	done  bool
}

// terminalOf returns the terminal that a client's input or output is, or nil.
func terminalOf(stream any) *os.File {
	f, ok := stream.(*os.File)
	if !ok {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(f.Fd()), getTermios); err != nil {
		return nil
	}
	return f
}

// terminalSize is how large the terminal is that shows a command; what is
// customary, if there is none.
func terminalSize(stdin io.Reader, stdout io.Writer) *wire.Resize {
	t := &terminal{typed: terminalOf(stdin), shown: terminalOf(stdout)}
	if size, ok := t.size(); ok {
		return &size
	}
	return &wire.Resize{Rows: 24, Cols: 80}
}

func (t *terminal) size() (wire.Resize, bool) {
	for _, f := range []*os.File{t.shown, t.typed} {
		if f == nil {
			continue
		}
		w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err == nil && w.Row > 0 && w.Col > 0 {
			return wire.Resize{Rows: w.Row, Cols: w.Col}, true
		}
	}
	return wire.Resize{}, false
}

// raw makes the terminal pass on every key as it is, until restore is called.
func (t *terminal) raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.typed == nil || t.done {
		return nil
	}
	now, err := unix.IoctlGetTermios(int(t.typed.Fd()), getTermios)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	if t.saved == nil {
		saved := *now
		t.saved = &saved
		// A closed stdout must end the client by way of restore.
		signal.Ignore(syscall.SIGPIPE)
	}
	now.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	now.Oflag &^= unix.OPOST
	now.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	now.Cflag &^= unix.CSIZE | unix.PARENB
	now.Cflag |= unix.CS8
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	return setTerminal(t.typed, now)
}

func setTerminal(f *os.File, to *unix.Termios) error {
	for {
		err := unix.IoctlSetTermios(int(f.Fd()), setTermios, to)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("terminal: %w", err)
		}
	}
}

// restore makes the terminal what it was, for good. It can be called again.
func (t *terminal) restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		_ = setTerminal(t.typed, t.saved)
		signal.Reset(syscall.SIGPIPE)
	}
	t.saved, t.done = nil, true
}

// rescue, deferred in a goroutine, restores the terminal before a panic ends the
// program.
func (t *terminal) rescue() {
	if fault := recover(); fault != nil {
		t.restore()
		panic(fault)
	}
}

// follow tells changed how large the terminal is, now and whenever that changes,
// until ctx ends. A shell that had the terminal meanwhile may have changed how it
// works too.
func (t *terminal) follow(ctx context.Context, changed func(wire.Resize)) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGWINCH, syscall.SIGCONT)
	go func() {
		defer t.rescue()
		defer signal.Stop(ch)
		for {
			if size, ok := t.size(); ok {
				changed(size)
			}
			select {
			case s := <-ch:
				if s == syscall.SIGCONT {
					_ = t.raw()
				}
			case <-ctx.Done():
				return
			}
		}
	}()
}
