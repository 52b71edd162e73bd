// Package nsguest is a machine made of namespaces: the tests and the benchmark
// boot the init in one, as PID 1 on a root of its own.
package nsguest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Attr starts a process as PID 1 of such a machine, which ends with the thread
// that started it.
func Attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
}

// Inside tells whether this process is PID 1 of one. It guards the machine that
// all runs on.
func Inside() bool {
	var st unix.Stat_t
	first := unix.Stat("/proc/self/ns/pid", &st) != nil || st.Ino == 0xEFFFFFFC // PROC_PID_INIT_INO
	return os.Getpid() == 1 && !first
}

// Enter makes root, an empty directory, the root of this process: a tmpfs that
// fill has filled with more than the directories that a program expects.
func Enter(root string, fill func() error) error {
	// Nothing that is mounted here may be seen by the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Mount("root", root, "tmpfs", 0, "size=256m,mode=0755"); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	for _, dir := range []string{"old", "proc", "sys", "dev", "run", "tmp", "bin", "sbin", "usr", "usr/sbin", "usr/bin", "etc", "root", "lib64"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := fill(); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, root+"/old"); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	return errors.Join(unix.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH), unix.Rmdir("/old"))
}

// Null makes the one device that a program can't do without: the Go runtime wants
// it where a standard descriptor is closed.
func Null(root string) error {
	return unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
}

// CopyFile copies a program.
func CopyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// startedFile is where PID 1 finds when it was started.
const startedFile = "/started"

// Starting notes that PID 1 is about to become the program that is to be booted.
// From its cgroup on, it sees no more of the hierarchy.
func Starting() error {
	return errors.Join(unix.Unshare(unix.CLONE_NEWCGROUP), os.WriteFile(startedFile, strconv.AppendInt(nil, int64(Clock()), 10), 0o644))
}

// Started is when that was, of the machine whose PID 1 has that number here.
func Started(pid int) (time.Duration, error) {
	b, err := os.ReadFile(Path(pid, startedFile))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return time.Duration(n), err
}

// Path is a path of the machine, as it is reached from here.
func Path(pid int, name string) string { return fmt.Sprintf("/proc/%d/root%s", pid, name) }

// Clock is a time that all processes share.
func Clock() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}
