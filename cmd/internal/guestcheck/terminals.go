//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	api "github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A typist has a command on a terminal: it types and listens.
type typist struct {
	keys  *io.PipeWriter
	ended chan struct{} // closed when exit and err are there
	exit  *wire.ExecExit
	err   error
	heard
}

// heard is what came so far.
type heard struct {
	mu   sync.Mutex
	text strings.Builder
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// hears waits until the command has said something.
func (h *heard) hears(what string) error {
	return eventually(30*time.Second, func() error {
		if !strings.Contains(h.all(), what) {
			return fmt.Errorf("it said %q, not %q", h.all(), what)
		}
		return nil
	})
}

// onTerminal starts a command on a terminal.
func onTerminal(ctx context.Context, c *api.Client, e api.Command) (*typist, error) {
	t := &typist{ended: make(chan struct{})}
	e.Stdin, t.keys = io.Pipe()
	e.Stdout, e.Terminal = &t.heard, &wire.Resize{Rows: 24, Cols: 80}
	p, err := c.Start(ctx, e)
	if err != nil {
		return nil, err
	}
	go func() { t.exit, t.err = p.Wait(); close(t.ended) }()
	return t, nil
}

func (t *typist) types(keys string) { io.WriteString(t.keys, keys) }

func (t *typist) ends() (*wire.ExecExit, error) {
	<-t.ended
	if t.err != nil {
		return nil, fmt.Errorf("%w; it said %q", t.err, t.all())
	}
	return t.exit, nil
}

// ttyInfo is the command "tty": it tells about the terminal that is its stdin.
func ttyInfo(_ []string, _ io.Reader, stdout, stderr io.Writer) int {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	var st unix.Stat_t
	err = errors.Join(err, unix.Fstat(0, &st))
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	leads := "does not lead"
	if group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP); err == nil && group == os.Getpid() {
		leads = "leads"
	}
	fmt.Fprintf(stdout, "%d %d %s %d:%d %o %s\n", size.Row, size.Col, os.Getenv("TERM"), st.Uid, st.Gid, st.Mode&0o777, leads)
	return 0
}

// job is a command that runs another in the foreground, as a shell does. When
// that is stopped it takes the terminal back, reads a line from it, and ends.
func job(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	cmd := exec.Command(self, "nap", "600000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: 0}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stdout, "job runs")
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		fmt.Fprintln(stderr, err, status)
		return 1
	}
	signal.Ignore(syscall.SIGTTOU) // else taking the terminal back stops this one
	if err := unix.IoctlSetPointerInt(0, unix.TIOCSPGRP, syscall.Getpgrp()); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stdout, "job stopped")
	line, err := bufio.NewReader(stdin).ReadString('\n')
	fmt.Fprintf(stdout, "typed: %s%v\n", line, err)
	_ = cmd.Process.Kill()
	return 5
}

// box is a full-screen program: on the alternate screen it draws a frame along the
// edges of its window, again when that changes, until q is typed.
func box(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	before, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	raw := *before
	raw.Lflag &^= unix.ICANON | unix.ECHO
	resized, keys := make(chan os.Signal, 1), make(chan byte)
	signal.Notify(resized, syscall.SIGWINCH)
	if err := unix.IoctlSetTermios(0, unix.TCSETS, &raw); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	go func() {
		key := []byte{0}
		for {
			if _, err := stdin.Read(key); err != nil {
				key[0] = 'q'
			}
			keys <- key[0]
		}
	}()
	fmt.Fprint(stdout, "\x1b[?1049h")
	for key := byte(0); key != 'q'; {
		if err := drawBox(stdout); err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		select {
		case <-resized:
		case key = <-keys:
		}
	}
	fmt.Fprint(stdout, "\x1b[?1049l")
	_ = unix.IoctlSetTermios(0, unix.TCSETS, before)
	return 6
}

func drawBox(w io.Writer) error {
	size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return err
	}
	rows, cols := int(size.Row), int(size.Col)
	edge := "+" + strings.Repeat("-", cols-2) + "+"
	fmt.Fprintf(w, "\x1b[2J\x1b[1;1H%s", edge)
	for row := 2; row < rows; row++ {
		fmt.Fprintf(w, "\x1b[%d;1H|\x1b[%d;%dH|", row, row, cols)
	}
	fmt.Fprintf(w, "\x1b[%d;1H%s", rows, edge)
	return nil
}

