//go:build linux

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// family starts processes of every kind that is hard to end, each of which writes
// its pid to a file: children, a process that ignores TERM, one that is stopped.
const family = `
trap '' TERM HUP
sleep 300 & echo $! >> $PIDS
sh -c 'trap "" TERM; sleep 300 & echo $! >> $PIDS; wait' &  echo $! >> $PIDS
sh -c 'echo $$ >> $PIDS; kill -STOP $$; sleep 300' &
`

// escaped is one that leaves its session, and its parent.
const escaped = `
setsid sh -c 'echo $$ >> $PIDS; (sleep 300 & echo $! >> $PIDS) & sleep 300' &
`

// waitForPIDs waits until a script has written n of them.
func waitForPIDs(t *testing.T, path string, n int) (pids []int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d processes run", n), func() bool {
		pids = nil
		b, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(f)
			pids = append(pids, pid)
		}
		return len(pids) >= n
	})
	t.Cleanup(func() {
		for _, pid := range pids {
			if running(pid) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	})
	return pids
}

// running tells whether there is such a process, zombies not counted.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	s := string(b)
	state := s[strings.LastIndexByte(s, ')')+2]
	return state != 'Z' && state != 'X'
}

func allGone(t *testing.T, pids []int) {
	t.Helper()
	eventually(t, "all processes of the command are gone", func() bool {
		for _, pid := range pids {
			if running(pid) {
				return false
			}
		}
		return true
	})
}

// TestTimeoutKillsAll that the command started. (FAULTS.md 1.8)
func TestTimeoutKillsAll(t *testing.T) {
	l := serve(t, testLimits())
	script, n := family, 4
	if l.group.Valid() {
		script, n = family+escaped, 6
	}
	path := filepath.Join(t.TempDir(), "pids")
	request := sh(": > $PIDS; " + script + "wait; sleep 300")
	request["env"] = map[string]string{"PIDS": path}
	r := runTimeout(t, l.socket, request, 400, wrote(path, n))
	if !r.Data.TimedOut || r.Data.Signal != 9 || r.Data.ExitCode != 137 || r.Data.DurationMS < 390 {
		t.Errorf("%+v", r.Data)
	}
	allGone(t, waitForPIDs(t, path, n))
}

// runTimeout runs a command that has to do something before its timeout, ms. Where
// the machine was too slow for that, it gets a longer one.
func runTimeout(t *testing.T, socket string, request object, ms int, did func(reply) bool) reply {
	t.Helper()
	for ; ; ms *= 4 {
		request["timeout"] = ms
		r := run(t, socket, request)
		if did(r) || t.Failed() {
			return r
		}
		if ms > 20_000 {
			t.Fatalf("in %d ms the command did not do what it had to: %+.300v", ms, r.Data)
		}
	}
}

// wrote tells whether a script has written n pids by now; nothing, if it had no time
// for that.
func wrote(path string, n int) func(reply) bool {
	return func(reply) bool {
		b, _ := os.ReadFile(path)
		return len(strings.Fields(string(b))) == n
	}
}

// TestClientGone: a client that closes ends its command.
func TestClientGone(t *testing.T) {
	l := serve(t, testLimits())
	script, n := family, 4
	if l.group.Valid() {
		script, n = family+escaped, 6
	}
	path := filepath.Join(t.TempDir(), "pids")
	request := sh(script + "wait; sleep 300")
	request["env"] = map[string]string{"PIDS": path}
	c := dial(t, l.socket)
	if _, err := c.Write([]byte(request.line())); err != nil {
		t.Fatal(err)
	}
	pids := waitForPIDs(t, path, n)
	for _, pid := range pids {
		if !running(pid) {
			t.Errorf("process %d does not run", pid)
		}
	}
	_ = c.Close()
	allGone(t, pids)
}

// TestTimeout values: never too soon, and long before the command would end.
func TestTimeout(t *testing.T) {
	l := serve(t, testLimits())
	for _, row := range []struct {
		timeout  any
		script   string
		timedOut bool
		atLeast  time.Duration
	}{
		{0, "sleep 0.2", false, 0},
		{1, "sleep 60", true, time.Millisecond},
		{250, "sleep 60", true, 250 * time.Millisecond},
		{1000, "sleep 60", true, time.Second},
		{1 << 31, "true", false, 0},
		{60_000, "kill -KILL $$", false, 0},
		{100, "kill -STOP $$", true, 100 * time.Millisecond},
		{200, "trap '' TERM INT HUP; while :; do :; done", true, 200 * time.Millisecond},
	} {
		request := sh(row.script)
		request["timeout"] = row.timeout
		begin := time.Now()
		r := run(t, l.socket, request)
		took := time.Since(begin)
		if r.Data.TimedOut != row.timedOut || took < row.atLeast || row.timedOut && took > 30*time.Second {
			t.Errorf("timeout %v of %s: after %v %+v", row.timeout, row.script, took, r.Data)
		}
	}
}

