//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A stranger is a process that the agent must not listen to: one of uid 1000.
const stranger = 1000

// admissionChecks hold the agent to its default, host+root. Strangers try so many
// times by each way in.
func admissionChecks(calls int) []check {
	return []check{
		{"strangers over CID 1", func() (string, error) { return strangers(unix.VMADDR_CID_LOCAL, calls) }},
		{"strangers over the guest's own CID", func() (string, error) {
			cid, err := ownCID()
			if err != nil {
				return "", err
			}
			if cid == unix.VMADDR_CID_LOCAL || cid == unix.VMADDR_CID_ANY {
				return "there is none without a vsock device: TestVMHost's guest has one", nil
			}
			return strangers(cid, calls)
		}},
		{"a low port is not for strangers", func() (string, error) { return asStranger("low-port") }},
		{"strangers and the local socket", strangersLocal},
		{"root is served after them", func() (string, error) { return "", plainPing("--cid", "1") }},
	}
}

// peersHostChecks are for --peers=host: root in the guest is a stranger as well.
func peersHostChecks() []check {
	return []check{
		{"root is refused over vsock", func() (string, error) { return refusedAs(0, "--cid", "1") }},
		{"root is refused on the local socket", func() (string, error) { return refusedAs(0, "--unix", localSocket) }},
		{"a user is refused over vsock", func() (string, error) { return refusedAs(stranger, "--cid", "1") }},
		{"a user is refused on the local socket", func() (string, error) { return refusedAs(stranger, "--unix", localSocket) }},
	}
}

// peersAnyChecks are for --peers=any: the file mode of the local socket is all
// that keeps anyone out.
func peersAnyChecks() []check {
	return []check{
		{"root is served over vsock", func() (string, error) { return "", plainPing("--cid", "1") }},
		{"root is served on the local socket", func() (string, error) { return "", plainPing("--unix", localSocket) }},
		{"a user is served over vsock", func() (string, error) { return asStranger("ping-from-high-port") }},
		{"a user is kept off the local socket by its mode", func() (string, error) { return refusedAs(stranger, "--unix", localSocket) }},
	}
}

// refusedAs has a user run a command through the agent, which must not happen.
func refusedAs(uid uint32, target ...string) (string, error) {
	a, err := clientAs(uid, "", append(target, "exec", "--", self, "say", "in")...)
	if err == nil && (a.status == 0 || a.out != "") {
		err = fmt.Errorf("uid %d got in: status %d, %q", uid, a.status, a.out)
	}
	return strings.TrimSpace(a.errout), err
}

