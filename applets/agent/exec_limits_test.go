//go:build linux

package agent

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoMoreProcesses: a command that can't be forked is an error, and the next
// one runs as soon as there is room. (FAULTS.md 2: fork EAGAIN recovers)
func TestNoMoreProcesses(t *testing.T) {
	needRoot(t)
	const most, user = 4, "54321"
	a := spawn(t, prepare{Processes: most}, nil)
	request := object{"operation": "exec", "cmd": []string{"sleep", "300"}, "user": user, "timeout": 0}
	ask := object{"operation": "exec", "cmd": []string{"echo", "ran"}, "user": user}
	var sessions []*session
	eventually(t, "a command is refused", func() bool {
		s := keep(t, a.socket)
		s.send(request.line())
		sessions = append(sessions, s)
		return call(t, a.socket, ask).Code == "EAGAIN"
	})
	if r := run(t, a.socket, object{"cmd": []string{"echo", "root's"}}); r.Data.Stdout != "root's\n" {
		t.Errorf("for who is not limited: %+v", r)
	}
	for _, s := range sessions {
		_ = s.Close() // ends its command
	}
	eventually(t, "commands run again", func() bool { return call(t, a.socket, ask).Data.Stdout == "ran\n" })
}

// TestSmallPipe: input that does not fit into a pipe, which for some users is a
// page, is held in a file instead and blocks nobody.
func TestSmallPipe(t *testing.T) {
	if r := filledPipe(make([]byte, 1<<20)); r != nil {
		t.Error("a pipe holds 1 MiB?")
	}
	want := bytes.Repeat([]byte("input"), 40_000)
	f, err := stdin(&spool{mem: want, open: func() (*os.File, error) { return tempFile(t.TempDir()) }})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
	}
}

// TestNothingIsHeld by commands that have ended, in whatever way.
func TestNothingIsHeld(t *testing.T) {
	l := serve(t, testLimits())
	round := func() {
		run(t, l.socket, sh("echo out; echo err >&2; exit 3"))
		run(t, l.socket, sh("kill -KILL $$"))
		run(t, l.socket, object{"cmd": []string{"no-such-command"}})
		run(t, l.socket, object{"cmd": []string{"/etc/passwd"}})
		call(t, l.socket, object{"operation": "exec", "cmd": []string{"true", strings.Repeat("x", 200<<10)}})
		run(t, l.socket, object{"cmd": []string{"sleep", "60"}, "timeout": 1})
		run(t, l.socket, object{"cmd": []string{"cat"}, "stdin": base64Of(make([]byte, 200_000))})
		run(t, l.socket, sh("sleep 0.3 & exit 0"))
		gone := keep(t, l.socket)
		gone.send(sh("sleep 60").line())
		time.Sleep(5 * time.Millisecond)
		_ = gone.Close()
	}
	held := func() (goroutines, files, commands int) {
		l.commands.mu.Lock()
		defer l.commands.mu.Unlock()
		return runtime.NumGoroutine(), len(readDir(t, "/proc/self/fd")), len(l.commands.running)
	}
	round()
	eventually(t, "the first commands are done", func() bool { _, _, n := held(); return n == 0 })
	time.Sleep(50 * time.Millisecond)
	goroutines, files, _ := held()
	for range 5 {
		round()
	}
	eventually(t, "goroutines, files and commands are as they were", func() bool {
		g, f, n := held()
		return g <= goroutines && f <= files && n == 0
	})
	if l.group.Valid() {
		eventually(t, "no group is left", func() bool { return len(groupsOf(t, filepath.Join(l.group.String(), "commands"))) == 0 })
	}
}

// groupsOf lists the cgroups in a directory of the hierarchy.
func groupsOf(t *testing.T, dir string) (groups []string) {
	for _, name := range readDir(t, dir) {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, name), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			groups = append(groups, name)
		}
	}
	return groups
}

// TestOOMKilled: what the kernel's counter says of a command that was killed. A
// real kernel does it in cmd/hf-vm.
func TestOOMKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.events")
	events := func(text string) oomCounter {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return oomCounter{f}
	}
	const now3 = "low 0\nhigh 0\nmax 9\noom 7\noom_kill 3\noom_group_kill 0\n"
	for _, row := range []struct {
		events string
		before int
		signal syscall.WaitStatus
		killed bool // by the agent
		want   bool
	}{
		{now3, 2, 9, false, true},
		{now3, 3, 9, false, false},
		{now3, 2, 9, true, false},
		{now3, 2, 15, false, false},
		{now3, 2, 0, false, false},
		{"", 0, 9, false, false},
		{"low 0\n", 0, 9, false, false},
	} {
		c := &command{status: row.signal, oomKills: row.before}
		c.killed.Store(row.killed)
		if got := (&commands{oom: events(row.events)}).oomKilled(c); got != row.want {
			t.Errorf("%+v: %v", row, got)
		}
	}
	if (&commands{}).oomKilled(&command{status: 9}) {
		t.Error("without a counter")
	}
}