// A display is as much of a terminal as box draws on.
type display struct {
	mu         sync.Mutex
	rows, cols int
	cells      map[[2]int]byte
	row, col   int
	alternate  bool
	escape     []byte
}

func (d *display) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range p {
		switch {
		case len(d.escape) > 0 || b == 0x1b:
			d.escape = append(d.escape, b)
			if b >= 0x40 && b != '[' {
				d.control(string(d.escape[2:len(d.escape)-1]), b)
				d.escape = nil
			}
		case b == '\r':
			d.col = 0
		case b == '\n':
			d.row++
		default:
			d.cells[[2]int{d.row, d.col}] = b
			d.col++
		}
	}
	return len(p), nil
}

func (d *display) control(parameters string, final byte) {
	switch final {
	case 'H':
		fmt.Sscanf(parameters, "%d;%d", &d.row, &d.col)
		d.row, d.col = d.row-1, d.col-1
	case 'J':
		clear(d.cells)
	case 'h', 'l':
		if parameters == "?1049" {
			d.alternate = final == 'h'
			clear(d.cells)
		}
	}
}

// boxed tells what is wrong if the display does not show a box along its edges, and
// nothing else.
func (d *display) boxed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.alternate {
		return errors.New("the alternate screen is not shown")
	}
	for row := range d.rows {
		for col := range d.cols {
			want, top, side := byte(0), row == 0 || row == d.rows-1, col == 0 || col == d.cols-1
			switch {
			case top && side:
				want = '+'
			case top:
				want = '-'
			case side:
				want = '|'
			}
			if got := d.cells[[2]int{row, col}]; got != want {
				return fmt.Errorf("row %d, column %d of %d × %d shows %q", row, col, d.rows, d.cols, got)
			}
		}
	}
	if n := 2*d.cols + 2*d.rows - 4; len(d.cells) != n {
		return fmt.Errorf("%d characters are shown, not %d", len(d.cells), n)
	}
	return nil
}

// resizedInShell logs in, on a terminal of this program's, as a user whose shell is
// the full-screen program, and changes the window's size twice.
func resizedInShell() (string, error) {
	const shell = "/srv/boxshell"
	if err := errors.Join(os.MkdirAll(filepath.Dir(shell), 0o755), os.WriteFile(shell, []byte("#!"+self+" box\n"), 0o755)); err != nil {
		return "", err
	}
	if err := addLine("/etc/passwd", "boxer:x:1234:1234::/:"+shell+"\n"); err != nil {
		return "", err
	}
	window, tty, err := openWindow(24, 80)
	if err != nil {
		return "", err
	}
	defer window.Close()
	cmd := exec.Command("hf-vsock-client", "shell", "-u", "boxer")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	tty.Close()
	defer time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() }).Stop()
	d := &display{rows: 24, cols: 80, cells: map[[2]int]byte{}}
	go io.Copy(d, window)
	for _, size := range [][2]int{{24, 80}, {50, 132}, {10, 40}} {
		d.mu.Lock()
		d.rows, d.cols = size[0], size[1]
		d.mu.Unlock()
		err = unix.IoctlSetWinsize(int(window.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size[0]), Col: uint16(size[1])})
		if err == nil {
			err = eventually(30*time.Second, d.boxed)
		}
		if err != nil {
			cmd.Process.Kill()
			return "", errors.Join(err, cmd.Wait())
		}
	}
	io.WriteString(window, "q")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 6 {
		return "", fmt.Errorf("the shell's end: %v, want status 6", err)
	}
	return "", nil
}

// openWindow makes a terminal: what a window shows, and what programs in it have.
func openWindow(rows, cols uint16) (window, tty *os.File, err error) {
	if window, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(window.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(window.Fd()), unix.TIOCSPTLCK, 0),
		unix.IoctlSetWinsize(int(window.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	return window, tty, err
}

// addLine adds a line to the end of a file.
func addLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}
