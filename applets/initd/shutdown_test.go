//go:build linux

package initd_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

func execRequest(argv ...string) client.ExecRequest { return client.ExecRequest{Cmd: argv} }

func dial(t testing.TB, g *guest, socket string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", g.path(socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

func readLine(t testing.TB, c net.Conn) string {
	t.Helper()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return line
}

func TestShutdownAction(t *testing.T) {
	for _, test := range []struct {
		name   string
		flag   string
		signal unix.Signal
		end    string
	}{
		{"TERM", "--power-off=poweroff", unix.SIGTERM, "power off"},
		{"TERM without a power-off", "--power-off=restart", unix.SIGTERM, "restart"},
		{"INT", "--power-off=poweroff", unix.SIGINT, "restart"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := bootWith(t, test.flag)
			g.signal(1, test.signal)
			g.wantEnd(test.end)
			g.wantConsole("why=" + unix.SignalName(test.signal))
		})
	}
}

// shutdownTime reads from the console how long the shutdown took.
func shutdownTime(t testing.TB, g *guest) time.Duration {
	t.Helper()
	m := regexp.MustCompile(`(?:power off|restart|exit with status \d+) after ([0-9.]+) ms`).FindStringSubmatch(g.console.String())
	if m == nil {
		t.Fatal("the console does not tell how long the shutdown took")
	}
	ms, _ := strconv.ParseFloat(m[1], 64)
	return time.Duration(ms * float64(time.Millisecond))
}

// attempts is for what has to be done within a grace that is init's own and short,
// and that a machine may spend on something else: only a fault spoils all three.
func attempts(t *testing.T, try func() error) {
	t.Helper()
	var err error
	for range 3 {
		if err = try(); err == nil {
			return
		}
		t.Log(err)
	}
	t.Error(err)
}

// inTime tells whether a shutdown waited in vain for the end of some process, as
// long as it waits for anything: see termGrace.
func (g *guest) inTime() error {
	if strings.Contains(g.console.String(), "killing what did not end in time") {
		return errors.New("something had to be killed")
	}
	return nil
}

func TestShutdownIdle(t *testing.T) {
	attempts(t, func() error {
		g := bootWith(t, "--power-off=poweroff")
		g.ping()
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
		if strings.Contains(g.console.String(), "WARN  ") {
			return errors.New("an ordinary shutdown warns")
		}
		return g.inTime()
	})
}

// A storm of signals is one shutdown, and the first decides what it is.
func TestShutdownFirstWins(t *testing.T) {
	for _, test := range []struct {
		name    string
		signals []unix.Signal
		end     string
	}{
		{"TERM storm", slices.Repeat([]unix.Signal{unix.SIGTERM}, 100), "power off"},
		{"TERM, then INT", []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGINT}, "power off"},
		{"INT, then TERM", []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGTERM}, "restart"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			g := bootWith(t, "--power-off=poweroff")
			g.launch("late", "1500") // so that there is time for the later ones
			for i, n := range test.signals {
				_ = unix.Kill(g.pid, n) // which may have ended
				if i == 0 {
					// Of signals that are pending together the kernel delivers the
					// one with the lowest number first.
					g.await("shutting down")
				}
			}
			g.wantEnd(test.end)
			if n := strings.Count(g.console.String(), "shutting down"); n != 1 {
				t.Errorf("%d shutdowns", n)
			}
		})
	}
}

