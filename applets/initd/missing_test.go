//go:build linux

package initd_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/hyperfleet/init/applets/client"
	"golang.org/x/sys/unix"
)

// withoutCalls makes system calls fail as in a kernel that does not have them, for
// this thread and all that it starts; see seccomp(2).
func withoutCalls(numbers []uint32) error {
	const loadNumber = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS // at offset 0 of struct seccomp_data
	program := []unix.SockFilter{{Code: loadNumber}}
	for _, n := range numbers {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: n, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
}

// newCalls came with Linux 5.0 or later, and statx with 4.11.
func newCalls() []uint32 {
	return []uint32{
		unix.SYS_STATX, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_CLOSE_RANGE,
		unix.SYS_OPENAT2, unix.SYS_FACCESSAT2, unix.SYS_EPOLL_PWAIT2, unix.SYS_MOUNT_SETATTR, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT,
		unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_IO_URING_SETUP, unix.SYS_FCHMODAT2,
	}
}

// works checks that the guest does all that it is for.
func (g *guest) works() {
	g.t.Helper()
	if out := g.run("hfx", "readlink", "/sbin/init"); out != "/init\n" {
		g.t.Errorf("exec: %q", out)
	}
	g.ping()
	const name = "/tmp/file"
	if _, err := g.WriteFile(soon(g.t), name, strings.NewReader("content")); err != nil {
		g.t.Error(err)
	}
	if got := g.read(name); got != "content" {
		g.t.Errorf("%q", got)
	}
	if st, err := g.Stat(soon(g.t), name); err != nil || st.Size != 7 {
		g.t.Errorf("%+v, %v", st, err)
	}
	if err := g.Remove(soon(g.t), name); err != nil {
		g.t.Error(err)
	}
}

// On a kernel without the system calls of the last years all works
// (FAULTS.md 2, issue 3: "kernel 5.10-era features missing").
func TestOldKernel(t *testing.T) {
	for name, calls := range map[string][]uint32{
		"before Linux 4.11": newCalls(),
		// Without it a process can't be started in a cgroup, but be moved there.
		"no clone3": append(newCalls(), unix.SYS_CLONE3),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := boot(t, stage{Binary: hf(t), Tools: executable(t), NoCalls: calls,
				Args: []string{"--power-off=poweroff", "--on-exit=stay", "--", "hfx", "exit", "0"}})
			g.await("the workload ended")
			g.works()
			g.signal(g.agent(), unix.SIGKILL)
			g.await("the agent is back")
			g.works()
			if group := g.read("/proc/" + strconv.Itoa(g.agent()) + "/cgroup"); !strings.HasSuffix(group, "/hyperfleet/agent\n") {
				t.Errorf("the agent's cgroup: %s", group)
			}
			g.signal(1, unix.SIGTERM)
			g.wantEnd("power off")
			g.wantNoWarning()
		})
	}
}

// What somebody has mounted before is taken as it is (FAULTS.md 2: "devtmpfs
// already mounted").
func TestAlreadyMounted(t *testing.T) {
	mounts, binds := []string{"/dev", "/run"}, []string{"/tmp"}
	g := boot(t, stage{Mounted: mounts, Bound: binds, Args: []string{"--power-off=poweroff"}})
	g.works()
	mounted := g.read("/proc/self/mountinfo")
	for _, dir := range append(mounts, binds...) {
		if _, err := os.Stat(g.path(dir + "/there-before")); err != nil {
			t.Error(err)
		}
		if n := strings.Count(mounted, " "+dir+" "); n != 1 {
			t.Errorf("%s is mounted %d times", dir, n)
		}
	}
	if strings.Contains(g.console.String(), "WARN  ") {
		t.Error("it warns")
	}
	g.signal(1, unix.SIGTERM)
	g.wantEnd("power off")
}

// 10,000 orphans leave no zombie (FAULTS.md 2: "10,000 orphans").
func TestTenThousandOrphans(t *testing.T) {
	if raced {
		t.Skip("a process of the race detector's size forks too slowly")
	}
	g := boot(t, stage{Binary: hf(t), Tools: executable(t)})
	before := len(g.processes())
	r, err := g.Exec(t.Context(), client.ExecRequest{Cmd: []string{"hfx", "orphans", "10000"}, Timeout: client.NoTimeout})
	if err != nil || r.ExitCode != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	eventually(t, "all orphans reaped", func() bool { return len(g.processes()) <= before })
	g.ping()
}
