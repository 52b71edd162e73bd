//go:build linux

package agent

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ttyGroup owns the terminals, as the devpts that PID 1 mounts has it.
const ttyGroup = 5

// openPTY makes a pseudoterminal (see pty(7)) that belongs to a user: ours is the
// master's side, and theirs the terminal.
func openPTY(rows, cols uint16, uid int) (ours, theirs *os.File, err error) {
	master, err := retry(func() (int, error) {
		return unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	ours = os.NewFile(uintptr(master), "/dev/ptmx")
	if theirs, err = openTerminal(master); err != nil {
		_ = ours.Close()
		return nil, nil, err
	}
	err = errors.Join(theirs.Chown(uid, ttyGroup), theirs.Chmod(0o620), resize(ours, rows, cols))
	if err != nil {
		_ = ours.Close()
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// openTerminal opens the terminal that belongs to a master. By the master itself,
// not by the name in /dev/pts, which another mount may have taken the place of.
func openTerminal(master int) (*os.File, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, os.NewSyscallError("TIOCSPTLCK", err)
	}
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, flags) // Linux 4.13
	if errno == 0 {
		return os.NewFile(fd, "terminal"), nil
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, os.NewSyscallError("TIOCGPTN", err)
	}
	name := "/dev/pts/" + strconv.Itoa(n)
	byName, err := retry(func() (int, error) { return unix.Open(name, flags, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(byName), name), nil
}

// resize says how large the terminal is that the client shows; the kernel tells
// the foreground process group with SIGWINCH.
func resize(tty *os.File, rows, cols uint16) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	sizeErr := error(nil)
	err = raw.Control(func(fd uintptr) {
		sizeErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, os.NewSyscallError("TIOCSWINSZ", sizeErr))
}