func TestShutdownEndsProcesses(t *testing.T) {
	t.Run("deaf", func(t *testing.T) {
		t.Parallel()
		g := bootWith(t, "--power-off=poweroff")
		g.launch("deaf")
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
		if took := shutdownTime(t, g); took < 2*time.Second {
			t.Errorf("KILL after %v, want 2 s", took)
		}
		g.wantConsole("killing what did not end in time")
	})
	t.Run("in order", func(t *testing.T) {
		t.Parallel()
		attempts(t, func() error {
			g := bootWith(t, "--power-off=poweroff")
			running := g.launch("late", "300")
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
			o := <-running
			if err := g.inTime(); err != nil {
				return err
			}
			if o.err != nil || o.ExitCode != 0 {
				return fmt.Errorf("%+v, %w", o.ExecResult, o.err)
			}
			if took := shutdownTime(t, g); took < 300*time.Millisecond {
				t.Errorf("took %v", took)
			}
			return nil
		})
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		attempts(t, func() error {
			g := bootWith(t, "--power-off=poweroff")
			g.launch("stopped")
			eventually(t, "it is stopped", func() bool {
				return slices.ContainsFunc(g.processes(), func(p nsguest.Process) bool { return p.Line == "hfx stopped" && p.State == "T" })
			})
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
			return g.inTime()
		})
	})
	t.Run("forking", func(t *testing.T) {
		t.Parallel()
		attempts(t, func() error { // KILL has 2 s, too
			g := bootWith(t, "--power-off=poweroff")
			for range 3 {
				go func() {
					_, _ = g.Exec(soon(t), client.ExecRequest{Cmd: []string{"hfx", "forks"}, Timeout: client.NoTimeout})
				}()
			}
			eventually(t, "forking", func() bool { return len(g.find("hfx forks")) >= 2 })
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
			if strings.Contains(g.console.String(), "processes are left") {
				return errors.New("processes are left")
			}
			return nil
		})
	})
}

// A command in flight gets its signal and its client the reply; a new one is
// refused.
func TestShutdownReplies(t *testing.T) {
	attempts(t, func() error {
		g := bootWith(t, "--power-off=poweroff")
		running := g.launch("sleep", "running")
		g.launch("late", "1500") // keeps the shutdown from ending
		half := dial(t, g, socket)
		if _, err := half.Write([]byte(`{"operation":"exec",`)); err != nil {
			t.Fatal(err)
		}
		awaitRead(t, half)
		g.signal(1, unix.SIGTERM)
		if o := <-running; o.err != nil || o.Signal != 15 || o.ExitCode != 143 {
			return fmt.Errorf("%+v, %w", o.ExecResult, o.err)
		}
		if _, err := half.Write([]byte(`"cmd":["hfx","exit","0"]}` + "\n")); err != nil {
			return err
		}
		if reply, err := bufio.NewReader(half).ReadString('\n'); !strings.Contains(reply, `"success":false`) || !strings.Contains(reply, "shutting down") {
			return fmt.Errorf("%q, %w", reply, err)
		}
		// Nobody waits in a backlog that will not be served.
		if c, err := net.Dial("unix", g.path(socket)); !errors.Is(err, unix.ECONNREFUSED) {
			if err == nil {
				c.Close()
			}
			return fmt.Errorf("a new connection: %w, want it refused", err)
		}
		g.wantEnd("power off")
		return nil
	})
}

// awaitRead waits until the other end has read all that was sent.
func awaitRead(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request is read", func() bool {
		unread := -1
		_ = raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err != nil {
			t.Fatal(err)
		}
		return unread == 0
	})
	time.Sleep(50 * time.Millisecond) // and noted
}

// A command that the agent has started gets its TERM, however late it came: none
// is left for KILL, two seconds later.
func TestShutdownAmidCommands(t *testing.T) {
	attempts(t, func() error {
		g := bootWith(t, "--power-off=poweroff")
		for range 4 {
			go func() {
				for g.isAlive() {
					_, _ = g.Exec(context.Background(), execRequest("hfx", "late", "0"))
				}
			}()
		}
		go func() {
			for g.isAlive() {
				_, _ = g.Exec(context.Background(), execRequest("hfx", "exit", "0"))
			}
		}()
		time.Sleep(200 * time.Millisecond)
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
		return g.inTime()
	})
}

