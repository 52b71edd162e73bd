package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A Machine is a running emulator or hypervisor process. It is told to end when
// the context it was started with is done, and the kernel ends it if this
// program dies, so that no machine outlives its owner.
type Machine struct {
	Console *Console
	Args    []string // what was started

	process *os.Process
	done    chan struct{}
	err     error
}

// Start runs argv with its output on console. stdin may be nil.
func Start(ctx context.Context, argv []string, stdin io.Reader, console *Console) (*Machine, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = stdin
	cmd.Stdout = console
	cmd.Stderr = console
	return start(cmd, console)
}

// StartOn runs argv with this program's own terminal instead.
func StartOn(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer, console *Console) (*Machine, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	return start(cmd, console)
}

func start(cmd *exec.Cmd, console *Console) (*Machine, error) {
	// QEMU closes its files and its terminal cleanly on TERM.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 3 * time.Second
	cmd.SysProcAttr = endWithParent()
	m := &Machine{Console: console, Args: cmd.Args, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The parent-death signal comes when the *thread* that forked ends.
		runtime.LockOSThread()
		err := cmd.Start()
		m.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		m.err = cmd.Wait()
		console.end()
		close(m.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Args[0], err)
	}
	return m, nil
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Signal sends a signal to the machine's process: SIGSTOP pauses the guest.
func (m *Machine) Signal(s os.Signal) error { return m.process.Signal(s) }

// Wait waits until the machine's process ends, or ctx is done.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.done:
		if m.err != nil {
			return fmt.Errorf("%s: %w", m.Args[0], m.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s to end: %w", m.Args[0], context.Cause(ctx))
	}
}

// CommandLine shows argv as it could be typed in a shell.
func CommandLine(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		if a == "" || strings.ContainsAny(a, " \t\n'\"$&|;<>*?()\\`#~{}[]!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words[i] = a
	}
	return strings.Join(words, " ")
}
