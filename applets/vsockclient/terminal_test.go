//go:build linux

package vsockclient

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal makes a terminal: what a window shows, and what programs in it have.
func openTerminal(t testing.TB, rows, cols uint16) (window, tty *os.File) {
	t.Helper()
	window, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	n := 0
	err = control(window, func(fd int) (err error) {
		if n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err == nil {
			err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
		}
		return err
	})
	if err == nil {
		tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err == nil {
		err = setSize(window, rows, cols)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = window.Close()
		_ = tty.Close()
	})
	return window, tty
}

// control does something with a file's descriptor and leaves it as it is: Fd would
// make it one whose reads Close does not end.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = raw.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

func setSize(window *os.File, rows, cols uint16) error {
	return control(window, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

// A console is a client in a window: one types and looks.
type console struct {
	t           testing.TB
	window, tty *os.File
	before      unix.Termios
	cmd         *exec.Cmd

	mu     sync.Mutex
	screen *screen
	shown  strings.Builder // all that came
}

// onConsole starts a client in a window.
func onConsole(t testing.TB, rows, cols int, args ...string) *console {
	t.Helper()
	return inWindow(t, rows, cols, process(t, args...))
}

// inWindow starts any program in a window.
func inWindow(t testing.TB, rows, cols int, cmd *exec.Cmd) *console {
	t.Helper()
	window, tty := openTerminal(t, uint16(rows), uint16(cols))
	c := &console{t: t, window: window, tty: tty, screen: newScreen(rows, cols), cmd: cmd}
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	c.before = *before
	c.cmd.Env = append(c.cmd.Env, "TERM=xterm")
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = tty, tty, tty
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := window.Read(buf)
			c.mu.Lock()
			_, _ = c.screen.Write(buf[:n])
			c.shown.Write(buf[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *console) look(see func(*screen) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return see(c.screen)
}

// await waits until the screen shows something.
func (c *console) await(what string, see func(*screen) bool) {
	c.t.Helper()
	defer func() {
		if c.t.Failed() {
			c.mu.Lock()
			c.t.Logf("the screen is:\n%s\nand what came %q", c.screen, c.shown.String())
			c.mu.Unlock()
		}
	}()
	eventually(c.t, what, func() bool { return c.look(see) })
}

func (c *console) awaitText(text string) {
	c.t.Helper()
	c.await(text, func(s *screen) bool { return strings.Contains(s.String(), text) })
}

func (c *console) keys(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.window, s); err != nil {
		c.t.Fatal(err)
	}
}

func (c *console) resize(rows, cols int) {
	c.t.Helper()
	c.mu.Lock()
	c.screen.resize(rows, cols)
	c.mu.Unlock()
	if err := setSize(c.window, uint16(rows), uint16(cols)); err != nil {
		c.t.Fatal(err)
	}
}

// isRaw tells whether the terminal passes every key on.
func (c *console) isRaw() bool {
	now, err := unix.IoctlGetTermios(int(c.tty.Fd()), unix.TCGETS)
	return err == nil && now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
}

// end waits for the client, and tells its status and whether the terminal is what
// it was.
func (c *console) end() (status int, restored bool) {
	c.t.Helper()
	status = exitOf(c.cmd)
	now, err := unix.IoctlGetTermios(int(c.tty.Fd()), unix.TCGETS)
	if err != nil {
		c.t.Fatal(err)
	}
	return status, reflect.DeepEqual(*now, c.before)
}

func TestTerminalPassesAllKeysAndItsSize(t *testing.T) {
	liveAgent(t)
	c := onConsole(t, 30, 100, "exec", "-it", "--", "sh", "-c",
		"stty size; echo $TERM; stty -isig -icanon -echo min 3; echo ready; dd bs=3 count=1 2>/dev/null | od -An -tx1; exit 3")
	c.await("its size and TERM", func(s *screen) bool { return s.line(0) == "30 100" && s.line(1) == "xterm" })
	c.awaitText("ready")
	if !c.isRaw() {
		t.Error("the client's terminal is not raw")
	}
	c.keys("\x03\x1a\x1c")
	c.awaitText("03 1a 1c")
	if status, restored := c.end(); status != 3 || !restored {
		t.Errorf("status %d, terminal restored: %v", status, restored)
	}
}

// However the client ends, its terminal is as it was.
func TestTerminalIsRestored(t *testing.T) {
	g := liveAgent(t)
	ready := readyFile(t)
	for _, test := range []struct {
		name   string
		end    func(*console)
		status int
	}{
		{"^C ends the command", func(c *console) { c.keys("\x03") }, 130},
		{"SIGTERM", func(c *console) { _ = c.cmd.Process.Signal(syscall.SIGTERM) }, 143},
		{"SIGHUP", func(c *console) { _ = c.cmd.Process.Signal(syscall.SIGHUP) }, 129},
		{"SIGQUIT", func(c *console) { _ = c.cmd.Process.Signal(syscall.SIGQUIT) }, 131},
		{"the agent dies", func(*console) { _ = g.cmd.Process.Kill() }, 125}, // last: nothing works then
	} {
		c := onConsole(t, 24, 80, "exec", "-it", "--", "cat", ready, "-")
		c.awaitText("ready")
		if !c.isRaw() {
			t.Errorf("%s: not raw before", test.name)
		}
		test.end(c)
		if status, restored := c.end(); status != test.status || !restored {
			t.Errorf("%s: status %d, terminal restored: %v; it showed %q", test.name, status, restored, c.all())
		}
	}
}

// Output that nobody reads any more ends a client whose terminal is raw by way of
// restoring that.
func TestTerminalIsRestoredAfterClosedStdout(t *testing.T) {
	liveAgent(t)
	window, tty := openTerminal(t, 24, 80)
	go func() { _, _ = io.Copy(io.Discard, window) }()
	before, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	cmd := process(t, "exec", "-it", "yes")
	cmd.Stdin = tty
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadFull(out, make([]byte, 4))
	_ = out.Close()
	status := exitOf(cmd)
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || status != 128+int(syscall.SIGPIPE) || !reflect.DeepEqual(before, after) {
		t.Errorf("status %d, terminal restored: %v, %v", status, reflect.DeepEqual(before, after), err)
	}
}

func TestTerminalIsRestoredByPanic(t *testing.T) {
	_, tty := openTerminal(t, 24, 80)
	before, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	term := &terminal{typed: tty}
	if err := term.raw(); err != nil {
		t.Fatal(err)
	}
	if during, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); reflect.DeepEqual(before, during) {
		t.Error("raw changed nothing")
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		defer term.rescue()
		panic("fault")
	}()
	if after, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS); !reflect.DeepEqual(before, after) {
		t.Error("not restored")
	}
	if err := term.raw(); err != nil || func() bool {
		after, _ := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		return !reflect.DeepEqual(before, after)
	}() {
		t.Error("raw again after the end") // SIGCONT may come late
	}
}

// fullScreen draws on the alternate screen: its size in the first line and a word
// in the last, again when the size changes, until q is typed. (A shell traps signals between
// commands: none may wait for long.)
const fullScreen = `
draw() { set -- $(stty size); printf '\033[2J\033[1;1Hsize %s %s\033[%s;1Hbottom' "$1" "$2" "$1"; }
trap draw WINCH
printf '\033[?1049h'; stty -icanon -echo min 0 time 1; draw
while [ "$(dd bs=1 count=1 2>/dev/null)" != q ]; do :; done
stty icanon echo; printf '\033[?1049l'
`

func TestFullScreenProgramIsResizedInShell(t *testing.T) {
	liveAgent(t)
	script := filepath.Join(t.TempDir(), "full")
	if err := os.WriteFile(script, []byte(fullScreen), 0o644); err != nil {
		t.Fatal(err)
	}
	c := onConsole(t, 24, 80, "shell", "-e", "PS1=prompt ", "-e", "ENV=", "-e", "HOME="+t.TempDir())
	c.keys("PS1='here> '; clear; echo at $(( 40 + 2 ))\n")
	c.awaitText("at 42")
	c.keys("sh " + script + "\n")
	c.await("the screen of 24 lines", func(s *screen) bool {
		return s.alternate && s.line(0) == "size 24 80" && s.line(-1) == "bottom"
	})
	c.resize(40, 120)
	c.await("the screen of 40 lines", func(s *screen) bool {
		return s.line(0) == "size 40 120" && s.line(39) == "bottom"
	})
	c.resize(10, 50)
	c.await("the screen of 10 lines", func(s *screen) bool {
		return s.line(0) == "size 10 50" && s.line(9) == "bottom"
	})
	c.keys("q")
	c.await("the shell's screen again", func(s *screen) bool { return !s.alternate })
	c.keys("exit 6\n")
	if status, restored := c.end(); status != 6 || !restored {
		t.Errorf("status %d, terminal restored: %v", status, restored)
	}
}

// findVim returns what vim is called here: Debian's smallest is vi and vim.tiny.
func findVim(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"vim", "vim.tiny", "vi"} {
		if out, err := exec.Command(name, "--version").Output(); err == nil && strings.HasPrefix(string(out), "VIM ") {
			return name
		}
	}
	t.Skip("vim is not installed")
	return ""
}

