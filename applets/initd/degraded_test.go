//go:build linux

package initd_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestDegraded(t *testing.T) {
	t.Run("no /proc and a read-only root", func(t *testing.T) {
		t.Parallel()
		attempts(t, func() error {
			g := boot(t, stage{ReadOnly: true, Without: []string{"/proc"}, Args: []string{"--power-off=poweroff"}})
			g.wantConsole("WARN  init: boot: mount -t proc")
			g.ping()
			g.run("hfx", "exit", "0")
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
			return g.inTime()
		})
	})
	t.Run("no directories and a read-only root", func(t *testing.T) {
		t.Parallel()
		g := start(t, stage{ReadOnly: true, Without: []string{"/proc", "/sys", "/run", "/tmp"}, Args: []string{"--listen=unix:/dev/socket", "--power-off=poweroff"}}, nil)
		g.await("ready in")
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
	})
	t.Run("a writable root without directories", func(t *testing.T) {
		t.Parallel()
		g := boot(t, stage{Without: []string{"/proc", "/sys", "/run", "/tmp"}})
		g.ping()
		if strings.Contains(g.console.String(), "WARN  ") {
			t.Error("it warns")
		}
	})
	t.Run("no cgroups", func(t *testing.T) {
		t.Parallel()
		g := boot(t, stage{ReadOnly: true, Without: []string{"/sys"}, Args: []string{"--power-off=poweroff"}})
		g.launch("sleep", "running")
		g.signal(g.agent(), unix.SIGKILL)
		eventually(t, "the running command ended", func() bool { return len(g.find("hfx sleep running")) == 0 })
		g.ping()
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
	})
	t.Run("the machine's /proc", func(t *testing.T) {
		t.Parallel()
		g := start(t, stage{OldRoot: true}, nil)
		g.wantEnd("exit status 1")
		g.wantConsole("init: /proc is another pid namespace's: give this one its own (unshare --mount-proc)\n")
	})
}

// With its standard descriptors leading nowhere, a guest works all the same.
func TestNoConsole(t *testing.T) {
	t.Run("closed descriptors", func(t *testing.T) {
		t.Parallel()
		g := start(t, stage{CloseFDs: true, Args: []string{"--power-off=poweroff"}}, nil)
		if err := g.Wait(soon(t)); err != nil {
			t.Fatal(err)
		}
		g.run("hfx", "exit", "0")
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
	})
	t.Run("blocked console", func(t *testing.T) {
		t.Parallel()
		if raced {
			t.Skip("the race detector itself writes to the console, and waits for it")
		}
		_, w := fullPipe(t)
		g := start(t, stage{Args: []string{"-d", "--power-off=poweroff"}}, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = w, w })
		if err := g.Wait(soon(t)); err != nil {
			t.Fatal(err)
		}
		g.run("hfx", "orphans", "600") // more lines than the log keeps
		began := time.Now()
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("the shutdown took %v", took)
		}
	})
	t.Run("console gone", func(t *testing.T) {
		t.Parallel()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		g := start(t, stage{Args: []string{"-d", "--power-off=poweroff"}}, func(cmd *exec.Cmd) { cmd.Stdout, cmd.Stderr = w, w })
		_ = r.Close() // who writes from now on gets EPIPE, and SIGPIPE
		_ = w.Close()
		if err := g.Wait(soon(t)); err != nil {
			t.Fatal(err)
		}
		g.run("hfx", "orphans", "10")
		g.signal(1, unix.SIGTERM)
		g.wantEnd("power off")
	})
}

// fullPipe returns a pipe that takes no more.
func fullPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(fds[1], make([]byte, 4096)); err != nil {
			break
		}
	}
	_ = unix.SetNonblock(fds[1], false)
	r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}