// TestTimeoutIsExact: a command is ended within 50 ms of its timeout, and all that it
// started within 200. What a busy machine adds is not the agent's, so the best of many
// attempts counts. (FAULTS.md 1.7)
func TestTimeoutIsExact(t *testing.T) {
	l := serve(t, testLimits())
	const timeout = 250 * time.Millisecond
	path := filepath.Join(t.TempDir(), "pids")
	request := sh(": > $PIDS; for i in 1 2 3; do sleep 300 & echo $! >> $PIDS; done; wait")
	request["env"], request["timeout"] = map[string]string{"PIDS": path}, timeout.Milliseconds()
	answered, gone := time.Hour, time.Hour
	for range 30 {
		begin := time.Now()
		r := run(t, l.socket, request)
		took := time.Since(begin) - timeout
		if !wrote(path, 3)(r) {
			continue
		}
		allGone(t, waitForPIDs(t, path, 3))
		answered, gone = min(answered, took), min(gone, time.Since(begin)-timeout)
		if answered < 0 || answered <= 50*time.Millisecond && gone <= 200*time.Millisecond {
			break
		}
	}
	if answered < 0 || answered > 50*time.Millisecond || gone > 200*time.Millisecond {
		t.Errorf("answered %v after the timeout, and all was gone %v after it", answered, gone)
	}
}

// TestDeadlineVerdict: a command that ends at its deadline has either ended or
// timed out, not both.
func TestDeadlineVerdict(t *testing.T) {
	l := serve(t, testLimits())
	for i := range 60 {
		request := sh("sleep 0.02; exit 3")
		request["timeout"] = 20 + i%8
		r := run(t, l.socket, request)
		if ended := r.Data.ExitCode == 3 && !r.Data.TimedOut; !ended && (r.Data.ExitCode != 137 || !r.Data.TimedOut) {
			t.Errorf("%+v", r.Data)
		}
	}
}

