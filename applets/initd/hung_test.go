//go:build linux

package initd_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process that KILL does not end, since it waits for a server of files that
// never answers, does not stop a shutdown (FAULTS.md 2: "a process in D state").
func TestShutdownHungFilesystem(t *testing.T) {
	attempts(t, func() error { return shutdownHungFilesystem(t) })
}

func shutdownHungFilesystem(t *testing.T) error {
	server, err := openHungServer()
	if err != nil {
		t.Skip("needs FUSE:", err)
	}
	g := start(t, stage{FUSE: true, Args: []string{"-d", "--power-off=poweroff"}}, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{server.f} })
	t.Cleanup(server.close) // before process 1 is waited for: it can't end sooner
	g.await("ready in ")    // before it is mounted, the kernel has nothing for the server
	go server.serve()
	g.launch("stat", "/mnt/file")
	select {
	case <-server.asked:
	case <-time.After(patience):
		t.Fatal("nobody asks the server")
	}
	g.ping()
	g.signal(1, unix.SIGTERM)
	g.await("killing what did not end in time")
	time.Sleep(50 * time.Millisecond) // that the first KILL takes
	err = g.enter()
	g.await("power off after ")
	g.wantConsole("processes are left that can't be killed")
	if took := shutdownTime(t, g); took > 30*time.Second || strings.Contains(g.console.String(), "cut short") {
		t.Errorf("took %v", took)
	}
	server.close()
	g.wantEnd("power off")
	return err
}

// Nor does one that is mounted over /proc.
func TestShutdownHungProc(t *testing.T) {
	server, err := openHungServer()
	if err != nil {
		t.Skip("needs FUSE:", err)
	}
	s := stage{FUSE: true, Files: map[string]string{limitsFile: "30000 200 30000"}, Args: []string{"-d", "--power-off=poweroff"}}
	g := start(t, s, func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{server.f} })
	t.Cleanup(server.close)
	g.await("ready in ")
	go server.serve()
	g.run("hfx", "proc", "hung")
	g.signal(1, unix.SIGTERM)
	g.await("power off after ")
	g.wantConsole("unmount mounted=/tmp err=<nil>")
	server.close()
	g.wantEnd("power off")
}

// enter starts a process in the guest from outside, which KILL must end though it was
// sent before: it is sent until nobody is left.
func (g *guest) enter() error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		g.t.Log("not tested without nsenter:", err)
		return nil
	}
	late := exec.Command(nsenter, "-t", strconv.Itoa(g.pid), "-p", "sleep", "300")
	err = late.Run() // which ends as that process does
	if p := late.ProcessState; p == nil || p.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		return fmt.Errorf("nsenter: %w", err)
	}
	if strings.Contains(g.console.String(), "processes are left") {
		return errors.New("a process that came after the first KILL lived on")
	}
	return nil
}

// A sync that does not return, as with a disk that is gone, is given up, both times
// (FAULTS.md 2: "a sync or an unmount that hangs").
func TestShutdownHungSync(t *testing.T) {
	t.Parallel()
	g := boot(t, stage{Hung: []uint32{unix.SYS_SYNC}, Files: map[string]string{limitsFile: "100 2000 60000"}, Args: []string{"--power-off=poweroff"}})
	g.signal(1, unix.SIGTERM)
	g.wantEnd("power off")
	if n := strings.Count(g.console.String(), `WARN  init: sync err="hangs: given up`); n != 2 {
		t.Errorf("%d syncs were given up", n)
	}
}

// So is an unmount, and the rest of the shutdown is done.
func TestShutdownHungUnmount(t *testing.T) {
	t.Parallel()
	g := boot(t, stage{Hung: []uint32{unix.SYS_UMOUNT2}, Files: map[string]string{limitsFile: "30000 50 30000"}, Args: []string{"-d", "--power-off=poweroff"}})
	g.signal(1, unix.SIGTERM)
	g.wantEnd("power off")
	g.wantConsole(`unmount mounted=/tmp err="hangs: given up after 50ms"`, "power off after ")
}

// Whatever else hangs, the shutdown is cut short in the end.
func TestShutdownCutShort(t *testing.T) {
	t.Parallel()
	g := boot(t, stage{Hung: []uint32{unix.SYS_SYNC}, Files: map[string]string{limitsFile: "3600000 2000 500"}, Args: []string{"--power-off=poweroff"}})
	g.signal(1, unix.SIGTERM)
	g.wantEnd("power off")
	g.wantConsole("the shutdown hangs and is cut short")
}

// hangCalls has the kernel ask somebody about each such system call of this thread and of
// all that it starts, who never answers: a descriptor that is open as long as this process
// is; see seccomp_unotify(2).
func hangCalls(numbers []uint32) error {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the number of the call
	for _, n := range numbers {
		program = append(program,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: n, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_USER_NOTIF})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW})
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	_, err := unix.FcntlInt(fd, unix.F_SETFD, 0) // /init is to have it
	return err
}

// A hungServer is the server of a FUSE filesystem that says hello and then answers
// nothing; see fuse(4).
type hungServer struct {
	f     *os.File
	asked chan struct{} // closed when somebody waits for an answer
}

func openHungServer() (*hungServer, error) {
	// os.Open would poll it, and before the mount there is nothing to poll.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	return &hungServer{os.NewFile(uintptr(fd), "/dev/fuse"), make(chan struct{})}, err
}

// close ends the connection: the kernel lets go who waits.
func (s *hungServer) close() { _ = s.f.Close() }

func (s *hungServer) serve() {
	const opInit = 26
	request := make([]byte, 1<<17)
	for {
		size, err := s.f.Read(request)
		if err != nil || size < 40 {
			return
		}
		if binary.NativeEndian.Uint32(request[4:]) == opInit {
			reply := make([]byte, 16+64) // fuse_out_header, fuse_init_out
			binary.NativeEndian.PutUint32(reply, uint32(len(reply)))
			copy(reply[8:16], request[8:16])                 // unique
			binary.NativeEndian.PutUint32(reply[16:], 7)     // major
			binary.NativeEndian.PutUint32(reply[20:], 31)    // minor
			binary.NativeEndian.PutUint32(reply[36:], 1<<16) // max_write
			if _, err := s.f.Write(reply); err != nil {
				return
			}
			continue
		}
		close(s.asked)
		return
	}
}