func TestShutdownUnmounts(t *testing.T) {
	g := bootWith(t, "-d", "--power-off=poweroff")
	if err := os.Mkdir(g.path("/mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.run("hfx", "mounts")
	root, err := os.Open(g.path("/")) // which keeps it
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.Mkdirat(int(root.Fd()), "before", 0o755); err != nil {
		t.Error(err)
	}
	g.signal(1, unix.SIGTERM)
	g.wantEnd("power off")
	if err := unix.Mkdirat(int(root.Fd()), "after", 0o755); !errors.Is(err, unix.EROFS) {
		t.Errorf("the root can be written to: %v", err)
	}
	var order []string
	for _, m := range regexp.MustCompile(`DEBUG init: unmount mounted=("[^"]*"|\S+) err=<nil>`).FindAllStringSubmatch(g.console.String(), -1) {
		order = append(order, m[1])
	}
	want := []string{"/dev", "/dev", "/tmp", "/mnt/a", `"/mnt/a/b c/d"`, `"/mnt/a/b c"`, "/mnt/a", "/sys/fs/cgroup", "/tmp", "/dev/shm", "/dev/pts", "/run"}
	// One mount was moved into a later one: that takes a second pass.
	moved := []string{"/mnt3/in", "/mnt3"}
	if !slices.Equal(slices.DeleteFunc(slices.Clone(order), func(m string) bool { return !slices.Contains(moved, m) }), moved) {
		t.Errorf("unmounted %q, want %q in it", order, moved)
	}
	order = slices.DeleteFunc(order, func(m string) bool { return slices.Contains(moved, m) })
	if !slices.Equal(order, want) {
		t.Errorf("unmounted %q\nwant      %q", order, want)
	}
	g.wantNoWarning() // such as of what stayed mounted
}

// wantNoWarning on the console, but of the agent, which on a slow machine has little
// time to stop.
func (g *guest) wantNoWarning() {
	g.t.Helper()
	for line := range strings.Lines(g.console.String()) {
		if strings.HasPrefix(line, "WARN  ") && !strings.Contains(line, "the agent does not stop") {
			g.t.Errorf("it warns: %s", line)
		}
	}
}

// What is mounted is found though something hides /proc, or it is gone.
func TestShutdownWithoutProc(t *testing.T) {
	for _, how := range []string{"hidden", "gone"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			g := bootWith(t, "-d", "--power-off=poweroff")
			if err := os.Mkdir(g.path("/mnt"), 0o755); err != nil {
				t.Fatal(err)
			}
			g.run("hfx", "proc", how)
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
			g.wantConsole("unmount mounted=/mnt err=<nil>")
		})
	}
}

func TestPowerCommands(t *testing.T) {
	for _, test := range []struct {
		argv []string
		end  string
	}{
		{[]string{"hf-poweroff"}, "power off"},
		{[]string{"hf-reboot"}, "restart"},
		{[]string{"poweroff"}, "power off"},
		{[]string{"reboot"}, "restart"},
		{[]string{"hf-poweroff", "--force", "--power-off=poweroff"}, "power off"},
		{[]string{"hf-poweroff", "-f", "--power-off=restart"}, "restart"},
		{[]string{"hf-reboot", "--force"}, "restart"},
	} {
		t.Run(strings.Join(test.argv, " "), func(t *testing.T) {
			t.Parallel()
			g := bootWith(t, "--power-off=poweroff")
			_, _ = g.Exec(soon(t), execRequest(test.argv...)) // it may or may not get its reply
			g.wantEnd(test.end)
			if orderly := strings.Contains(g.console.String(), "shutting down"); orderly == (len(test.argv) > 1) {
				t.Errorf("an orderly shutdown: %v", orderly)
			}
		})
	}
	// A newer binary may take the place of the one that PID 1 runs, and a copy is not
	// the same file either.
	for _, argv := range [][]string{{"hf-poweroff"}, {"/tmp/hf-poweroff"}} {
		t.Run("replaced "+argv[0], func(t *testing.T) {
			t.Parallel()
			g := bootWith(t, "--power-off=poweroff")
			for _, name := range []string{"/init.new", "/tmp/hf-poweroff"} {
				if err := nsguest.CopyFile(executable(t), g.path(name)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(g.path("/init.new"), g.path("/init")); err != nil {
				t.Fatal(err)
			}
			r, err := g.Exec(soon(t), execRequest(argv...))
			if err == nil && r.ExitCode == 1 { // else it may or may not get its reply
				t.Fatal("PID 1 was not told")
			}
			g.wantEnd("power off")
		})
	}
	t.Run("not root", func(t *testing.T) {
		g := bootWith(t)
		for _, name := range []string{"hf-poweroff", "hf-reboot"} {
			var errs strings.Builder
			r, err := g.Exec(soon(t), client.ExecRequest{Cmd: []string{"hfx", "as", "65534", name}, Stderr: &errs})
			if err != nil || r.ExitCode != 1 || !strings.HasPrefix(errs.String(), name+": must be root\n") {
				t.Errorf("%s: %+v, %v, %s", name, r, err, errs.String())
			}
		}
		g.ping()
	})
}