// TestDaemon: what a command leaves behind goes on, and holds up no reply.
func TestDaemon(t *testing.T) {
	l := serve(t, testLimits())
	for _, row := range []struct{ name, script string }{
		{"with the pipes", "sleep 300 & echo $! >> $PIDS"},
		{"in its own session", "setsid sleep 300 & echo $! >> $PIDS"},
		{"twice forked", "(sleep 300 & echo $! >> $PIDS)"},
		{"without the pipes", "sleep 300 > /dev/null 2>&1 & echo $! >> $PIDS"},
		{"flooding the pipes", "for i in 1 2 3 4; do yes 1>&2 & echo $! >> $PIDS; done; yes & echo $! >> $PIDS"},
	} {
		path := filepath.Join(t.TempDir(), "pids")
		request := sh("echo words; " + row.script)
		request["env"] = map[string]string{"PIDS": path}
		request["max_output"] = 1000
		begin := time.Now()
		r := run(t, l.socket, request)
		if took := time.Since(begin); took > 20*time.Second { // the daemon takes 300
			t.Errorf("%s: answered after %v", row.name, took)
		}
		if !strings.Contains(r.Data.Stdout, "words\n") || r.Data.ExitCode != 0 {
			t.Errorf("%s: %+.200v", row.name, r.Data)
		}
		for _, pid := range waitForPIDs(t, path, 1) {
			if !strings.HasPrefix(row.name, "flooding") && !running(pid) {
				t.Errorf("%s: the daemon is gone", row.name)
			}
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// TestGroupsAreRemoved, though a command left something running in its own.
func TestGroupsAreRemoved(t *testing.T) {
	l := serve(t, testLimits())
	needCgroup(t, l)
	path := filepath.Join(t.TempDir(), "pids")
	request := sh("for i in 1 2 3; do setsid sleep 300 > /dev/null 2>&1 & echo $! >> $PIDS; done")
	request["env"] = map[string]string{"PIDS": path}
	run(t, l.socket, request)
	pids := waitForPIDs(t, path, 3)
	eventually(t, "the command's group is removed", func() bool {
		for _, name := range readDir(t, l.group.String()+"/commands") {
			if !strings.Contains(name, ".") {
				return false
			}
		}
		return true
	})
	left, err := l.group.Child("left")
	if err != nil {
		t.Fatal(err)
	}
	if procs, err := left.Procs(); len(procs) != 3 || err != nil {
		t.Errorf("%v are in the group of those that were left, want %v: %v", procs, pids, err)
	}
}

// TestGroupsAreGone: who is root in the guest may unmount the cgroups or hide
// them; commands then run without.
func TestGroupsAreGone(t *testing.T) {
	l := serve(t, testLimits())
	needCgroup(t, l)
	if got := call(t, l.socket, object{"operation": "info"}).Data.KillScope; got != "cgroup" {
		t.Errorf("kill_scope %q", got)
	}
	commands, err := l.group.Child("commands")
	if err != nil {
		t.Fatal(err)
	}
	if err := commands.Remove(); err != nil {
		t.Fatal(err)
	}
	if r := run(t, l.socket, sh("echo served")); r.Data.Stdout != "served\n" {
		t.Errorf("%+v", r)
	}
	if got := call(t, l.socket, object{"operation": "info"}).Data.KillScope; got != "process_group" {
		t.Errorf("kill_scope %q", got)
	}
}

// TestFlood: `yes` for a while is truncated, and costs no memory. (Part 2)
func TestFlood(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	request := object{"cmd": []string{"yes"}, "max_output": 1 << 20}
	r := runTimeout(t, a.socket, request, 1500, func(r reply) bool { return r.Data.Truncated })
	if !r.Data.TimedOut || !r.Data.Truncated || len(r.Data.StdoutBase64) != 1<<20 || !strings.HasPrefix(r.Data.Stdout, "y\ny\n") {
		t.Errorf("%d bytes, timed out %v, truncated %v", len(r.Data.Stdout), r.Data.TimedOut, r.Data.Truncated)
	}
	if peak := a.kilobytes(t, "VmHWM"); peak > 16<<10 && !raceEnabled() {
		t.Errorf("the agent's peak is %d kB", peak)
	}
}

// TestThreads: commands that wait hold no thread of the agent's.
func TestThreads(t *testing.T) {
	a := spawn(t, prepare{}, nil)
	path := filepath.Join(filepath.Dir(a.socket), "pids")
	request := sh("echo $$ >> " + path + "; exec sleep 300")
	for i := range 50 {
		keep(t, a.socket).send(request.line())
		waitForPIDs(t, path, i+1) // a fork holds a thread
	}
	n, err := strconv.Atoi(a.status(t, "Threads"))
	if err != nil || n > 30 {
		t.Errorf("%d threads for 50 commands, %v", n, err)
	}
}

// TestUndying: a process that even KILL does not end holds up no reply for ever,
// and the next command runs. The freezer of cgroup v1 can make one.
func TestUndying(t *testing.T) {
	needRoot(t)
	l := serve(t, testLimits())
	freezer := fmt.Sprintf("/sys/fs/cgroup/freezer/hf-test-%d", os.Getpid())
	if err := os.Mkdir(freezer, 0o755); err != nil {
		t.Skip("needs the freezer of cgroup v1: ", err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(freezer+"/freezer.state", []byte("THAWED"), 0)
		eventually(t, "the freezer's group can be removed", func() bool { return unix.Rmdir(freezer) == nil })
	})
	request := sh("echo $$ > " + freezer + "/cgroup.procs; echo FROZEN > " + freezer + "/freezer.state")
	for ms := 2000; ; ms *= 4 {
		request["timeout"] = ms
		r := call(t, l.socket, request)
		if r.Code == "EBUSY" {
			break
		}
		if ms > 20_000 || !r.Data.TimedOut { // else it was not frozen by then
			t.Fatalf("after %d ms: %+v", ms, r)
		}
	}
	if r := run(t, l.socket, sh("echo ok")); r.Data.Stdout != "ok\n" {
		t.Errorf("%+v", r)
	}
}

// TestKilledOutsideItsCgroup: a command that has moved itself to another cgroup
// still ends at its timeout.
func TestKilledOutsideItsCgroup(t *testing.T) {
	l := serve(t, testLimits())
	needCgroup(t, l)
	elsewhere := testGroup(t)
	request := sh("echo $$ >" + elsewhere.String() + "/cgroup.procs && cat /proc/self/cgroup && exec sleep 300")
	r := runTimeout(t, l.socket, request, 300, func(r reply) bool { return r.Data.Stdout != "" })
	if !r.Data.TimedOut || r.Data.Signal != 9 || !strings.Contains(r.Data.Stdout, filepath.Base(elsewhere.String())) {
		t.Errorf("%+v", r)
	}
}