func TestVimIsResizedInShell(t *testing.T) {
	vim := findVim(t)
	liveAgent(t)
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("first line\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := onConsole(t, 24, 80, "shell", "-e", "HOME="+t.TempDir())
	c.keys(vim + " -u NONE -c 'set laststatus=2' " + file + "\n")
	filled := func(rows int) func(*screen) bool {
		return func(s *screen) bool {
			if !s.alternate || s.line(0) != "first line" || !strings.Contains(s.line(rows-2), "/text") {
				return false
			}
			for i := 1; i < rows-2; i++ {
				if s.line(i) != "~" {
					return false
				}
			}
			return true
		}
	}
	c.await("vim on 24 lines", filled(24))
	c.resize(36, 100)
	c.await("vim on 36 lines", filled(36))
	c.keys("A, typed\x1b:wq\r")
	c.await("the shell's screen again", func(s *screen) bool { return !s.alternate })
	c.keys("exit\n")
	if status, restored := c.end(); status != 0 || !restored {
		t.Errorf("status %d, terminal restored: %v", status, restored)
	}
	if b, _ := os.ReadFile(file); string(b) != "first line, typed\n" {
		t.Errorf("the file holds %q", b)
	}
}

// all is what the window got so far.
func (c *console) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shown.String()
}
