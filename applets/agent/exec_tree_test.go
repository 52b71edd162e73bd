//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"golang.org/x/sys/unix"
)

// forkingOn are processes that go on in ever new children, each in a session of
// its own: as many as there are, and never the same.
const forkingOn = `
printf '#!/bin/sh\nsetsid $0 &\n' > $DIR/hopper
chmod 755 $DIR/hopper
$DIR/hopper & $DIR/hopper & $DIR/hopper &
`

// nested is a group that the command makes inside its own, with somebody in it.
const nested = `
own=$COMMANDS/$(sed -n 's|^0::.*/||p' /proc/self/cgroup)
mkdir $own/inner $own/inner/most
sh -c 'echo $$ > '$own'/inner/most/cgroup.procs; setsid sleep 300 & echo $! >> $PIDS'
`

// treeRequest is for a script that uses these.
func treeRequest(t *testing.T, l *live, script string) (request object, pids string) {
	dir := t.TempDir()
	pids = filepath.Join(dir, "pids")
	request = sh(": > $PIDS; " + script)
	request["env"] = map[string]string{"PIDS": pids, "DIR": dir, "COMMANDS": l.group.String() + "/" + cgroup.Commands}
	return request, pids
}

// nothingRuns waits until no process of a command is left, nor a group.
func nothingRuns(t *testing.T, l *live) {
	t.Helper()
	commands, err := l.group.Child(cgroup.Commands)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing that a command started is left", func() bool {
		pids, err := l.group.Tree()
		return err == nil && len(pids) == 0
	})
	eventually(t, "the commands' groups are removed", func() bool {
		groups, err := commands.Children()
		return err == nil && len(groups) == 0
	})
}

// TestWholeTree: whatever ends a command ends all that it started: who ignores
// TERM, is stopped, has left the session or has a cgroup of its own, and what
// forks without end. (FAULTS.md 1.8; 2: client gone mid-exec)
func TestWholeTree(t *testing.T) {
	for _, end := range endings() {
		t.Run(end.name, func(t *testing.T) {
			l := serve(t, testLimits())
			needCgroup(t, l)
			request, path := treeRequest(t, l, family+escaped+nested+forkingOn+"wait; sleep 300")
			end.after(t, l, request, path, 7)
			nothingRuns(t, l)
		})
	}
}

// An ending is a way for a command to be ended, after it has started n processes.
type ending struct {
	name  string
	after func(t *testing.T, l *live, request object, path string, n int) (pids []int)
}

func endings() []ending {
	started := func(t *testing.T, l *live, request object, path string, n int) (*session, []int) {
		request["timeout"] = 0
		s := keep(t, l.socket)
		s.send(request.line())
		return s, waitForPIDs(t, path, n)
	}
	return []ending{
		{"timeout", func(t *testing.T, l *live, request object, path string, n int) []int {
			if r := runTimeout(t, l.socket, request, 700, wrote(path, n)); !r.Data.TimedOut || r.Data.Signal != 9 {
				t.Errorf("%+v", r)
			}
			return waitForPIDs(t, path, n)
		}},
		{"lost client", func(t *testing.T, l *live, request object, path string, n int) []int {
			s, pids := started(t, l, request, path, n)
			_ = s.Close()
			return pids
		}},
		{"shutdown", func(t *testing.T, l *live, request object, path string, n int) []int {
			_, pids := started(t, l, request, path, n)
			l.Stop()
			l.commands.terminate(50 * time.Millisecond)
			return pids
		}},
	}
}

// TestProcessGroup: without cgroups, all in the process group is ended, and info
// says that this is all.
func TestProcessGroup(t *testing.T) {
	for _, end := range endings() {
		t.Run(end.name, func(t *testing.T) {
			l := serve(t, testLimits())
			l.commands.group = cgroup.Group{}
			if got := call(t, l.socket, object{"operation": "info"}).Data.KillScope; got != "process_group" {
				t.Errorf("kill_scope %q", got)
			}
			request, path := treeRequest(t, l, family+"wait; sleep 300")
			pids := end.after(t, l, request, path, 4)
			eventually(t, "all of the process group are gone", func() bool {
				for _, pid := range pids {
					if running(pid) {
						return false
					}
				}
				return true
			})
		})
	}
}

// TestGroupsInside: the groups that a command made inside its own are removed as
// well; what it left in them goes on.
func TestGroupsInside(t *testing.T) {
	l := serve(t, testLimits())
	needCgroup(t, l)
	request, path := treeRequest(t, l, nested+"exec >/dev/null 2>&1;"+forkingOn)
	run(t, l.socket, request)
	pid := waitForPIDs(t, path, 1)[0]
	commands, err := l.group.Child(cgroup.Commands)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command's groups are removed", func() bool {
		groups, err := commands.Children()
		return err == nil && len(groups) == 0
	})
	left, err := l.group.Child(cgroup.Left)
	if err != nil {
		t.Fatal(err)
	}
	if !running(pid) {
		t.Error("what the command left does not run")
	}
	eventually(t, "those that were left are in the group for them", func() bool {
		pids, err := left.Procs()
		return err == nil && len(pids) >= 2 // one look may miss who is just forking
	})
}

// TestNoClone3: where a process can't be started in a cgroup, it is moved to its
// own, and info says what that is worth.
func TestNoClone3(t *testing.T) {
	needRoot(t)
	if _, err := cgroup.Root(); err != nil {
		t.Skip(err)
	}
	a := spawn(t, prepare{NoClone3: true}, nil)
	if got := call(t, a.socket, object{"operation": "info"}).Data.KillScope; got != "process_group" {
		t.Errorf("kill_scope %q", got)
	}
	path := filepath.Join(t.TempDir(), "pids")
	request := sh(": > $PIDS; until grep /commands/ /proc/self/cgroup; do sleep 0.02; done;" + family + escaped + "wait; sleep 300")
	request["env"] = map[string]string{"PIDS": path}
	r := runTimeout(t, a.socket, request, 1000, wrote(path, 6))
	if !r.Data.TimedOut || !strings.Contains(r.Data.Stdout, "/commands/") {
		t.Errorf("%+v", r.Data)
	}
	for _, pid := range waitForPIDs(t, path, 6) {
		eventually(t, "all of the command is gone", func() bool { return !running(pid) })
	}
}

// forbidClone3 makes clone3(2) fail for this process and its children, as the
// seccomp filters of containers do that were written before it.
func forbidClone3() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_CLONE3},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// TestNoPidfd: on a kernel without pidfds a command is waited for all the same.
func TestNoPidfd(t *testing.T) {
	for _, fd := range []int{-1, openNull(t)} { // none, or one that can't be polled
		pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exit 3"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &command{pid: pid, pidfd: fd, started: time.Now()}
		c.wait()
		if c.lost != nil || c.status.ExitStatus() != 3 {
			t.Errorf("pidfd %d: %v %v", fd, c.status, c.lost)
		}
	}
}

func openNull(t *testing.T) int {
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