// ownCID asks the kernel for the guest's context ID; see vsock(7).
func ownCID() (uint32, error) {
	f, err := os.Open("/dev/vsock")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	cid, err := unix.IoctlGetUint32(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
	return cid, os.NewSyscallError("IOCTL_VM_SOCKETS_GET_LOCAL_CID", err)
}

// everyCID looks at the socket itself, which PID 1 holds: bound to one CID it would
// be deaf after a snapshot that is restored with another.
func everyCID() (string, error) {
	pid1, err := unix.PidfdOpen(1, 0)
	if err != nil {
		return "", os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(pid1)
	fds, err := os.ReadDir("/proc/1/fd")
	if err != nil {
		return "", err
	}
	for _, name := range fds {
		fd, err := unix.PidfdGetfd(pid1, number(name.Name()), 0)
		if err != nil {
			continue // it is closed meanwhile
		}
		address, err := unix.Getsockname(fd)
		unix.Close(fd)
		if a, ok := address.(*unix.SockaddrVM); err == nil && ok {
			if a.CID != unix.VMADDR_CID_ANY || a.Port != 52 {
				err = fmt.Errorf("it is bound to %d:%d", a.CID, a.Port)
			}
			return "", err
		}
	}
	return "", errors.New("PID 1 holds no vsock socket")
}

// asStranger runs one of the commands below as uid 1000.
func asStranger(args ...string) (string, error) {
	cmd := exec.Command(self, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %.300s", err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// strangers has uid 1000 call the agent over and over, while root is served.
func strangers(cid uint32, calls int) (string, error) {
	stop, pinged := make(chan struct{}), make(chan error, 1)
	pings := 0
	go func() {
		for {
			select {
			case <-stop:
				pinged <- nil
				return
			default:
			}
			if err := ping(); err != nil {
				pinged <- err
				return
			}
			pings++
			time.Sleep(100 * time.Millisecond)
		}
	}()
	note, err := asStranger("strangers", fmt.Sprint(cid), fmt.Sprint(calls))
	close(stop)
	if pingErr := <-pinged; pingErr != nil {
		err = errors.Join(err, fmt.Errorf("root, meanwhile: %w", pingErr))
	}
	if err == nil && pings == 0 {
		err = errors.New("root was not served once meanwhile")
	}
	return fmt.Sprintf("%s; %d pings of root meanwhile", note, pings), err
}

// callStrangers is the command "strangers CID COUNT". It makes its own calls:
// the client would bind a low port first, and fail there.
func callStrangers(args []string, _ io.Reader, stdout, stderr io.Writer) int {
	cid, calls := number(args[0]), number(args[1])
	const callers = 4
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range calls / callers {
				n, err := call(uint32(cid))
				if err == nil && n > 0 {
					err = fmt.Errorf("%d bytes were served", n)
				}
				if err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintf(stdout, "%d calls to CID %d, all closed, 0 bytes served", calls, cid)
	return 0
}

// call connects from a port of the kernel's choice, asks for a ping, and returns
// how many bytes came. That the agent hangs up is no error; that neither bytes nor
// an end come is one.
func call(cid uint32) (n int, err error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// For connect 2 s are the default, which is short for a machine in software.
	patience := unix.Timeval{Sec: 20}
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience))
	if err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	// The agent may hang up before connect returns.
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: 52}); err != nil && err != unix.ECONNRESET {
		return 0, fmt.Errorf("connect to CID %d: %w", cid, err)
	}
	_, _ = unix.Write(fd, []byte(`{"operation":"ping"}`+"\n")) // whether it arrived shows below
	n, err = unix.Read(fd, make([]byte, 200))
	if err == unix.EAGAIN {
		return 0, fmt.Errorf("neither an answer nor an end within %d s", patience.Sec)
	}
	return max(n, 0), nil
}

// pingFromHighPort is a command: a ping that only --peers=any answers.
func pingFromHighPort(_ []string, _ io.Reader, _, stderr io.Writer) int {
	if n, err := call(unix.VMADDR_CID_LOCAL); err != nil || n == 0 {
		fmt.Fprintf(stderr, "%d bytes, %v\n", n, err)
		return 1
	}
	return 0
}

// bindLowPort is a command: what the whole admission of root rests on.
func bindLowPort(_ []string, _ io.Reader, stdout, stderr io.Writer) int {
	for _, port := range []uint32{1, 901, 1023} {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: port})
			unix.Close(fd)
		}
		if err != unix.EACCES {
			fmt.Fprintf(stderr, "uid %d, bind to port %d: %v, want EACCES\n", os.Getuid(), port, err)
			return 1
		}
	}
	fmt.Fprint(stdout, "EACCES")
	return 0
}

// strangersLocal tries the local socket, and then with its mode out of the way:
// the agent must refuse by who calls, too.
func strangersLocal() (string, error) {
	if _, err := refusedAs(stranger, "--unix", localSocket); err != nil {
		return "", err
	}
	if err := os.Chmod(localSocket, 0o666); err != nil {
		return "", err
	}
	defer os.Chmod(localSocket, 0o600)
	note, err := refusedAs(stranger, "--unix", localSocket)
	return "open to all: " + note, err
}

// strangerCommands are what these checks run as another user.
func strangerCommands() map[string]command {
	return map[string]command{"strangers": callStrangers, "low-port": bindLowPort, "ping-from-high-port": pingFromHighPort}
}

// eventually tries until f holds, or until limit, which only a fault exceeds.
func eventually(limit time.Duration, f func() error) error {
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil || time.Since(begin) > limit {
			return err
		}
	}
}
